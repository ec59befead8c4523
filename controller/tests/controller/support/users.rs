//! Users and what they are let do.

use super::{Api, Controller};
use kctl_proto::controller::v1::{
    AuditLine, CreateUserRequest, CreateUserResponse, ListAuditRequest, RevokeUserRequest,
    audit_service_client::AuditServiceClient, user_service_client::UserServiceClient,
};
use kctl_rpc::{Channel, Credentials, new_key_and_csr};
use tonic::{Request, Status};

impl Api {
    /// Makes a user; the credentials that kctl would write.
    pub(crate) async fn user(
        &self,
        name: &str,
        role: &str,
        scope: &str,
    ) -> Result<Credentials, Status> {
        let request = CreateUserRequest {
            name: name.to_owned(),
            role: role.to_owned(),
            scope: scope.to_owned(),
            ..CreateUserRequest::default()
        };
        self.make_user(request).await.map(|(credentials, _)| credentials)
    }

    pub(crate) async fn make_user(
        &self,
        request: CreateUserRequest,
    ) -> Result<(Credentials, CreateUserResponse), Status> {
        let (key, csr) = new_key_and_csr().expect("a key");
        let request = CreateUserRequest { csr, ..request };
        let made = self.users().create_user(request).await?.into_inner();
        assert_eq!(made.controller, Controller::identity().to_string());
        let credentials = Credentials::from_pem(&made.ca, &made.certificate, &key);
        Ok((credentials.expect("credentials"), made))
    }

    pub(crate) fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.0.clone())
    }

    pub(crate) async fn revoke_user(&self, name: &str) -> Result<(), Status> {
        let request = RevokeUserRequest { name: name.to_owned() };
        self.users().revoke_user(request).await.map(drop)
    }

    /// The lines of the audit log.
    pub(crate) async fn audit(&self, request: ListAuditRequest) -> Vec<AuditLine> {
        let mut client = AuditServiceClient::new(self.0.clone());
        let mut pages = client.list_audit(request).await.expect("lists").into_inner();
        let mut lines = Vec::new();
        while let Some(page) = pages.message().await.expect("lists") {
            lines.extend(page.lines);
        }
        lines
    }

    /// Calls a method by its path with one empty message, and waits for the first answer.
    pub(crate) async fn bare(&self, path: &str) -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await.expect("connected");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let request = Request::new(tokio_stream::once(()));
        let path = path.parse().expect("a path");
        let mut answers = client.streaming(request, path, codec).await?.into_inner();
        answers.message().await.map(drop)
    }
}
