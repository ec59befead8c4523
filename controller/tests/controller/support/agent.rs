//! An agent without a kernel: it speaks the real protocol and keeps the set in a map, by the rules
//! that the real one keeps to.

use super::{Api, Controller, LIMIT, events::Teller};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kctl_blocklist::{Digest, Entry, EntryKey, FeedHead, now_unix_ms, pack, unpack};
use kctl_proto::{
    agent::v1::{
        self as pb, apply_blocklist_request::Part, blocklist_service_server as blocklist,
        events_service_server::EventsServiceServer, host_service_server as host,
        netlink_service_server::NetlinkServiceServer, session_response::Message,
        stats_service_server as stats,
    },
    controller::v1::{CreateTokenRequest, JoinRequest, join_service_client::JoinServiceClient},
};
use kctl_rpc::{
    ALPN_AGENT, Channel, Credentials, DialError, Peer, channel_over, client_config, dial,
    join_config, new_key_and_csr, serve_over,
};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::{Stream, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, service::Routes};

/// Events that an agent holds unless a test wants fewer.
const EVENTS: usize = 10_000_000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type StatusSender = mpsc::UnboundedSender<Result<pb::SessionResponse, Status>>;

/// What an agent holds and does.
pub(crate) struct State {
    pub(crate) status: pb::HostStatus,
    pub(crate) store: pb::StoreState,
    pub(crate) entries: BTreeMap<EntryKey, Entry>,
    /// Those that it made itself.
    pub(crate) own: Vec<Entry>,
    /// Heads of feeds by name; their entries are among the others.
    feeds: BTreeMap<String, FeedHead>,
    /// How many prefixes of feeds came and went with each change, in order.
    pub(crate) fed: Vec<(usize, usize)>,
    pub(crate) hits: Vec<pb::list_hits_response::Hit>,
    /// Never answers a change.
    pub(crate) silent: bool,
    /// Answers every change so.
    pub(crate) refuse: Option<Status>,
    /// Whether each change that was taken was the whole set, in order.
    pub(crate) applied: Vec<bool>,
    session: Option<StatusSender>,
}

impl State {
    fn take_chunk(&mut self, chunk: pb::apply_blocklist_request::Chunk) {
        for entry in chunk.upserts {
            let entry = Entry::from_proto(entry, now_unix_ms()).expect("valid");
            self.entries.insert(entry.key.clone(), entry);
        }
        for key in chunk.removals {
            let key = EntryKey::try_from(key).expect("valid");
            assert!(self.entries.remove(&key).is_some(), "{key:?} is not there");
        }
    }

    /// Differences must be exact: what comes is new, what goes is there.
    fn take_feed(&mut self, change: pb::apply_blocklist_request::FeedChange) {
        let source = format!("feed:{}", change.name);
        let old = self.feeds.get(&change.name).cloned();
        let head =
            change.head.map(|head| FeedHead::from_proto(head, now_unix_ms()).expect("valid"));
        if change.gone || head.as_ref().zip(old.as_ref()).is_some_and(|(a, b)| a != b) {
            let own: Vec<_> =
                self.entries.keys().filter(|key| key.source == source).cloned().collect();
            let kept = head.as_ref().filter(|_| !change.gone);
            for key in own {
                self.entries.remove(&key);
                if let Some(head) = kept {
                    self.entries.insert(head.key(key.prefix), head.entry(key.prefix));
                }
            }
        }
        if change.gone {
            assert!(self.feeds.remove(&change.name).is_some(), "{source} is not there");
            return;
        }
        let head = head.or(old).expect("a new feed has a head");
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        unpack(&change.added.unwrap_or_default(), &mut added).expect("valid");
        unpack(&change.removed.unwrap_or_default(), &mut removed).expect("valid");
        let fed = self.fed.last_mut().expect("a change is on its way");
        *fed = (fed.0 + added.len(), fed.1 + removed.len());
        for prefix in added {
            assert!(
                self.entries.insert(head.key(prefix), head.entry(prefix)).is_none(),
                "{prefix}"
            );
        }
        for prefix in removed {
            assert!(self.entries.remove(&head.key(prefix)).is_some(), "{prefix}");
        }
        self.feeds.insert(change.name, head);
    }

    fn feed_entries(&self, head: &FeedHead) -> pb::FeedEntries {
        let source = format!("feed:{}", head.name);
        let own = self.entries.keys().filter(|key| key.source == source).map(|key| &key.prefix);
        pb::FeedEntries { head: Some(head.to_proto(now_unix_ms())), prefixes: Some(pack(own)) }
    }
}

#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) credentials: Credentials,
    state: Arc<Mutex<State>>,
    pub(crate) teller: Arc<Teller>,
}

/// An open connection; closed when dropped.
pub(crate) struct Connected(pub(crate) JoinHandle<()>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects as a host that joins with a token.
pub(crate) async fn join_channel(controller: &str, token: &str) -> Channel {
    let hash = token.rsplit('.').next().expect("a part");
    let hash = URL_SAFE_NO_PAD.decode(hash).expect("base64").try_into().expect("32 bytes");
    let config = join_config(hash).expect("config");
    let stream = dial(controller, config, LIMIT).await.expect("connects");
    channel_over(stream).await.expect("speaks HTTP/2")
}

/// Joins with a token and returns the host's credentials.
pub(crate) async fn join(controller: &str, token: &str, name: &str) -> Result<Credentials, Status> {
    let channel = join_channel(controller, token).await;
    let (key, csr) = new_key_and_csr().expect("a key");
    let request = JoinRequest { token: token.to_owned(), name: name.to_owned(), csr };
    let answer = JoinServiceClient::new(channel).join(request).await?.into_inner();
    assert_eq!(answer.controller, Controller::identity().to_string());
    Ok(Credentials::from_pem(&answer.ca, &answer.certificate, &key).expect("credentials"))
}

impl Agent {
    /// Joins under a name with a fresh token.
    pub(crate) async fn new(controller: &Controller, api: &Api, name: &str) -> Self {
        let token = api.token(CreateTokenRequest::default()).await.token;
        let credentials = join(&controller.address, &token, name).await.expect("joins");
        Self::with(name, credentials)
    }

    pub(crate) fn with(name: &str, credentials: Credentials) -> Self {
        let status = pb::HostStatus {
            name: name.to_owned(),
            filter: Some(pb::FilterStatus { max_entries: 100_000, ..Default::default() }),
            ..pb::HostStatus::default()
        };
        let state = State {
            status,
            store: pb::StoreState {
                digest: Digest::default().to_bytes().into(),
                ..Default::default()
            },
            entries: BTreeMap::new(),
            own: Vec::new(),
            feeds: BTreeMap::new(),
            fed: Vec::new(),
            hits: Vec::new(),
            silent: false,
            refuse: None,
            applied: Vec::new(),
            session: None,
        };
        let teller = Arc::new(Teller::new(name, EVENTS));
        Self { name: name.to_owned(), credentials, state: Arc::new(Mutex::new(state)), teller }
    }

    /// With room for so many events only.
    pub(crate) fn with_ring(mut self, events: usize) -> Self {
        self.teller = Arc::new(Teller::new(&self.name, events));
        self
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// The prefixes that it holds.
    pub(crate) fn prefixes(&self) -> Vec<String> {
        self.state().entries.keys().map(|key| key.prefix.to_string()).collect()
    }

    /// Tells its status, as after any change.
    pub(crate) fn tell(&self) {
        let state = self.state();
        let status = pb::HostStatus { store: Some(state.store.clone()), ..state.status.clone() };
        let message = Some(Message::Status(status));
        if let Some(session) = &state.session {
            let _ = session.send(Ok(pb::SessionResponse { message }));
        }
    }

    pub(crate) async fn try_connect(&self, controller: &str) -> Result<Connected, DialError> {
        self.try_serving(controller, self.routes()).await
    }

    /// What it serves.
    pub(crate) fn routes(&self) -> Routes {
        Routes::new(host::HostServiceServer::new(self.clone()))
            .add_service(blocklist::BlocklistServiceServer::new(self.clone()))
            .add_service(stats::StatsServiceServer::new(self.clone()))
            .add_service(NetlinkServiceServer::new(self.clone()))
            .add_service(EventsServiceServer::new(self.clone()))
    }

    async fn try_serving(&self, controller: &str, routes: Routes) -> Result<Connected, DialError> {
        let config =
            client_config(&self.credentials, &Controller::identity(), ALPN_AGENT).expect("config");
        let stream = dial(controller, config, LIMIT).await?;
        let peer = Peer::of_tls(stream.get_ref().1.peer_certificates(), ([0, 0, 0, 0], 0).into());
        Ok(Connected(tokio::spawn(async move {
            let _ = serve_over(stream, Arc::new(peer), routes, |_, _, _| Ok(())).await;
        })))
    }

    /// Connects and waits until the controller sees it.
    pub(crate) async fn connect(&self, controller: &Controller, api: &Api) -> Connected {
        self.connect_serving(controller, api, self.routes()).await
    }

    /// The same, serving something else.
    pub(crate) async fn connect_serving(
        &self,
        controller: &Controller,
        api: &Api,
        routes: Routes,
    ) -> Connected {
        let connected = self.try_serving(&controller.address, routes).await.expect("connects");
        let there = kctl_proto::controller::v1::host::State::Connected;
        api.until(&self.name, |host| host.state() == there).await;
        connected
    }

    fn take(
        &self,
        header: pb::apply_blocklist_request::Header,
        parts: Vec<Part>,
    ) -> Result<pb::ApplyBlocklistResponse, Status> {
        let mut state = self.state();
        if let Some(refuse) = &state.refuse {
            return Err(refuse.clone());
        }
        let own = &state.store;
        let foreign = !own.store_id.is_empty() && own.store_id != header.store_id;
        if !header.adopt && (foreign || header.revision < own.revision) {
            return Err(Status::failed_precondition("holds another store or a later revision"));
        }
        match &header.base {
            Some(base) if base != own => return Err(Status::failed_precondition("another base")),
            Some(_) => {}
            None => {
                state.entries.clear();
                state.feeds.clear();
            }
        }
        let whole = header.base.is_none();
        state.applied.push(whole);
        state.fed.push((0, 0));
        for part in parts {
            match part {
                Part::Header(_) => return Err(Status::invalid_argument("a second header")),
                Part::Chunk(chunk) => state.take_chunk(chunk),
                Part::Feed(change) => state.take_feed(change),
            }
        }
        let digest: Digest = state.entries.keys().collect();
        state.store = pb::StoreState {
            store_id: header.store_id,
            epoch: header.epoch,
            revision: header.revision,
            digest: digest.to_bytes().into(),
        };
        let state = Some(state.store.clone());
        Ok(pb::ApplyBlocklistResponse { state, ..pb::ApplyBlocklistResponse::default() })
    }
}

#[tonic::async_trait]
impl host::HostService for Agent {
    type SessionStream = UnboundedReceiverStream<Result<pb::SessionResponse, Status>>;

    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().session = Some(sender);
        self.tell();
        let mut inbound = request.into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = inbound.message().await {} });
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn detach(
        &self,
        _request: Request<pb::DetachRequest>,
    ) -> Result<Response<pb::DetachResponse>, Status> {
        Ok(Response::new(pb::DetachResponse { removed: vec!["link eth0".to_owned()] }))
    }
}

#[tonic::async_trait]
impl blocklist::BlocklistService for Agent {
    type ListBlocklistStream = Answers<pb::ListBlocklistResponse>;
    type ListHitsStream = Answers<pb::ListHitsResponse>;

    async fn apply_blocklist(
        &self,
        request: Request<Streaming<pb::ApplyBlocklistRequest>>,
    ) -> Result<Response<pb::ApplyBlocklistResponse>, Status> {
        if self.state().silent {
            return std::future::pending().await;
        }
        let mut inbound = request.into_inner();
        let (mut header, mut parts) = (None, Vec::new());
        while let Some(message) = inbound.message().await? {
            match message.part {
                Some(Part::Header(first)) if header.is_none() => header = Some(first),
                Some(part) => parts.push(part),
                None => return Err(Status::invalid_argument("empty message")),
            }
        }
        let answer = self.take(header.expect("a header comes first"), parts)?;
        self.tell();
        Ok(Response::new(answer))
    }

    async fn list_blocklist(
        &self,
        _request: Request<pb::ListBlocklistRequest>,
    ) -> Result<Response<Self::ListBlocklistStream>, Status> {
        let state = self.state();
        let now = now_unix_ms();
        let answer = pb::ListBlocklistResponse {
            entries: state
                .entries
                .values()
                .chain(&state.own)
                .filter(|entry| !entry.key.source.starts_with("feed:"))
                .map(|entry| entry.to_proto(now))
                .collect(),
            feeds: state.feeds.values().map(|head| state.feed_entries(head)).collect(),
            suspended: Vec::new(),
            state: Some(state.store.clone()),
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn list_hits(
        &self,
        _request: Request<pb::ListHitsRequest>,
    ) -> Result<Response<Self::ListHitsStream>, Status> {
        let answer = pb::ListHitsResponse { hits: self.state().hits.clone() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn list_peers(
        &self,
        _request: Request<Streaming<pb::ListPeersRequest>>,
    ) -> Result<Response<pb::ListPeersResponse>, Status> {
        Ok(Response::new(pb::ListPeersResponse::default()))
    }

    async fn block(
        &self,
        _request: Request<pb::BlockRequest>,
    ) -> Result<Response<pb::BlockResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn unblock(
        &self,
        _request: Request<pb::UnblockRequest>,
    ) -> Result<Response<pb::UnblockResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

#[tonic::async_trait]
impl stats::StatsService for Agent {
    async fn get_stats(
        &self,
        _request: Request<pb::GetStatsRequest>,
    ) -> Result<Response<pb::GetStatsResponse>, Status> {
        Ok(Response::new(pb::GetStatsResponse { stats: Some(pb::Stats::default()) }))
    }
}
