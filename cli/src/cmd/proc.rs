//! `proc`: one process.

use super::read::{self, ReadArgs, reads};
use crate::{
    args::Global,
    exit::{Exit, usage},
    view::proc::{
        CgroupView, FdView, IoView, LimitView, MapView, NamespaceView, StatusView, VariableView,
    },
};
use clap::{Args, ValueEnum};
use kctl_proto::agent::v1 as agent;

/// Arguments of `proc`.
#[derive(Debug, Args)]
pub(crate) struct ProcArgs {
    /// Id of the process, on each host
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// What to show; env and maps want the role admin
    #[arg(value_enum, value_name = "WHAT", default_value_t)]
    what: What,
    /// With maps: also how much of each is in memory, for which the kernel walks every page
    #[arg(long)]
    usage: bool,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum What {
    // Plain comments: with doc comments clap would print a list.
    #[default]
    Status,
    Maps,
    Fds,
    Env,
    Limits,
    Io,
    Cgroup,
    Ns,
}

/// Runs `proc`.
pub(crate) async fn run(global: &Global, args: ProcArgs) -> anyhow::Result<Exit> {
    let ProcArgs { pid, what, usage: with_usage, read } = args;
    if with_usage && what != What::Maps {
        return Err(usage("--usage goes with maps: kctl proc PID maps --usage"));
    }
    match what {
        What::Status => read::run(global, &read, &agent::GetProcessStatusRequest { pid }).await,
        What::Maps => {
            read::run(global, &read, &agent::ListMapsRequest { pid, usage: with_usage }).await
        }
        What::Fds => read::run(global, &read, &agent::ListFdsRequest { pid }).await,
        What::Env => read::run(global, &read, &agent::ListEnvironmentRequest { pid }).await,
        What::Limits => read::run(global, &read, &agent::ListLimitsRequest { pid }).await,
        What::Io => read::run(global, &read, &agent::GetProcessIoRequest { pid }).await,
        What::Cgroup => read::run(global, &read, &agent::ListCgroupsRequest { pid }).await,
        What::Ns => read::run(global, &read, &agent::ListNamespacesRequest { pid }).await,
    }
}

reads! { process_service_client ProcessServiceClient
    GetProcessStatusRequest GetProcessStatusResponse status get_process_status StatusView,
    ListMapsRequest ListMapsResponse maps list_maps MapView,
    ListFdsRequest ListFdsResponse fds list_fds FdView,
    ListEnvironmentRequest ListEnvironmentResponse env list_environment VariableView,
    ListLimitsRequest ListLimitsResponse limits list_limits LimitView,
    GetProcessIoRequest GetProcessIoResponse io get_process_io IoView,
    ListCgroupsRequest ListCgroupsResponse cgroups list_cgroups CgroupView,
    ListNamespacesRequest ListNamespacesResponse namespaces list_namespaces NamespaceView,
}
