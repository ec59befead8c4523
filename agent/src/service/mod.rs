//! The services of `kctl.agent.v1`: parse, act, convert. They know neither who may call them nor how
//! the caller came in.

mod blocking;
mod blocklist;
mod chunks;
mod cpufreq;
mod disk;
mod events;
mod file;
mod host;
mod interval;
mod ipc;
mod module;
pub(crate) mod netlink;
mod peers;
mod perf;
mod process;
mod stats;
mod system;
mod thread;

pub(crate) use host::Lifeline;

use crate::{counters::Counters, enforcer::Enforcer, events::Events, rollback::Rollback};
use agent_kernel::file::{Roots, Writable};
use kctl_proto::agent::v1::{
    blocklist_service_server::BlocklistServiceServer, cpufreq_service_server::CpufreqServiceServer,
    disk_service_server::DiskServiceServer, events_service_server::EventsServiceServer,
    file_service_server::FileServiceServer, host_service_server::HostServiceServer,
    ipc_service_server::IpcServiceServer, module_service_server::ModuleServiceServer,
    netlink_service_server::NetlinkServiceServer, perf_service_server::PerfServiceServer,
    process_service_server::ProcessServiceServer, stats_service_server::StatsServiceServer,
    system_service_server::SystemServiceServer,
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::sync::Arc;
use tonic::service::Routes;

/// Every service of the agent, with health and reflection.
pub(crate) async fn routes(
    enforcer: &Enforcer,
    lifeline: &Lifeline,
    roots: &Roots,
    writable: Writable,
    rollback: Rollback,
    events: &Events,
    counters: Counters,
) -> anyhow::Result<Routes> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<HostServiceServer<host::Host>>().await;
    health.set_serving::<BlocklistServiceServer<blocklist::Blocklist>>().await;
    health.set_serving::<StatsServiceServer<stats::Stats>>().await;
    health.set_serving::<NetlinkServiceServer<netlink::Netlink>>().await;
    health.set_serving::<ProcessServiceServer<process::Processes>>().await;
    health.set_serving::<SystemServiceServer<system::Systems>>().await;
    health.set_serving::<FileServiceServer<file::Files>>().await;
    health.set_serving::<CpufreqServiceServer<cpufreq::Processors>>().await;
    health.set_serving::<DiskServiceServer<disk::Disks>>().await;
    health.set_serving::<ModuleServiceServer<module::Modules>>().await;
    health.set_serving::<IpcServiceServer<ipc::Objects>>().await;
    health.set_serving::<PerfServiceServer<perf::Perf>>().await;
    health.set_serving::<EventsServiceServer<events::EventStreams>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kctl_proto::DESCRIPTORS)
        .with_service_name("kctl.agent.v1.HostService")
        .with_service_name("kctl.agent.v1.BlocklistService")
        .with_service_name("kctl.agent.v1.StatsService")
        .with_service_name("kctl.agent.v1.NetlinkService")
        .with_service_name("kctl.agent.v1.ProcessService")
        .with_service_name("kctl.agent.v1.SystemService")
        .with_service_name("kctl.agent.v1.FileService")
        .with_service_name("kctl.agent.v1.CpufreqService")
        .with_service_name("kctl.agent.v1.DiskService")
        .with_service_name("kctl.agent.v1.ModuleService")
        .with_service_name("kctl.agent.v1.IpcService")
        .with_service_name("kctl.agent.v1.PerfService")
        .with_service_name("kctl.agent.v1.EventsService")
        .build_v1()?;
    let blocklist = BlocklistServiceServer::new(blocklist::Blocklist::new(
        enforcer.clone(),
        roots.proc.clone(),
    ))
    .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let perf = perf::Perf::new(counters, roots.proc.clone());
    let writable = Arc::new(writable);
    let processors = cpufreq::Processors::new(roots.sys.clone(), Arc::clone(&writable));
    let files = file::Files::new(roots.clone(), writable, rollback);
    Ok(Routes::new(blocklist)
        .add_service(HostServiceServer::new(host::Host::new(enforcer.clone(), lifeline.clone())))
        .add_service(StatsServiceServer::new(stats::Stats::new(enforcer.clone())))
        .add_service(NetlinkServiceServer::new(netlink::Netlink::new(roots.proc.clone())))
        .add_service(ProcessServiceServer::new(process::Processes::new(roots.proc.clone())))
        .add_service(SystemServiceServer::new(system::Systems::new(roots.proc.clone())))
        .add_service(FileServiceServer::new(files))
        .add_service(CpufreqServiceServer::new(processors))
        .add_service(DiskServiceServer::new(disk::Disks::new(roots)))
        .add_service(ModuleServiceServer::new(module::Modules::new(roots)))
        .add_service(IpcServiceServer::new(ipc::Objects::new(roots)))
        .add_service(PerfServiceServer::new(perf))
        .add_service(EventsServiceServer::new(events::EventStreams::new(events.clone())))
        .add_service(health_service)
        .add_service(reflection))
}
