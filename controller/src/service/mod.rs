//! The API: one file a noun. Handlers parse, act and convert; who calls is settled by `auth`.

mod ask;
mod audit;
mod authority;
mod blocklist;
mod controller;
pub(crate) mod escalation;
mod events;
mod feeds;
mod hosts;
mod listing;
mod peers;
mod recovery;
mod stats;
mod token;
mod twins;
mod user;

use crate::{authority::Ca, events::Events, registry::Registry, status::Error, store::Store};
use futures_util::Stream;
use kctl_blocklist::Selection;
use kctl_proto::agent::v1 as pb;
use std::{collections::BTreeSet, net::IpAddr, pin::Pin, sync::Arc, time::Duration};
use tokio_util::task::TaskTracker;
use tonic::Status;

/// Longer waits are a mistake.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long changes wait for silent hosts.
const CHANGE_WAIT: Duration = Duration::from_secs(1);
/// How long everything else waits for silent hosts.
const READ_WAIT: Duration = Duration::from_secs(5);

/// What the handlers work with. Its clones share it all.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) events: Events,
    pub(crate) ca: Ca,
    /// Addresses that the configuration says are ours.
    pub(crate) addresses: Arc<BTreeSet<IpAddr>>,
    /// What a host's detection blocks becomes an entry of every host.
    pub(crate) escalates: bool,
    /// Changes that go on without their caller.
    pub(crate) tasks: TaskTracker,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    /// Addresses of the controller: as configured, and as agents reach it.
    fn controller_addresses(&self) -> BTreeSet<IpAddr> {
        let reached = self.registry.sessions();
        let reached = reached.iter().map(|session| session.local.ip().to_canonical());
        self.addresses.iter().copied().chain(reached).collect()
    }
}

/// The selection of a read: all hosts when absent.
fn read_selection(selection: Option<pb::Selection>) -> Result<Selection, Error> {
    selection
        .map_or(Ok(Selection::All), Selection::try_from)
        .map_err(|error| Error::Invalid(error.to_string()))
}

/// A wait in milliseconds as a request has it: 0 means the default.
fn wait(timeout_ms: u64, default: Duration) -> Duration {
    match timeout_ms {
        0 => default,
        ms => Duration::from_millis(ms).min(LONGEST_WAIT),
    }
}

/// Names of hosts as a selection; NOT_FOUND and the like come from the registry.
fn named(names: Vec<String>) -> Result<Selection, Error> {
    if names.is_empty() {
        return Err(Error::Invalid("names: none given; name the hosts".to_owned()));
    }
    Ok(Selection::Names(names.into_iter().collect()))
}
