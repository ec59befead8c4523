//! The fleet-wide twins of the agents' services: each call asks every selected host the same and passes
//! on what it says. A new one is a line in the table below; it knows nothing of what is asked.

use super::{Answers, Api};
use crate::auth::Caller;
use kctl_proto::{agent::v1 as agent, controller::v1 as api};
use kctl_rpc::MAX_MESSAGE_BYTES;
use tonic::{Request, Response, Status};

/// Service, the modules of its server and client, its client; then its calls: how the fleet is asked
/// (`read`, or `change` where it changes something), the call, its stream, request and response.
macro_rules! twins {
    ($($service:ident $server:ident $clients:ident $client:ident {
        $($how:ident $call:ident $stream:ident $request:ident $response:ident,)*
    })*) => {$(
        #[tonic::async_trait]
        impl api::$server::$service for Api {
            $(
                type $stream = Answers<api::$response>;

                async fn $call(
                    &self,
                    request: Request<api::$request>,
                ) -> Result<Response<Self::$stream>, Status> {
                    let caller = Caller::of(&request)?;
                    let api::$request { selection, timeout_ms, request } = request.into_inner();
                    let request = request.unwrap_or_default();
                    self.$how(caller, selection, timeout_ms, request, |channel, request| {
                        let client = agent::$clients::$client::new(channel);
                        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
                        async move { client.$call(request).await }
                    })
                    .await
                }
            )*
        }
    )*};
}

twins! {
    NetlinkService netlink_service_server netlink_service_client NetlinkServiceClient {
        read list_links ListLinksStream ListLinksRequest ListLinksResponse,
        read list_addrs ListAddrsStream ListAddrsRequest ListAddrsResponse,
        read list_routes ListRoutesStream ListRoutesRequest ListRoutesResponse,
        read list_neighbours ListNeighboursStream ListNeighboursRequest ListNeighboursResponse,
        read list_rules ListRulesStream ListRulesRequest ListRulesResponse,
        read list_link_stats ListLinkStatsStream ListLinkStatsRequest ListLinkStatsResponse,
        read list_sockets ListSocketsStream ListSocketsRequest ListSocketsResponse,
        read list_connections ListConnectionsStream ListConnectionsRequest ListConnectionsResponse,
    }
    ProcessService process_service_server process_service_client ProcessServiceClient {
        read list_processes ListProcessesStream ListProcessesRequest ListProcessesResponse,
        read get_process_status GetProcessStatusStream GetProcessStatusRequest GetProcessStatusResponse,
        read list_maps ListMapsStream ListMapsRequest ListMapsResponse,
        read list_fds ListFdsStream ListFdsRequest ListFdsResponse,
        read list_environment ListEnvironmentStream ListEnvironmentRequest ListEnvironmentResponse,
        read list_limits ListLimitsStream ListLimitsRequest ListLimitsResponse,
        read get_process_io GetProcessIoStream GetProcessIoRequest GetProcessIoResponse,
        read list_cgroups ListCgroupsStream ListCgroupsRequest ListCgroupsResponse,
        read list_namespaces ListNamespacesStream ListNamespacesRequest ListNamespacesResponse,
        change signal_process SignalProcessStream SignalProcessRequest SignalProcessResponse,
    }
    SystemService system_service_server system_service_client SystemServiceClient {
        read get_system GetSystemStream GetSystemRequest GetSystemResponse,
    }
    DiskService disk_service_server disk_service_client DiskServiceClient {
        read list_disks ListDisksStream ListDisksRequest ListDisksResponse,
        read list_mounts ListMountsStream ListMountsRequest ListMountsResponse,
    }
    ModuleService module_service_server module_service_client ModuleServiceClient {
        read list_modules ListModulesStream ListModulesRequest ListModulesResponse,
    }
    IpcService ipc_service_server ipc_service_client IpcServiceClient {
        read list_ipc ListIpcStream ListIpcRequest ListIpcResponse,
    }
    PerfService perf_service_server perf_service_client PerfServiceClient {
        read watch_counters WatchCountersStream WatchCountersRequest WatchCountersResponse,
    }
    FileService file_service_server file_service_client FileServiceClient {
        read read_file ReadFileStream ReadFileRequest ReadFileResponse,
        read list_values ListValuesStream ListValuesRequest ListValuesResponse,
        change set_value SetValueStream SetValueRequest SetValueResponse,
    }
    CpufreqService cpufreq_service_server cpufreq_service_client CpufreqServiceClient {
        read list_cpufreq ListCpufreqStream ListCpufreqRequest ListCpufreqResponse,
        change set_cpufreq SetCpufreqStream SetCpufreqRequest SetCpufreqResponse,
    }
}
