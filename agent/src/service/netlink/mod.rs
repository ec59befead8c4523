//! `NetlinkService`: what netlink tells of this host.

pub(crate) mod convert;
mod filter;
mod stats;

use super::blocking::blocking;
use super::chunks::{Chunks, chunks};
use super::interval::interval;
use crate::status::kernel;
use agent_kernel::netlink::{self, AddrFilter, NeighbourFilter, RouteFilter};
use filter::{family, some};
use kctl_proto::agent::v1::{self as pb, netlink_service_server::NetlinkService};
use std::path::PathBuf;
use tonic::{Request, Response, Status};

/// Answers for the agent's network namespace, and for the processes of one procfs mount.
#[derive(Debug)]
pub(super) struct Netlink {
    proc_root: PathBuf,
}

impl Netlink {
    pub(super) fn new(proc_root: PathBuf) -> Self {
        Self { proc_root }
    }
}

#[tonic::async_trait]
impl NetlinkService for Netlink {
    type ListLinksStream = Chunks<pb::ListLinksResponse>;

    async fn list_links(
        &self,
        request: Request<pb::ListLinksRequest>,
    ) -> Result<Response<Self::ListLinksStream>, Status> {
        let name = some(request.into_inner().interface);
        let links = blocking(move || netlink::links(name)).await?;
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
        let filter = AddrFilter { family, interface: some(request.interface) };
        let addrs = blocking(move || netlink::addrs(filter)).await?;
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
        let routes = blocking(move || netlink::routes(filter)).await?;
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
        let (interface, all) = (some(request.interface), request.all);
        let filter = NeighbourFilter { family, interface, all };
        let found = blocking(move || netlink::neighbours(filter)).await?;
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
        let rules = blocking(move || netlink::rules(family)).await?;
        let rules = rules.map(|rule| rule.map(convert::rule));
        Ok(Response::new(chunks(rules, |rules| pb::ListRulesResponse { rules }, kernel)))
    }

    type ListLinkStatsStream = Chunks<pb::ListLinkStatsResponse>;

    async fn list_link_stats(
        &self,
        request: Request<pb::ListLinkStatsRequest>,
    ) -> Result<Response<Self::ListLinkStatsStream>, Status> {
        let request = request.into_inner();
        let interval = interval(request.interval_ms)?;
        let stats = stats::watch(some(request.interface), interval).await?;
        let message = |stats| pb::ListLinkStatsResponse { stats };
        Ok(Response::new(chunks(stats.into_iter().map(Ok), message, kernel)))
    }

    type ListSocketsStream = Chunks<pb::ListSocketsResponse>;

    async fn list_sockets(
        &self,
        request: Request<pb::ListSocketsRequest>,
    ) -> Result<Response<Self::ListSocketsStream>, Status> {
        let filter = filter::sockets(&request.into_inner())?;
        let root = self.proc_root.clone();
        let sockets = blocking(move || netlink::sockets(root, filter)).await?;
        let sockets = sockets.map(|socket| socket.map(convert::socket));
        Ok(Response::new(chunks(sockets, |sockets| pb::ListSocketsResponse { sockets }, kernel)))
    }

    type ListConnectionsStream = Chunks<pb::ListConnectionsResponse>;

    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<Self::ListConnectionsStream>, Status> {
        let filter = filter::connections(&request.into_inner())?;
        let found = blocking(move || netlink::connections(filter)).await?;
        let found = found.map(|connection| connection.map(convert::connection));
        let message = |connections| pb::ListConnectionsResponse { connections };
        Ok(Response::new(chunks(found, message, kernel)))
    }
}
