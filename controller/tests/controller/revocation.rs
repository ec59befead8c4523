//! Who is cut off, and when: revoked users and hosts at once, users at the end of their certificates.

use crate::support::{Controller, LIMIT, agent::Agent, eventually, stream::follow};
use kctl_proto::controller::v1::{
    CreateUserRequest, ListHostsRequest, RenewUserRequest,
    events_service_client::EventsServiceClient, hosts_service_client::HostsServiceClient,
};
use kctl_rpc::{ALPN_API, Credentials, client_config, dial, new_key_and_csr};
use std::time::Duration;
use tokio::{io::AsyncReadExt as _, time::timeout};
use tonic::Code;

/// Opens a stream of events that goes on, and waits until it does.
async fn open(controller: &Controller, user: &Credentials) -> tokio::task::JoinHandle<()> {
    let api = controller.api_as(user).await;
    let mut events = EventsServiceClient::new(api.0);
    let mut messages = events.watch_events(follow()).await.expect("follows").into_inner();
    messages.message().await.expect("goes on").expect("its beginning");
    tokio::spawn(async move { while let Ok(Some(_)) = messages.message().await {} })
}

/// Whether the handshake is refused; TLS 1.3 tells so after the client thinks that it is done.
async fn refused(controller: &Controller, user: &Credentials) -> bool {
    let config = client_config(user, &Controller::identity(), ALPN_API).expect("config");
    match dial(&controller.address, config, LIMIT).await {
        Err(_) => true,
        Ok(mut stream) => {
            let read = timeout(LIMIT, stream.read(&mut [0; 1])).await.expect("answered");
            !matches!(read, Ok(1..))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_user_loses_open_streams_and_stays_out() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let ann = admin.user("ann", "operator", "").await.expect("made");
    let bob = admin.user("bob", "operator", "").await.expect("made");
    let (mut anns, bobs) = (open(&controller, &ann).await, open(&controller, &bob).await);
    admin.revoke_user("ann").await.expect("revoked");
    timeout(LIMIT, &mut anns).await.expect("it ends").expect("no panic");
    assert!(!bobs.is_finished(), "nobody else is cut off");
    assert!(refused(&controller, &ann).await);

    // Whoever gets the name next does not make the old certificate good again.
    let again = admin.user("ann", "viewer", "").await.expect("the name is free");
    assert!(refused(&controller, &ann).await);
    let api = controller.api_as(&again).await;
    assert!(api.hosts().await.is_empty());

    let gone = admin.revoke_user("eve").await.expect_err("nobody");
    assert_eq!(gone.code(), Code::NotFound);
    let last = admin.revoke_user("admin").await.expect_err("the last one");
    assert_eq!(last.code(), Code::FailedPrecondition);
    let taken = admin.user("bob", "admin", "").await.map(drop).expect_err("taken");
    assert_eq!(taken.code(), Code::AlreadyExists);
    for (name, role, scope) in [("B", "viewer", ""), ("c", "king", ""), ("c", "viewer", "role")] {
        let bad = admin.user(name, role, scope).await.map(drop).expect_err(name);
        assert_eq!(bad.code(), Code::InvalidArgument, "{bad}");
    }
    let dave = admin.user("dave", "admin", "").await.expect("made");
    let api = controller.api_as(&dave).await;
    api.revoke_user("admin").await.expect("another one is there");
    assert!(refused(&controller, &controller.admin()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_over_ends_open_streams_and_is_refused() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let request = CreateUserRequest { name: "ann".to_owned(), ttl_ms: 3_000, ..Default::default() };
    let (ann, made) = admin.make_user(request).await.expect("made");
    assert!(made.user.expect("told").limited);
    let mut stream = open(&controller, &ann).await;
    // She can't make it last longer herself, but an admin can.
    let (_, csr) = new_key_and_csr().expect("a key");
    let renew = |name: &str| RenewUserRequest {
        name: name.to_owned(),
        csr: csr.clone(),
        ..RenewUserRequest::default()
    };
    let own = controller.api_as(&ann).await;
    for name in ["", "ann", "admin"] {
        let refused = own.users().renew_user(renew(name)).await.map(drop).expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    timeout(LIMIT, &mut stream).await.expect("it ends").expect("no panic");
    let over = async || refused(&controller, &ann).await.then_some(());
    eventually("over", over).await;
    let renewed = admin.users().renew_user(renew("ann")).await.expect("renewed").into_inner();
    assert!(!renewed.user.expect("told").limited);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_renews_alone_and_the_old_certificate_goes_on_until_it_ends() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let ann = admin.user("ann", "viewer", "").await.expect("made");
    let (key, csr) = new_key_and_csr().expect("a key");
    let own = controller.api_as(&ann).await;
    let request = RenewUserRequest { csr, ..RenewUserRequest::default() };
    let renewed = own.users().renew_user(request).await.expect("renewed").into_inner();
    let new = Credentials::from_pem(&renewed.ca, &renewed.certificate, &key).expect("credentials");
    for credentials in [&ann, &new] {
        controller.api_as(credentials).await.hosts().await;
    }
    admin.revoke_user("ann").await.expect("revoked");
    assert!(refused(&controller, &ann).await && refused(&controller, &new).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_a_removed_host_end_with_its_connection() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let agent = Agent::new(&controller, &admin, "web-1").await;
    let mut connected = agent.connect(&controller, &admin).await;
    admin.remove("web-1").await.expect("removed");
    timeout(LIMIT, &mut connected.0).await.expect("cut off").expect("no panic");
    let mut hosts = HostsServiceClient::new(admin.0.clone());
    let request = ListHostsRequest { selection: None };
    let left = timeout(Duration::from_secs(5), hosts.list_hosts(request)).await;
    assert!(left.expect("answered").expect("lists").into_inner().hosts.is_empty());
}
