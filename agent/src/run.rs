//! Wiring: what runs, and how it ends.

use crate::config::Config;
use crate::counters::Counters;
use crate::enforcer::Enforcer;
use crate::events::{self, Events, Journal};
use crate::rollback::Rollback;
use crate::service::{self, Lifeline};
use crate::{alerts, identity, network, observed, renewal, socket, uplink};
use agent_kernel::{file::Roots, sys};
use anyhow::Context as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the kernel's maps and the host's interfaces are looked at without a reason.
const TICK: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT. The kernel goes on filtering afterwards.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.state_dir)
        .with_context(|| format!("state folder {}", config.state_dir.display()))?;
    let (enforcer, thread) = Enforcer::start(config)
        .with_context(|| format!("state folder {}", config.state_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config, enforcer));
    // The last handle to the enforcer is gone with the tasks.
    drop(runtime);
    if thread.join().is_err() {
        anyhow::bail!("the enforcer's thread panicked");
    }
    result
}

async fn serve(config: &Config, enforcer: Enforcer) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let lifeline = Lifeline::new();
    let roots = Roots { proc: config.proc_root.clone(), sys: config.sys_root.clone() };
    let (tracker, stop) = (&tasks, cancel.clone());
    let rollback =
        Rollback::start(roots.clone(), enforcer.clone(), lifeline.clone(), tracker, stop);
    let writable = config.writable.clone();
    let events = journal(config)?;
    let counters = Counters::start(config, &enforcer, &tasks, &cancel).await;
    let routes = service::routes(
        &enforcer,
        &lifeline,
        &roots,
        writable,
        rollback,
        &events,
        counters.clone(),
    )
    .await?;
    events::start(config, &events, &enforcer, &tasks, &cancel).await;
    let fleet = lifeline.fleet_alerts();
    alerts::start(config, fleet, counters, &events, &enforcer, &tasks, &cancel);
    let nudges = network::watch(&enforcer, &tasks, &cancel).await;
    let listener = socket::bind(&config.socket)?;
    tasks.spawn(socket::serve(listener, routes.clone(), cancel.clone()));
    let shown = observed::start(config, &enforcer, &events, &lifeline, &tasks, &cancel);
    tasks.spawn(tick(enforcer.clone(), cancel.clone()));
    let result = match &config.controller {
        None => {
            tracing::info!("no --controller: serving the socket alone");
            stopped().await
        }
        Some(controller) => {
            let uplink = async {
                let proof = identity::obtain(config, controller, &cancel).await?;
                let proof = tokio::sync::watch::Sender::new(proof);
                let (current, to_show) = (proof.subscribe(), proof.subscribe());
                let renewal = renewal::run(config.state_dir.clone(), proof, lifeline.clone());
                let uplink =
                    uplink::run(controller, current, enforcer, lifeline, routes, nudges, &tasks);
                tokio::select! {
                    failed = uplink => failed,
                    never = observed::show(&shown, to_show) => match never {},
                    () = renewal => anyhow::bail!("identity: its certificate can't be read"),
                }
            };
            tokio::select! {
                stopped = stopped() => stopped,
                failed = uplink => failed,
            }
        }
    };
    if result.is_ok() {
        tracing::info!("stopping; the kernel goes on filtering");
    }
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.is_err() {
        tracing::warn!("calls were still running after 5 s");
    }
    result
}

/// The host's events, which go on after those of an agent before.
fn journal(config: &Config) -> anyhow::Result<Events> {
    let boot_id = sys::boot_id(&config.proc_root)?;
    let journal = Journal::open(&config.state_dir, &boot_id, config.events.ring_bytes)
        .with_context(|| format!("state folder {}", config.state_dir.display()))?;
    Ok(Events::new(journal, config.name.clone()))
}

async fn tick(enforcer: Enforcer, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        if enforcer.run(crate::enforcer::Enforcement::tick).await.is_err() {
            return;
        }
    }
}

/// Takes the filter away and says what was removed; with `wait` stays until it is told to end.
pub(crate) fn detach(config: &Config, wait: bool) -> anyhow::Result<()> {
    let socket = &config.socket;
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        anyhow::bail!(
            "an agent answers on {}: it would attach again; stop it first",
            socket.display()
        );
    }
    let removed = agent_kernel::filter::detach(&config.bpffs)?;
    for line in &removed {
        println!("removed {line}");
    }
    if removed.is_empty() {
        println!("nothing to remove below {}", config.bpffs.display());
    }
    if wait {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(stopped())?;
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                tracing::warn!("nothing can be reloaded yet; restart the agent to change its configuration");
            }
        }
    }
}
