//! `kctl.controller.v1.SystemService`.

use super::{Answers, Api};
use kctl_proto::{
    agent::v1::system_service_client::SystemServiceClient,
    controller::v1::{GetSystemRequest, GetSystemResponse, system_service_server::SystemService},
};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl SystemService for Api {
    type GetSystemStream = Answers<GetSystemResponse>;

    async fn get_system(
        &self,
        request: Request<GetSystemRequest>,
    ) -> Result<Response<Self::GetSystemStream>, Status> {
        let GetSystemRequest { selection, timeout_ms, request } = request.into_inner();
        let request = request.unwrap_or_default();
        self.parts(selection, timeout_ms, move |channel| async move {
            SystemServiceClient::new(channel).get_system(request).await
        })
    }
}
