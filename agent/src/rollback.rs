//! Network settings that cut the agent off from its controller are put back. It must not know what may
//! be set.

use crate::{enforcer::Enforcer, service::Lifeline};
use agent_kernel::file::{Roots, restore};
use kctl_blocklist::now_unix_ms;
use kctl_proto::agent::v1 as pb;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long after a setting the controller is asked whether it still answers.
pub(crate) const GUARDED: Duration = Duration::from_secs(10);
/// How long its answer may take.
const PING: Duration = Duration::from_secs(1);
/// Settings that are watched at once; more have to wait.
const MOST: usize = 256;

/// A setting that was made.
#[derive(Debug)]
struct Made {
    path: String,
    old: Vec<u8>,
    until: Instant,
}

/// Takes settings to watch over.
#[derive(Debug, Clone)]
pub(crate) struct Rollback {
    made: mpsc::Sender<Made>,
    lifeline: Lifeline,
}

impl Rollback {
    /// Starts the watch.
    pub(crate) fn start(
        roots: Roots,
        enforcer: Enforcer,
        lifeline: Lifeline,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (made, queue) = mpsc::channel(MOST);
        let watch = Watch { roots, enforcer, lifeline: lifeline.clone(), made: Vec::new() };
        tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = watch.run(queue) => {}
            }
        });
        Self { made, lifeline }
    }

    /// Whether there is a controller to be cut off from.
    pub(crate) async fn has_controller(&self) -> bool {
        self.lifeline.is_connected() && self.lifeline.is_alive(PING).await
    }

    /// Watches over a setting from now on; false when too many are watched already.
    pub(crate) fn watch(&self, path: String, old: Vec<u8>) -> bool {
        self.made.try_send(Made { path, old, until: Instant::now() + GUARDED }).is_ok()
    }
}

struct Watch {
    roots: Roots,
    enforcer: Enforcer,
    lifeline: Lifeline,
    made: Vec<Made>,
}

impl Watch {
    async fn run(mut self, mut queue: mpsc::Receiver<Made>) {
        loop {
            let due = self.made.first().map(|made| made.until);
            tokio::select! {
                made = queue.recv() => match made {
                    Some(made) => self.add(made),
                    None => return,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.look().await;
                }
            }
        }
    }

    /// The value before the first of several settings is the one that is known to be good.
    fn add(&mut self, made: Made) {
        let first = self.made.iter().position(|it| it.path == made.path);
        let old = first.map(|at| self.made.remove(at).old);
        self.made.push(Made { old: old.unwrap_or(made.old), ..made });
    }

    async fn look(&mut self) {
        if self.lifeline.is_alive(PING).await {
            let now = Instant::now();
            let proven = self.made.extract_if(.., |made| made.until <= now);
            for made in proven {
                tracing::info!(path = made.path, "set; the controller answers: kept");
            }
            return;
        }
        // Whichever of them it was: all that is not proven yet goes, the youngest first.
        for made in std::mem::take(&mut self.made).into_iter().rev() {
            self.put_back(made).await;
        }
    }

    async fn put_back(&self, made: Made) {
        let Made { path, old, .. } = made;
        let (roots, file, value) = (self.roots.clone(), path.clone(), old.clone());
        let restored = tokio::task::spawn_blocking(move || restore(&roots, &file, &value)).await;
        let error = match restored {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(panicked) => panicked.to_string(),
        };
        let value = String::from_utf8_lossy(&old).into_owned();
        tracing::warn!(
            target: "audit", who = "agent", path, value, error,
            "no answer of the controller since this was set: put back"
        );
        let told = pb::RolledBack { path, value, time_unix_ms: now_unix_ms(), error };
        // Only at its end does the agent refuse it.
        let _ = self.enforcer.run(move |it| it.rolled_back(told)).await;
    }
}
