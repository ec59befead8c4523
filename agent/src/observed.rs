//! What the agent tells of itself to Prometheus and to probes.

use crate::config::Config;
use crate::enforcer::{Enforcement, Enforcer};
use crate::events::Events;
use crate::identity::Proof;
use crate::service::Lifeline;
use agent_kernel::filter::{Filter, Verdicts};
use kctl_events::Sums;
use kctl_proto::agent::v1 as pb;
use kctl_rpc::metrics::{Door, Observed, Page, serve};
use kctl_rpc::{Credentials, Identity};
use rustls::CertificateError;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the enforcer may take for an answer before it counts as stuck. A change of a million entries
/// takes it some seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where the certificate comes from that this host has by now.
type Shown = watch::Sender<Option<Arc<Credentials>>>;

/// This host's agent.
struct Agent {
    enforcer: Enforcer,
    events: Events,
    lifeline: Lifeline,
    shown: watch::Receiver<Option<Arc<Credentials>>>,
    has_controller: bool,
    /// Somebody said `--mode off`.
    is_off: bool,
}

/// Starts the server; the certificates go where it says.
pub(crate) fn start(
    config: &Config,
    enforcer: &Enforcer,
    events: &Events,
    lifeline: &Lifeline,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Shown {
    let shown = Shown::new(None);
    let agent = Agent {
        enforcer: enforcer.clone(),
        events: events.clone(),
        lifeline: lifeline.clone(),
        shown: shown.subscribe(),
        has_controller: config.controller.is_some(),
        is_off: config.mode.kernel().is_none(),
    };
    let door = Door {
        credentials: shown.subscribe(),
        // Who was revoked the controller alone knows.
        check: Arc::new(|_, identity| match identity {
            Identity::User(_) | Identity::Controller(_) => Ok(()),
            Identity::Host(_) => Err(CertificateError::ApplicationVerificationFailure),
        }),
    };
    tasks.spawn(serve(config.metrics.clone(), door, agent, cancel.clone()));
    shown
}

/// Shows each certificate that the host gets.
pub(crate) async fn show(shown: &Shown, mut proof: watch::Receiver<Proof>) -> Infallible {
    loop {
        let credentials = Arc::new(proof.borrow_and_update().credentials.clone());
        shown.send_replace(Some(credentials));
        if proof.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Agent {
    /// Asks the enforcer; an error when it does not answer.
    async fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Enforcement) -> R + Send + 'static,
    ) -> Result<R, String> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.enforcer.run(job)).await;
        match answer {
            Ok(answer) => answer.map_err(|refused| refused.to_string()),
            Err(_) => Err(format!("enforcer: no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }
}

impl Observed for Agent {
    async fn page(&self) -> Page {
        let mut page = Page::new("agent", env!("CARGO_PKG_VERSION"));
        page.certificates(self.shown.borrow().as_deref());
        let connected = self.has_controller && self.lifeline.is_connected();
        page.gauge("kctl_agent_connected", "1 while the controller is connected")
            .set(f64::from(connected));
        let verdicts = self.ask(|it| it.filter().ok().and_then(|it| Filter::verdicts(it).ok()));
        tell_verdicts(&mut page, verdicts.await.ok().flatten());
        tell_status(&mut page, &self.enforcer.status().borrow());
        let Sums { received, delivered, filtered, lost } = self.events.ledger().sums();
        page.events(received, delivered, filtered, lost);
        page
    }

    async fn healthy(&self) -> Result<(), String> {
        self.ask(|_| ()).await
    }

    async fn ready(&self) -> Result<String, String> {
        match self.ask(|it| it.not_enforced()).await? {
            Some(_) if self.is_off => Ok("the filter is off, as --mode says".to_owned()),
            Some(why) => Err(why.message),
            None => Ok(String::new()),
        }
    }
}

fn tell_verdicts(page: &mut Page, verdicts: Option<Verdicts>) {
    let Verdicts { passed, dropped, monitored, guarded, malformed } = verdicts.unwrap_or_default();
    // Without a filter nothing is counted, which is not the same as zero.
    let seen = if verdicts.is_some() {
        vec![
            ("passed", passed),
            ("dropped", dropped),
            ("monitored", monitored),
            ("guarded", guarded),
            ("malformed", malformed),
        ]
    } else {
        Vec::new()
    };
    let mut packets = page.counter(
        "kctl_agent_filter_packets",
        "Packets by what became of them; monitored, guarded and malformed ones also passed",
    );
    for (verdict, count) in &seen {
        packets.counted(&[("verdict", verdict)], count.packets);
    }
    let mut bytes = page.counter("kctl_agent_filter_bytes", "The same in bytes of their frames");
    for (verdict, count) in &seen {
        bytes.counted(&[("verdict", verdict)], count.bytes);
    }
}

fn tell_status(page: &mut Page, status: &pb::HostStatus) {
    let filter = status.filter.clone().unwrap_or_default();
    let failed = filter.interfaces.iter().filter(|it| !it.error.is_empty()).count();
    let filtered = filter.interfaces.len() - failed;
    let mut interfaces = page.gauge(
        "kctl_agent_interfaces",
        "Interfaces that are filtered, that should be and are not, and others with a global address",
    );
    interfaces.labelled(&[("state", "filtered")], filtered as f64);
    interfaces.labelled(&[("state", "failed")], failed as f64);
    interfaces.labelled(&[("state", "unfiltered")], filter.unfiltered_interfaces.len() as f64);
    let revision = status.store.as_ref().map_or(0, |store| store.revision);
    let enforcing = status.not_enforced.is_none();
    for (name, help, value) in [
        (
            "kctl_agent_enforcing",
            "1 while entries are enforced on every chosen interface",
            f64::from(enforcing),
        ),
        (
            "kctl_agent_filter_entries",
            "Rules in the kernel that drop or monitor",
            filter.entries as f64,
        ),
        ("kctl_agent_filter_max_entries", "Room for rules", filter.max_entries as f64),
        ("kctl_agent_filter_memory_bytes", "Kernel memory of the maps", filter.memory_bytes as f64),
        ("kctl_agent_revision", "Revision of the controller's list that is held", revision as f64),
        (
            "kctl_agent_local_entries",
            "Entries that were made on this host",
            f64::from(status.local_entries),
        ),
        (
            "kctl_agent_suspended_entries",
            "Entries of the controller that are out of force here for a while",
            f64::from(status.suspended_entries),
        ),
        (
            "kctl_agent_alerts",
            "Thresholds that are crossed now; kctl hosts describe tells which",
            status.alerts.len() as f64,
        ),
        (
            "kctl_agent_missing",
            "What this host can't do; kctl hosts describe tells it",
            status.missing.len() as f64,
        ),
    ] {
        page.gauge(name, help).set(value);
    }
    page.counter("kctl_agent_detected_entries", "Entries that detection made")
        .count(status.auto_made);
}
