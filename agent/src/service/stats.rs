//! `StatsService`: what the filter counted.

use super::blocklist::hit_to_proto;
use crate::{enforcer::Enforcer, status::to_status};
use agent_kernel::filter::{Count, Counters, Hit};
use kctl_events::view::protocol;
use kctl_proto::agent::v1::{self as pb, stats_service_server::StatsService};
use tonic::{Request, Response, Status};

/// Answers for this host's counters.
#[derive(Debug)]
pub(super) struct Stats {
    enforcer: Enforcer,
}

impl Stats {
    pub(super) fn new(enforcer: Enforcer) -> Self {
        Self { enforcer }
    }
}

#[tonic::async_trait]
impl StatsService for Stats {
    async fn get_stats(
        &self,
        request: Request<pb::GetStatsRequest>,
    ) -> Result<Response<pb::GetStatsResponse>, Status> {
        let top = match request.into_inner().top {
            0 => 10,
            top => usize::try_from(top).unwrap_or(usize::MAX),
        };
        let read = self.enforcer.run(|it| {
            let filter = it.filter()?;
            Ok((it.describe_interfaces(), filter.counters()?, filter.hits()?))
        });
        let (interfaces, counters, hits) = read.await.and_then(|read| read).map_err(to_status)?;
        let stats = stats_to_proto(interfaces, &counters, hits, top);
        Ok(Response::new(pb::GetStatsResponse { stats: Some(stats) }))
    }
}

fn stats_to_proto(
    interfaces: Vec<pb::filter_status::Interface>,
    counters: &Counters,
    mut hits: Vec<Hit>,
    top: usize,
) -> pb::Stats {
    hits.sort_unstable_by_key(|hit| (std::cmp::Reverse(hit.packets), hit.key));
    pb::Stats {
        interfaces,
        passed: Some(count(counters.passed)),
        dropped: Some(count(counters.dropped)),
        monitored: Some(count(counters.monitored)),
        guarded: Some(count(counters.guarded)),
        malformed: Some(count(counters.malformed)),
        protocols: counters
            .protocols
            .iter()
            .map(|&(number, seen)| pb::stats::ProtocolCount {
                number: number.into(),
                name: protocol(number.into()).into_owned(),
                count: Some(count(seen)),
            })
            .collect(),
        ports: counters
            .connections
            .iter()
            .map(|&(port, connections)| pb::stats::PortCount {
                port: port.into(),
                protocol: pb::Protocol::Tcp.into(),
                connections,
            })
            .collect(),
        rules: hits.iter().take(top).map(hit_to_proto).collect(),
        top_sources: counters
            .sources
            .iter()
            .take(top)
            .map(|(src, seen)| pb::stats::SourceCount {
                src: src.to_string(),
                count: Some(count(*seen)),
            })
            .collect(),
    }
}

fn count(count: Count) -> pb::PacketCount {
    pb::PacketCount { packets: count.packets, bytes: count.bytes }
}
