//! What one visitor can't take from the others.

use crate::support::{
    Controller, LIMIT, agent::join_channel, all, block, eventually, stream::follow,
};
use kctl_proto::controller::v1::{
    BlockRequest, CreateTokenRequest, GetVersionRequest, JoinRequest,
    controller_service_client::ControllerServiceClient, events_service_client::EventsServiceClient,
    join_service_client::JoinServiceClient, token_service_client::TokenServiceClient,
};
use kctl_rpc::{ALPN_API, client_config, dial};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

/// More than the controller lets wait for their handshakes.
const IDLE: usize = 1_100;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_and_slow_ones_stop_nobody() {
    let controller = Controller::start();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).expect("its own limit");
    let mut idle = Vec::new();
    for at in 0..IDLE {
        let mut stream = TcpStream::connect(&controller.address).await.expect("connects");
        if at % 4 == 0 {
            // The beginning of a TLS record whose rest never comes.
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
        }
        idle.push(stream);
    }
    // They would all have to be waited for.
    let served = timeout(Duration::from_secs(60), async {
        let api = controller.api().await;
        api.hosts().await
    });
    assert!(served.await.expect("in time").is_empty());
    for stream in &mut idle {
        let ended = timeout(LIMIT, stream.read(&mut [0; 8])).await.expect("no handshake, no stay");
        assert!(!matches!(ended, Ok(1..)), "nothing is said to them");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_so_many_streams_at_once_and_gets_them_back() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let controller = Controller::start_with(folder, "127.0.0.1:0", &["--user-streams", "2"]);
    let admin = controller.api().await;
    let ann = admin.user("ann", "viewer", "").await.expect("made");
    let api = controller.api_as(&ann).await;
    let events = EventsServiceClient::new(api.0.clone());
    let open_one = async || events.clone().watch_events(follow()).await;
    let mut open = vec![open_one().await.expect("one"), open_one().await.expect("two")];
    let refused = open_one().await.map(drop).expect_err("three");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("2 calls run already"), "{refused}");
    // On another connection it is the same; for somebody else it is not.
    let other = EventsServiceClient::new(controller.api_as(&ann).await.0);
    let refused = other.clone().watch_events(follow()).await.map(drop).expect_err("three");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    admin.hosts().await;
    open.pop();
    eventually("a place is free again", async || open_one().await.ok().map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_and_the_connection_goes_on() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let too_large = |status: tonic::Status| {
        let code = status.code();
        assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{status}");
    };
    let text = |bytes: usize| "x".repeat(bytes);
    let request = BlockRequest { reason: text(33 << 20), ..block("10.0.0.5", all()) };
    too_large(admin.block(request).await.expect_err("33 MiB"));
    let mut tokens = TokenServiceClient::new(admin.0.clone());
    let request = CreateTokenRequest { host: text(5 << 20), ..CreateTokenRequest::default() };
    too_large(tokens.create_token(request).await.map(drop).expect_err("5 MiB"));

    let mut client = ControllerServiceClient::new(admin.0.clone());
    let mut request = tonic::Request::new(GetVersionRequest {});
    request.metadata_mut().insert("x-more", text(17 << 10).parse().expect("ASCII"));
    client.get_version(request).await.map(drop).expect_err("17 KiB of headers");
    client.get_version(GetVersionRequest {}).await.expect("the connection goes on");

    // Nobody knows who joins, so it is less there.
    let token = admin.token(CreateTokenRequest::default()).await.token;
    let channel = join_channel(&controller.address, &token).await;
    let request = JoinRequest { token, name: text(65 << 10), csr: Vec::new() };
    too_large(JoinServiceClient::new(channel).join(request).await.map(drop).expect_err("65 KiB"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_calls_are_limited_and_nobody_elses_for_it() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let few = ["--user-requests-per-second", "3", "--user-streams", "2", "--user-connections", "2"];
    let controller = Controller::start_with(folder, "127.0.0.1:0", &few);
    let admin = controller.api().await;
    let ann = admin.user("ann", "viewer", "").await.expect("made");
    let api = controller.api_as(&ann).await;
    let mut refused = None;
    for _ in 0..10_000 {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut client = ControllerServiceClient::new(api.0.clone());
            calls.spawn(async move { client.get_version(GetVersionRequest {}).await });
        }
        let answers = calls.join_all().await;
        refused = answers.into_iter().find_map(Result::err);
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("kctl://user/ann"), "{refused}");
    admin.hosts().await;

    // A second connection is taken, a third is not.
    let _second = controller.api_as(&ann).await;
    let config = client_config(&ann, &Controller::identity(), ALPN_API).expect("config");
    let mut third = dial(&controller.address, config, LIMIT).await.expect("shakes hands");
    let ended = timeout(LIMIT, third.read(&mut [0; 1])).await.expect("closed");
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
}
