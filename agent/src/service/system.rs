//! `SystemService`: what procfs tells of this host as a whole.

use super::blocking::blocking;
use super::interval::interval;
use agent_kernel::proc::{self, CpuTimes, Stall, Stalls, System, Taint};
use kctl_proto::agent::v1::{self as pb, system_service_server::SystemService};
use std::path::PathBuf;
use tokio_stream::{Once, once};
use tonic::{Request, Response, Status};

/// How long CPU time is watched where nobody said otherwise, milliseconds.
const INTERVAL_MS: u32 = 250;

/// Answers for the system of one procfs mount.
#[derive(Debug)]
pub(super) struct Systems {
    proc_root: PathBuf,
}

impl Systems {
    pub(super) fn new(proc_root: PathBuf) -> Self {
        Self { proc_root }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(PathBuf) -> Result<T, agent_kernel::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let root = self.proc_root.clone();
        blocking(move || read(root)).await
    }
}

#[tonic::async_trait]
impl SystemService for Systems {
    type GetSystemStream = Once<Result<pb::GetSystemResponse, Status>>;

    async fn get_system(
        &self,
        request: Request<pb::GetSystemRequest>,
    ) -> Result<Response<Self::GetSystemStream>, Status> {
        let ms = request.into_inner().interval_ms;
        let interval = interval(if ms == 0 { INTERVAL_MS } else { ms })?;
        let before = self.read(|root| proc::cpu_times(&root)).await?;
        tokio::time::sleep(interval).await;
        let read = |root: PathBuf| Ok((proc::cpu_times(&root)?, proc::system(&root)?));
        let (after, system) = self.read(read).await?;
        let system = Some(system_to_proto(system, &before, &after));
        Ok(Response::new(once(Ok(pb::GetSystemResponse { system }))))
    }
}

fn system_to_proto(system: System, before: &CpuTimes, after: &CpuTimes) -> pb::System {
    let shares = after.since(before);
    let (memory, load, pressure) = (system.memory, system.load, system.pressure);
    pb::System {
        kernel: system.kernel,
        kernel_version: system.kernel_version,
        boot_unix_ms: system.boot_unix_ms,
        uptime_seconds: system.uptime_seconds,
        cpu: Some(pb::system::Cpu {
            count: u32::try_from(system.cpus.count).unwrap_or(u32::MAX),
            model: system.cpus.model.unwrap_or_default(),
            mhz: system.cpus.mhz,
            user_percent: shares.user_percent,
            system_percent: shares.system_percent,
            idle_percent: shares.idle_percent,
            iowait_percent: shares.iowait_percent,
            steal_percent: shares.steal_percent,
        }),
        memory: Some(pb::system::Memory {
            total_bytes: memory.total_bytes,
            available_bytes: memory.available_bytes,
            free_bytes: memory.free_bytes,
            buffers_bytes: memory.buffers_bytes,
            cached_bytes: memory.cached_bytes,
            shared_bytes: memory.shared_bytes,
            slab_bytes: memory.slab_bytes,
        }),
        swap: Some(pb::system::Swap {
            total_bytes: system.swap.total_bytes,
            free_bytes: system.swap.free_bytes,
        }),
        load: Some(pb::system::Load {
            avg1: load.one,
            avg5: load.five,
            avg15: load.fifteen,
            running: load.running,
            threads: load.threads,
        }),
        pressure: Some(pb::system::Pressure {
            cpu: pressure.cpu.map(stalls_to_proto),
            memory: pressure.memory.map(stalls_to_proto),
            io: pressure.io.map(stalls_to_proto),
        }),
        taint: system.taint.map(|taints| pb::system::Taints { taints: taints_to_proto(&taints) }),
    }
}

pub(super) fn taints_to_proto(taints: &[Taint]) -> Vec<pb::Taint> {
    let taint = |taint: &Taint| pb::Taint {
        letter: taint.letter.to_string(),
        meaning: taint.meaning.to_owned(),
    };
    taints.iter().map(taint).collect()
}

fn stalls_to_proto(stalls: Stalls) -> pb::system::Stalls {
    let stall = |stall: Stall| pb::system::Stall {
        avg10: stall.avg10_percent,
        avg60: stall.avg60_percent,
        avg300: stall.avg300_percent,
        total_us: stall.total_us,
    };
    pb::system::Stalls { some: Some(stall(stalls.some)), full: stalls.full.map(stall) }
}
