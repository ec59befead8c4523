//! The system as a whole, against `/proc` read by the test.

use crate::support::{PROC, now, run, within};
use agent_kernel::proc::{cpu_times, system};
use std::path::Path;

#[test]
fn the_system_is_as_proc_tells() {
    let root = Path::new(PROC);
    let ours = system(root).expect("a system");
    let nproc = run("getconf _NPROCESSORS_ONLN");
    assert_eq!(ours.cpus.count.to_string(), nproc.trim());
    assert_eq!(ours.kernel, run("uname -r").trim());
    assert_eq!(ours.kernel_version, run("uname -v").trim());
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("text");
    let kib = |key: &str| -> u64 {
        let line = meminfo.lines().find(|line| line.starts_with(key)).expect(key);
        line.split_whitespace().nth(1).expect("a value").parse().expect("a number")
    };
    assert_eq!(ours.memory.total_bytes, kib("MemTotal:") * 1_024);
    assert_eq!(ours.swap.total_bytes, kib("SwapTotal:") * 1_024);
    assert!(ours.memory.available_bytes <= ours.memory.total_bytes);
    let booted = now().as_secs_f64() - ours.uptime_seconds;
    #[expect(clippy::cast_precision_loss, reason = "a time of this century")]
    let told = ours.boot_unix_ms as f64 / 1e3;
    assert!((booted - told).abs() < 2.0, "{booted} {told}");
    assert_eq!(ours.pressure.memory.is_some(), Path::new("/proc/pressure/memory").exists());

    let before = cpu_times(root).expect("times");
    within("time passes", || {
        let shares = cpu_times(root).expect("times").since(&before);
        let total = shares.user_percent
            + shares.system_percent
            + shares.idle_percent
            + shares.iowait_percent
            + shares.steal_percent;
        total > 99.9 && total < 100.1
    });
}
