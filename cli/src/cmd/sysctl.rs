//! `sysctl` and `sys`: values below /proc/sys, and below /proc and /sys.

use super::read::{self, ChangeArgs, Read, ReadArgs, asks};
use crate::{
    args::Global,
    exit::Exit,
    view::value::{ChangeView, ValueView},
};
use clap::{Args, Subcommand};
use kctl_proto::agent::v1 as agent;

/// Arguments of `sysctl`.
#[derive(Debug, Args)]
pub(crate) struct SysctlArgs {
    #[command(subcommand)]
    command: SysctlCommand,
}

#[derive(Debug, Subcommand)]
enum SysctlCommand {
    /// Read kernel parameters: all of them, those below a folder, or those that a pattern matches
    Get {
        /// As in sysctl(8): net.ipv4.ip_forward, net/ipv4/ip_forward, net.ipv4.conf.*.rp_filter
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Set a kernel parameter, and say what it was and what the kernel took
    Set {
        /// As in sysctl(8): vm.swappiness=10
        #[arg(value_name = "KEY=VALUE", value_parser = parse_setting)]
        setting: (String, String),
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Arguments of `sys`.
#[derive(Debug, Args)]
pub(crate) struct SysArgs {
    #[command(subcommand)]
    command: SysCommand,
}

#[derive(Debug, Subcommand)]
enum SysCommand {
    /// Read short files: one, those of a folder, or those that a pattern matches
    Get {
        /// Below /sys or /proc: /sys/block/*/queue/scheduler
        #[arg(value_name = "PATH", required = true, value_parser = parse_path)]
        paths: Vec<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Write a value to a file, and say what it held and what the kernel took
    Set {
        /// Below /sys or /proc; the agent's configuration says which may be set
        #[arg(value_name = "PATH", value_parser = parse_path)]
        path: String,
        /// One line
        #[arg(value_name = "VALUE", allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Runs `sysctl`.
pub(crate) async fn sysctl(global: &Global, args: SysctlArgs) -> anyhow::Result<Exit> {
    match args.command {
        SysctlCommand::Get { keys, read } => {
            let mut patterns: Vec<_> = keys.iter().map(|key| path(key)).collect();
            if patterns.is_empty() {
                patterns.push("/proc/sys".to_owned());
            }
            read::run(global, &read, &agent::ListValuesRequest { patterns }).await
        }
        SysctlCommand::Set { setting: (key, value), change } => {
            let request = agent::SetValueRequest { path: path(&key), value };
            read::change(global, &change, &request).await
        }
    }
}

/// Runs `sys`.
pub(crate) async fn sys(global: &Global, args: SysArgs) -> anyhow::Result<Exit> {
    match args.command {
        SysCommand::Get { paths: patterns, read } => {
            read::run(global, &read, &agent::ListValuesRequest { patterns }).await
        }
        SysCommand::Set { path, value, change } => {
            read::change(global, &change, &agent::SetValueRequest { path, value }).await
        }
    }
}

asks! { file_service_client FileServiceClient
    ListValuesRequest ListValuesResponse list_values,
    SetValueRequest SetValueResponse set_value,
}

impl Read for agent::ListValuesRequest {
    type Record = ValueView;

    fn records(&self, part: Self::Part) -> Vec<ValueView> {
        // One that is asked for by name is the answer; others are a list, be it of one.
        let plain = |pattern: &String| !pattern.contains(['*', '?', '[']);
        let whole = self.patterns.len() == 1 && self.patterns.iter().all(plain);
        part.values.into_iter().map(|value| ValueView::new(value, whole)).collect()
    }
}

impl Read for agent::SetValueRequest {
    type Record = ChangeView;

    fn records(&self, part: Self::Part) -> Vec<ChangeView> {
        vec![ChangeView::from(part)]
    }
}

/// The path of a key as sysctl(8) reads it: dots between names, and slashes for dots in them; the other
/// way round where the first of both is a slash.
fn path(key: &str) -> String {
    let dots = key.find(['.', '/']).is_none_or(|first| key[first..].starts_with('.'));
    let swapped = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let names: String = if dots { key.chars().map(swapped).collect() } else { key.to_owned() };
    format!("/proc/sys/{}", names.trim_matches('/'))
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    match split {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE, like vm.swappiness=10".to_owned()),
    }
}

/// A path that the agent will look at; what is wrong beyond that, it says itself.
pub(super) fn parse_path(text: &str) -> Result<String, String> {
    let below = |tree: &str| text.strip_prefix(tree).is_some_and(|rest| rest.starts_with('/'));
    if below("/proc") || below("/sys") {
        return Ok(text.to_owned());
    }
    Err("must begin with /proc/ or /sys/".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_below_proc_sys() {
        for (key, expected) in [
            ("vm.swappiness", "/proc/sys/vm/swappiness"),
            ("net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/7.rp_filter", "/proc/sys/net/ipv4/conf/eth0.7/rp_filter"),
            ("net/ipv4/conf/eth0.7/rp_filter", "/proc/sys/net/ipv4/conf/eth0.7/rp_filter"),
            ("net.ipv4", "/proc/sys/net/ipv4"),
            ("kernel.sched_*", "/proc/sys/kernel/sched_*"),
        ] {
            assert_eq!(path(key), expected);
        }
    }

    #[test]
    fn settings_have_a_key_and_a_value() {
        let split = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parse_setting("a.b=1"), split("a.b", "1"));
        assert_eq!(parse_setting("a.b = 1 2"), split("a.b", "1 2"));
        assert_eq!(parse_setting("a.b="), split("a.b", ""));
        assert!(parse_setting("a.b").is_err() && parse_setting("=1").is_err());
    }
}
