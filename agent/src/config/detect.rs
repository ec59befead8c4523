//! What the agent is told of detection: what to look for, from how much on, and what to do then.

use agent_kernel::filter::{Detection, FloodLimits, Limit};
use anyhow::bail;
use clap::Args;
use serde::Deserialize;
use std::time::Duration;

/// What a source is blocked for unless something else is said.
const BLOCK_FOR: Duration = Duration::from_secs(60);
const MAX_BLOCK: Duration = Duration::from_secs(30 * 86_400);

/// The table `[detect]` of the file, and its flags.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DetectOptions {
    /// What to do about a source that tries many TCP ports: "off", "report", "block", which is for 60
    /// seconds, or "block for DURATION" [default: report]
    #[arg(long = "detect-portscan", env = "KCTL_AGENT_DETECT_PORTSCAN", value_name = "ACTION")]
    portscan: Option<String>,
    /// From how many distinct ports on, 2 to 64 [default: 20]
    #[arg(
        long = "detect-portscan-ports",
        env = "KCTL_AGENT_DETECT_PORTSCAN_PORTS",
        value_name = "N"
    )]
    portscan_ports: Option<u32>,
    /// Within how long [default: 10s]
    #[arg(
        long = "detect-portscan-window",
        env = "KCTL_AGENT_DETECT_PORTSCAN_WINDOW",
        value_name = "DURATION"
    )]
    portscan_window: Option<String>,
    /// What to do about SYNs that are not followed up; only a source by itself is ever blocked for them
    /// [default: report]
    #[arg(long = "detect-synflood", env = "KCTL_AGENT_DETECT_SYNFLOOD", value_name = "ACTION")]
    synflood: Option<String>,
    /// From how many on at one port, from any sources [default: 5000]
    #[arg(
        long = "detect-synflood-port",
        env = "KCTL_AGENT_DETECT_SYNFLOOD_PORT",
        value_name = "N"
    )]
    synflood_port: Option<u32>,
    /// From how many on of one source [default: 500]
    #[arg(
        long = "detect-synflood-source",
        env = "KCTL_AGENT_DETECT_SYNFLOOD_SOURCE",
        value_name = "N"
    )]
    synflood_source: Option<u32>,
    /// Within how long, 3 s at least [default: 10s]
    #[arg(
        long = "detect-synflood-window",
        env = "KCTL_AGENT_DETECT_SYNFLOOD_WINDOW",
        value_name = "DURATION"
    )]
    synflood_window: Option<String>,
    /// What to do about a source that connects too often to one TCP port [default: report]
    #[arg(
        long = "detect-connections",
        env = "KCTL_AGENT_DETECT_CONNECTIONS",
        value_name = "ACTION"
    )]
    connections: Option<String>,
    /// How many connections are let be [default: 1000]
    #[arg(
        long = "detect-connections-limit",
        env = "KCTL_AGENT_DETECT_CONNECTIONS_LIMIT",
        value_name = "N"
    )]
    connections_limit: Option<u32>,
    /// Within how long [default: 60s]
    #[arg(
        long = "detect-connections-window",
        env = "KCTL_AGENT_DETECT_CONNECTIONS_WINDOW",
        value_name = "DURATION"
    )]
    connections_window: Option<String>,
    /// How many sources detection keeps blocked at a time, at most [default: 1000]
    #[arg(long = "detect-max-blocks", env = "KCTL_AGENT_DETECT_MAX_BLOCKS", value_name = "N")]
    max_blocks: Option<u32>,
    /// How many sources detection blocks in a second, at most [default: 10]
    #[arg(
        long = "detect-max-blocks-per-second",
        env = "KCTL_AGENT_DETECT_MAX_BLOCKS_PER_SECOND",
        value_name = "N"
    )]
    max_blocks_per_second: Option<u32>,
}

/// Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetectConfig {
    /// What to look for.
    pub(crate) limits: Detection,
    /// How long who scans is blocked; absent for not at all, here and below.
    pub(crate) portscan: Option<Duration>,
    pub(crate) synflood: Option<Duration>,
    pub(crate) connections: Option<Duration>,
    /// Entries at a time.
    pub(crate) max_blocks: u32,
    /// New entries a second.
    pub(crate) max_blocks_per_second: u32,
}

impl DetectOptions {
    /// With what the file says, and the defaults.
    pub(super) fn resolve(self, file: Self) -> anyhow::Result<DetectConfig> {
        let portscan = action("portscan", self.portscan.or(file.portscan))?;
        let synflood = action("synflood", self.synflood.or(file.synflood))?;
        let connections = action("connections", self.connections.or(file.connections))?;
        let window = |name: &str, flag: Option<String>, file: Option<String>, default| {
            flag.or(file).map_or(Ok(Duration::from_secs(default)), |text| duration(name, &text))
        };
        let scan = Limit {
            count: self.portscan_ports.or(file.portscan_ports).unwrap_or(20),
            window: window("portscan-window", self.portscan_window, file.portscan_window, 10)?,
        };
        let flood = FloodLimits {
            port: self.synflood_port.or(file.synflood_port).unwrap_or(5_000),
            source: self.synflood_source.or(file.synflood_source).unwrap_or(500),
            window: window("synflood-window", self.synflood_window, file.synflood_window, 10)?,
        };
        let often = Limit {
            count: self.connections_limit.or(file.connections_limit).unwrap_or(1_000),
            window: window(
                "connections-window",
                self.connections_window,
                file.connections_window,
                60,
            )?,
        };
        // Also what is off must be right.
        Detection { scan: Some(scan), connections: Some(often), flood: Some(flood) }.check()?;
        let limits = Detection {
            scan: portscan.is_on().then_some(scan),
            connections: connections.is_on().then_some(often),
            flood: synflood.is_on().then_some(flood),
        };
        let max_blocks = self.max_blocks.or(file.max_blocks).unwrap_or(1_000);
        let max_blocks_per_second =
            self.max_blocks_per_second.or(file.max_blocks_per_second).unwrap_or(10);
        if !(1..=100_000).contains(&max_blocks) {
            bail!("detect max-blocks {max_blocks}: must be 1 to 100000");
        }
        if !(1..=1_000).contains(&max_blocks_per_second) {
            bail!("detect max-blocks-per-second {max_blocks_per_second}: must be 1 to 1000");
        }
        Ok(DetectConfig {
            limits,
            portscan: portscan.block_for(),
            synflood: synflood.block_for(),
            connections: connections.block_for(),
            max_blocks,
            max_blocks_per_second,
        })
    }
}

impl DetectConfig {
    /// Whether there is anything to look for.
    pub(crate) fn is_on(&self, scans: bool, floods: bool) -> bool {
        self.limits(scans, floods) != Detection::default()
    }

    /// Without what nobody would hear of and nothing follows from.
    pub(crate) fn limits(&self, scans: bool, floods: bool) -> Detection {
        let Detection { scan, connections, flood } = self.limits;
        Detection {
            scan: scan.filter(|_| scans || self.portscan.is_some()),
            connections: connections.filter(|_| floods || self.connections.is_some()),
            flood: flood.filter(|_| floods || self.synflood.is_some()),
        }
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Off,
    Report,
    Block(Duration),
}

impl Action {
    fn is_on(self) -> bool {
        self != Self::Off
    }

    fn block_for(self) -> Option<Duration> {
        if let Self::Block(time) = self { Some(time) } else { None }
    }
}

fn action(name: &str, text: Option<String>) -> anyhow::Result<Action> {
    let Some(text) = text else { return Ok(Action::Report) };
    let words: Vec<_> = text.split_whitespace().collect();
    Ok(match words[..] {
        ["off"] => Action::Off,
        ["report"] => Action::Report,
        ["block"] => Action::Block(BLOCK_FOR),
        ["block", "for", time] => {
            let time = duration(name, time)?;
            if !(Duration::from_secs(1)..=MAX_BLOCK).contains(&time) {
                bail!("detect {name} {text:?}: must block for 1s to 30d");
            }
            Action::Block(time)
        }
        _ => bail!("detect {name} {text:?}: must be off, report, block, or block for DURATION"),
    })
}

fn duration(name: &str, text: &str) -> anyhow::Result<Duration> {
    match super::duration::duration(text) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => bail!("detect {name} {text:?}: must be a time like 10s, 5m or 1h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str) -> anyhow::Result<DetectConfig> {
        DetectOptions::default().resolve(toml::from_str(file)?)
    }

    #[test]
    fn by_default_everything_is_reported_and_nobody_blocked() {
        let config = parse("").expect("valid");
        let Detection { scan, connections, flood } = config.limits;
        let limit = |count, secs| Some(Limit { count, window: Duration::from_secs(secs) });
        assert_eq!((scan, connections), (limit(20, 10), limit(1_000, 60)));
        assert_eq!(flood.map(|it| (it.port, it.source)), Some((5_000, 500)));
        assert_eq!((config.portscan, config.synflood, config.connections), (None, None, None));
        assert_eq!((config.max_blocks, config.max_blocks_per_second), (1_000, 10));
        assert_eq!(config.limits(false, false), Detection::default());
    }

    #[test]
    fn a_file_says_all_of_it() {
        let config = parse(
            "portscan = \"block for 5m\"\nportscan-ports = 3\nportscan-window = \"500ms\"\n\
             synflood = \"off\"\nsynflood-port = 9\nsynflood-source = 8\nsynflood-window = \"3s\"\n\
             connections = \"block\"\nconnections-limit = 7\nconnections-window = \"1h\"\n\
             max-blocks = 6\nmax-blocks-per-second = 5\n",
        );
        let config = config.expect("valid");
        let window = Duration::from_millis(500);
        assert_eq!(config.limits.scan, Some(Limit { count: 3, window }));
        assert_eq!(config.limits.flood, None);
        assert_eq!(config.portscan, Some(Duration::from_secs(300)));
        assert_eq!(config.connections, Some(Duration::from_secs(60)));
        assert_eq!((config.max_blocks, config.max_blocks_per_second), (6, 5));
        let quiet = config.limits(false, false);
        assert!(quiet.scan.is_some() && quiet.connections.is_some() && quiet.flood.is_none());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (file, word) in [
            ("portscan = \"drop\"", "portscan"),
            ("portscan = \"block for\"", "portscan"),
            ("connections = \"block for 0s\"", "connections"),
            ("synflood = \"block for 31d\"", "synflood"),
            ("portscan-ports = 65", "scans"),
            ("portscan = \"off\"\nportscan-ports = 1", "scans"),
            ("portscan-window = \"ten\"", "portscan-window"),
            ("synflood-window = \"1s\"", "floods"),
            ("connections-limit = 0", "connections"),
            ("max-blocks = 0", "max-blocks"),
            ("max-blocks-per-second = 1001", "max-blocks-per-second"),
            ("colour = 1", "colour"),
        ] {
            let error = format!("{:#}", parse(file).expect_err(file));
            assert!(error.contains(word), "{error}");
        }
    }
}
