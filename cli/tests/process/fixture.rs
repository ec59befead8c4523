//! A controller that says what a test wants, behind real mutual TLS, and kctl run as a process.

mod api;
pub(crate) mod events;
mod pki;

pub(crate) use api::Answers;
pub(crate) use pki::Pki;

use kctl_rpc::{ALPN_API, Credentials, Identity, Peer};
use rustls::{CertificateError, pki_types::CertificateDer};
use std::{
    net::SocketAddr,
    path::Path,
    process::{Output, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    process::Command,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// kctl, its configuration in a folder of its own, and a controller to speak to.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
    pub(crate) address: SocketAddr,
    pub(crate) answers: Arc<Answers>,
    pub(crate) pki: Pki,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fleet {
    /// A controller with these answers, and the configuration of user "admin" for it.
    pub(crate) async fn start(answers: Answers) -> Self {
        let pki = Pki::new();
        let answers = Arc::new(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback port");
        let address = listener.local_addr().expect("bound");
        let credentials = pki.credentials("kctl://controller/c");
        let server = tokio::spawn(serve(listener, credentials, Arc::clone(&answers)));
        let folder = tempfile::tempdir().expect("temp dir");
        let fleet = Self { folder, server, address, answers, pki };
        fleet.configure("kctl://user/admin");
        fleet
    }

    /// Writes the configuration of this user.
    pub(crate) fn configure(&self, identity: &str) {
        let text = self.pki.context(&self.address.to_string(), identity);
        write_private(&self.config(), &text);
    }

    pub(crate) fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Runs kctl with these arguments, split at blanks.
    pub(crate) async fn kctl(&self, line: &str) -> Ran {
        kctl(&self.config(), line, "").await
    }

    /// The JSON that kctl prints when it is asked for it, and its exit code.
    pub(crate) async fn json(&self, line: &str) -> (i32, serde_json::Value) {
        let ran = self.kctl(&format!("{line} -o json")).await;
        let json = serde_json::from_str(&ran.stdout);
        (ran.code, json.unwrap_or_else(|error| panic!("{error}: {ran:?}")))
    }
}

fn check(_: &CertificateDer<'_>, identity: &Identity) -> Result<(), CertificateError> {
    match identity {
        Identity::User(name) if name == "revoked" => Err(CertificateError::Revoked),
        Identity::User(_) => Ok(()),
        _ => Err(CertificateError::ApplicationVerificationFailure),
    }
}

async fn serve(listener: TcpListener, credentials: Credentials, answers: Arc<Answers>) {
    let config = kctl_rpc::server_config(&credentials, ALPN_API, check).expect("server TLS");
    let acceptor = TlsAcceptor::from(config);
    let routes = api::routes(Arc::clone(&answers));
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let (tcp, address) = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection"),
            () = answers.cut.notified() => {
                connections.shutdown().await;
                continue;
            }
        };
        let slams = &answers.slams;
        if slams.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            continue;
        }
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        connections.spawn(async move {
            // A client that is refused or goes away is no failure of the server.
            if let Ok(stream) = acceptor.accept(tcp).await {
                let peer = Arc::new(Peer::of_tls(stream.get_ref().1.peer_certificates(), address));
                let _ = kctl_rpc::serve_over(stream, peer, routes, |_, _, _| Ok(())).await;
            }
        });
    }
}

/// How a run of kctl ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("kctl prints UTF-8");
        Self {
            code: output.status.code().expect("kctl exits by itself"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs kctl with this configuration, these arguments, and this on its standard input.
pub(crate) async fn kctl(config: &Path, line: &str, stdin: &str) -> Ran {
    let mut child = command(config)
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kctl starts");
    let mut input = child.stdin.take().expect("piped");
    // kctl may be gone before it has read anything.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait_with_output());
    ended.await.expect("kctl ends within 30 s").expect("output").into()
}

/// kctl with nothing of this process's environment.
pub(crate) fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kctl"));
    command.env_clear().env("KCTL_CONFIG", config).kill_on_drop(true);
    command
}

/// Writes a file that only its owner reads.
pub(crate) fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("file");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).expect("mode");
}
