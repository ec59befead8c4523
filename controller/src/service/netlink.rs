//! `kctl.controller.v1.NetlinkService`.

use super::{Answers, Api};
use kctl_proto::{
    agent::v1::netlink_service_client::NetlinkServiceClient,
    controller::v1::{
        ListRoutesRequest, ListRoutesResponse, netlink_service_server::NetlinkService,
    },
};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl NetlinkService for Api {
    type ListRoutesStream = Answers<ListRoutesResponse>;

    async fn list_routes(
        &self,
        request: Request<ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let ListRoutesRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.clone().unwrap_or_default();
            async move { NetlinkServiceClient::new(channel).list_routes(request).await }
        })
    }
}
