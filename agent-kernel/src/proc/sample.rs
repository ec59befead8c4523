//! How much CPU time every process had used at one moment, for its share since then.

use super::clock::sysconf;
use super::file::open_folder;
use super::listing::{folder_and_pids, read_stat};
use super::stat::Stat;
use crate::error::Error;
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

/// CPU time of all processes at one moment.
#[derive(Debug, Clone)]
pub struct CpuSample {
    begun: Instant,
    ticks_per_second: u64,
    processes: HashMap<u32, Used>,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    /// Tells a process from one that has its id later.
    start_ticks: u64,
    cpu_ticks: u64,
    at: Instant,
}

/// Reads the CPU time of every process below a procfs mount.
pub fn cpu_sample(root: &Path) -> Result<CpuSample, Error> {
    let (folder, pids) = folder_and_pids(root)?;
    let begun = Instant::now();
    let mut processes = HashMap::new();
    let mut buffer = Vec::new();
    for pid in pids {
        let Ok(process) = open_folder(&folder, pid.to_string()) else { continue };
        // One that can't be read is told as new.
        let Ok(Some(stat)) = read_stat(&process, pid, &mut buffer) else { continue };
        let Stat { start_ticks, cpu_ticks, .. } = stat;
        processes.insert(pid, Used { start_ticks, cpu_ticks, at: Instant::now() });
    }
    let ticks_per_second = sysconf(nix::unistd::SysconfVar::CLK_TCK, 100);
    Ok(CpuSample { begun, ticks_per_second, processes })
}

impl CpuSample {
    /// What a process used since then, at this moment, in percent of one CPU. One that started since has the
    /// share of the whole time.
    pub(super) fn percent(&self, stat: &Stat, now: Instant) -> f64 {
        let before = self.processes.get(&stat.pid);
        let before = before.filter(|before| before.start_ticks == stat.start_ticks);
        let (used, since) = before.map_or((0, self.begun), |before| (before.cpu_ticks, before.at));
        let elapsed = now.saturating_duration_since(since).as_secs_f64();
        if elapsed <= 0.0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
        let seconds = stat.cpu_ticks.saturating_sub(used) as f64 / self.ticks_per_second as f64;
        100.0 * seconds / elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stat(pid: u32, start_ticks: u64, cpu_ticks: u64) -> Stat {
        let line = format!(
            "{pid} (a) S 1 1 1 0 -1 0 0 0 0 0 {cpu_ticks} 0 0 0 20 0 1 0 {start_ticks} 1 1 0"
        );
        Stat::parse(line.as_bytes()).expect("a line")
    }

    #[test]
    fn only_what_was_used_since_counts() {
        let begun = Instant::now();
        let at = begun + Duration::from_secs(1);
        let used = Used { start_ticks: 5, cpu_ticks: 1_000, at };
        let processes = [(7, used)].into();
        let sample = CpuSample { begun, ticks_per_second: 100, processes };
        let now = begun + Duration::from_secs(3);
        let close = |percent: f64, expected: f64| {
            assert!((percent - expected).abs() < 1e-9, "{percent} {expected}");
        };
        // A tick is a hundredth of a second: one second in two.
        close(sample.percent(&stat(7, 5, 1_100), now), 50.0);
        // It has not gone back; a process that waited keeps what it had.
        close(sample.percent(&stat(7, 5, 900), now), 0.0);
        // Another with the same id, and one that is new: of all three seconds.
        close(sample.percent(&stat(7, 6, 150), now), 50.0);
        close(sample.percent(&stat(8, 6, 30), now), 10.0);
        close(sample.percent(&stat(8, 6, 30), begun), 0.0);
    }
}
