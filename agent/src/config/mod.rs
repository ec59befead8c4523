//! How the agent is told what to do: flag over environment over file.

mod alerts;
mod counters;
mod detect;
mod duration;
mod events;
mod metrics;

pub(crate) use counters::CounterConfig;
pub(crate) use detect::DetectConfig;
pub(crate) use events::{EventConfig, Scope};

use agent_kernel::file::{DEFAULT_WRITABLE, Writable};
use agent_kernel::filter::Mode;
use alerts::AlertOptions;
use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use counters::CounterOptions;
use detect::DetectOptions;
use events::EventOptions;
use glob::Pattern;
use kctl_events::alert;
use kctl_rpc::metrics::MetricsConfig;
use metrics::MetricsOptions;
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// One host's agent of kctl: filters at XDP and answers to its controller.
#[derive(Debug, Parser)]
#[command(name = "kctl-agent", version)]
pub(crate) struct Command {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

/// What to do instead of running.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Task {
    /// Say, line by line, what this kernel and these privileges allow, with the remedy
    Check {
        /// Only ask the agent that runs here whether it answers, for a probe
        #[arg(long)]
        live: bool,
    },
    /// Take every link, map and pin of the filter and the counters away; needs neither controller nor
    /// running agent
    Detach {
        /// Then stay until SIGTERM, as the container of a DaemonSet has to
        #[arg(long)]
        wait: bool,
    },
}

/// How to attach the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FilterMode {
    /// In the driver where it has it, else in the stack, and tcx where XDP can't be had
    #[default]
    Auto,
    /// In the driver
    XdpNative,
    /// In the stack, before everything else
    XdpGeneric,
    /// Where the stack takes packets in, beside others' programs; wants Linux 6.6
    Tcx,
    /// Don't filter
    Off,
}

impl FilterMode {
    /// `None` for off.
    pub(crate) fn kernel(self) -> Option<Mode> {
        match self {
            Self::Auto => Some(Mode::Auto),
            Self::XdpNative => Some(Mode::Native),
            Self::XdpGeneric => Some(Mode::Generic),
            Self::Tcx => Some(Mode::Tcx),
            Self::Off => None,
        }
    }
}

/// Everything that flags, environment and file can say. A flag given several times, or a variable with
/// commas, replaces the file's whole list.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Options {
    /// Configuration file
    #[arg(long, global = true, env = "KCTL_AGENT_CONFIG", value_name = "FILE")]
    #[arg(help = "Configuration file [default: /etc/kctl/agent.toml, if it exists]")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// The controller; without it the agent serves its socket alone
    #[arg(long, env = "KCTL_AGENT_CONTROLLER", value_name = "HOST[:7443]")]
    controller: Option<String>,
    /// File with a join token; only looked at when there is no valid certificate yet
    #[arg(long, env = "KCTL_AGENT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Join token; it is blanked in the command line, but a file is safer
    #[arg(long, env = "KCTL_AGENT_TOKEN", hide_env_values = true)]
    #[serde(skip)]
    token: Option<String>,
    /// File with the certificate of the controller's CA, for tokens that don't carry its hash; only
    /// looked at when there is no valid certificate yet
    #[arg(long, env = "KCTL_AGENT_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Name of this host in the fleet [default: the host name]
    #[arg(long, global = true, env = "KCTL_AGENT_NAME")]
    name: Option<String>,
    /// Label of this host; repeatable
    #[arg(
        long = "label",
        env = "KCTL_AGENT_LABELS",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    #[serde(skip)]
    label: Vec<String>,
    /// The file's form of the labels: a table.
    #[arg(skip)]
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Interface to filter, a pattern like "eth*" of those that are there or come later, or "auto":
    /// every up interface with a global address, except loopback, bridge ports, veth and container
    /// bridges; repeatable [default: auto]
    #[arg(
        long = "interface",
        env = "KCTL_AGENT_INTERFACE",
        value_name = "NAME|PATTERN|auto",
        value_delimiter = ','
    )]
    #[serde(default)]
    interface: Vec<String>,
    /// How to attach [default: auto]
    #[arg(long, env = "KCTL_AGENT_MODE")]
    mode: Option<FilterMode>,
    /// Room for rules in the kernel maps; takes about 250 bytes of kernel memory each [default: 131072]
    #[arg(long, env = "KCTL_AGENT_MAX_ENTRIES", value_name = "N",
        value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    max_entries: Option<u32>,
    /// Folder of certificate, key and blocklist [default: /var/lib/kctl/agent]
    #[arg(long, global = true, env = "KCTL_AGENT_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Folder on a bpffs for the pinned maps and links [default: /sys/fs/bpf/kctl]
    #[arg(long, global = true, env = "KCTL_AGENT_BPFFS", value_name = "FOLDER")]
    bpffs: Option<PathBuf>,
    /// Unix socket for kctl --agent; uid 0 and group kctl may use it [default: /run/kctl/agent.sock]
    #[arg(long, global = true, env = "KCTL_AGENT_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where the host's procfs is mounted [default: /proc]
    #[arg(long, global = true, env = "KCTL_AGENT_PROC_ROOT", value_name = "FOLDER")]
    proc_root: Option<PathBuf>,
    /// Where the host's sysfs is mounted [default: /sys]
    #[arg(long, global = true, env = "KCTL_AGENT_SYS_ROOT", value_name = "FOLDER")]
    sys_root: Option<PathBuf>,
    /// What kctl may set on this host beside the usual tunables: a sysctl key or a path below /proc or
    /// /sys, where * is a part of one name; repeatable (docs/sysctl.md)
    #[arg(
        long = "writable",
        env = "KCTL_AGENT_WRITABLE",
        value_name = "KEY|PATH",
        value_delimiter = ','
    )]
    #[serde(default)]
    writable: Vec<String>,
    /// Let kctl set only what --writable says; true without a value
    #[arg(long, env = "KCTL_AGENT_ONLY_WRITABLE", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    only_writable: Option<bool>,
    #[command(flatten)]
    #[serde(default)]
    events: EventOptions,
    #[command(flatten)]
    #[serde(default)]
    counters: CounterOptions,
    #[command(flatten)]
    #[serde(default)]
    detect: DetectOptions,
    #[command(flatten)]
    #[serde(default)]
    metrics: MetricsOptions,
    #[command(flatten)]
    #[serde(default)]
    alerts: AlertOptions,
}

/// The agent's configuration, whole.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) controller: Option<String>,
    pub(crate) token: Option<Token>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) interfaces: Interfaces,
    pub(crate) mode: FilterMode,
    pub(crate) max_entries: u32,
    pub(crate) state_dir: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) proc_root: PathBuf,
    pub(crate) sys_root: PathBuf,
    pub(crate) writable: Writable,
    pub(crate) events: EventConfig,
    pub(crate) counters: CounterConfig,
    pub(crate) detect: DetectConfig,
    pub(crate) metrics: MetricsConfig,
    /// What this host says of alerts; where it says nothing, the fleet may.
    pub(crate) alerts: alert::Settings,
}

/// Which interfaces to filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) auto: bool,
    /// Named ones, in the order given.
    pub(crate) names: Vec<String>,
    /// Any that match, whenever they are there.
    pub(crate) patterns: Vec<Pattern>,
}

/// A join token, or where it is; its text is never shown.
#[derive(Clone)]
pub(crate) enum Token {
    Text(String),
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Options {
    /// Adds what the file says and the defaults, and checks the whole.
    pub(crate) fn resolve(self) -> anyhow::Result<Config> {
        let file = self.read_file()?;
        let labels = if self.label.is_empty() { file.labels } else { labels(&self.label)? };
        let name = match self.name.or(file.name) {
            Some(name) => name,
            None => agent_kernel::sys::hostname()?,
        }
        .to_lowercase();
        if !kctl_rpc::valid_name(&name) {
            bail!("name {name:?}: must be 1 to 253 of a-z, 0-9, \"-\" and \".\"; set --name");
        }
        let chosen = if self.interface.is_empty() { file.interface } else { self.interface };
        let max_entries = self.max_entries.or(file.max_entries).unwrap_or(131_072);
        if !(16..=16_777_216).contains(&max_entries) {
            bail!("max-entries {max_entries}: must be 16 to 16777216");
        }
        let path = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.into())
        };
        let listed = if self.writable.is_empty() { file.writable } else { self.writable };
        let token_file = self.token_file.or(file.token_file).map(Token::File);
        Ok(Config {
            controller: self.controller.or(file.controller).map(with_port).transpose()?,
            token: self.token.map(Token::Text).or(token_file),
            ca_file: self.ca_file.or(file.ca_file),
            name,
            labels,
            interfaces: interfaces(chosen)?,
            mode: self.mode.or(file.mode).unwrap_or_default(),
            max_entries,
            state_dir: path(self.state_dir, file.state_dir, "/var/lib/kctl/agent"),
            bpffs: path(self.bpffs, file.bpffs, "/sys/fs/bpf/kctl"),
            socket: path(self.socket, file.socket, "/run/kctl/agent.sock"),
            proc_root: path(self.proc_root, file.proc_root, "/proc"),
            sys_root: path(self.sys_root, file.sys_root, "/sys"),
            writable: writable(&listed, self.only_writable.or(file.only_writable))?,
            events: self.events.resolve(file.events)?,
            counters: self.counters.resolve(file.counters)?,
            detect: self.detect.resolve(file.detect)?,
            metrics: self.metrics.resolve(file.metrics)?,
            alerts: self.alerts.resolve(file.alerts)?,
        })
    }

    fn read_file(&self) -> anyhow::Result<Self> {
        let default = PathBuf::from("/etc/kctl/agent.toml");
        let path = match &self.config {
            Some(path) => path,
            None if default.exists() => &default,
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("configuration {}", path.display()))
    }
}

fn labels(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|label| {
            let (key, value) = label
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .with_context(|| format!("label {label:?}: must be KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn writable(listed: &[String], only: Option<bool>) -> Result<Writable, agent_kernel::Error> {
    let usual: &[_] = if only.unwrap_or(false) { &[] } else { DEFAULT_WRITABLE };
    Writable::new(usual.iter().copied().chain(listed.iter().map(String::as_str)))
}

fn interfaces(chosen: Vec<String>) -> anyhow::Result<Interfaces> {
    let mut interfaces = Interfaces { auto: chosen.is_empty(), ..Interfaces::default() };
    for name in chosen {
        if name == "auto" {
            interfaces.auto = true;
        } else if name.contains(['*', '?', '[']) {
            let pattern = Pattern::new(&name).with_context(|| format!("interface {name:?}"))?;
            interfaces.patterns.push(pattern);
        } else {
            interfaces.names.push(name);
        }
    }
    Ok(interfaces)
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare IPv6 address, with port 7443 where none is given.
fn with_port(server: String) -> anyhow::Result<String> {
    if let Ok(address) = server.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
        return Ok(format!("[{address}]:7443"));
    }
    let (host, port) = server.rsplit_once(':').unwrap_or((&server, "7443"));
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() => Ok(format!("{host}:{port}")),
        _ => bail!("controller {server:?}: must be HOST or HOST:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> anyhow::Result<Config> {
        let args = ["kctl-agent", "--name", "web-1"].iter().chain(args);
        Command::try_parse_from(args)?.options.resolve()
    }

    #[test]
    fn the_controller_gets_the_default_port() {
        for (given, whole) in [
            ("c.example", "c.example:7443"),
            ("c.example:1", "c.example:1"),
            ("10.0.0.1", "10.0.0.1:7443"),
            ("::1", "[::1]:7443"),
            ("[::1]", "[::1]:7443"),
            ("[::1]:2", "[::1]:2"),
        ] {
            let config = parse(&["--controller", given]).expect(given);
            assert_eq!(config.controller.as_deref(), Some(whole));
        }
        for bad in ["c.example:0", "c.example:x", ":7443"] {
            assert!(parse(&["--controller", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_named() {
        let folder = tempfile::tempdir().expect("temp dir");
        let file = folder.path().join("agent.toml");
        let path = file.to_str().expect("utf-8");
        std::fs::write(
            &file,
            "controller = \"c\"\ninterface = [\"eth0\", \"eth1\"]\nmax-entries = 100\n\
             mode = \"xdp-generic\"\nsys-root = \"/host/sys\"\n[labels]\nrole = \"web\"\n",
        )
        .expect("writes");
        let config = parse(&["--config", path, "--interface", "auto"]).expect("valid");
        assert_eq!(config.controller.as_deref(), Some("c:7443"));
        let auto = Interfaces { auto: true, ..Interfaces::default() };
        assert_eq!(config.interfaces, auto);
        assert_eq!((config.max_entries, config.mode), (100, FilterMode::XdpGeneric));
        assert_eq!(config.labels["role"], "web");
        assert_eq!(config.sys_root, PathBuf::from("/host/sys"));
        let config = parse(&["--config", path, "--sys-root", "/s"]).expect("valid");
        assert_eq!((config.sys_root, config.proc_root), ("/s".into(), "/proc".into()));

        let config = parse(&["--writable", "kernel.hostname,/proc/own"]).expect("valid");
        let usual = DEFAULT_WRITABLE.iter().copied();
        let more = Writable::new(usual.chain(["kernel.hostname", "/proc/own"])).expect("valid");
        assert_eq!(config.writable, more);
        let config = parse(&["--only-writable", "--writable", "vm.swappiness"]).expect("valid");
        assert_eq!(config.writable, Writable::new(["vm.swappiness"]).expect("valid"));
        let error = parse(&["--writable", "/etc/passwd"]).expect_err("no setting").to_string();
        assert!(error.contains("pattern \"/etc/passwd\""), "{error}");

        std::fs::write(&file, "colour = 1\n").expect("writes");
        let error = format!("{:#}", parse(&["--config", path]).expect_err("unknown key"));
        assert!(error.contains("colour") && error.contains("agent.toml"), "{error}");
    }

    #[test]
    fn malformed_values_are_refused() {
        assert!(parse(&["--label", "role"]).is_err());
        assert!(parse(&["--max-entries", "0"]).is_err());
        assert!(parse(&["--mode", "tc"]).is_err());
        assert!(parse(&["--interface", "eth["]).is_err());
        assert!(
            Command::try_parse_from(["kctl-agent", "--name", "a b"])
                .expect("parses")
                .options
                .resolve()
                .is_err()
        );
    }
}
