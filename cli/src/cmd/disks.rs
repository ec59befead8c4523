//! `disks`: block devices and mounts.

use super::read::{self, ReadArgs, reads};
use super::sysinfo::parse_interval;
use crate::{
    args::Global,
    exit::Exit,
    view::disk::{DiskView, MountView},
};
use clap::Args;
use kctl_proto::agent::v1 as agent;
use std::time::Duration;

/// Arguments of `disks`.
#[derive(Debug, Args)]
pub(crate) struct DisksArgs {
    /// Mounts instead of block devices, also those without one: nfs, tmpfs, overlay
    #[arg(long, conflicts_with_all = ["name", "interval"])]
    mounts: bool,
    /// Also RAM disks and devices without room; with --mounts also proc, sysfs, cgroup and the like
    #[arg(long)]
    all: bool,
    /// Only this device and its partitions
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Watch how fast devices are, up to 5s
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    interval: Option<u32>,
    #[command(flatten)]
    read: ReadArgs,
}

/// Runs `disks`.
pub(crate) async fn run(global: &Global, args: DisksArgs) -> anyhow::Result<Exit> {
    if args.mounts {
        let request = agent::ListMountsRequest { all: args.all };
        return read::run(global, &args.read, &request).await;
    }
    let interval_ms = args.interval.unwrap_or_default();
    let name = args.name.unwrap_or_default();
    // People think of a device as its file.
    let name = name.strip_prefix("/dev/").unwrap_or(&name).to_owned();
    let request = agent::ListDisksRequest { name, all: args.all, interval_ms };
    let interval = Duration::from_millis(interval_ms.into());
    read::watch(global, &args.read, &request, interval).await
}

reads! { disk_service_client DiskServiceClient
    ListDisksRequest ListDisksResponse disks list_disks DiskView,
    ListMountsRequest ListMountsResponse mounts list_mounts MountView,
}
