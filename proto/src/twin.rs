//! What the fleet-wide answers in parts have in common: a host, and one piece of what it said.

use crate::{agent::v1 as agent, controller::v1 as controller};

/// One piece of a host's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece<P> {
    /// What the host said next.
    Part(P),
    /// Why there is nothing, or nothing more.
    Error(agent::Error),
    /// The host has told everything.
    End,
}

/// An answer of the controller that carries a piece of one host's answer.
pub trait Twin: Sized {
    /// The host's own message.
    type Part;

    /// A piece of this host's answer.
    fn new(host: String, piece: Piece<Self::Part>) -> Self;

    /// The host and the piece; a piece that this version does not know is `None`.
    fn into_piece(self) -> (String, Option<Piece<Self::Part>>);
}

macro_rules! twins {
    ($($message:ident $result:ident),* $(,)?) => {$(
        impl Twin for controller::$message {
            type Part = agent::$message;

            fn new(host: String, piece: Piece<Self::Part>) -> Self {
                use controller::$result::Result;
                let result = match piece {
                    Piece::Part(part) => Result::Part(part),
                    Piece::Error(error) => Result::Error(error),
                    Piece::End => Result::End(controller::End {}),
                };
                Self { host, result: Some(result) }
            }

            fn into_piece(self) -> (String, Option<Piece<Self::Part>>) {
                use controller::$result::Result;
                let piece = self.result.map(|result| match result {
                    Result::Part(part) => Piece::Part(part),
                    Result::Error(error) => Piece::Error(error),
                    Result::End(_) => Piece::End,
                });
                (self.host, piece)
            }
        }
    )*};
}

twins! {
    ListLinksResponse list_links_response,
    ListAddrsResponse list_addrs_response,
    ListRoutesResponse list_routes_response,
    ListProcessesResponse list_processes_response,
    GetProcessStatusResponse get_process_status_response,
    ListMapsResponse list_maps_response,
    ListFdsResponse list_fds_response,
    ListEnvironmentResponse list_environment_response,
    ListLimitsResponse list_limits_response,
    GetProcessIoResponse get_process_io_response,
    ListCgroupsResponse list_cgroups_response,
    ListNamespacesResponse list_namespaces_response,
    SignalProcessResponse signal_process_response,
    GetSystemResponse get_system_response,
    ListNeighboursResponse list_neighbours_response,
    ListRulesResponse list_rules_response,
    ListLinkStatsResponse list_link_stats_response,
    ListSocketsResponse list_sockets_response,
    ListConnectionsResponse list_connections_response,
    ReadFileResponse read_file_response,
    ListValuesResponse list_values_response,
    SetValueResponse set_value_response,
    ListCpufreqResponse list_cpufreq_response,
    SetCpufreqResponse set_cpufreq_response,
    ListDisksResponse list_disks_response,
    ListMountsResponse list_mounts_response,
    ListModulesResponse list_modules_response,
    ListIpcResponse list_ipc_response,
    WatchCountersResponse watch_counters_response,
}
