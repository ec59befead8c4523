//! The kernel's counters: one task has them, and everybody who wants to know asks it. It must not know what
//! anybody makes of a reading.

use crate::config::{Config, Scope};
use crate::enforcer::Enforcer;
use crate::status::kernel;
use agent_kernel::counters::{self, CountersConfig, Reading, Source, Sources};
use kctl_proto::agent::v1 as pb;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

/// Questions that wait.
const WAITING: usize = 64;

/// Before the names of sources that can't be counted.
const COUNTERS_OF: &str = "counters of ";

type Answer = oneshot::Sender<Result<Reading, Status>>;

/// Where to ask. Its clones ask the same.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    asks: mpsc::Sender<Answer>,
    about: Arc<About>,
}

/// What does not change.
#[derive(Debug)]
pub(crate) struct About {
    /// What is counted.
    pub(crate) sources: Sources,
    /// Of whom: `host`, or `cgroup:PATH`.
    pub(crate) scope: String,
    /// What is wanted and can't be counted.
    pub(crate) missing: Vec<pb::Missing>,
}

impl About {
    /// Why a source is not counted.
    pub(crate) fn why_not(&self, source: Source) -> &str {
        let names = |missing: &&pb::Missing| {
            let names = missing.what.strip_prefix(COUNTERS_OF);
            names.is_some_and(|names| names.split(", ").any(|name| name == source.name()))
        };
        self.missing
            .iter()
            .find(names)
            .map_or("the agent's configuration does not have it: see --counters", |missing| {
                &missing.why
            })
    }
}

impl Counters {
    /// Begins to count; it ends with `cancel`. What can't be counted is in the host's status.
    pub(crate) async fn start(
        config: &Config,
        enforcer: &Enforcer,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let settings = counters_config(config, Some(&config.bpffs));
        let opened = tokio::task::spawn_blocking(move || open(&settings)).await;
        let (counters, missing) = opened.unwrap_or_else(|panicked| {
            (None, vec![missing("counters".to_owned(), panicked.to_string(), None)])
        });
        for missing in &missing {
            tracing::warn!(
                what = missing.what,
                why = missing.why,
                remedy = missing.remedy,
                "missing"
            );
        }
        let told = missing.clone();
        // The agent ends when that fails.
        let _ = enforcer.run(move |it| it.add_missing(told)).await;
        let sources = counters.as_ref().map(counters::Counters::sources).unwrap_or_default();
        let scope = match &config.events.scope {
            Scope::Host => "host".to_owned(),
            Scope::Cgroup(path) => format!("cgroup:{}", path.display()),
        };
        let (asks, asked) = mpsc::channel(WAITING);
        if let Some(counters) = counters {
            tasks.spawn(answer(counters, asked, cancel.clone()));
        }
        Self { asks, about: Arc::new(About { sources, scope, missing }) }
    }

    /// Everything as it is now.
    pub(crate) async fn read(&self) -> Result<Reading, Status> {
        let (answer, answered) = oneshot::channel();
        let nobody = || Status::failed_precondition("counters: none can be had on this host");
        self.asks.send(answer).await.map_err(|_| nobody())?;
        answered.await.map_err(|_| nobody())?
    }

    /// What is counted, and of whom.
    pub(crate) fn about(&self) -> &About {
        &self.about
    }
}

/// What of this can't be counted on this host.
pub(crate) fn check(config: &Config) -> Vec<pb::Missing> {
    // An agent may run beside us, and have the pins.
    open(&counters_config(config, None)).1
}

async fn answer(
    mut counters: counters::Counters,
    mut asked: mpsc::Receiver<Answer>,
    cancel: CancellationToken,
) {
    loop {
        let answer = tokio::select! {
            () = cancel.cancelled() => return,
            asked = asked.recv() => match asked {
                Some(answer) => answer,
                None => return,
            },
        };
        // It takes some hundred microseconds, or milliseconds with thousands of processes.
        let read = tokio::task::spawn_blocking(move || (counters.read(), counters)).await;
        let Ok((reading, back)) = read else { return };
        counters = back;
        // Who asked may have left.
        let _ = answer.send(reading.map_err(kernel));
    }
}

fn open(config: &CountersConfig) -> (Option<counters::Counters>, Vec<pb::Missing>) {
    match counters::Counters::open(config) {
        Ok((counters, lacks)) => (Some(counters), told(lacks)),
        Err(error) => {
            let remedy = error.remedy().map(str::to_owned);
            (None, vec![missing("counters".to_owned(), error.to_string(), remedy)])
        }
    }
}

/// What lacks for the same reason is told once.
fn told(lacks: Vec<counters::Missing>) -> Vec<pb::Missing> {
    let mut told: Vec<pb::Missing> = Vec::new();
    for counters::Missing { source, why, remedy } in lacks {
        let remedy = remedy.unwrap_or_default();
        match told.iter_mut().find(|it| it.why == why && it.remedy == remedy) {
            Some(same) => same.what = format!("{}, {source}", same.what),
            None => told.push(pb::Missing { what: format!("{COUNTERS_OF}{source}"), why, remedy }),
        }
    }
    told
}

fn missing(what: String, why: String, remedy: Option<String>) -> pb::Missing {
    pb::Missing { what, why, remedy: remedy.unwrap_or_default() }
}

fn counters_config(config: &Config, bpffs: Option<&Path>) -> CountersConfig {
    CountersConfig {
        sources: config.counters.sources,
        scope: config.events.scope.kernel(),
        max_processes: config.counters.max_processes,
        proc_root: config.proc_root.clone(),
        sys_root: config.sys_root.clone(),
        bpffs: bpffs.map(Path::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_for_one_reason_is_told_once_and_found_by_name() {
        let lack =
            |source, why: &str| counters::Missing { source, why: why.to_owned(), remedy: None };
        let missing = told(vec![
            lack(Source::Syscalls, "no BPF"),
            lack(Source::Block, "no tracepoint"),
            lack(Source::BySyscall, "no BPF"),
        ]);
        let what: Vec<_> = missing.iter().map(|it| it.what.as_str()).collect();
        assert_eq!(what, ["counters of syscalls, by-syscall", "counters of block"]);
        let about = About { sources: Sources::default(), scope: "host".to_owned(), missing };
        assert_eq!(about.why_not(Source::BySyscall), "no BPF");
        assert_eq!(about.why_not(Source::Block), "no tracepoint");
        assert!(about.why_not(Source::Tcp).contains("--counters"));
    }
}
