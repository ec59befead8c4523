//! What the controller tells of itself and its fleet to Prometheus and to probes.

use crate::{
    auth::identified,
    authority::Ca,
    events::Events,
    registry::{HostView, Registry},
    store::{Desired, Store},
};
use kctl_events::Sums;
use kctl_proto::agent::v1 as pb;
use kctl_rpc::{
    Credentials, Peer, ca_sha256,
    metrics::{Check, Door, MetricsConfig, Observed, Page, serve},
};
use rustls::CertificateError;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{error::Elapsed, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the store may take for an answer before it counts as stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The same of the listener, which has nothing to do but accept.
const ACCEPT_WITHIN: Duration = Duration::from_secs(5);

/// The controller, for those who watch it.
pub(crate) struct Observable {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) events: Events,
    pub(crate) ca: Ca,
    /// Where agents and users are listened for, as it is reached from here.
    pub(crate) address: SocketAddr,
    pub(crate) store_path: PathBuf,
    pub(crate) events_path: PathBuf,
}

/// Starts the server.
pub(crate) fn start(
    config: MetricsConfig,
    observable: Observable,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let shown = watch::Sender::new(Some(Arc::clone(&observable.ca.trust().server)));
    let door = Door { credentials: shown.subscribe(), check: check(&observable.store) };
    tasks.spawn(show(observable.ca.clone(), shown, cancel.clone()));
    tasks.spawn(serve(config, door, observable, cancel.clone()));
}

/// Shows each certificate that the controller gets.
async fn show(ca: Ca, shown: watch::Sender<Option<Arc<Credentials>>>, cancel: CancellationToken) {
    let mut trust = ca.watch();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = trust.changed() => if changed.is_err() { return },
        }
        let server = Arc::clone(&trust.borrow_and_update().server);
        shown.send_replace(Some(server));
    }
}

/// Users who may see every host.
fn check(store: &Store) -> Check {
    let records = store.records();
    Arc::new(move |certificate, identity| {
        let peer = Peer {
            identity: Some(identity.clone()),
            certificate_sha256: Some(ca_sha256(certificate)),
            address: None,
            unix: None,
        };
        match identified(&records.borrow(), &peer) {
            Ok(caller) if caller.scope.is_all() => Ok(()),
            _ => Err(CertificateError::ApplicationVerificationFailure),
        }
    })
}

impl Observed for Observable {
    async fn page(&self) -> Page {
        let mut page = Page::new("controller", env!("CARGO_PKG_VERSION"));
        page.certificates(Some(&self.ca.trust().server));
        let records = self.store.records();
        let (users, desired) = (records.borrow().users.len(), self.store.desired());
        let desired = desired.borrow();
        tell_hosts(&mut page, &self.registry.hosts(), &desired);
        let fed: usize = desired.feeds().map(|feed| feed.prefixes().len()).sum();
        for (name, help, value) in [
            ("kctl_controller_revision", "Revision of the list", desired.revision as f64),
            (
                "kctl_controller_entries",
                "Entries of the list without those of feeds",
                desired.entries().len() as f64,
            ),
            ("kctl_controller_feed_prefixes", "Prefixes of all feeds together", fed as f64),
            ("kctl_controller_users", "Users of the API", users as f64),
        ] {
            page.gauge(name, help).set(value);
        }
        let mut disk = page
            .gauge("kctl_controller_disk_bytes", "Files of the store and of the history of events");
        for (what, path) in [("store", &self.store_path), ("history", &self.events_path)] {
            disk.labelled(&[("file", what)], bytes_on_disk(path) as f64);
        }
        let Sums { received, delivered, filtered, lost } = self.events.ledger().sums();
        page.events(received, delivered, filtered, lost);
        page
    }

    async fn healthy(&self) -> Result<(), String> {
        let answer = self.store.write(|_| Ok((Vec::new(), ())));
        timeout(ANSWER_WITHIN, answer)
            .await
            .map_err(|_: Elapsed| stuck())?
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn ready(&self) -> Result<String, String> {
        timeout(ANSWER_WITHIN, self.store.probe())
            .await
            .map_err(|_: Elapsed| stuck())?
            .map_err(|error| error.to_string())?;
        let accepted = timeout(ACCEPT_WITHIN, TcpStream::connect(self.address)).await;
        match accepted {
            Ok(Ok(_)) => Ok(String::new()),
            Ok(Err(error)) => Err(format!("listener: {}: {error}", self.address)),
            Err(_) => Err(format!("listener: {}: does not accept", self.address)),
        }
    }
}

fn stuck() -> String {
    format!("store: no answer within {} s", ANSWER_WITHIN.as_secs())
}

/// A database and the files beside it.
fn bytes_on_disk(path: &std::path::Path) -> u64 {
    let with = |suffix: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        std::fs::metadata(path).map_or(0, |file| file.len())
    };
    ["", "-wal", "-shm"].into_iter().map(with).sum()
}

/// A number of a host, where it has it.
type Value<'a> = &'a dyn Fn(&HostView) -> Option<f64>;

fn tell_hosts(page: &mut Page, hosts: &[HostView], desired: &Desired) {
    let connected = hosts.iter().filter(|host| host.session.is_some()).count();
    let mut states = page.gauge("kctl_controller_hosts", "Hosts that joined, by state");
    states.labelled(&[("state", "connected")], connected as f64);
    states.labelled(&[("state", "disconnected")], (hosts.len() - connected) as f64);
    let in_sync = |host: &HostView| host.out_of_sync(desired).is_empty();
    let filter = |host: &HostView| host.status.as_ref().and_then(|it| it.filter.clone());
    let flag = |yes: bool| Some(f64::from(yes));
    let status = |host: &HostView, of: fn(&pb::HostStatus) -> f64| host.status.as_deref().map(of);
    let each: [(_, _, Value<'_>); 6] = [
        ("kctl_controller_host_connected", "1 while the host is connected", &|host| {
            flag(host.session.is_some())
        }),
        ("kctl_controller_host_in_sync", "1 while the host holds what it should", &|host| {
            flag(in_sync(host))
        }),
        (
            "kctl_controller_host_enforcing",
            "1 if the host enforced its entries on every chosen interface when it told last",
            &|host| status(host, |it| f64::from(it.not_enforced.is_none())),
        ),
        ("kctl_controller_host_alerts", "Thresholds crossed when the host told last", &|host| {
            status(host, |it| it.alerts.len() as f64)
        }),
        (
            "kctl_controller_host_revision",
            "Revision of the list that the host told last",
            &|host| Some(host.store_state().map_or(0, |it| it.revision) as f64),
        ),
        ("kctl_controller_host_entries", "Rules in the host's kernel when it told last", &|host| {
            filter(host).map(|it| it.entries as f64)
        }),
    ];
    for (name, help, value) in each {
        let mut values = page.gauge(name, help);
        for host in hosts {
            if let Some(value) = value(host) {
                values.labelled(&[("host", &host.name)], value);
            }
        }
    }
}
