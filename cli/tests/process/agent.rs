//! kctl straight to one agent, over its unix socket.

use crate::fixture::command;
use kctl_proto::agent::v1::{
    Action, ApplyBlocklistRequest, ApplyBlocklistResponse, BlockRequest, BlockResponse,
    DetachRequest, DetachResponse, Entry, EntryKey, Error, GetStatusRequest, GetStatusResponse,
    HostStatus, ListBlocklistRequest, ListBlocklistResponse, ListHitsRequest, ListHitsResponse,
    ListPeersRequest, ListPeersResponse, Selection, SessionRequest, SessionResponse,
    SuspendedEntry, UnblockRequest, UnblockResponse,
    blocklist_service_server::{BlocklistService, BlocklistServiceServer},
    host_service_server::{HostService, HostServiceServer},
    list_hits_response::Hit,
    selection,
};
use std::{path::Path, process::Output, sync::Arc};
use tokio::{net::UnixListener, process::Command, task::JoinHandle};
use tokio_stream::{Iter, iter};
use tonic::{Request, Response, Status, Streaming, service::Routes};

pub(crate) struct Agent {
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Agent {
    fn start(enforces: bool) -> Self {
        let host = HostServiceServer::new(Api { enforces });
        Self::with(Routes::new(host).add_service(BlocklistServiceServer::new(Api { enforces })))
    }

    /// An agent that serves these.
    pub(crate) fn with(routes: Routes) -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let listener = UnixListener::bind(folder.path().join("a.sock")).expect("socket");
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let peer = Arc::new(kctl_rpc::Peer::of_unix(&stream).expect("peer"));
                let served = kctl_rpc::serve_over(stream, peer, routes.clone(), |_, _, _| Ok(()));
                // kctl may hang up as it likes; one command after the other.
                let _ = served.await;
            }
        });
        Self { folder, server }
    }

    /// kctl that speaks to it.
    pub(crate) fn command(&self) -> Command {
        let agent = format!("unix://{}", self.folder.path().join("a.sock").display());
        let mut command = command(Path::new("/nonexistent"));
        command.env("KCTL_AGENT", agent);
        command
    }

    pub(crate) async fn run(&self, line: &str) -> Output {
        self.command().args(line.split_whitespace()).output().await.expect("kctl runs")
    }

    pub(crate) async fn json(&self, line: &str) -> (Option<i32>, serde_json::Value) {
        let output = self.run(&format!("{line} -o json")).await;
        let json = serde_json::from_slice(&output.stdout);
        (output.status.code(), json.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }
}

struct Api {
    enforces: bool,
}

fn entry(prefix: &str, source: &str) -> Entry {
    let all = Selection { hosts: Some(selection::Hosts::All(true)) };
    let key = EntryKey {
        prefix: prefix.to_owned(),
        action: Action::Drop.into(),
        source: source.to_owned(),
        selection: Some(all),
        ..EntryKey::default()
    };
    Entry { key: Some(key), ..Entry::default() }
}

#[tonic::async_trait]
impl HostService for Api {
    type SessionStream = Iter<std::vec::IntoIter<Result<SessionResponse, Status>>>;

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let status = HostStatus { name: "web-1".to_owned(), ..HostStatus::default() };
        Ok(Response::new(GetStatusResponse { status: Some(status) }))
    }

    async fn session(
        &self,
        _request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::permission_denied("controllers only"))
    }

    async fn detach(
        &self,
        _request: Request<DetachRequest>,
    ) -> Result<Response<DetachResponse>, Status> {
        Err(Status::permission_denied("controllers only"))
    }
}

#[tonic::async_trait]
impl BlocklistService for Api {
    type ListBlocklistStream = Iter<std::vec::IntoIter<Result<ListBlocklistResponse, Status>>>;
    type ListHitsStream = Iter<std::vec::IntoIter<Result<ListHitsResponse, Status>>>;

    async fn apply_blocklist(
        &self,
        _request: Request<Streaming<ApplyBlocklistRequest>>,
    ) -> Result<Response<ApplyBlocklistResponse>, Status> {
        Err(Status::permission_denied("controllers only"))
    }

    async fn list_blocklist(
        &self,
        _request: Request<ListBlocklistRequest>,
    ) -> Result<Response<Self::ListBlocklistStream>, Status> {
        let suspended = SuspendedEntry {
            key: entry("10.0.0.5/32", "user:admin").key,
            by: "local:0".to_owned(),
            ttl_ms: 1_000,
        };
        let response = ListBlocklistResponse {
            entries: vec![entry("10.0.0.5/32", "user:admin"), entry("10.0.1.0/24", "local:0")],
            suspended: vec![suspended],
            ..ListBlocklistResponse::default()
        };
        Ok(Response::new(iter(vec![Ok(response)])))
    }

    async fn list_hits(
        &self,
        _request: Request<ListHitsRequest>,
    ) -> Result<Response<Self::ListHitsStream>, Status> {
        let hit = Hit {
            prefix: "10.0.1.0/24".to_owned(),
            action: Action::Drop.into(),
            packets: 7,
            bytes: 448,
            ..Hit::default()
        };
        Ok(Response::new(iter(vec![Ok(ListHitsResponse { hits: vec![hit] })])))
    }

    async fn list_peers(
        &self,
        _request: Request<Streaming<ListPeersRequest>>,
    ) -> Result<Response<ListPeersResponse>, Status> {
        Err(Status::permission_denied("controllers only"))
    }

    async fn block(
        &self,
        request: Request<BlockRequest>,
    ) -> Result<Response<BlockResponse>, Status> {
        let prefixes = request.into_inner().prefixes;
        let why = Error { code: "FAILED_PRECONDITION".to_owned(), message: "no BPF".to_owned() };
        let not_enforced = (!self.enforces).then_some(why);
        Ok(Response::new(BlockResponse { prefixes, not_enforced, ..BlockResponse::default() }))
    }

    async fn unblock(
        &self,
        request: Request<UnblockRequest>,
    ) -> Result<Response<UnblockResponse>, Status> {
        let request = request.into_inner();
        if !request.force {
            return Err(Status::failed_precondition("10.0.0.5/32: the controller's; use --force"));
        }
        let prefixes = request.prefixes;
        Ok(Response::new(UnblockResponse { prefixes, ..UnblockResponse::default() }))
    }
}

#[tokio::test]
async fn a_local_block_is_one_host_row_without_a_revision() {
    let agent = Agent::start(true);
    let (code, json) = agent.json("block 10.0.0.5").await;
    assert_eq!(code, Some(0));
    assert!(json["revision"].is_null());
    assert_eq!(
        (&json["hosts"][0]["host"], &json["hosts"][0]["status"]),
        (&"web-1".into(), &"applied".into())
    );
    let (code, json) = Agent::start(false).json("block 10.0.0.5").await;
    assert_eq!((code, &json["hosts"][0]["status"]), (Some(3), &"failed".into()));
    assert_eq!(json["hosts"][0]["error"]["message"], "no BPF");
}

#[tokio::test]
async fn a_local_unblock_of_the_controllers_entry_wants_force() {
    let agent = Agent::start(true);
    let output = agent.run("unblock 10.0.0.5").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--force"), "{output:?}");
    let (code, json) = agent.json("unblock 10.0.0.5 --force").await;
    assert_eq!((code, &json["prefixes"][0]), (Some(0), &"10.0.0.5/32".into()));
}

#[tokio::test]
async fn reads_of_one_agent_have_the_shapes_of_a_fleet() {
    let agent = Agent::start(true);
    let (code, json) = agent.json("hosts").await;
    assert_eq!(
        (code, &json[0]["name"], &json[0]["state"]),
        (Some(0), &"web-1".into(), &"local".into())
    );
    assert!(json[0]["filter"]["in_sync"].is_null());
    let (code, json) = agent.json("blocklist").await;
    assert_eq!(code, Some(0));
    assert_eq!(json[0]["suspended_on"][0], "web-1");
    assert_eq!((&json[1]["host"], &json[1]["packets"]), (&"web-1".into(), &7.into()));
    let (_, json) = agent.json("blocklist --prefix 10.0.1.9").await;
    assert_eq!(json.as_array().map(Vec::len), Some(1));
    // What this agent does not serve is told, not made up.
    let output = agent.run("stats").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[tokio::test]
async fn an_absent_agent_is_named() {
    let output = command(Path::new("/nonexistent"))
        .args(["--agent", "unix:///nonexistent/a.sock", "hosts"])
        .output()
        .await
        .expect("kctl runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/nonexistent/a.sock: can't connect"), "{stderr}");
}
