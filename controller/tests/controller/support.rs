//! What the tests of the controller share: the real binary on loopback, and its API.

pub(crate) mod agent;
pub(crate) mod events;
mod lists;
pub(crate) mod stream;
pub(crate) mod users;

use kctl_proto::{
    agent::v1 as pb,
    controller::v1::{
        self as api, blocklist_service_client::BlocklistServiceClient, change_response::Message,
        host_result::Status as Outcome, hosts_service_client::HostsServiceClient,
        token_service_client::TokenServiceClient,
    },
};
use kctl_rpc::{ALPN_API, Channel, Credentials, Identity, channel_over, client_config, dial};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    future::Future,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::Status;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A running controller; killed when dropped.
pub(crate) struct Controller {
    process: Child,
    pub(crate) address: String,
    pub(crate) data_dir: TempDir,
    /// Log lines from before it was ready.
    pub(crate) begun: Vec<String>,
    logs: mpsc::Receiver<String>,
}

impl Controller {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("temporary directory"), "127.0.0.1:0")
    }

    pub(crate) fn start_in(data_dir: TempDir, listen: &str) -> Self {
        Self::start_with(data_dir, listen, &[])
    }

    /// With further arguments.
    pub(crate) fn start_with(data_dir: TempDir, listen: &str, more: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kctl-controller"))
            .args(["--listen", listen, "--name", "c-1", "--data-dir"])
            .arg(data_dir.path())
            .args(more)
            .env("KCTL_LOG", "debug,h2=info,hyper=info,tower=info,rustls=info")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the controller starts");
        let stderr = BufReader::new(process.stderr.take().expect("piped"));
        let (sender, logs) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if std::env::var_os("SHOW_LOGS").is_some() {
                    eprintln!("{line}");
                }
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let begun = Vec::new();
        let mut controller = Self { process, address: String::new(), data_dir, begun, logs };
        let line = controller.until_ready();
        let line: Value = serde_json::from_str(&line).expect("JSON");
        line["fields"]["address"].as_str().expect("address").clone_into(&mut controller.address);
        controller
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as an init system does.
    pub(crate) fn stop(mut self) -> (String, TempDir) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        self.process.wait().expect("it ends");
        self.kill()
    }

    fn until_ready(&mut self) -> String {
        loop {
            let line = self.logged("");
            if line.contains("controller: listening") {
                return line;
            }
            self.begun.push(line);
        }
    }

    /// The next log line that contains a text.
    pub(crate) fn logged(&self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.logs.recv_timeout(left).unwrap_or_else(|_| panic!("no log of {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Kills it without warning and starts it again at the same address.
    pub(crate) fn restart(self, between: impl FnOnce(&Path)) -> Self {
        let (address, data_dir) = self.kill();
        between(data_dir.path());
        Self::start_in(data_dir, &address)
    }

    pub(crate) fn kill(mut self) -> (String, TempDir) {
        let _ = self.process.kill();
        self.process.wait().expect("it ends");
        let data_dir = std::mem::replace(
            &mut self.data_dir,
            tempfile::tempdir().expect("temporary directory"),
        );
        (self.address.clone(), data_dir)
    }

    pub(crate) fn identity() -> Identity {
        Identity::Controller("c-1".to_owned())
    }

    /// The administrator's credentials, as kctl would read them.
    pub(crate) fn admin(&self) -> Credentials {
        let text = std::fs::read_to_string(self.data_dir.path().join("admin.toml")).expect("there");
        let config: toml::Value = toml::from_str(&text).expect("TOML");
        let context = &config["contexts"]["default"];
        assert_eq!(context["server"].as_str(), Some(self.address.as_str()));
        assert_eq!(context["controller"].as_str(), Some("kctl://controller/c-1"));
        let field = |key: &str| context[key].as_str().expect("text");
        Credentials::from_pem(field("ca"), field("certificate"), field("key")).expect("credentials")
    }

    pub(crate) async fn api(&self) -> Api {
        self.api_as(&self.admin()).await
    }

    /// The API as somebody else sees it.
    pub(crate) async fn api_as(&self, credentials: &Credentials) -> Api {
        let config = client_config(credentials, &Self::identity(), ALPN_API).expect("config");
        let stream = dial(&self.address, config, LIMIT).await.expect("connects");
        Api(channel_over(stream).await.expect("speaks HTTP/2"))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The API as the administrator sees it.
#[derive(Clone)]
pub(crate) struct Api(pub(crate) Channel);

/// What a change was answered.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) accepted: api::Accepted,
    pub(crate) hosts: BTreeMap<String, api::HostResult>,
    /// Of a dry run.
    pub(crate) forecasts: Vec<api::HostForecast>,
}

impl Changed {
    pub(crate) fn outcome(&self, host: &str) -> Outcome {
        self.hosts[host].status()
    }

    pub(crate) fn error(&self, host: &str) -> &pb::Error {
        self.hosts[host].error.as_ref().expect("an error")
    }
}

pub(crate) fn all() -> pb::Selection {
    pb::Selection { hosts: Some(pb::selection::Hosts::All(true)) }
}

pub(crate) fn names(names: &[&str]) -> pb::Selection {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    pb::Selection { hosts: Some(pb::selection::Hosts::Names(pb::selection::Names { names })) }
}

pub(crate) fn selector(text: &str) -> pb::Selection {
    pb::Selection { hosts: Some(pb::selection::Hosts::Selector(text.to_owned())) }
}

/// Longer than a busy machine takes to answer.
const PATIENT_MS: u64 = 10_000;

pub(crate) fn block(prefix: &str, selection: pb::Selection) -> api::BlockRequest {
    api::BlockRequest {
        prefixes: vec![prefix.to_owned()],
        selection: Some(selection),
        timeout_ms: PATIENT_MS,
        ..api::BlockRequest::default()
    }
}

pub(crate) fn unblock(prefix: &str, selection: pb::Selection) -> api::UnblockRequest {
    api::UnblockRequest {
        prefixes: vec![prefix.to_owned()],
        selection: Some(selection),
        timeout_ms: PATIENT_MS,
        ..api::UnblockRequest::default()
    }
}

impl Api {
    pub(crate) async fn block(&self, request: api::BlockRequest) -> Result<Changed, Status> {
        let answers = BlocklistServiceClient::new(self.0.clone()).block(request).await?;
        changed(answers.into_inner()).await
    }

    pub(crate) async fn unblock(&self, request: api::UnblockRequest) -> Result<Changed, Status> {
        let answers = BlocklistServiceClient::new(self.0.clone()).unblock(request).await?;
        changed(answers.into_inner()).await
    }

    pub(crate) async fn list(
        &self,
        request: api::ListBlocklistRequest,
    ) -> (Vec<api::list_blocklist_response::Item>, Vec<api::HostError>) {
        let mut client = BlocklistServiceClient::new(self.0.clone());
        let mut answers = client.list_blocklist(request).await.expect("lists").into_inner();
        let (mut items, mut errors) = (Vec::new(), Vec::new());
        while let Some(message) = answers.message().await.expect("lists") {
            items.extend(message.items);
            errors.extend(message.errors);
        }
        (items, errors)
    }

    pub(crate) async fn recover(
        &self,
        from: &[&str],
    ) -> Result<api::RecoverBlocklistResponse, Status> {
        let from_hosts = from.iter().map(|name| (*name).to_owned()).collect();
        let request = api::RecoverBlocklistRequest { from_hosts, timeout_ms: 0 };
        let answer = BlocklistServiceClient::new(self.0.clone()).recover_blocklist(request).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn adopt(&self, name: &str) -> api::AdoptHostsResponse {
        let request = api::AdoptHostsRequest { names: vec![name.to_owned()], timeout_ms: 0 };
        let answer = HostsServiceClient::new(self.0.clone()).adopt_hosts(request).await;
        answer.expect("asked").into_inner()
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<api::RemoveHostsResponse, Status> {
        let request = api::RemoveHostsRequest { names: vec![name.to_owned()], detach: false };
        let answer = HostsServiceClient::new(self.0.clone()).remove_hosts(request).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn hosts(&self) -> BTreeMap<String, api::Host> {
        let request = api::ListHostsRequest { selection: None };
        let answer = HostsServiceClient::new(self.0.clone()).list_hosts(request).await;
        let hosts = answer.expect("lists").into_inner().hosts;
        hosts.into_iter().map(|host| (host.name.clone(), host)).collect()
    }

    pub(crate) async fn token(&self, request: api::CreateTokenRequest) -> api::CreateTokenResponse {
        let answer = TokenServiceClient::new(self.0.clone()).create_token(request).await;
        answer.expect("made").into_inner()
    }

    /// Waits until the controller's view of a host is as wanted.
    pub(crate) async fn until(&self, host: &str, wanted: impl Fn(&api::Host) -> bool) -> api::Host {
        eventually(host, async || self.hosts().await.remove(host).filter(&wanted)).await
    }

    pub(crate) async fn until_in_sync(&self, host: &str) -> api::Host {
        self.until(host, |host| host.in_sync).await
    }
}

pub(crate) async fn changed(
    mut answers: tonic::Streaming<api::ChangeResponse>,
) -> Result<Changed, Status> {
    let Some(Message::Accepted(accepted)) = answers.message().await?.and_then(|m| m.message) else {
        panic!("the first message tells what was recorded");
    };
    let (mut hosts, mut forecasts) = (BTreeMap::new(), Vec::new());
    while let Some(message) = answers.message().await? {
        match message.message {
            Some(Message::Host(result)) => drop(hosts.insert(result.host.clone(), result)),
            Some(Message::Forecast(forecast)) => forecasts.push(forecast),
            other => panic!("a host's part: {other:?}"),
        }
    }
    assert_eq!(accepted.hosts as usize, hosts.len() + forecasts.len());
    Ok(Changed { accepted, hosts, forecasts })
}

/// Waits for something, with a deadline.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
