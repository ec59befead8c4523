//! Processors: what they are, and where their time goes.

use super::file::text;
use super::system::Cpus;
use crate::error::{Error, ErrorKind, named};
use std::path::Path;

/// Where the processors' time went since boot, all of them together, in clock ticks (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTimes {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

/// Shares of the processors' time, in percent of all of it; together 100, or 0 when no time passed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Utilisation {
    /// Programs, also those with a low priority and guests of a hypervisor.
    pub user_percent: f64,
    /// The kernel, with interrupts.
    pub system_percent: f64,
    /// Nothing to do.
    pub idle_percent: f64,
    /// Nothing to do until a disk answers.
    pub iowait_percent: f64,
    /// Taken away by the hypervisor.
    pub steal_percent: f64,
}

impl CpuTimes {
    /// Clock ticks in which a processor did anything.
    pub(crate) fn busy_ticks(&self) -> u64 {
        self.user.saturating_add(self.system)
    }

    /// Shares of the time since an earlier reading.
    pub fn since(&self, before: &Self) -> Utilisation {
        // Some of the kernel's counters may go back a little.
        let spent = |value: fn(&Self) -> u64| value(self).saturating_sub(value(before));
        let user = spent(|times| times.user);
        let system = spent(|times| times.system);
        let idle = spent(|times| times.idle);
        let iowait = spent(|times| times.iowait);
        let steal = spent(|times| times.steal);
        let total = (user + system + idle + iowait + steal).max(1);
        #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
        let percent = |ticks: u64| 100.0 * ticks as f64 / total as f64;
        Utilisation {
            user_percent: percent(user),
            system_percent: percent(system),
            idle_percent: percent(idle),
            iowait_percent: percent(iowait),
            steal_percent: percent(steal),
        }
    }
}

/// Where the processors' time went since boot.
pub fn cpu_times(root: &Path) -> Result<CpuTimes, Error> {
    parse_times(&text(root, "stat")?)
}

fn parse_times(stat: &str) -> Result<CpuTimes, Error> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).ok_or_else(unreadable)?;
    // Old kernels have fewer columns. Guests, the last two, are in the user's time already.
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let at = |column: usize| ticks.get(column).copied().unwrap_or(0);
    if ticks.len() < 4 {
        return Err(unreadable());
    }
    Ok(CpuTimes {
        user: at(0) + at(1),
        system: at(2) + at(5) + at(6),
        idle: at(3),
        iowait: at(4),
        steal: at(7),
    })
}

/// When the kernel booted, in seconds since 1970, from the text of `stat`.
pub(super) fn boot_unix(stat: &str) -> Result<i64, Error> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).ok_or_else(unreadable)
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Unsupported, named("file", "stat"), "it has another form")
}

/// The processors that are online, from the texts of `stat` and `cpuinfo`.
pub(super) fn cpus(stat: &str, cpuinfo: &str) -> Cpus {
    let online = stat.lines().filter(|line| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    let values = |wanted: &'static [&'static str]| {
        cpuinfo.lines().filter_map(move |line| {
            let (key, value) = line.split_once(':')?;
            wanted.contains(&key.trim()).then(|| value.trim())
        })
    };
    // Each architecture has its own words: x86 and most of arm, MIPS, POWER.
    let model = values(&["model name"]).chain(values(&["cpu model", "cpu"])).next();
    let clocks: Vec<f64> = values(&["cpu MHz", "clock"])
        .filter_map(|value| value.trim_end_matches("MHz").parse().ok())
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a count of processors")]
    let mhz = (!clocks.is_empty()).then(|| clocks.iter().sum::<f64>() / clocks.len() as f64);
    Cpus { count: online.count(), model: model.map(str::to_owned), mhz }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_time_between_two_readings_are_100_together() {
        let before = parse_times("cpu  100 0 50 1000 10 5 5 0 0 0\n").expect("times");
        let after = parse_times("cpu  120 10 60 1040 20 5 5 10 7 0\ncpu0 1\n").expect("times");
        let shares = after.since(&before);
        let expected = Utilisation {
            user_percent: 30.0,
            system_percent: 10.0,
            idle_percent: 40.0,
            iowait_percent: 10.0,
            steal_percent: 10.0,
        };
        assert_eq!(shares, expected);
        assert_eq!(before.since(&before), Utilisation::default());
        // iowait may go back.
        assert_eq!(before.since(&after).user_percent, 0.0);
    }

    #[test]
    fn kernels_with_fewer_columns_are_read() {
        let times = parse_times("cpu 1 2 3 4\n").expect("times");
        assert_eq!((times.user, times.system, times.idle, times.steal), (3, 3, 4, 0));
        assert!(parse_times("intr 1 2 3 4\n").is_err());
        assert!(parse_times("cpu  1 2\n").is_err());
    }

    #[test]
    fn processors_are_told_in_the_words_of_their_architecture() {
        let stat = "cpu  1 2 3 4\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 0\nbtime 1767323045\n";
        let x86 = "model name\t: A CPU @ 2 GHz: fast\ncpu MHz\t\t: 2000.5\n\n\
                   model name\t: A CPU @ 2 GHz: fast\ncpu MHz\t\t: 3000.5\n";
        let model = Some("A CPU @ 2 GHz: fast".to_owned());
        assert_eq!(cpus(stat, x86), Cpus { count: 2, model, mhz: Some(2500.5) });
        let power = "processor\t: 0\ncpu\t\t: POWER9\nclock\t\t: 3800.000000MHz\n";
        let model = Some("POWER9".to_owned());
        assert_eq!(cpus(stat, power), Cpus { count: 2, model, mhz: Some(3800.0) });
        let arm = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU part\t: 0xd0c\n";
        assert_eq!(cpus(stat, arm), Cpus { count: 2, model: None, mhz: None });
        assert_eq!(boot_unix(stat).expect("a time"), 1_767_323_045);
    }
}
