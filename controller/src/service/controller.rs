//! `kctl.controller.v1.ControllerService`.

use super::Api;
use kctl_proto::controller::v1::{
    GetVersionRequest, GetVersionResponse, controller_service_server::ControllerService,
};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl ControllerService for Api {
    async fn get_version(
        &self,
        _request: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        let desired = self.store.desired();
        let desired = desired.borrow();
        Ok(Response::new(GetVersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: self.ca.identity().to_string(),
            store_id: desired.store_id.clone(),
            revision: desired.revision,
        }))
    }
}
