//! What the agent is told of alerts: from where on a value is too high, and for how long it has to be.

use super::duration::duration;
use crate::alerts::{COUNT, Threshold, What};
use anyhow::bail;
use clap::Args;
use serde::Deserialize;
use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

/// The table `[alerts]` of the file, and its flags.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AlertOptions {
    /// System calls a second, all processes in scope together: "off", N, or "N clear M", which is over
    /// below M [default: 100000 a processor]
    #[arg(long = "alert-syscalls", env = "KCTL_AGENT_ALERT_SYSCALLS", value_name = "LEVEL")]
    syscalls: Option<Said>,
    /// Page faults a second [default: 50000 a processor]
    #[arg(long = "alert-faults", env = "KCTL_AGENT_ALERT_FAULTS", value_name = "LEVEL")]
    faults: Option<Said>,
    /// Context switches a second [default: 20000 a processor]
    #[arg(long = "alert-switches", env = "KCTL_AGENT_ALERT_SWITCHES", value_name = "LEVEL")]
    switches: Option<Said>,
    /// Percent of the time of all processors [default: 95]
    #[arg(long = "alert-cpu", env = "KCTL_AGENT_ALERT_CPU", value_name = "LEVEL")]
    cpu: Option<Said>,
    /// Percent of memory that is not available [default: 95]
    #[arg(long = "alert-memory", env = "KCTL_AGENT_ALERT_MEMORY", value_name = "LEVEL")]
    memory: Option<Said>,
    /// Percent of time in which some task waits for memory [default: 20]
    #[arg(
        long = "alert-memory-pressure",
        env = "KCTL_AGENT_ALERT_MEMORY_PRESSURE",
        value_name = "LEVEL"
    )]
    memory_pressure: Option<Said>,
    /// Percent of a file system's room [default: 90]
    #[arg(long = "alert-disk", env = "KCTL_AGENT_ALERT_DISK", value_name = "LEVEL")]
    disk: Option<Said>,
    /// Percent of the room for tracked connections [default: 80]
    #[arg(long = "alert-conntrack", env = "KCTL_AGENT_ALERT_CONNTRACK", value_name = "LEVEL")]
    conntrack: Option<Said>,
    /// Changes of a link's carrier within a window [default: 6]
    #[arg(long = "alert-link", env = "KCTL_AGENT_ALERT_LINK", value_name = "LEVEL")]
    link: Option<Said>,
    /// That window [default: 60s]
    #[arg(
        long = "alert-link-window",
        env = "KCTL_AGENT_ALERT_LINK_WINDOW",
        value_name = "DURATION"
    )]
    link_window: Option<String>,
    /// How long a value has to be too high to be told, and low enough to be over [default: 30s]
    #[arg(long = "alert-for", env = "KCTL_AGENT_ALERT_FOR", value_name = "DURATION")]
    r#for: Option<String>,
    /// How often values are looked at [default: 5s]
    #[arg(long = "alert-interval", env = "KCTL_AGENT_ALERT_INTERVAL", value_name = "DURATION")]
    interval: Option<String>,
}

/// A level as it was said: a file may have a number.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "must be a number, \"off\" or \"N clear M\"")]
enum Said {
    Number(f64),
    Text(String),
}

impl FromStr for Said {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::Text(text.to_owned()))
    }
}

/// Checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AlertConfig {
    /// By the number of what they are of; `None` for off.
    pub(crate) thresholds: [Option<Threshold>; COUNT],
    pub(crate) interval: Duration,
    /// How long a value has to be too high, and low enough.
    pub(crate) lasting: Duration,
    /// In which changes of a link add up.
    pub(crate) link_window: Duration,
}

impl AlertOptions {
    /// With what the file says, and the defaults.
    pub(super) fn resolve(self, file: Self) -> anyhow::Result<AlertConfig> {
        let mut thresholds = [None; COUNT];
        for (what, said) in [
            (What::Syscalls, self.syscalls.or(file.syscalls)),
            (What::Faults, self.faults.or(file.faults)),
            (What::Switches, self.switches.or(file.switches)),
            (What::Cpu, self.cpu.or(file.cpu)),
            (What::Memory, self.memory.or(file.memory)),
            (What::MemoryPressure, self.memory_pressure.or(file.memory_pressure)),
            (What::Disk, self.disk.or(file.disk)),
            (What::Conntrack, self.conntrack.or(file.conntrack)),
            (What::Link, self.link.or(file.link)),
        ] {
            thresholds[what as usize] = level(what, said)?;
        }
        let time = |name: &str, text: Option<String>, default, least, most| {
            let Some(text) = text else { return Ok(Duration::from_secs(default)) };
            match duration(&text) {
                Some(time) if (least..=most).contains(&time) => Ok(time),
                _ => bail!("alerts {name} {text:?}: must be a time of {least:?} to {most:?}"),
            }
        };
        let (tenth, hour) = (Duration::from_millis(100), Duration::from_secs(3_600));
        let interval = self.interval.or(file.interval);
        let lasting = self.r#for.or(file.r#for);
        let link_window = self.link_window.or(file.link_window);
        Ok(AlertConfig {
            thresholds,
            interval: time("interval", interval, 5, tenth, Duration::from_secs(300))?,
            lasting: time("for", lasting, 30, Duration::ZERO, hour)?,
            link_window: time("link-window", link_window, 60, Duration::from_secs(1), hour)?,
        })
    }
}

/// `None` for off.
fn level(what: What, said: Option<Said>) -> anyhow::Result<Option<Threshold>> {
    let threshold = match said {
        None => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            what.threshold(what.default_at(u32::try_from(processors).unwrap_or(u32::MAX)))
        }
        Some(Said::Number(at)) => what.threshold(at),
        Some(Said::Text(text)) => {
            let words: Vec<_> = text.split_whitespace().collect();
            let number = |word: &str| word.parse::<f64>().ok();
            let parsed = match words[..] {
                ["off"] => return Ok(None),
                [at] => number(at).map(|at| what.threshold(at)),
                [at, "clear", below] => number(at)
                    .zip(number(below))
                    .map(|(at, clear_below)| Threshold { at, clear_below }),
                _ => None,
            };
            let Some(threshold) = parsed else {
                bail!("alerts {} {text:?}: must be off, N, or N clear M", what.name());
            };
            threshold
        }
    };
    let Threshold { at, clear_below } = threshold;
    let most = if what.unit() == "%" { 100.0 } else { 1e15 };
    // What is no number is in no range.
    if !(at > 0.0 && at <= most) {
        bail!("alerts {} {at}: must be above 0 and at most {most}", what.name());
    }
    if !(clear_below > 0.0 && clear_below <= at) {
        bail!("alerts {} clear {clear_below}: must be above 0 and at most {at}", what.name());
    }
    Ok(Some(threshold))
}

#[cfg(test)]
impl AlertConfig {
    /// With nothing to look at.
    pub(crate) fn of_tests(lasting: Duration) -> Self {
        let (interval, link_window) = (Duration::from_secs(5), Duration::from_secs(60));
        Self { thresholds: [None; COUNT], interval, lasting, link_window }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str) -> anyhow::Result<AlertConfig> {
        AlertOptions::default().resolve(toml::from_str(file)?)
    }

    #[test]
    fn everything_has_a_threshold_unless_somebody_says_otherwise() {
        let config = parse("").expect("valid");
        assert!(config.thresholds.iter().all(Option::is_some));
        let seconds = |time: Duration| time.as_secs();
        assert_eq!((seconds(config.interval), seconds(config.lasting)), (5, 30));
        assert_eq!(seconds(config.link_window), 60);
    }

    #[test]
    fn a_file_says_all_of_it() {
        let config = parse(
            "syscalls = 10000\nfaults = \"off\"\nswitches = \"5000 clear 1000\"\ncpu = 99.5\n\
             memory = \"off\"\nmemory-pressure = \"50\"\ndisk = \"95 clear 95\"\nconntrack = 1\n\
             link = 2\nlink-window = \"5m\"\nfor = \"0s\"\ninterval = \"100ms\"\n",
        );
        let config = config.expect("valid");
        let of = |what: What| config.thresholds[what as usize].map(|it| (it.at, it.clear_below));
        assert_eq!(of(What::Syscalls), Some((10_000.0, 8_000.0)));
        assert_eq!((of(What::Faults), of(What::Memory)), (None, None));
        assert_eq!(of(What::Switches), Some((5_000.0, 1_000.0)));
        assert_eq!(of(What::MemoryPressure), Some((50.0, 25.0)));
        assert_eq!(of(What::Disk), Some((95.0, 95.0)));
        assert_eq!(config.link_window, Duration::from_secs(300));
        assert_eq!((config.lasting, config.interval.as_millis()), (Duration::ZERO, 100));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (file, word) in [
            ("cpu = 101", "cpu"),
            ("cpu = 0", "cpu"),
            ("cpu = true", "cpu"),
            ("disk = \"full\"", "disk"),
            ("disk = \"90 clear 91\"", "disk clear 91"),
            ("disk = \"90 clear 0\"", "disk clear 0"),
            ("disk = \"90 below 80\"", "disk"),
            ("disk = \"\"", "disk"),
            ("link = \"nan\"", "link"),
            ("link = -1", "link"),
            ("syscalls = \"inf\"", "syscalls"),
            ("interval = \"50ms\"", "interval"),
            ("interval = \"ten\"", "interval"),
            ("for = \"2h\"", "for"),
            ("for = \"-1s\"", "for"),
            ("link-window = \"0s\"", "link-window"),
            ("colour = 1", "colour"),
        ] {
            let error = format!("{:#}", parse(file).expect_err(file));
            assert!(error.contains(word), "{file}: {error}");
        }
    }
}
