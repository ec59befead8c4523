//! What the agent is told of events: which to make, of whom, and how much memory they may take.

use agent_kernel::trace;
use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::Args;
use kctl_events::{Kind, Kinds};
use serde::Deserialize;
use std::path::PathBuf;

/// The table `[events]` of the file, and its flags.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct EventOptions {
    /// Which events to make, or "none" [default: all but open and signal]
    #[arg(
        long = "events",
        env = "KCTL_AGENT_EVENTS",
        value_name = "TYPE,…",
        value_delimiter = ','
    )]
    #[serde(default)]
    types: Vec<String>,
    /// Make open events only of paths that begin so; repeatable [default: every path]
    #[arg(
        long = "open-path",
        env = "KCTL_AGENT_OPEN_PATHS",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    #[serde(default)]
    open_paths: Vec<String>,
    /// Which processes events and counters of processes are about: the whole host, or one cgroup with
    /// all below it [default: host]
    #[arg(long, env = "KCTL_AGENT_SCOPE", value_name = "host|cgroup:PATH")]
    scope: Option<String>,
    /// Memory for events that readers have not fetched yet [default: 16MiB]
    #[arg(long = "event-ring", env = "KCTL_AGENT_EVENT_RING", value_name = "BYTES")]
    ring: Option<ByteSize>,
    /// Kernel memory of each source's ring, a power of two [default: 1MiB]
    #[arg(long = "kernel-ring", env = "KCTL_AGENT_KERNEL_RING", value_name = "BYTES")]
    kernel_ring: Option<ByteSize>,
}

/// Of whom events of processes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Host,
    /// Below the root of cgroup v2.
    Cgroup(PathBuf),
}

impl Scope {
    /// As the kernel side has it.
    pub(crate) fn kernel(&self) -> trace::Scope {
        match self {
            Self::Host => trace::Scope::Host,
            Self::Cgroup(path) => trace::Scope::Cgroup(path.clone()),
        }
    }
}

/// Checked.
#[derive(Debug, Clone)]
pub(crate) struct EventConfig {
    pub(crate) kinds: Kinds,
    pub(crate) open_paths: Vec<String>,
    pub(crate) scope: Scope,
    pub(crate) ring_bytes: usize,
    pub(crate) kernel_ring_bytes: u32,
}

impl EventOptions {
    /// With what the file says, and the defaults.
    pub(super) fn resolve(self, file: Self) -> anyhow::Result<EventConfig> {
        let types = if self.types.is_empty() { file.types } else { self.types };
        let paths = if self.open_paths.is_empty() { file.open_paths } else { self.open_paths };
        let ring = self.ring.or(file.ring).unwrap_or(ByteSize::mib(16)).as_u64();
        if !((64 << 10)..=(1 << 30)).contains(&ring) {
            bail!("event-ring {ring}: must be 64KiB to 1GiB");
        }
        let kernel_ring =
            self.kernel_ring.or(file.kernel_ring).unwrap_or(ByteSize::mib(1)).as_u64();
        if !((16 << 10)..=(64 << 20)).contains(&kernel_ring) || !kernel_ring.is_power_of_two() {
            bail!("kernel-ring {kernel_ring}: must be a power of two, 16KiB to 64MiB");
        }
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/') || path.len() > 255) {
            bail!("open-path {path:?}: must be absolute and have at most 255 bytes");
        }
        Ok(EventConfig {
            kinds: kinds(&types)?,
            open_paths: paths,
            scope: self.scope.or(file.scope).map_or(Ok(Scope::Host), |text| scope(&text))?,
            ring_bytes: usize::try_from(ring).context("event-ring")?,
            kernel_ring_bytes: u32::try_from(kernel_ring).context("kernel-ring")?,
        })
    }
}

fn kinds(types: &[String]) -> anyhow::Result<Kinds> {
    match types {
        [] => Ok(Kinds::default_on()),
        [none] if none == "none" => Ok(Kinds::default()),
        types => types
            .iter()
            .map(|name| name.parse::<Kind>())
            .collect::<Result<_, _>>()
            .context("events"),
    }
}

fn scope(text: &str) -> anyhow::Result<Scope> {
    match text.split_once(':') {
        None if text == "host" => Ok(Scope::Host),
        Some(("cgroup", path)) if path.starts_with('/') => Ok(Scope::Cgroup(path.into())),
        _ => bail!("scope {text:?}: must be host, or cgroup:/PATH below the root of cgroup v2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str) -> anyhow::Result<EventConfig> {
        EventOptions::default().resolve(toml::from_str(file)?)
    }

    #[test]
    fn defaults_are_all_but_open_and_signal_of_the_whole_host() {
        let config = parse("").expect("valid");
        assert_eq!(config.kinds, Kinds::default_on());
        assert_eq!(config.scope, Scope::Host);
        assert_eq!((config.ring_bytes, config.kernel_ring_bytes), (16 << 20, 1 << 20));
    }

    #[test]
    fn a_file_says_all_of_it() {
        let config = parse(
            "types = [\"drop\", \"open\"]\nopen-paths = [\"/etc\"]\nscope = \"cgroup:/a/b\"\n\
             ring = \"1MiB\"\nkernel-ring = \"16KiB\"\n",
        );
        let config = config.expect("valid");
        assert_eq!(config.kinds, [Kind::Drop, Kind::Open].into_iter().collect());
        assert_eq!(config.open_paths, ["/etc"]);
        assert_eq!(config.scope, Scope::Cgroup("/a/b".into()));
        assert_eq!((config.ring_bytes, config.kernel_ring_bytes), (1 << 20, 16 << 10));
        assert!(parse("types = [\"none\"]").expect("valid").kinds.is_empty());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (file, word) in [
            ("types = [\"dorp\"]", "dorp"),
            ("open-paths = [\"etc\"]", "open-path"),
            ("scope = \"cgroup:a\"", "scope"),
            ("scope = \"pid:1\"", "scope"),
            ("ring = \"1KiB\"", "event-ring"),
            ("kernel-ring = \"5000\"", "kernel-ring"),
            ("colour = 1", "colour"),
        ] {
            let error = format!("{:#}", parse(file).expect_err(file));
            assert!(error.contains(word), "{error}");
        }
    }
}
