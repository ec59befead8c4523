//! The command line's shape: global flags, commands, host selection, value parsers. It reads arguments
//! and environment and does nothing with them.

use crate::{
    cmd::{
        audit, block, blocklist, ca, cat,
        completion::{self, Names},
        context, cpufreq, disks, events, hosts, ipc, man, modules, net, perf, proc, protect, ps,
        signal, stats, sysctl, sysinfo, token, top, user, version,
    },
    connect::Target,
    exit::usage,
    output::Format,
    time::parse_duration,
};
use clap::{Args, Parser, Subcommand};
use kctl_blocklist::{Protocol, Selection, Selector, Service};
use kctl_proto::agent::v1 as pb;
use std::{path::PathBuf, time::Duration};

/// Control the kernels of a fleet: block an address on every host, and see what they drop.
#[derive(Debug, Parser)]
#[command(name = "kctl", version, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 all selected hosts did it; 1 error, nothing changed; 2 usage; \
    3 accepted, but a selected host is pending or failed."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Context of the configuration file to use [env: KCTL_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", add = Names::Contexts.candidates())]
    pub(crate) context: Option<String>,
    /// Address of the controller, instead of the context's [env: KCTL_SERVER]
    #[arg(long, global = true, value_name = "HOST[:7443]")]
    pub(crate) server: Option<String>,
    /// Speak to the agent of this host over its socket, with no controller [env: KCTL_AGENT]
    #[arg(long, global = true, value_name = "unix:///PATH", conflicts_with = "server")]
    pub(crate) agent: Option<String>,
    /// How to print [env: KCTL_OUTPUT]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// How long to wait for hosts: 1s for changes and 5s for reads by default [env: KCTL_TIMEOUT]
    #[arg(long, global = true, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Repeat a read so often [without a value: 2s], on a terminal in place, until Ctrl-C
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "2s")]
    #[arg(value_parser = parse_watch, value_name = "INTERVAL")]
    pub(crate) watch: Option<Duration>,
}

/// Between two looks at hosts.
fn parse_watch(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        short if short < Duration::from_millis(100) => Err("must be at least 100ms".to_owned()),
        interval => Ok(interval),
    }
}

impl Global {
    /// The format to print in: flag over environment over table.
    pub(crate) fn format(&self) -> anyhow::Result<Format> {
        match self.format_with_csv()? {
            Format::Csv => Err(usage("-o csv is for events and audit only")),
            format => Ok(format),
        }
    }

    /// The same for `events` and `audit`, which have one more.
    pub(crate) fn format_with_csv(&self) -> anyhow::Result<Format> {
        let named = |name: String| {
            <Format as clap::ValueEnum>::from_str(&name, false)
                .map_err(|_| usage(format!("KCTL_OUTPUT: {name:?} is no output format")))
        };
        let given = self.output.map(Ok);
        given.or_else(|| env("KCTL_OUTPUT").map(named)).unwrap_or(Ok(Format::Table))
    }

    /// How long to wait for hosts, where somebody said so.
    pub(crate) fn timeout(&self) -> anyhow::Result<Option<Duration>> {
        let parsed = |text: String| {
            parse_duration(&text).map_err(|why| usage(format!("KCTL_TIMEOUT: {text:?}: {why}")))
        };
        self.timeout.map(Ok).or_else(|| env("KCTL_TIMEOUT").map(parsed)).transpose()
    }
}

/// An environment variable that is set and not empty.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What kctl does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Known hosts: their state, versions, filter, and whether they are in sync
    Hosts(hosts::HostsArgs),
    /// Drop traffic from these sources
    Block(block::BlockArgs),
    /// Stop dropping traffic from these sources
    Unblock(block::UnblockArgs),
    /// What is blocked, where and why
    Blocklist(blocklist::BlocklistArgs),
    /// Sources and ports that no block may touch
    Protect(protect::ProtectArgs),
    /// Packets passed and dropped on each host
    Stats(stats::StatsArgs),
    /// What happens on hosts: drops, processes, connections, changes of the network
    Events(events::EventsArgs),
    /// Processes
    Ps(ps::PsArgs),
    /// One process: its status, memory, open files, environment, limits, namespaces
    Proc(proc::ProcArgs),
    /// Send a signal to one process of one host
    Signal(signal::SignalArgs),
    /// Kernel, processors, memory and load
    Sysinfo(sysinfo::SysinfoArgs),
    /// Files below /proc and /sys, as they are
    Cat(cat::CatArgs),
    /// Kernel parameters: read and set
    Sysctl(sysctl::SysctlArgs),
    /// Short files below /sys and /proc: read and set
    Sys(sysctl::SysArgs),
    /// Governors and frequencies of processors: read and set
    Cpufreq(cpufreq::CpufreqArgs),
    /// Block devices and mounts
    Disks(disks::DisksArgs),
    /// Kernel modules
    Modules(modules::ModulesArgs),
    /// Shared memory, semaphores and message queues
    Ipc(ipc::IpcArgs),
    /// What kernels are busy with: system calls, page faults, switches, waits, TCP, as rates
    Perf(perf::PerfArgs),
    /// The hosts' kernels at a glance, live: processors, memory, network, drops, system calls
    Top(top::TopArgs),
    /// Links, addresses, routes, neighbours, rules, sockets and connections as the kernels have them
    Net(net::NetArgs),
    /// Tokens that hosts join with
    Token(token::TokenArgs),
    /// Users of the controller, their roles and certificates
    User(user::UserArgs),
    /// Who changed what, from where, and what came of it
    Audit(audit::AuditArgs),
    /// The certificate authority of the fleet, and its replacement
    Ca(ca::CaArgs),
    /// Controllers that this configuration knows
    Context(context::ContextArgs),
    /// What makes bash, zsh or fish complete commands, and names of hosts, users, feeds and contexts
    Completion(completion::CompletionArgs),
    /// Write the manual pages into a folder
    Man(man::ManArgs),
    /// Versions of kctl and of what it speaks to
    Version(version::VersionArgs),
}

impl Command {
    /// Whether Ctrl-C is its usual end, which it sees to itself.
    pub(crate) fn ends_with_ctrl_c(&self) -> bool {
        matches!(self, Self::Events(_) | Self::Perf(_) | Self::Top(_))
    }
}

/// Which hosts a command is about.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Host selection")]
pub(crate) struct HostSelection {
    /// Every host, also one that joins later
    #[arg(long)]
    all_hosts: bool,
    /// These hosts
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',', value_parser = host_name)]
    #[arg(add = Names::Hosts.candidates())]
    host: Vec<String>,
    /// Hosts whose labels match: role=web,zone!=b
    #[arg(short = 'l', long, value_name = "KEY=VALUE[,…]")]
    selector: Option<Selector>,
}

impl HostSelection {
    fn given(&self) -> Option<pb::Selection> {
        let selection = if self.all_hosts {
            Selection::All
        } else if let Some(selector) = &self.selector {
            Selection::Selector(selector.clone())
        } else if self.host.is_empty() {
            return None;
        } else {
            Selection::Names(self.host.iter().cloned().collect())
        };
        Some((&selection).into())
    }

    /// Whether it is one host, by name.
    pub(crate) fn names_one_host(&self) -> bool {
        self.host.len() == 1
    }

    /// For a read: nothing given means all.
    pub(crate) fn for_read(&self, target: &Target) -> anyhow::Result<Option<pb::Selection>> {
        self.meaningful(target)?;
        Ok(self.given())
    }

    /// For a change by the controller: hosts must be named in one way or another. `None` for the one
    /// host of an agent.
    pub(crate) fn for_change(&self, target: &Target) -> anyhow::Result<Option<pb::Selection>> {
        self.meaningful(target)?;
        match (target, self.given()) {
            (Target::Controller(_), None) => {
                Err(usage("say which hosts: --all-hosts, --host NAME[,NAME…] or -l KEY=VALUE"))
            }
            (_, given) => Ok(given),
        }
    }

    fn meaningful(&self, target: &Target) -> anyhow::Result<()> {
        match (target, self.given()) {
            (Target::Agent(_), Some(_)) => Err(usage(
                "--agent speaks to one host: leave --all-hosts, --host and -l away, or use a controller",
            )),
            _ => Ok(()),
        }
    }
}

/// A host's name, in lower case as hosts have it.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let name = text.to_lowercase();
    if kctl_rpc::valid_name(&name) {
        return Ok(name);
    }
    Err("not a host name: 1 to 253 of a-z, 0-9, \"-\" and \".\"".to_owned())
}

/// Reads `22`, `22/tcp` or `53/udp`.
pub(crate) fn parse_service(text: &str) -> Result<Service, String> {
    let (port, protocol) = match text.split_once('/') {
        None => (text, None),
        Some((port, "tcp")) => (port, Some(Protocol::Tcp)),
        Some((port, "udp")) => (port, Some(Protocol::Udp)),
        Some(_) => return Err("the protocol must be tcp or udp".to_owned()),
    };
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    match (first.parse(), last.parse()) {
        (Ok(port), Ok(last)) if 0 < port && port <= last => Ok(Service { port, last, protocol }),
        _ => Err(
            "must be a port from 1 to 65535, or two as in 8000-8999, alone or with /tcp or /udp"
                .to_owned(),
        ),
    }
}

/// Reads `unix:///run/kctl/agent.sock`.
pub(crate) fn parse_agent(text: &str) -> anyhow::Result<PathBuf> {
    match text.strip_prefix("unix://").map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(path),
        _ => Err(usage(format!("--agent {text:?}: must be like unix:///run/kctl/agent.sock"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn good_lines_parse() {
        for line in [
            "kctl hosts",
            "kctl hosts -l role=web -o json",
            "kctl hosts list --host a,b",
            "kctl hosts describe web-1",
            "kctl block 10.0.0.5 --all-hosts --port 22/tcp --ttl 1h --reason scanner",
            "kctl --agent unix:///run/kctl/agent.sock block 10.0.0.5",
            "kctl blocklist --hits",
            "kctl blocklist export",
            "kctl blocklist export --name drop",
            "kctl blocklist feeds",
            "kctl blocklist import --name drop --file - --all-hosts --format csv --column 2 --ttl 1d",
            "kctl blocklist recover --from-host a,b",
            "kctl protect add --port 22 --all-hosts",
            "kctl protect add 10.0.0.0/24 --port 5432/tcp --all-hosts",
            "kctl protect list",
            "kctl stats --top 3 --strict",
            "kctl net neigh --all -4 --interface eth0",
            "kctl net links --host a,b",
            "kctl ps --sort cpu --limit 10 --name web --user 33 --cgroup system.slice -l role=web",
            "kctl events",
            "kctl events -f --since 10m --type drop,exec --src 10.0.0.0/8,fd09::1 --port 22 -o csv",
            "kctl events --until 2026-01-02T03:04:05Z --last 5 --exit-after 3 --for 10s --host a",
            "kctl events --dump-schema",
            "kctl ps --sort cpu --interval 1s",
            "kctl proc 7",
            "kctl proc 7 maps --usage --host a,b",
            "kctl proc 7 fds -l role=web --strict -o wide",
            "kctl signal 7 TERM --host a --comm web",
            "kctl signal 7 rtmin+3 --host a --start-time 2026-01-02T03:04:05.670Z",
            "kctl sysinfo --interval 1s --host a",
            "kctl disks --interval 1s --name vda --all --host a",
            "kctl disks --mounts --all",
            "kctl modules --name xfs --all -l role=web",
            "kctl ipc --strict",
            "kctl --watch ps",
            "kctl net routes --watch=500ms --host a",
            "kctl perf",
            "kctl perf --interval 1s --count 3 --by process --top 5 --pid 7 --host a,b --strict",
            "kctl perf --by syscall --syscalls read,openat -l role=web",
            "kctl top --interval 500ms -l role=web",
            "kctl net routes -6 --table main --interface eth0 -l role=web --strict",
            "kctl net sockets --tcp --udp -6 --state estab,TIME-WAIT --port 22 --no-processes --info",
            "kctl net sockets --unix --listening --host a",
            "kctl net conntrack -4 --protocol tcp --src 10.0.0.0/8 --dst fd09::1 --port 80",
            "kctl net stats --interval 0 --interface eth0",
            "kctl net stats --interval 500ms",
            "kctl cat /proc/meminfo --max-bytes 100 --host a",
            "kctl sysctl get",
            "kctl sysctl get net.ipv4.conf.*.rp_filter vm.swappiness -l role=web",
            "kctl sysctl set vm.swappiness=10 --all-hosts",
            "kctl sys get /sys/block/*/queue/scheduler",
            "kctl sys set /sys/block/vda/queue/scheduler none --host a",
            "kctl sys set /proc/own -1 --host a --allow-empty",
            "kctl cpufreq --cpu 0-3 --strict",
            "kctl cpufreq --governor performance --all-hosts",
            "kctl cpufreq --frequency 2.4GHz --cpu 1 --host a",
            "kctl token create --ttl 10m --uses 3 --host web-1",
            "kctl user create ann --role operator --scope role=web --ttl 8h --file ann.toml",
            "kctl user list",
            "kctl user renew",
            "kctl user revoke ann",
            "kctl audit --since 1h --until 2026-01-02T03:04:05Z --user ann --last 5 -o csv",
            "kctl audit -f -o jsonl",
            "kctl audit --verify --head 7:00ff",
            "kctl ca rotate",
            "kctl ca finish --force",
            "kctl context import admin.toml --name prod",
            "kctl completion bash",
            "kctl man /tmp/man",
            "kctl version --client",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn bad_lines_are_usage_errors() {
        for line in [
            "kctl",
            "kctl block",
            "kctl block 10.0.0.5 --all-hosts --host a",
            "kctl block 10.0.0.5 --host a -l role=web",
            "kctl block 10.0.0.5 --all-hosts --ttl 0",
            "kctl block 10.0.0.5 --all-hosts --port 0",
            "kctl block 10.0.0.5 -l role",
            "kctl block 10.0.0.5 --host bad_name",
            "kctl hosts describe --agent unix:///a --server b",
            "kctl token create --uses 0",
            "kctl user create ann --role king",
            "kctl user create ann --scope role",
            "kctl user create An_n",
            "kctl audit --verify -f",
            "kctl audit --head 7:00",
            "kctl protect add --all-hosts",
            "kctl hosts -o xml",
            "kctl completion csh",
            "kctl net",
            "kctl sysinfo --interval 1m",
            "kctl disks --interval 1m",
            "kctl disks --mounts --name vda",
            "kctl perf --interval 50ms",
            "kctl ps --watch=1ms",
            "kctl ps --watch 5s",
            "kctl perf --count 0",
            "kctl perf --by cpu",
            "kctl perf --pid 7 --syscalls read",
            "kctl perf --top 1001",
            "kctl disks --mounts --interval 1s",
            "kctl modules xfs",
            "kctl events -f --until 10m",
            "kctl events --last 0",
            "kctl events --since yesterday",
            "kctl events --port 0",
            "kctl events --for 0s",
            "kctl ps --sort size",
            "kctl ps --limit 0",
            "kctl ps --interval 6s",
            "kctl proc",
            "kctl proc 0",
            "kctl proc 7 stack-of-books",
            "kctl signal 7 --host a",
            "kctl signal 0 TERM --host a",
            "kctl signal 7 NONE --host a",
            "kctl signal 7 TERM --host a,b",
            "kctl signal 7 TERM --host a --host b",
            "kctl signal 7 TERM --all-hosts",
            "kctl signal 7 TERM -l role=web",
            "kctl signal 7 TERM --host a --start-time yesterday",
            "kctl net routes -4 -6",
            "kctl net sockets --unix -4",
            "kctl net sockets --unix --port 22",
            "kctl net sockets --state OPEN",
            "kctl net sockets --state ESTAB --listening",
            "kctl net sockets --port 0",
            "kctl net conntrack --port 65536",
            "kctl net conntrack --src web-1",
            "kctl net stats --interval 6s",
            "kctl cat",
            "kctl cat /etc/passwd",
            "kctl cat /proc/version --max-bytes 0",
            "kctl sysctl set vm.swappiness --all-hosts",
            "kctl sys get",
            "kctl sys set /sys/a --host a",
            "kctl cpufreq --governor a --frequency 1GHz --all-hosts",
            "kctl cpufreq --cpu 3-1",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn services_name_a_port_and_perhaps_a_protocol() {
        assert_eq!(parse_service("22"), Ok(Service::port(22, None)));
        let dns = Service::port(53, Some(Protocol::Udp));
        assert_eq!(parse_service("53/udp"), Ok(dns));
        let range = Service { port: 8_000, last: 8_999, protocol: Some(Protocol::Tcp) };
        assert_eq!(parse_service("8000-8999/tcp"), Ok(range));
        for text in [
            "", "0", "65536", "2-1", "0-5", "1-", "-5", "1-65536", "1-2-3", "22/", "22/icmp",
            "tcp", "-1",
        ] {
            assert!(parse_service(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_agent_is_an_absolute_socket_path() {
        let path = parse_agent("unix:///run/kctl/agent.sock").expect("valid");
        assert_eq!(path, PathBuf::from("/run/kctl/agent.sock"));
        for text in ["/run/kctl/agent.sock", "unix://agent.sock", "tcp://1.2.3.4:1", ""] {
            assert!(parse_agent(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_change_wants_hosts_and_an_agent_takes_none() {
        let agent = Target::Agent(PathBuf::from("/a"));
        let none = HostSelection::default();
        let all = HostSelection { all_hosts: true, ..HostSelection::default() };
        assert_eq!(none.for_change(&agent).expect("one host"), None);
        assert!(all.for_change(&agent).is_err());
        assert!(all.for_read(&agent).is_err());
    }
}
