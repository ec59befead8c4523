//! What one visitor can't take from the others.

use crate::support::{Controller, LIMIT};
use kctl_proto::controller::v1::{
    GetVersionRequest, controller_service_client::ControllerServiceClient,
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
