//! Which sources an agent has: those that it is told to have, and that this kernel allows. What is
//! missing is told, and the others work.

use super::packets::{FINDINGS, PACKETS};
use super::{Events, Source, kernel, network, packets};
use crate::config::{Config, EventConfig};
use crate::enforcer::Enforcer;
use agent_kernel::netlink::{Changes, Uevents};
use agent_kernel::trace::tcp::{TcpConfig, TcpTracer};
use agent_kernel::trace::{self, CgroupPaths, Tracer, TracerConfig};
use kctl_events::{Kind, Kinds};
use kctl_proto::agent::v1::{self as pb, event::Payload, host_event::State};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What of this kernel's events can be had.
#[derive(Default)]
struct Sources {
    tracer: Option<Tracer>,
    connections: Option<TcpTracer>,
    /// For both.
    cgroups: Option<Arc<CgroupPaths>>,
    changes: Option<Changes>,
    uevents: Option<Uevents>,
    missing: Vec<pb::Missing>,
}

/// Starts them; they end with `cancel`.
pub(crate) async fn start(
    config: &Config,
    events: &Events,
    enforcer: &Enforcer,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let kinds = config.events.kinds;
    let sources = open(config, Some(&config.bpffs));
    for missing in &sources.missing {
        tracing::warn!(what = missing.what, why = missing.why, remedy = missing.remedy, "missing");
    }
    let missing = sources.missing;
    // The agent ends when that fails.
    let _ = enforcer.run(move |it| it.add_missing(missing)).await;
    let start = Start { events, enforcer, tasks, cancel };
    if kinds.contains(Kind::Drop) || kinds.contains(Kind::Monitor) {
        let enforcer = enforcer.clone();
        start.source("filter", |source| packets::run(source, enforcer, kinds, PACKETS));
    }
    if config.detect.is_on(kinds.contains(Kind::Scan), kinds.contains(Kind::Flood)) {
        let enforcer = enforcer.clone();
        start.source("detection", |source| packets::run(source, enforcer, kinds, FINDINGS));
    }
    let cgroups = sources.cgroups.unwrap_or_default();
    if let Some(tracer) = sources.tracer {
        let cgroups = Arc::clone(&cgroups);
        start.source("tracing", |source| kernel::run(source, tracer, cgroups));
    }
    if let Some(tracer) = sources.connections {
        start.source("tcp", |source| kernel::run(source, tracer, cgroups));
    }
    if let Some(changes) = sources.changes {
        start.source("netlink", |source| network::run(source, changes, kinds));
    }
    if let Some(uevents) = sources.uevents {
        start.source("uevent", |source| network::devices(source, uevents));
    }
    events.tell(Payload::Host(pb::HostEvent {
        name: config.name.clone(),
        state: State::AgentStarted.into(),
        reason: "of what processes and the network did while no agent ran, nothing was seen"
            .to_owned(),
        clock_offset_ms: None,
    }));
}

/// What of this kernel's events can't be had, each with what to do about it.
pub(crate) fn check(config: &Config) -> Vec<pb::Missing> {
    // An agent may run beside us, and have the pins.
    open(config, None).missing
}

fn open(config: &Config, bpffs: Option<&Path>) -> Sources {
    let kinds = config.events.kinds;
    let any = |wanted: &[Kind]| wanted.iter().any(|kind| kinds.contains(*kind));
    let mut sources = Sources::default();
    let traced = traced_sources(kinds);
    if !traced.is_empty() {
        let opened =
            Tracer::open(&tracer_config(config, traced, bpffs)).map(|(tracer, missing)| {
                let missing =
                    missing.into_iter().map(|it| (it.source.to_string(), it.why, it.remedy));
                (tracer, missing.collect())
            });
        sources.tracer = sources.had("tracing", opened);
        sources.cgroups = sources.tracer.as_ref().map(Tracer::cgroups);
    }
    if any(&[Kind::Connect, Kind::Accept, Kind::Close]) {
        if let Err(error) = trace::mount_tracefs(&config.sys_root) {
            tracing::info!(%error, "every system call pays for the events of connections; mount tracefs");
        }
        let opened = TcpTracer::open(&tcp_config(config, bpffs)).map(|(tracer, missing)| {
            let missing = missing.into_iter().map(|it| (it.what.to_owned(), it.why, it.remedy));
            (tracer, missing.collect())
        });
        sources.connections = sources.had("TCP", opened);
        if sources.cgroups.is_none() {
            let cgroups = CgroupPaths::open(&config.proc_root).map(|it| (Arc::new(it), Vec::new()));
            sources.cgroups = sources.had("cgroups of", cgroups);
        }
    }
    if any(&[Kind::Link, Kind::Addr, Kind::Route, Kind::Neigh]) {
        sources.changes = sources.had("netlink", Changes::open().map(|it| (it, Vec::new())));
    }
    if any(&[Kind::Uevent]) {
        sources.uevents = sources.had("uevent", Uevents::open().map(|it| (it, Vec::new())));
    }
    sources
}

/// What of a source is missing, why, and what to do about it.
type Lacks = Vec<(String, String, Option<String>)>;

impl Sources {
    /// Notes what is missing of a source, or that all of it is.
    fn had<T>(&mut self, name: &str, opened: Result<(T, Lacks), agent_kernel::Error>) -> Option<T> {
        let (source, lacks) = match opened {
            Ok((source, lacks)) => (Some(source), lacks),
            Err(error) => {
                let remedy = error.remedy().map(str::to_owned);
                (None, vec![(name.to_owned(), error.to_string(), remedy)])
            }
        };
        self.missing.extend(lacks.into_iter().map(|(what, why, remedy)| pb::Missing {
            what: format!("{what} events"),
            why,
            remedy: remedy.unwrap_or_default(),
        }));
        source
    }
}

fn traced_sources(kinds: Kinds) -> trace::Sources {
    trace::Source::all()
        .filter(|source| source.name().parse().is_ok_and(|kind| kinds.contains(kind)))
        .collect()
}

fn tracer_config(config: &Config, sources: trace::Sources, bpffs: Option<&Path>) -> TracerConfig {
    let EventConfig { open_paths, kernel_ring_bytes, .. } = &config.events;
    TracerConfig {
        sources,
        scope: config.events.scope.kernel(),
        open_paths: open_paths.iter().map(|path| path.clone().into_bytes()).collect(),
        ring_bytes: *kernel_ring_bytes,
        proc_root: config.proc_root.clone(),
        sys_root: config.sys_root.clone(),
        bpffs: bpffs.map(Path::to_owned),
    }
}

fn tcp_config(config: &Config, bpffs: Option<&Path>) -> TcpConfig {
    let kinds = config.events.kinds;
    TcpConfig {
        scope: config.events.scope.kernel(),
        ring_bytes: config.events.kernel_ring_bytes,
        connect: kinds.contains(Kind::Connect),
        accept: kinds.contains(Kind::Accept),
        close: kinds.contains(Kind::Close),
        proc_root: config.proc_root.clone(),
        sys_root: config.sys_root.clone(),
        bpffs: bpffs.map(Path::to_owned),
    }
}

/// What it takes to start a source.
struct Start<'a> {
    events: &'a Events,
    enforcer: &'a Enforcer,
    tasks: &'a TaskTracker,
    cancel: &'a CancellationToken,
}

impl Start<'_> {
    /// Runs a source as a task; when it fails, the host's status says so.
    fn source<F, E>(&self, name: &'static str, run: impl FnOnce(Source) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send,
    {
        let running = run(self.events.source());
        let (enforcer, cancel) = (self.enforcer.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = running => ended,
            };
            let Err(error) = ended else { return };
            tracing::error!(source = name, %error, "a source of events failed");
            let missing = pb::Missing {
                what: format!("{name} events"),
                why: error.to_string(),
                remedy: "restart the agent to have them again".to_owned(),
            };
            // The agent ends when that fails.
            let _ = enforcer.run(move |it| it.add_missing(vec![missing])).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_the_tracer_makes_a_kind_of_event() {
        assert_eq!(traced_sources(Kinds::all()).iter().count(), trace::Source::all().count());
        assert!(!traced_sources(Kinds::default_on()).contains(trace::Source::Open));
        assert!(traced_sources([Kind::Drop, Kind::Link].into_iter().collect()).is_empty());
    }
}
