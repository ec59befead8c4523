//! The services of `kctl.agent.v1`: parse, act, convert. They know neither who may call them nor how
//! the caller came in.

mod blocklist;
mod chunks;
mod host;
mod netlink;
mod process;
mod stats;
mod system;
mod text;

pub(crate) use host::Lifeline;

use crate::enforcer::Enforcer;
use kctl_proto::agent::v1::{
    blocklist_service_server::BlocklistServiceServer, host_service_server::HostServiceServer,
    netlink_service_server::NetlinkServiceServer, process_service_server::ProcessServiceServer,
    stats_service_server::StatsServiceServer, system_service_server::SystemServiceServer,
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use std::path::Path;
use tonic::service::Routes;

/// Every service of the agent, with health and reflection.
pub(crate) async fn routes(
    enforcer: &Enforcer,
    lifeline: &Lifeline,
    proc_root: &Path,
) -> anyhow::Result<Routes> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<HostServiceServer<host::Host>>().await;
    health.set_serving::<BlocklistServiceServer<blocklist::Blocklist>>().await;
    health.set_serving::<StatsServiceServer<stats::Stats>>().await;
    health.set_serving::<NetlinkServiceServer<netlink::Netlink>>().await;
    health.set_serving::<ProcessServiceServer<process::Processes>>().await;
    health.set_serving::<SystemServiceServer<system::Systems>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kctl_proto::DESCRIPTORS)
        .with_service_name("kctl.agent.v1.HostService")
        .with_service_name("kctl.agent.v1.BlocklistService")
        .with_service_name("kctl.agent.v1.StatsService")
        .with_service_name("kctl.agent.v1.NetlinkService")
        .with_service_name("kctl.agent.v1.ProcessService")
        .with_service_name("kctl.agent.v1.SystemService")
        .build_v1()?;
    let blocklist = BlocklistServiceServer::new(blocklist::Blocklist::new(enforcer.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Routes::new(blocklist)
        .add_service(HostServiceServer::new(host::Host::new(enforcer.clone(), lifeline.clone())))
        .add_service(StatsServiceServer::new(stats::Stats::new(enforcer.clone())))
        .add_service(NetlinkServiceServer::new(netlink::Netlink::new(proc_root.to_owned())))
        .add_service(ProcessServiceServer::new(process::Processes::new(proc_root.to_owned())))
        .add_service(SystemServiceServer::new(system::Systems::new(proc_root.to_owned())))
        .add_service(health_service)
        .add_service(reflection))
}
