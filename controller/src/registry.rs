//! Which hosts are known, which of them are connected, and what they told last.
//!
//! Known hosts come from the store; each open session adds and updates its own row. It knows nothing
//! of how a session works.

use crate::{
    status::{Error, error_data, host_error},
    store::{Desired, Records},
};
use kctl_blocklist::Selection;
use kctl_proto::{agent::v1 as pb, controller::v1 as api};
use kctl_rpc::{Channel, VERSION, unknown_call, version_skew};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How far a host has come.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// The revision that its last answer is about; `None` before the first.
    pub(crate) revision: Option<u64>,
    /// When it answered.
    pub(crate) at: Instant,
    /// What it answered when it was no.
    pub(crate) error: Option<pb::Error>,
    /// What an operator should know when it was yes.
    pub(crate) warnings: Vec<String>,
}

/// Asks a session to make its host take our set, and is told what came of it.
pub(crate) type Adopt = oneshot::Sender<Result<(), pb::Error>>;

/// An open session, for those who want something of its host.
#[derive(Debug)]
pub(crate) struct Session {
    /// Unique in this run of the controller.
    pub(crate) number: u64,
    /// Calls the host's services.
    pub(crate) channel: Channel,
    /// Where the host connects from.
    pub(crate) peer: SocketAddr,
    /// The address of ours that it reached.
    pub(crate) local: SocketAddr,
    /// Told of each answer; closed when the session ends.
    pub(crate) progress: watch::Receiver<Progress>,
    /// Takes requests to adopt.
    pub(crate) adopt: mpsc::Sender<Adopt>,
    /// Ends the session.
    pub(crate) cancel: CancellationToken,
}

#[derive(Debug, Clone)]
struct Live {
    session: Arc<Session>,
    status: Arc<pb::HostStatus>,
    /// Why the host is left as it is; empty when it follows.
    reason: String,
}

/// One known host at one moment.
#[derive(Debug, Clone)]
pub(crate) struct HostView {
    /// Its unique name.
    pub(crate) name: String,
    /// Since when it is connected or disconnected, milliseconds since 1970.
    pub(crate) since_unix_ms: i64,
    /// As it told last; `None` when it never connected.
    pub(crate) status: Option<Arc<pb::HostStatus>>,
    /// `None` when it is not connected.
    pub(crate) session: Option<Arc<Session>>,
    reason: String,
}

/// All hosts. Its clones share one state.
#[derive(Clone)]
pub(crate) struct Registry {
    live: Arc<watch::Sender<BTreeMap<String, Live>>>,
    records: watch::Receiver<Records>,
    /// Counts sessions that came and went.
    arrivals: Arc<watch::Sender<u64>>,
}

impl Registry {
    /// With the hosts that the store knows, none of them connected.
    pub(crate) fn new(records: watch::Receiver<Records>) -> Self {
        let live = Arc::new(watch::Sender::new(BTreeMap::new()));
        Self { live, records, arrivals: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds a session and returns the one that it takes the place of.
    pub(crate) fn insert(
        &self,
        name: &str,
        session: Arc<Session>,
        status: Arc<pb::HostStatus>,
    ) -> Option<Arc<Session>> {
        let mut old = None;
        self.live.send_modify(|live| {
            let row = Live { session, status, reason: String::new() };
            old = live.insert(name.to_owned(), row).map(|old| old.session);
        });
        self.arrivals.send_modify(|count| *count += 1);
        old
    }

    /// Notes what a host told, and why it is left as it is (empty when it follows).
    pub(crate) fn update(
        &self,
        name: &str,
        number: u64,
        status: &Arc<pb::HostStatus>,
        reason: &str,
    ) {
        self.live.send_if_modified(|live| {
            let row = live.get_mut(name).filter(|row| row.session.number == number);
            row.is_some_and(|row| {
                row.status = Arc::clone(status);
                reason.clone_into(&mut row.reason);
                true
            })
        });
    }

    /// Removes a session, unless another has taken its place.
    pub(crate) fn remove(&self, name: &str, number: u64) {
        self.live.send_if_modified(|live| {
            let own = live.get(name).is_some_and(|row| row.session.number == number);
            own && live.remove(name).is_some()
        });
        self.arrivals.send_modify(|count| *count += 1);
    }

    /// What the host of a session told last.
    pub(crate) fn last_status(&self, name: &str, number: u64) -> Option<Arc<pb::HostStatus>> {
        let live = self.live.borrow();
        let own = live.get(name).filter(|row| row.session.number == number)?;
        Some(Arc::clone(&own.status))
    }

    /// Every open session.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.live.borrow().values().map(|row| Arc::clone(&row.session)).collect()
    }

    /// Every open session with the name of its host.
    pub(crate) fn sessions_by_name(&self) -> Vec<(String, Arc<Session>)> {
        let session = |(name, row): (&String, &Live)| (name.clone(), Arc::clone(&row.session));
        self.live.borrow().iter().map(session).collect()
    }

    /// Changes when a session comes or goes.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Whether a host is selected now, known or not.
    pub(crate) fn is_selected(&self, selection: &Selection, name: &str) -> bool {
        let labels = match selection {
            Selection::All | Selection::Names(_) => BTreeMap::new(),
            Selection::Selector(_) => {
                let live = self.live.borrow().get(name).map(|row| labels(&row.status));
                let known = || self.records.borrow().hosts.get(name)?.status.as_deref().map(labels);
                live.or_else(known).unwrap_or_default()
            }
        };
        selection.matches(name, &labels)
    }

    /// The selected hosts by name. NOT_FOUND: names that no known host has.
    pub(crate) fn select(&self, selection: &Selection) -> Result<Vec<HostView>, Error> {
        let hosts = self.hosts();
        if let Selection::Names(names) = selection {
            let known: BTreeSet<&String> = hosts.iter().map(|host| &host.name).collect();
            let unknown: Vec<String> = names
                .iter()
                .filter(|name| !known.contains(name))
                .map(|name| format!("{name:?}"))
                .collect();
            if !unknown.is_empty() {
                let list = unknown.join(", ");
                return Err(Error::NotFound(format!(
                    "host {list}: no such host; see `kctl hosts` for those that joined"
                )));
            }
        }
        Ok(matching(hosts, selection))
    }

    /// The selected hosts that are known, by name.
    pub(crate) fn hosts_of(&self, selection: &Selection) -> Vec<HostView> {
        matching(self.hosts(), selection)
    }

    /// Every known host by name.
    pub(crate) fn hosts(&self) -> Vec<HostView> {
        let records = self.records.borrow();
        let live = self.live.borrow();
        let known = records.hosts.values().map(|record| {
            let row = live.get(&record.name);
            HostView {
                name: record.name.clone(),
                since_unix_ms: record.since_unix_ms,
                status: row.map(|row| Arc::clone(&row.status)).or_else(|| record.status.clone()),
                session: row.map(|row| Arc::clone(&row.session)),
                reason: row.map(|row| row.reason.clone()).unwrap_or_default(),
            }
        });
        known.collect()
    }
}

impl HostView {
    /// Its labels; none when it never connected.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.status.as_deref().map(labels).unwrap_or_default()
    }

    /// What it last said that it holds.
    pub(crate) fn store_state(&self) -> Option<&pb::StoreState> {
        self.status.as_ref()?.store.as_ref()
    }

    /// Why it can't be asked: the message of an UNAVAILABLE.
    pub(crate) fn not_connected(&self) -> String {
        if self.status.is_none() {
            return format!("host {:?} joined and has not connected yet", self.name);
        }
        format!("host {:?} is not connected since {}", self.name, timestamp(self.since_unix_ms))
    }

    /// Empty when the host holds what it should, else why not.
    pub(crate) fn out_of_sync(&self, desired: &Desired) -> String {
        let revision = self.store_state().map_or(0, |state| state.revision);
        if self.session.is_none() {
            self.not_connected()
        } else if !self.reason.is_empty() {
            self.reason.clone()
        } else if revision != desired.revision {
            format!("at revision {revision}; revision {} is on its way", desired.revision)
        } else {
            self.suspended().unwrap_or_default()
        }
    }

    /// Entries that somebody on the host has put out of force there for a while.
    fn suspended(&self) -> Option<String> {
        let count = self.status.as_ref()?.suspended_entries;
        (count > 0).then(|| {
            format!("{count} entries are suspended on the host by a local `unblock --force`, for 1 h at most")
        })
    }

    /// The row of `kctl hosts`.
    pub(crate) fn to_proto(&self, desired: &Desired) -> api::Host {
        let reason = self.out_of_sync(desired);
        let state = match self.session {
            Some(_) => api::host::State::Connected,
            None => api::host::State::Disconnected,
        };
        api::Host {
            name: self.name.clone(),
            state: state.into(),
            since_unix_ms: self.since_unix_ms,
            status: self.status.as_deref().cloned(),
            in_sync: reason.is_empty(),
            reason,
            peer: self.session.as_ref().map(|session| session.peer.to_string()).unwrap_or_default(),
            version_skew: version_skew(
                ("kctl-agent", self.agent_version()),
                ("kctl-controller", VERSION),
            )
            .unwrap_or_default(),
        }
    }

    /// As it told last; empty when it never did.
    pub(crate) fn agent_version(&self) -> &str {
        self.status.as_ref().map_or("", |status| &status.agent_version)
    }

    /// What the host answered to a call, as data.
    pub(crate) fn error(&self, status: &Status) -> pb::Error {
        let Some(call) = unknown_call(status) else { return host_error(status) };
        let (host, version) = (&self.name, self.agent_version());
        let message = format!(
            "host {host:?}: kctl-agent {version} does not know {call} of kctl-controller {VERSION}: upgrade it"
        );
        error_data(status.code(), message)
    }
}

fn matching(mut hosts: Vec<HostView>, selection: &Selection) -> Vec<HostView> {
    hosts.retain(|host| selection.matches(&host.name, &host.labels()));
    hosts
}

/// A host's labels in order.
pub(crate) fn labels(status: &pb::HostStatus) -> BTreeMap<String, String> {
    status.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}
