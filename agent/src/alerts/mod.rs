//! Alerts: values of this host that cross their thresholds, told as events and in the host's status.
//!
//! One task looks at all values every few seconds, another tells what it found. It owns the thresholds and
//! what fires; it must not know who reads events.

mod cause;
mod flaps;
mod look;
mod state;
mod thresholds;

use crate::config::Config;
use crate::counters::Counters;
use crate::enforcer::Enforcer;
use crate::events::{Content, Events, Source, now_unix_ns};
use kctl_events::Kind;
use kctl_proto::agent::v1::{self as pb, event::Payload};
use look::Looker;
use std::collections::HashMap;
use std::time::Duration;
use thresholds::Thresholds;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Looks whose alerts wait to be told.
const WAITING: usize = 4;

/// What the controller says for the fleet, by key.
type Fleet = watch::Receiver<HashMap<String, String>>;

/// Starts to look, unless nobody wants alerts; it ends with `cancel`.
pub(crate) fn start(
    config: &Config,
    fleet: Fleet,
    counters: Counters,
    events: &Events,
    enforcer: &Enforcer,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    if !config.events.kinds.contains(Kind::Alert) {
        return;
    }
    let (tell, told) = mpsc::channel(WAITING);
    let stopped = cancel.clone();
    let teller = teller(events.source(), told);
    tasks.spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = teller => {}
        }
    });
    let stopped = cancel.clone();
    let watch = watch(config, fleet, counters, enforcer.clone(), tell);
    tasks.spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = watch => {}
        }
    });
}

/// Looks, again and again.
fn watch(
    config: &Config,
    mut fleet: Fleet,
    counters: Counters,
    enforcer: Enforcer,
    tell: mpsc::Sender<Vec<pb::AlertEvent>>,
) -> impl Future<Output = ()> + use<> {
    let own = config.alerts.clone();
    let mut chosen = Thresholds::new(&own, &fleet.borrow_and_update());
    let mut looker = Looker::new(chosen.clone(), config.proc_root.clone());
    let mut pace = pace(chosen.interval);
    async move {
        loop {
            tokio::select! {
                _ = pace.tick() => {}
                Ok(()) = fleet.changed() => {
                    let said = Thresholds::new(&own, &fleet.borrow_and_update());
                    if said != chosen {
                        tracing::info!("the controller has other thresholds of alerts for the fleet");
                        pace = self::pace(said.interval);
                        looker.set(said.clone());
                        chosen = said;
                    }
                    continue;
                }
            }
            if chosen.is_empty() && looker.is_silent() {
                continue;
            }
            // What can't be counted is in the host's status already.
            let reading = if chosen.count() { counters.read().await.ok() } else { None };
            let looked = tokio::task::spawn_blocking(move || (looker.look(reading), looker)).await;
            let Ok((found, back)) = looked else {
                tracing::error!(
                    "the look at thresholds panicked; restart the agent to have alerts"
                );
                return;
            };
            looker = back;
            if found.is_empty() {
                continue;
            }
            for alert in &found {
                log(alert);
            }
            let firing = looker.firing();
            let set = enforcer.run(move |it| it.set_alerts(firing)).await;
            if set.is_err() || tell.send(found).await.is_err() {
                return;
            }
        }
    }
}

fn pace(interval: Duration) -> Interval {
    let mut pace = tokio::time::interval(interval);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

fn log(alert: &pb::AlertEvent) {
    let (alert_name, object, value) = (&alert.name, &alert.object, alert.value);
    if alert.state() == pb::AlertState::Firing {
        tracing::warn!(alert = alert_name, object, value, threshold = alert.threshold, "fires");
    } else {
        tracing::info!(alert = alert_name, object, value, "is over");
    }
}

/// The source of these events: a look takes its time, and whoever asks what is told must not wait for it.
async fn teller(mut source: Source, mut told: mpsc::Receiver<Vec<pb::AlertEvent>>) {
    loop {
        let alerts = tokio::select! {
            alerts = told.recv() => match alerts {
                Some(alerts) => alerts,
                None => return,
            },
            () = source.asked() => Vec::new(),
        };
        let look = source.look();
        // It is told when it is found: after everything that was claimed before.
        let time_unix_ns = now_unix_ns();
        let event = |alert| pb::Event {
            time_unix_ns,
            payload: Some(Payload::Alert(alert)),
            ..pb::Event::default()
        };
        source.push(Content::Told(alerts.into_iter().map(event).collect()));
        source.done(look);
    }
}
