//! What the agent is told to count.

use agent_kernel::counters::{Source, Sources};
use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;

/// The table `[counters]` of the file, and its flags.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CounterOptions {
    /// What to count, or "none": syscalls, by-syscall, by-process, faults, switches, run-queue, block,
    /// cpu, tcp [default: all]
    #[arg(
        long = "counters",
        env = "KCTL_AGENT_COUNTERS",
        value_name = "COUNTER,…",
        value_delimiter = ','
    )]
    #[serde(default)]
    which: Vec<String>,
    /// Room for processes that are counted; takes about 150 bytes of kernel memory each [default: 8192]
    #[arg(long = "counted-processes", env = "KCTL_AGENT_COUNTED_PROCESSES", value_name = "N")]
    processes: Option<u32>,
}

/// Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CounterConfig {
    pub(crate) sources: Sources,
    pub(crate) max_processes: u32,
}

impl CounterOptions {
    /// With what the file says, and the defaults.
    pub(super) fn resolve(self, file: Self) -> anyhow::Result<CounterConfig> {
        let which = if self.which.is_empty() { file.which } else { self.which };
        let max_processes = self.processes.or(file.processes).unwrap_or(8_192);
        if !(64..=1_048_576).contains(&max_processes) {
            bail!("counted-processes {max_processes}: must be 64 to 1048576");
        }
        let sources = match which.as_slice() {
            [] => Source::all().collect(),
            [none] if none == "none" => Sources::default(),
            names => names
                .iter()
                .map(|name| name.parse::<Source>())
                .collect::<Result<_, _>>()
                .context("counters")?,
        };
        Ok(CounterConfig { sources, max_processes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str) -> anyhow::Result<CounterConfig> {
        CounterOptions::default().resolve(toml::from_str(file)?)
    }

    #[test]
    fn all_is_counted_unless_somebody_says_what() {
        let config = parse("").expect("valid");
        assert_eq!(config.sources.iter().count(), Source::all().count());
        assert_eq!(config.max_processes, 8_192);
        let config = parse("which = [\"syscalls\", \"tcp\"]\nprocesses = 64\n").expect("valid");
        let chosen = [Source::Syscalls, Source::Tcp].into_iter().collect();
        assert_eq!(config, CounterConfig { sources: chosen, max_processes: 64 });
        assert!(parse("which = [\"none\"]").expect("valid").sources.is_empty());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (file, word) in [
            ("which = [\"sycalls\"]", "sycalls"),
            ("processes = 63", "counted-processes"),
            ("processes = 2000000", "counted-processes"),
            ("colour = 1", "colour"),
        ] {
            let error = format!("{:#}", parse(file).expect_err(file));
            assert!(error.contains(word), "{error}");
        }
    }
}
