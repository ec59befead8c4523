//! Whom the controller does not let in, and what it does not do.

use crate::support::{
    Api, Controller, LIMIT,
    agent::{Agent, join, join_channel},
    all, block, names,
};
use kctl_proto::{
    agent::v1 as pb,
    controller::v1::{
        self as api, host_result::Status as Outcome, hosts_service_client::HostsServiceClient,
        join_service_client::JoinServiceClient, token_service_client::TokenServiceClient,
    },
};
use kctl_rpc::{ALPN_AGENT, ALPN_API, Credentials, channel_over, client_config, dial};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::process::Command;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_work_as_often_and_as_long_as_they_say() {
    let controller = Controller::start();
    let api = controller.api().await;
    let refused = async |token: &str, name: &str| {
        let status = join(&controller.address, token, name).await.map(drop).expect_err("refused");
        (status.code(), status.message().to_owned())
    };
    let once = api.token(api::CreateTokenRequest { uses: Some(1), ..Default::default() }).await;
    join(&controller.address, &once.token, "WEB-1").await.expect("joins");
    let (code, message) = refused(&once.token, "web-2").await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(message.contains("used up"), "{message}");

    let any = api.token(api::CreateTokenRequest::default()).await;
    assert_eq!(refused(&any.token, "web-1").await.0, Code::AlreadyExists);
    assert_eq!(refused(&any.token, "web/1").await.0, Code::InvalidArgument);
    let (head, tail) = any.token.rsplit_once('.').expect("parts");
    let wrong = format!("{}AAAA.{tail}", &head[..head.len() - 4]);
    let (code, message) = refused(&wrong, "web-2").await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(message.contains("unknown") || message.contains("not like"), "{message}");

    let mut tokens = TokenServiceClient::new(api.0.clone());
    let listed = tokens.list_tokens(api::ListTokensRequest {}).await.expect("lists").into_inner();
    assert_eq!(listed.tokens.len(), 1);
    let id = any.info.expect("told").id;
    tokens.revoke_token(api::RevokeTokenRequest { id: id.clone() }).await.expect("revokes");
    assert!(refused(&any.token, "web-2").await.1.contains("revoked"));
    let again = tokens.revoke_token(api::RevokeTokenRequest { id }).await.expect_err("gone");
    assert_eq!(again.code(), Code::NotFound);

    let short = api.token(api::CreateTokenRequest { ttl_ms: 1, ..Default::default() }).await;
    assert!(refused(&short.token, "web-2").await.1.contains("expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_host_replaces_it_and_its_old_certificate_is_revoked() {
    let controller = Controller::start();
    let api = controller.api().await;
    let old = Agent::new(&controller, &api, "web-1").await;
    let mut open = old.connect(&controller, &api).await;
    let request = api::CreateTokenRequest { host: "web-1".to_owned(), ..Default::default() };
    let token = api.token(request).await.token;
    let other = join(&controller.address, &token, "web-2").await.map(drop).expect_err("refused");
    assert!(other.message().contains("another host"), "{other}");
    let credentials = join(&controller.address, &token, "web-1").await.expect("joins");
    tokio::time::timeout(LIMIT, &mut open.0).await.expect("cut off").expect("no panic");
    let new = Agent::with("web-1", credentials);
    let _open = new.connect(&controller, &api).await;
    revoked(&old, &controller, &api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_cut_off_and_stays_out() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    let mut open = agent.connect(&controller, &api).await;
    api.remove("web-1").await.expect("removed");
    tokio::time::timeout(LIMIT, &mut open.0).await.expect("cut off").expect("no panic");
    assert!(api.hosts().await.is_empty());
    revoked(&agent, &controller, &api).await;
    let unknown = api.remove("web-1").await.expect_err("gone");
    assert_eq!(unknown.code(), Code::NotFound);
    // The name is free again.
    Agent::new(&controller, &api, "web-1").await;
}

/// TLS 1.3 lets a client finish before the server has looked at its certificate, so the refusal is
/// seen when the connection is used.
async fn revoked(agent: &Agent, controller: &Controller, api: &Api) {
    if let Ok(mut open) = agent.try_connect(&controller.address).await {
        tokio::time::timeout(LIMIT, &mut open.0).await.expect("closed").expect("no panic");
    }
    let before = api.hosts().await.remove("web-1").map(|host| host.peer);
    let changed =
        api.block(api::BlockRequest { allow_empty: true, ..block("10.0.0.1", all()) }).await;
    changed.expect("accepted");
    assert!(agent.prefixes().is_empty(), "a revoked host hears nothing");
    assert_eq!(api.hosts().await.remove("web-1").map(|host| host.peer), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_only_open_the_doors_they_are_for() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;

    let config =
        client_config(&agent.credentials, &Controller::identity(), ALPN_API).expect("config");
    let stream = dial(&controller.address, config, LIMIT).await.expect("connects");
    let channel = channel_over(stream).await.expect("speaks HTTP/2");
    let request = api::ListHostsRequest { selection: None };
    let host = HostsServiceClient::new(channel).list_hosts(request).await.expect_err("refused");
    assert_eq!(host.code(), Code::PermissionDenied);
    assert_eq!(
        host.message(),
        "certificate names host \"web-1\"; the API wants a user certificate"
    );

    let (user, mallory) = (controller.admin(), foreign("kctl://host/web-1", &controller.admin()));
    for (credentials, alpn) in [(&user, ALPN_AGENT), (&mallory, ALPN_AGENT), (&mallory, ALPN_API)] {
        assert!(closed(&controller.address, credentials, alpn).await);
    }
    assert!(closed(&controller.address, &user, b"http/1.1").await);
}

/// Whether the controller ends a connection with these instead of speaking.
async fn closed(address: &str, credentials: &Credentials, alpn: &[u8]) -> bool {
    let config = client_config(credentials, &Controller::identity(), alpn).expect("config");
    match dial(address, config, LIMIT).await {
        Err(_) => true,
        Ok(mut stream) => {
            let read = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await;
            !matches!(read.expect("answered"), Ok(1..))
        }
    }
}

/// Credentials that trust the controller and that another CA signed.
fn foreign(uri: &str, trusting: &Credentials) -> Credentials {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.to_owned().try_into().expect("ASCII"))];
    let certificate = params.signed_by(&key, &issuer).expect("signs");
    let own = Credentials::from_pem(&certificate.pem(), &certificate.pem(), &key.serialize_pem())
        .expect("credentials");
    Credentials { ca: trusting.ca.clone(), ..own }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_closed_and_changes_nothing() {
    let controller = Controller::start();
    let api = controller.api().await;
    let texts: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 4_096],
        &[0x16, 3, 1, 0, 2, 1, 0],
    ];
    for text in texts {
        let mut stream = TcpStream::connect(&controller.address).await.expect("connects");
        let _ = stream.write_all(text).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
        let _ = read.expect("the controller closes it");
        assert!(rest.len() < 16, "no more than an alert: {rest:?}");
    }
    assert!(api.hosts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_cuts_somebody_off_changes_nothing_unless_forced() {
    let controller = Controller::start();
    let api = controller.api().await;
    let agent = Agent::new(&controller, &api, "web-1").await;
    {
        let status = &mut agent.state().status;
        status.addresses = vec!["10.0.0.7".to_owned()];
        status.protected = vec!["10.0.9.1/32".to_owned()];
        status.management_ports = vec![22];
        status.filter = Some(pb::FilterStatus {
            max_entries: 3,
            unfiltered_interfaces: vec!["eth1".to_owned()],
            ..Default::default()
        });
    }
    let _connection = agent.connect(&controller, &api).await;
    api.until_in_sync("web-1").await;
    let refused = async |request: api::BlockRequest, code: Code, text: &str| {
        let status = api.block(request).await.map(drop).expect_err(text);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    };
    use Code::{FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted};
    refused(block("not-an-ip", all()), InvalidArgument, "not-an-ip").await;
    refused(block("10.0.0.5/33", all()), InvalidArgument, "10.0.0.5/33").await;
    refused(block("10.0.0.0/24", all()), FailedPrecondition, "web-1's own address").await;
    refused(block("10.0.9.0/24", all()), FailedPrecondition, "never blocks").await;
    refused(block("127.0.0.1", all()), FailedPrecondition, "127.0.0.1").await;
    refused(block("10.0.0.5", names(&["web-9"])), NotFound, "web-9").await;
    let ssh = api::BlockRequest { port: 22, ..block("0.0.0.0/0", all()) };
    refused(ssh, FailedPrecondition, "ssh port").await;
    let many = (1..=4).map(|i| format!("10.1.0.{i}")).collect();
    let many = api::BlockRequest { prefixes: many, ..block("", all()) };
    refused(many, ResourceExhausted, "room for 3").await;
    let none = api::BlockRequest { prefixes: Vec::new(), ..block("", all()) };
    refused(none, InvalidArgument, "none given").await;
    let protect = api::BlockRequest {
        action: pb::Action::Protect.into(),
        interface: "eth0".to_owned(),
        ..block("10.0.0.0/8", all())
    };
    refused(protect, InvalidArgument, "every one").await;
    let dry = api::BlockRequest { dry_run: true, ..block("10.0.0.5", all()) };
    let dry = api.block(dry).await.expect("checked");
    assert_eq!((dry.accepted.revision, dry.hosts.len()), (0, 0));
    assert!(agent.prefixes().is_empty());

    let protect =
        api::BlockRequest { action: pb::Action::Protect.into(), ..block("10.2.0.1", all()) };
    api.block(protect.clone()).await.expect("accepted");
    // A port of some sources is kept open to them, and to nobody else.
    let tcp = pb::Protocol::Tcp.into();
    let prefixes = vec!["10.3.0.1".to_owned()];
    let port = api::BlockRequest { port: 80, protocol: tcp, prefixes, ..protect };
    api.block(port).await.expect("accepted");
    let whole = api::BlockRequest { dry_run: true, ..block("10.3.0.1", all()) };
    api.block(whole).await.expect("not refused");
    let everyone = block("0.0.0.0/0", all());
    let port = api::BlockRequest { port: 80, protocol: tcp, dry_run: true, ..everyone };
    api.block(port).await.expect("not refused");
    refused(block("10.2.0.0/16", all()), FailedPrecondition, "never-block list").await;
    let forced = api::BlockRequest { force: true, ..block("0.0.0.0/0", all()) };
    let forced = api.block(forced).await.expect("accepted");
    assert_eq!(forced.outcome("web-1"), Outcome::Applied);
    let warnings = forced.accepted.warnings.join("\n");
    assert!(warnings.contains("goes on passing") && warnings.contains("eth1"), "{warnings}");
}

#[test]
fn a_store_that_cannot_be_read_stops_the_controller_and_is_left_as_it_is() {
    let (_, data_dir) = Controller::start().kill();
    let store = data_dir.path().join("store.db");
    for content in [&b""[..], b"garbage that is no database at all, and long enough for a header"] {
        std::fs::write(&store, content).expect("writes");
        let _ = std::fs::remove_file(data_dir.path().join("store.db-wal"));
        let output = Command::new(env!("CARGO_BIN_EXE_kctl-controller"))
            .args(["--listen", "127.0.0.1:0", "--name", "c-1", "--data-dir"])
            .arg(data_dir.path())
            .output()
            .expect("runs");
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("store.db") && error.contains("can't be read"), "{error}");
        assert_eq!(std::fs::read(&store).expect("there"), content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_are_limited_by_where_they_come_from() {
    let controller = Controller::start();
    let api = controller.api().await;
    let token = api.token(api::CreateTokenRequest { ttl_ms: 1, ..Default::default() }).await.token;
    let mut client = JoinServiceClient::new(join_channel(&controller.address, &token).await);
    let request = api::JoinRequest { token, name: "web-1".to_owned(), csr: Vec::new() };
    let mut codes = Vec::new();
    while codes.last() != Some(&Code::ResourceExhausted) && codes.len() < 1_000 {
        codes.push(client.join(request.clone()).await.expect_err("it expired").code());
    }
    assert_eq!(codes.pop(), Some(Code::ResourceExhausted));
    assert!(
        codes.len() >= 20 && codes.iter().all(|code| *code == Code::Unauthenticated),
        "{codes:?}"
    );
}
