//! `kctl.controller.v1.NetlinkService`.

use super::{Answers, Api};
use kctl_proto::{
    agent::v1::netlink_service_client::NetlinkServiceClient as Agent,
    controller::v1::{
        ListAddrsRequest, ListAddrsResponse, ListLinksRequest, ListLinksResponse,
        ListNeighboursRequest, ListNeighboursResponse, ListRoutesRequest, ListRoutesResponse,
        ListRulesRequest, ListRulesResponse, netlink_service_server::NetlinkService,
    },
};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl NetlinkService for Api {
    type ListLinksStream = Answers<ListLinksResponse>;

    async fn list_links(
        &self,
        request: Request<ListLinksRequest>,
    ) -> Result<Response<Self::ListLinksStream>, Status> {
        let ListLinksRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.clone().unwrap_or_default();
            async move { Agent::new(channel).list_links(request).await }
        })
    }

    type ListAddrsStream = Answers<ListAddrsResponse>;

    async fn list_addrs(
        &self,
        request: Request<ListAddrsRequest>,
    ) -> Result<Response<Self::ListAddrsStream>, Status> {
        let ListAddrsRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.clone().unwrap_or_default();
            async move { Agent::new(channel).list_addrs(request).await }
        })
    }

    type ListRoutesStream = Answers<ListRoutesResponse>;

    async fn list_routes(
        &self,
        request: Request<ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let ListRoutesRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.clone().unwrap_or_default();
            async move { Agent::new(channel).list_routes(request).await }
        })
    }

    type ListNeighboursStream = Answers<ListNeighboursResponse>;

    async fn list_neighbours(
        &self,
        request: Request<ListNeighboursRequest>,
    ) -> Result<Response<Self::ListNeighboursStream>, Status> {
        let ListNeighboursRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.clone().unwrap_or_default();
            async move { Agent::new(channel).list_neighbours(request).await }
        })
    }

    type ListRulesStream = Answers<ListRulesResponse>;

    async fn list_rules(
        &self,
        request: Request<ListRulesRequest>,
    ) -> Result<Response<Self::ListRulesStream>, Status> {
        let ListRulesRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.unwrap_or_default();
            async move { Agent::new(channel).list_rules(request).await }
        })
    }
}
