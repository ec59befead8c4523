//! `NetlinkService`: what routing netlink tells of this host.

mod convert;

use super::chunks::{Chunks, chunks};
use crate::status::kernel;
use agent_kernel::netlink::{self, Family, LinkFilter, RouteFilter};
use kctl_proto::agent::v1::{self as pb, netlink_service_server::NetlinkService};
use tonic::{Request, Response, Status};

/// Answers for the agent's network namespace.
#[derive(Debug)]
pub(super) struct Netlink;

#[tonic::async_trait]
impl NetlinkService for Netlink {
    type ListLinksStream = Chunks<pb::ListLinksResponse>;

    async fn list_links(
        &self,
        request: Request<pb::ListLinksRequest>,
    ) -> Result<Response<Self::ListLinksStream>, Status> {
        let links = netlink::links(some(request.into_inner().interface)).await.map_err(kernel)?;
        let links = links.map(|link| link.map(convert::link));
        Ok(Response::new(chunks(links, |links| pb::ListLinksResponse { links }, kernel)))
    }

    type ListAddrsStream = Chunks<pb::ListAddrsResponse>;

    async fn list_addrs(
        &self,
        request: Request<pb::ListAddrsRequest>,
    ) -> Result<Response<Self::ListAddrsStream>, Status> {
        let request = request.into_inner();
        let family = family(request.family());
        let filter = LinkFilter { family, interface: some(request.interface) };
        let addrs = netlink::addrs(filter).await.map_err(kernel)?;
        let addrs = addrs.map(|addr| addr.map(convert::addr));
        Ok(Response::new(chunks(addrs, |addrs| pb::ListAddrsResponse { addrs }, kernel)))
    }

    type ListRoutesStream = Chunks<pb::ListRoutesResponse>;

    async fn list_routes(
        &self,
        request: Request<pb::ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let request = request.into_inner();
        let family = family(request.family());
        let table = (request.table != 0).then_some(request.table);
        let filter = RouteFilter { family, table, interface: some(request.interface) };
        let routes = netlink::routes(filter).await.map_err(kernel)?;
        let routes = routes.map(|route| route.map(convert::route));
        Ok(Response::new(chunks(routes, |routes| pb::ListRoutesResponse { routes }, kernel)))
    }

    type ListNeighboursStream = Chunks<pb::ListNeighboursResponse>;

    async fn list_neighbours(
        &self,
        request: Request<pb::ListNeighboursRequest>,
    ) -> Result<Response<Self::ListNeighboursStream>, Status> {
        let request = request.into_inner();
        let family = family(request.family());
        let filter = LinkFilter { family, interface: some(request.interface) };
        let found = netlink::neighbours(filter).await.map_err(kernel)?;
        let found = found.map(|neighbour| neighbour.map(convert::neighbour));
        let message = |neighbours| pb::ListNeighboursResponse { neighbours };
        Ok(Response::new(chunks(found, message, kernel)))
    }

    type ListRulesStream = Chunks<pb::ListRulesResponse>;

    async fn list_rules(
        &self,
        request: Request<pb::ListRulesRequest>,
    ) -> Result<Response<Self::ListRulesStream>, Status> {
        let family = family(request.into_inner().family());
        let rules = netlink::rules(family).await.map_err(kernel)?;
        let rules = rules.map(|rule| rule.map(convert::rule));
        Ok(Response::new(chunks(rules, |rules| pb::ListRulesResponse { rules }, kernel)))
    }
}

fn family(family: pb::Family) -> Option<Family> {
    match family {
        pb::Family::Unspecified => None,
        pb::Family::Inet => Some(Family::Inet),
        pb::Family::Inet6 => Some(Family::Inet6),
    }
}

/// Empty means any on the wire.
fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
