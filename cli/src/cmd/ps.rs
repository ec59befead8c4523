//! `ps`: processes.

use super::{
    read::{self, ReadArgs, reads},
    sysinfo::parse_interval,
};
use crate::{args::Global, exit::Exit, output::Format, view::process::ProcessView};
use clap::{Args, ValueEnum};
use kctl_proto::agent::v1 as agent;
use std::time::Duration;

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// What comes first: the lowest pid, the most CPU time over a process's life or the interval, the
    /// largest resident set, or the youngest process
    #[arg(long, value_enum, value_name = "ORDER", default_value_t)]
    sort: Order,
    /// Show at most this many processes of each host
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only with this text in the process's name or its program's file name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// Only with this text in the path of the cgroup
    #[arg(long, value_name = "TEXT")]
    cgroup: Option<String>,
    /// Watch so long, up to 5s, and show the CPU time of that, not of a process's life
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    interval: Option<u32>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Order {
    // Plain comments: with doc comments clap would print a list.
    #[default]
    Pid,
    Cpu,
    Rss,
    Start,
}

/// Runs `ps`.
pub(crate) async fn run(global: &Global, args: PsArgs) -> anyhow::Result<Exit> {
    let order = match args.sort {
        Order::Pid => agent::ProcessOrder::Unspecified,
        Order::Cpu => agent::ProcessOrder::Cpu,
        Order::Rss => agent::ProcessOrder::Rss,
        Order::Start => agent::ProcessOrder::Start,
    };
    let request = agent::ListProcessesRequest {
        name: args.name.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        cgroup: args.cgroup.unwrap_or_default(),
        order: order.into(),
        limit: args.limit.unwrap_or_default(),
        interval_ms: args.interval.unwrap_or_default(),
        // The only form that does not show it.
        without_cgroup: global.format()? == Format::Table,
    };
    let interval = Duration::from_millis(request.interval_ms.into());
    read::watch(global, &args.read, &request, interval).await
}

reads! { process_service_client ProcessServiceClient
    ListProcessesRequest ListProcessesResponse processes list_processes ProcessView,
}
