//! `NetlinkService`: what routing netlink tells of this host.

use super::chunks::{Chunks, chunks};
use crate::status::kernel;
use agent_kernel::netlink::{self, Family, NextHop, Route, RouteFilter};
use kctl_proto::agent::v1::{self as pb, netlink_service_server::NetlinkService};
use tonic::{Request, Response, Status};

/// Answers for the agent's network namespace.
#[derive(Debug)]
pub(super) struct Netlink;

#[tonic::async_trait]
impl NetlinkService for Netlink {
    type ListRoutesStream = Chunks<pb::ListRoutesResponse>;

    async fn list_routes(
        &self,
        request: Request<pb::ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let request = request.into_inner();
        let filter = RouteFilter {
            family: family(request.family()),
            table: (request.table != 0).then_some(request.table),
            interface: some(request.interface),
        };
        let routes = netlink::routes(filter).await.map_err(kernel)?;
        let routes = routes.map(|route| route.map(route_to_proto));
        Ok(Response::new(chunks(routes, |routes| pb::ListRoutesResponse { routes }, kernel)))
    }
}

fn family(family: pb::Family) -> Option<Family> {
    match family {
        pb::Family::Unspecified => None,
        pb::Family::Inet => Some(Family::Inet),
        pb::Family::Inet6 => Some(Family::Inet6),
    }
}

fn family_to_proto(family: Family) -> i32 {
    match family {
        Family::Inet => pb::Family::Inet.into(),
        Family::Inet6 => pb::Family::Inet6.into(),
    }
}

/// Empty means any on the wire.
fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Nothing is empty on the wire.
fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn words(words: Vec<&'static str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

fn route_to_proto(route: Route) -> pb::Route {
    pb::Route {
        family: family_to_proto(route.family),
        dst: route.dst.to_string(),
        r#type: route.kind.into_owned(),
        table: route.table,
        protocol: route.protocol.into_owned(),
        scope: route.scope.into_owned(),
        metric: route.metric,
        prefsrc: text(route.prefsrc),
        gateway: text(route.gateway),
        interface: route.interface.unwrap_or_default(),
        flags: words(route.flags),
        nexthops: route.nexthops.into_iter().map(nexthop_to_proto).collect(),
        src: text(route.src),
        nexthop_id: route.nexthop_id.unwrap_or_default(),
    }
}

fn nexthop_to_proto(hop: NextHop) -> pb::route::NextHop {
    pb::route::NextHop {
        gateway: text(hop.gateway),
        interface: hop.interface.unwrap_or_default(),
        weight: hop.weight.into(),
        flags: words(hop.flags),
    }
}
