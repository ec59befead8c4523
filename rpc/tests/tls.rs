//! Who may talk to whom, over real TLS connections on loopback.

use kctl_rpc::{
    ALPN_AGENT, ALPN_API, Credentials, Identity, Peer, ca_sha256, channel_over, client_config,
    dial, join_config, join_server_config, serve_over, server_config,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PublicKeyData as _, SanType, date_time_ymd,
};
use rustls::{CertificateError, ClientConfig, ServerConfig};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        Self::until(4096)
    }

    /// One that ends with a year.
    fn until(year: i32) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 12, 31);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two CAs of one name would only differ by their signatures.
        params.distinguished_name.push(DnType::CommonName, format!("{:x?}", key.der_bytes()));
        let pem = params.self_signed(&key).expect("signs").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, uri: &str, usage: ExtendedKeyUsagePurpose) -> Credentials {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii"))];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Credentials::from_pem(&self.pem, &certificate, &key.serialize_pem()).expect("reads")
    }

    /// A controller's, from one year to another.
    fn controller_within(&self, from: i32, to: i32) -> Credentials {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.subject_alt_names =
            vec![SanType::URI("kctl://controller/c".try_into().expect("ascii"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Credentials::from_pem(&self.pem, &certificate, &key.serialize_pem()).expect("reads")
    }

    fn controller(&self) -> Credentials {
        self.issue("kctl://controller/c", ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, uri: &str) -> Credentials {
        self.issue(uri, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

fn identity(uri: &str) -> Identity {
    uri.parse().expect("valid")
}

fn hosts_only(credentials: &Credentials) -> Arc<ServerConfig> {
    server_config(credentials, ALPN_AGENT, |_, identity| match identity {
        Identity::Host(name) if name == "revoked" => Err(CertificateError::Revoked),
        Identity::Host(_) => Ok(()),
        _ => Err(CertificateError::ApplicationVerificationFailure),
    })
    .expect("valid")
}

/// What both sides of one handshake and one byte after it see.
async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<Peer, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    let accept = async {
        let (tcp, from): (_, SocketAddr) = listener.accept().await.expect("accepts");
        let stream = TlsAcceptor::from(server).accept(tcp).await.ok()?;
        Some(Peer::of_tls(stream.get_ref().1.peer_certificates(), from))
    };
    let connect = async {
        let mut stream =
            dial(&address, client, Duration::from_secs(5)).await.map_err(|e| e.to_string())?;
        // TLS 1.3 tells a refused client certificate with the first read.
        match stream.read_u8().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(_) => Err("nobody sends anything".to_owned()),
        }
    };
    let (peer, connected) = tokio::join!(accept, connect);
    connected?;
    Ok(peer.expect("the server accepted what the client believes accepted"))
}

#[tokio::test]
async fn a_host_and_its_controller_know_each_other() {
    let ca = Ca::new();
    let client = client_config(
        &ca.client("kctl://host/web-1"),
        &identity("kctl://controller/c"),
        ALPN_AGENT,
    );
    let peer = shake(hosts_only(&ca.controller()), client.expect("valid")).await.expect("connects");
    assert_eq!(peer.identity, Some(identity("kctl://host/web-1")));
    assert!(peer.certificate_sha256.is_some());
}

#[tokio::test]
async fn whoever_is_not_expected_is_refused_and_told_why() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = hosts_only(&ca.controller());
    let controller = identity("kctl://controller/c");
    for (credentials, expected, why) in [
        (ca.client("kctl://user/admin"), &controller, "AccessDenied"),
        (ca.client("kctl://host/revoked"), &controller, "CertificateRevoked"),
        (ca.client("https://elsewhere"), &controller, "AccessDenied"),
        // Trusts the right CA, but shows a certificate of another.
        (
            Credentials { ca: ca.controller().ca, ..other.client("kctl://host/web-1") },
            &controller,
            "UnknownCA",
        ),
        // Trusts another CA.
        (
            Credentials { ca: other.controller().ca, ..ca.client("kctl://host/web-1") },
            &controller,
            "UnknownIssuer",
        ),
        (
            ca.client("kctl://host/web-1"),
            &identity("kctl://controller/other"),
            "ApplicationVerificationFailure",
        ),
    ] {
        let client = client_config(&credentials, expected, ALPN_AGENT).expect("valid");
        let refused = shake(Arc::clone(&server), client).await.expect_err(why);
        assert!(refused.contains(why), "{refused} instead of {why}");
    }
}

/// docs/security.md says so: it is pinned.
#[tokio::test]
async fn a_ca_whose_time_is_over_goes_on() {
    let ca = Ca::until(2020);
    let client = client_config(
        &ca.client("kctl://host/web-1"),
        &identity("kctl://controller/c"),
        ALPN_AGENT,
    );
    shake(hosts_only(&ca.controller()), client.expect("valid")).await.expect("connects");
}

#[tokio::test]
async fn a_certificate_of_another_time_is_told_as_one() {
    let ca = Ca::new();
    for (from, to) in [(2019, 2020), (3019, 3020)] {
        let server = hosts_only(&ca.controller_within(from, to));
        let host = ca.client("kctl://host/web-1");
        let client = client_config(&host, &identity("kctl://controller/c"), ALPN_AGENT);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let accept = async {
            let (tcp, _) = listener.accept().await.expect("accepts");
            TlsAcceptor::from(server).accept(tcp).await.is_err()
        };
        let dialed = dial(&address, client.expect("valid"), Duration::from_secs(60));
        let (refused, dialed) = tokio::join!(accept, dialed);
        let error = dialed.expect_err("another time");
        assert!(refused && error.is_of_time(), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_controller_is_refused() {
    let ca = Ca::new();
    let host = ca.issue("kctl://host/evil", ExtendedKeyUsagePurpose::ServerAuth);
    let client = client_config(
        &ca.client("kctl://host/web-1"),
        &identity("kctl://controller/c"),
        ALPN_AGENT,
    );
    assert!(shake(hosts_only(&host), client.expect("valid")).await.is_err());
    let hash = ca_sha256(&ca.controller().ca[0]);
    let server = join_server_config(&host).expect("valid");
    assert!(shake(server, join_config(hash).expect("valid")).await.is_err());
}

#[tokio::test]
async fn joining_wants_the_ca_that_the_token_names() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = join_server_config(&ca.controller()).expect("valid");
    let hash = ca_sha256(&ca.controller().ca[0]);
    let peer = shake(Arc::clone(&server), join_config(hash).expect("valid")).await.expect("joins");
    assert_eq!(peer.identity, None);
    let wrong = ca_sha256(&other.controller().ca[0]);
    assert!(shake(server, join_config(wrong).expect("valid")).await.is_err());
}

#[tokio::test]
async fn each_protocol_has_a_door_of_its_own() {
    let ca = Ca::new();
    let client =
        client_config(&ca.client("kctl://host/web-1"), &identity("kctl://controller/c"), ALPN_API);
    let refused = shake(hosts_only(&ca.controller()), client.expect("valid")).await;
    assert!(refused.expect_err("another ALPN").contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn a_dropped_server_closes_its_connection() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let peer = Peer { identity: None, certificate_sha256: None, address: None, unix: None };
    let routes = tonic::service::Routes::default();
    let server = tokio::spawn(serve_over(theirs, Arc::new(peer), routes, |_, path, _| {
        Err::<(), _>(tonic::Status::permission_denied(path))
    }));
    let channel = channel_over(ours).await.expect("connects");
    let call = |channel: kctl_rpc::Channel| async {
        let mut client = tonic::client::Grpc::new(channel);
        client
            .ready()
            .await
            .map_err(|e: hyper::Error| tonic::Status::unavailable(e.to_string()))?;
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let path = "/a.B/C".parse().expect("a path");
        client.unary(tonic::Request::new(()), path, codec).await
    };
    let refused = call(channel.clone()).await.expect_err("refused");
    assert_eq!((refused.code(), refused.message()), (tonic::Code::PermissionDenied, "/a.B/C"));
    server.abort();
    let _ = server.await;
    let gone = tokio::time::timeout(Duration::from_secs(5), call(channel)).await.expect("at once");
    assert_ne!(gone.expect_err("closed").code(), tonic::Code::PermissionDenied);
}
