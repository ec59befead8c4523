//! Lists of the agent without a kernel: how its rules come depends on its name.

use super::agent::Agent;
use kctl_proto::agent::v1::{self as pb, netlink_service_server::NetlinkService};
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn part(priority: u32) -> Result<pb::ListRulesResponse, Status> {
    Ok(pb::ListRulesResponse { rules: vec![pb::Rule { priority, ..pb::Rule::default() }] })
}

#[tonic::async_trait]
impl NetlinkService for Agent {
    type ListLinksStream = Answers<pb::ListLinksResponse>;
    type ListAddrsStream = Answers<pb::ListAddrsResponse>;
    type ListRoutesStream = Answers<pb::ListRoutesResponse>;
    type ListNeighboursStream = Answers<pb::ListNeighboursResponse>;
    type ListRulesStream = Answers<pb::ListRulesResponse>;
    type ListLinkStatsStream = Answers<pb::ListLinkStatsResponse>;
    type ListSocketsStream = Answers<pb::ListSocketsResponse>;
    type ListConnectionsStream = Answers<pb::ListConnectionsResponse>;

    async fn list_rules(
        &self,
        _request: Request<pb::ListRulesRequest>,
    ) -> Result<Response<Self::ListRulesStream>, Status> {
        Ok(Response::new(match self.name.as_str() {
            "whole" => Box::pin(tokio_stream::iter([part(1), part(2), part(3)])),
            "breaks" => Box::pin(tokio_stream::iter([part(1), Err(Status::internal("broken"))])),
            "refuses" => return Err(Status::not_found("link \"eth7\": no such device")),
            // It goes on no further, and lives or dies as the test likes.
            _ => Box::pin(tokio_stream::once(part(1)).chain(tokio_stream::pending())),
        }))
    }

    async fn list_links(
        &self,
        _request: Request<pb::ListLinksRequest>,
    ) -> Result<Response<Self::ListLinksStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_addrs(
        &self,
        _request: Request<pb::ListAddrsRequest>,
    ) -> Result<Response<Self::ListAddrsStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_routes(
        &self,
        _request: Request<pb::ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_neighbours(
        &self,
        _request: Request<pb::ListNeighboursRequest>,
    ) -> Result<Response<Self::ListNeighboursStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_link_stats(
        &self,
        _request: Request<pb::ListLinkStatsRequest>,
    ) -> Result<Response<Self::ListLinkStatsStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_sockets(
        &self,
        _request: Request<pb::ListSocketsRequest>,
    ) -> Result<Response<Self::ListSocketsStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_connections(
        &self,
        _request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<Self::ListConnectionsStream>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
