//! What the agent is told of alerts: from where on a value is too high, and for how long it has to be.

use clap::Args;
use kctl_events::alert::{Said, Settings, What};
use serde::Deserialize;

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
    link_window: Option<Said>,
    /// How long a value has to be too high to be told, and low enough to be over [default: 30s]
    #[arg(long = "alert-for", env = "KCTL_AGENT_ALERT_FOR", value_name = "DURATION")]
    r#for: Option<Said>,
    /// How often values are looked at [default: 5s]
    #[arg(long = "alert-interval", env = "KCTL_AGENT_ALERT_INTERVAL", value_name = "DURATION")]
    interval: Option<Said>,
}

impl AlertOptions {
    /// With what the file says.
    pub(super) fn resolve(self, file: Self) -> anyhow::Result<Settings> {
        let mut settings = Settings::default();
        for (key, said) in [
            (What::Syscalls.name(), self.syscalls.or(file.syscalls)),
            (What::Faults.name(), self.faults.or(file.faults)),
            (What::Switches.name(), self.switches.or(file.switches)),
            (What::Cpu.name(), self.cpu.or(file.cpu)),
            (What::Memory.name(), self.memory.or(file.memory)),
            (What::MemoryPressure.name(), self.memory_pressure.or(file.memory_pressure)),
            (What::Disk.name(), self.disk.or(file.disk)),
            (What::Conntrack.name(), self.conntrack.or(file.conntrack)),
            (What::Link.name(), self.link.or(file.link)),
            ("link-window", self.link_window.or(file.link_window)),
            ("for", self.r#for.or(file.r#for)),
            ("interval", self.interval.or(file.interval)),
        ] {
            if let Some(said) = said {
                settings.set(key, &said.to_string())?;
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_events::alert::{Level, Threshold};
    use std::time::Duration;

    fn parse(file: &str) -> anyhow::Result<Settings> {
        AlertOptions::default().resolve(toml::from_str(file)?)
    }

    #[test]
    fn a_file_says_all_of_it_and_a_flag_wins() {
        let file = "syscalls = 10000\nfaults = \"off\"\nswitches = \"5000 clear 1000\"\ncpu = 99.5\n\
             memory = \"off\"\nmemory-pressure = \"50\"\ndisk = \"95 clear 95\"\nconntrack = 1\n\
             link = 2\nlink-window = \"5m\"\nfor = \"0s\"\ninterval = \"100ms\"\n";
        let settings = parse(file).expect("valid");
        assert!(What::all().all(|what| settings.level(what).is_some()));
        let at = |at, clear_below| Some(Level::At(Threshold { at, clear_below }));
        assert_eq!(settings.level(What::Cpu), at(99.5, 99.5 * 0.9));
        assert_eq!(settings.level(What::Switches), at(5_000.0, 1_000.0));
        assert_eq!(settings.lasting(), Some(Duration::ZERO));
        assert_eq!(parse("").expect("valid"), Settings::default());
        let flags = AlertOptions { cpu: Some(Said::Text("off".to_owned())), ..Default::default() };
        let settings = flags.resolve(toml::from_str(file).expect("toml")).expect("valid");
        assert_eq!(settings.level(What::Cpu), Some(Level::Off));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (file, word) in [
            ("cpu = 101", "cpu"),
            ("cpu = true", "cpu"),
            ("disk = \"90 clear 91\"", "disk clear 91"),
            ("for = \"2h\"", "for"),
            ("colour = 1", "colour"),
        ] {
            let error = format!("{:#}", parse(file).expect_err(file));
            assert!(error.contains(word), "{file}: {error}");
        }
    }
}
