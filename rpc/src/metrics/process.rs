//! This process, under the names that every dashboard knows.

use super::Page;
use std::{fs, time::Duration};

/// Adds what procfs says of this process; what can't be read has no value.
pub(super) fn tell(page: &mut Page) {
    let mut memory = page.gauge("process_resident_memory_bytes", "Memory of this process");
    if let Some(bytes) = resident_bytes() {
        memory.set(bytes);
    }
    let mut files = page.gauge("process_open_fds", "Open file descriptors of this process");
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The folder that is being read is one of them.
        files.set(open.count().saturating_sub(1) as f64);
    }
    let mut cpu = page.counter("process_cpu_seconds", "CPU time of this process, user and system");
    if let Some(time) = cpu_time() {
        cpu.labelled(&[], time.as_secs_f64());
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some((kib << 10) as f64)
}

/// The scheduler's own account in nanoseconds, of all threads (proc_pid_schedstat is of one).
fn cpu_time() -> Option<Duration> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let of_thread = |folder: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(folder.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Some(Duration::from_nanos(threads.flatten().filter_map(of_thread).sum()))
}
