//! Keeps one connected host at what desired state asks for.
//!
//! One apply is in flight at a time; what changes meanwhile goes out together with the next one. It
//! knows nothing of API requests: they watch `Progress`.

use crate::{
    registry::{Adopt, Progress, Registry, labels},
    renewal::Renewal,
    session::Ended,
    status::{connection_lost, error_data, host_error},
    store::{Desired, HostRecord, Store, Write},
    sync::{Apply, Expected, Plan},
};
use futures_util::future::{BoxFuture, FutureExt as _, OptionFuture};
use kctl_blocklist::Digest;
use kctl_proto::agent::v1::{
    self as pb, blocklist_service_client::BlocklistServiceClient, session_response::Message,
};
use kctl_rpc::Channel;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

/// A live host that takes longer than this for a set is as good as gone.
const APPLY: Duration = Duration::from_secs(60);
/// Whole sets are only sent so often to a host that comes to another digest.
const WHOLE_INTERVAL: Duration = Duration::from_secs(1);
/// A host that refused is asked again, since the reason may be gone.
const RETRY: Duration = Duration::from_secs(5);

/// What comes in while a session is open.
pub(crate) struct Link {
    pub(crate) inbound: Streaming<pb::SessionResponse>,
    /// Answers to pings.
    pub(crate) requests: mpsc::Sender<pb::SessionRequest>,
    pub(crate) adopt: mpsc::Receiver<Adopt>,
    pub(crate) renewal: Renewal,
    pub(crate) cancel: CancellationToken,
}

/// Answers a ping.
pub(crate) fn pong(requests: &mpsc::Sender<pb::SessionRequest>, number: u64) {
    // With eight answers waiting the connection stalls, and the asking host is about to find out.
    let _ = requests.try_send(pb::SessionRequest { pong: number, ..Default::default() });
}

/// What an apply was about, and what came of it.
struct Answer {
    revision: u64,
    digest: Digest,
    whole: bool,
    adopt: Option<Adopt>,
    result: Result<pb::ApplyBlocklistResponse, Status>,
}

/// Makes one host follow desired state.
pub(crate) struct Follower {
    name: String,
    number: u64,
    client: BlocklistServiceClient<Channel>,
    registry: Registry,
    store: Store,
    /// As the host told last, with what its answers told of its store since.
    status: Arc<pb::HostStatus>,
    expected: Expected,
    progress: watch::Sender<Progress>,
    desired: watch::Receiver<Desired>,
    /// Something changed since the last look.
    dirty: bool,
    /// The host needs its whole set.
    whole: bool,
    whole_not_before: Instant,
    retry_at: Option<Instant>,
    adopting: Option<Adopt>,
    /// What the host said of an interface of the entries of a revision that it has and does not filter.
    of_interface: Option<(u64, pb::Error)>,
}

impl Follower {
    /// For the host that told `status` on an open session.
    pub(crate) fn new(
        store: &Store,
        registry: &Registry,
        number: u64,
        channel: Channel,
        status: Arc<pb::HostStatus>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        let desired = store.desired();
        let expected = Expected::new(&desired.borrow(), &status.name, labels(&status));
        Self {
            name: status.name.clone(),
            number,
            client: BlocklistServiceClient::new(channel),
            registry: registry.clone(),
            store: store.clone(),
            status,
            expected,
            progress,
            desired,
            dirty: true,
            whole: false,
            whole_not_before: Instant::now(),
            retry_at: None,
            adopting: None,
            of_interface: None,
        }
    }

    /// Until the session ends.
    pub(crate) async fn run(mut self, link: Link) -> Result<std::convert::Infallible, Ended> {
        let Link { mut inbound, requests, mut adopt, mut renewal, cancel } = link;
        let mut in_flight: OptionFuture<BoxFuture<'static, Answer>> = None.into();
        let mut busy = false;
        let mut saving: OptionFuture<BoxFuture<'static, ()>> = None.into();
        loop {
            if !busy && let Some(call) = self.converge() {
                (busy, in_flight) = (true, Some(call).into());
            }
            let retry_at = self.retry_at;
            tokio::select! {
                () = cancel.cancelled() => return Err(Ended::Cancelled),
                Some(answer) = &mut in_flight, if busy => {
                    (busy, in_flight) = (false, None.into());
                    self.answered(answer)?;
                }
                changed = self.desired.changed() => {
                    changed.map_err(|_| Ended::Cancelled)?;
                    self.dirty = true;
                }
                message = inbound.message() => {
                    match message.map_err(Ended::Lost)?.ok_or(Ended::Closed)?.message {
                        Some(Message::Status(status)) => {
                            if let Some(save) = self.told(status) {
                                saving = Some(save).into();
                            }
                        }
                        Some(Message::Ping(number)) => pong(&requests, number),
                        Some(Message::Csr(csr)) => renewal.ask(csr),
                        None => {}
                    }
                }
                () = renewal.watch() => {}
                Some(asked) = adopt.recv() => {
                    (self.adopting, self.dirty) = (Some(asked), true);
                }
                Some(()) = &mut saving => saving = None.into(),
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    (self.retry_at, self.dirty) = (None, true);
                }
            }
        }
    }

    /// The call that brings the host nearer to desired state, if one is needed.
    fn converge(&mut self) -> Option<BoxFuture<'static, Answer>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let desired = self.desired.borrow_and_update();
        let labels = labels(&self.status);
        if !self.expected.has_labels(&labels) {
            self.expected = Expected::new(&desired, &self.name, labels);
        }
        let state = self.status.store.clone().unwrap_or_default();
        let adopt = self.adopting.is_some();
        let plan = self.expected.plan(&desired, &state, self.whole, adopt);
        let revision = desired.revision;
        drop(desired);
        match plan {
            Plan::InSync => {
                // The set is there; whether it is enforced can change without a revision.
                let interface = self.of_interface.as_ref().filter(|(of, _)| *of == revision);
                let interface = interface.map(|(_, error)| error.clone());
                let outcome = self.status.not_enforced.clone().or(interface);
                let told = {
                    let progress = self.progress.borrow();
                    progress.revision == Some(revision) && progress.error == outcome
                };
                if !told {
                    self.settle(revision, outcome.clone(), Vec::new());
                }
                if let Some(adopted) = self.adopting.take() {
                    let _ = adopted.send(outcome.map_or(Ok(()), Err));
                }
                None
            }
            Plan::Refused(why) => {
                if self.progress.borrow().error.as_ref().is_none_or(|told| told.message != why) {
                    tracing::warn!(host = %self.name, reason = %why, "host: left as it is");
                }
                self.settle(revision, Some(error_data(Code::FailedPrecondition, why)), Vec::new());
                None
            }
            Plan::Apply(apply) => {
                let now = Instant::now();
                if apply.is_whole() && !adopt && now < self.whole_not_before {
                    self.retry_at = Some(self.whole_not_before);
                    return None;
                }
                if apply.is_whole() {
                    self.whole_not_before = now + WHOLE_INTERVAL;
                }
                Some(self.call(apply))
            }
        }
    }

    fn call(&mut self, apply: Apply) -> BoxFuture<'static, Answer> {
        let (revision, digest, whole) = (apply.revision(), apply.digest, apply.is_whole());
        let mut client = self.client.clone();
        let adopt = self.adopting.take();
        tracing::debug!(host = %self.name, revision, whole, "host: applying");
        async move {
            let result = match timeout(APPLY, client.apply_blocklist(apply.messages())).await {
                Ok(result) => result.map(tonic::Response::into_inner),
                Err(_) => Err(Status::unavailable("no answer to a change")),
            };
            Answer { revision, digest, whole, adopt, result }
        }
        .boxed()
    }

    fn answered(&mut self, answer: Answer) -> Result<(), Ended> {
        let Answer { revision, digest, whole, adopt, result } = answer;
        let mut warnings = Vec::new();
        let outcome = match result {
            Ok(response) => {
                let absent = response.absent_interfaces.iter();
                warnings.extend(absent.map(|name| {
                    format!("interface {name:?} is not there; its entries hold when it appears")
                }));
                let state = response.state.unwrap_or_default();
                let right = state.revision == revision && state.digest == digest.to_bytes();
                let status = Arc::make_mut(&mut self.status);
                (status.store, status.not_enforced) = (Some(state), response.not_enforced);
                self.whole = !right;
                if right {
                    self.of_interface = response.interface_not_filtered.map(|it| (revision, it));
                    let interface = self.of_interface.as_ref().map(|(_, error)| error.clone());
                    status.not_enforced.clone().or(interface)
                } else {
                    self.dirty = true;
                    Some(error_data(
                        Code::Internal,
                        format!("host {:?}: its set differs from revision {revision}", self.name),
                    ))
                }
            }
            Err(status) if connection_lost(&status) => return Err(Ended::Lost(status)),
            Err(status) if status.code() == Code::FailedPrecondition && !whole => {
                // It may hold something else than it told last; with the whole set that is no matter.
                (self.whole, self.dirty) = (true, true);
                return Ok(());
            }
            Err(status) => {
                self.retry_at = Some(Instant::now() + RETRY);
                Some(host_error(&status))
            }
        };
        if let Some(error) = &outcome {
            tracing::warn!(host = %self.name, revision, error = %error.message, "host: refused");
        }
        if let Some(adopted) = adopt {
            let _ = adopted.send(outcome.clone().map_or(Ok(()), Err));
        }
        // A wrong digest gets one more chance before it is an answer.
        if whole || !self.whole {
            self.settle(revision, outcome, warnings);
        }
        Ok(())
    }

    /// Takes a status in, and returns what there is to save of it.
    fn told(&mut self, mut status: pb::HostStatus) -> Option<BoxFuture<'static, ()>> {
        status.name.clone_from(&self.name);
        // Told before, arrived after our last answer: a host does not go back within a run.
        let known = self.status.store.as_ref();
        let stale = |known: &&pb::StoreState| {
            status.store.as_ref().is_some_and(|told| {
                (&told.store_id, told.epoch) == (&known.store_id, known.epoch)
                    && told.revision < known.revision
            })
        };
        if let Some(newer) = known.filter(stale) {
            status.store = Some(newer.clone());
        }
        let save = worth_saving(&self.status, &status);
        self.status = Arc::new(status);
        self.dirty = true;
        let reason = self.progress.borrow().error.clone().map(|error| error.message);
        self.registry.update(&self.name, self.number, &self.status, &reason.unwrap_or_default());
        save.then(|| self.save())
    }

    fn save(&self) -> BoxFuture<'static, ()> {
        let (store, name, number) = (self.store.clone(), self.name.clone(), self.number);
        let status = Arc::clone(&self.status);
        async move {
            let saved = store.write(move |model| {
                let own = model.records.hosts.get(&name).filter(|h| h.session == Some(number));
                let host = own.map(|host| HostRecord { status: Some(status), ..host.clone() });
                Ok((host.map(Write::Host).into_iter().collect(), ()))
            });
            if let Err(error) = saved.await {
                tracing::warn!(%error, "host: its status is not recorded");
            }
        }
        .boxed()
    }

    /// Tells everyone who waits what the host's answer about a revision is.
    fn settle(&self, revision: u64, error: Option<pb::Error>, warnings: Vec<String>) {
        let reason = error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
        self.registry.update(&self.name, self.number, &self.status, &reason);
        let at = std::time::Instant::now();
        self.progress.send_replace(Progress { revision: Some(revision), at, error, warnings });
    }
}

/// Whether a status tells more than where the host is on its way through revisions.
fn worth_saving(old: &pb::HostStatus, new: &pb::HostStatus) -> bool {
    let steady = |status: &pb::HostStatus| {
        let mut status = pb::HostStatus { store: None, alerts: Vec::new(), ..status.clone() };
        if let Some(filter) = &mut status.filter {
            (filter.entries, filter.memory_bytes) = (0, 0);
        }
        status
    };
    steady(old) != steady(new)
}
