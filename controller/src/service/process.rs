//! `kctl.controller.v1.ProcessService`.

use super::{Answers, Api};
use kctl_proto::{
    agent::v1::process_service_client::ProcessServiceClient,
    controller::v1::{
        ListProcessesRequest, ListProcessesResponse, process_service_server::ProcessService,
    },
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl ProcessService for Api {
    type ListProcessesStream = Answers<ListProcessesResponse>;

    async fn list_processes(
        &self,
        request: Request<ListProcessesRequest>,
    ) -> Result<Response<Self::ListProcessesStream>, Status> {
        let ListProcessesRequest { selection, timeout_ms, request } = request.into_inner();
        self.parts(selection, timeout_ms, move |channel| {
            let request = request.clone().unwrap_or_default();
            let client = ProcessServiceClient::new(channel);
            let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
            async move { client.list_processes(request).await }
        })
    }
}
