//! `PerfService`: what this host's kernel is busy with, interval by interval.

mod convert;

use crate::counters::Counters;
use agent_kernel::counters::{Call, Reading, Source};
use convert::Wanted;
use futures_util::{Stream, StreamExt as _, stream};
use kctl_proto::agent::v1::{self as pb, perf_service_server::PerfService};
use std::collections::HashSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

/// Where nobody says otherwise.
const INTERVAL_MS: u32 = 5_000;
const TOP: u32 = 10;
const MOST: u32 = 1_000;

/// Answers with this host's counters.
#[derive(Debug)]
pub(super) struct Perf {
    counters: Counters,
    proc_root: PathBuf,
}

impl Perf {
    pub(super) fn new(counters: Counters, proc_root: PathBuf) -> Self {
        Self { counters, proc_root }
    }
}

/// One caller's intervals.
struct Watch {
    counters: Counters,
    proc_root: PathBuf,
    wanted: Wanted,
    interval: Duration,
    /// Intervals that are still wanted; `None` for all.
    left: Option<u32>,
    before: Reading,
    next: Instant,
}

#[tonic::async_trait]
impl PerfService for Perf {
    type WatchCountersStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchCountersResponse, Status>> + Send + 'static>>;

    async fn watch_counters(
        &self,
        request: Request<pb::WatchCountersRequest>,
    ) -> Result<Response<Self::WatchCountersStream>, Status> {
        let request = request.into_inner();
        let interval = interval(request.interval_ms)?;
        self.has(&request)?;
        let left = (request.count > 0).then_some(request.count);
        let wanted = wanted(request)?;
        let watch = Watch {
            before: self.counters.read().await?,
            counters: self.counters.clone(),
            proc_root: self.proc_root.clone(),
            wanted,
            interval,
            left,
            next: Instant::now() + interval,
        };
        // An error is the last thing that is said.
        let told = stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(Some(counters)) => {
                    let counters = Some(counters);
                    Some((Ok(pb::WatchCountersResponse { counters }), Some(watch)))
                }
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(told.boxed()))
    }
}

impl Perf {
    /// Whether what is asked for by name is counted.
    fn has(&self, request: &pb::WatchCountersRequest) -> Result<(), Status> {
        let about = self.counters.about();
        let asked = [
            (request.by_syscall || !request.syscalls.is_empty(), Source::BySyscall),
            (request.by_process || request.pid != 0, Source::ByProcess),
        ];
        for (is_asked, source) in asked {
            if is_asked && !about.sources.contains(source) {
                let why = about.why_not(source);
                return Err(Status::failed_precondition(format!("counters of {source}: {why}")));
            }
        }
        if request.pid != 0 && !self.proc_root.join(request.pid.to_string()).exists() {
            return Err(Status::not_found(format!("process {}: there is none", request.pid)));
        }
        Ok(())
    }
}

impl Watch {
    /// What comes in the next interval.
    async fn next(&mut self) -> Result<Option<pb::Counters>, Status> {
        match &mut self.left {
            Some(0) => return Ok(None),
            Some(left) => *left -= 1,
            None => {}
        }
        sleep_until(self.next).await;
        let now = self.counters.read().await?;
        // A reader that was too slow for an interval gets a longer one.
        self.next = (self.next + self.interval).max(Instant::now());
        let before = std::mem::replace(&mut self.before, now.clone());
        let (wanted, proc_root) = (self.wanted.clone(), self.proc_root.clone());
        let counters = self.counters.clone();
        let told = tokio::task::spawn_blocking(move || {
            convert::counters(&now, &before, &wanted, counters.about(), &proc_root)
        });
        told.await.map(Some).map_err(|panicked| Status::internal(panicked.to_string()))
    }
}

fn interval(ms: u32) -> Result<Duration, Status> {
    match if ms == 0 { INTERVAL_MS } else { ms } {
        ms @ 100..=300_000 => Ok(Duration::from_millis(ms.into())),
        ms => Err(Status::invalid_argument(format!("interval {ms} ms: must be 100 to 300,000 ms"))),
    }
}

fn wanted(request: pb::WatchCountersRequest) -> Result<Wanted, Status> {
    let mut calls = HashSet::new();
    for name in &request.syscalls {
        let known = calls.len();
        calls.extend(Call::named(name));
        if calls.len() == known {
            return Err(Status::invalid_argument(format!("system call {name:?}: there is none")));
        }
    }
    let top = if request.top == 0 { TOP } else { request.top };
    if top > MOST {
        return Err(Status::invalid_argument(format!("top {top}: must be at most {MOST}")));
    }
    Ok(Wanted {
        by_syscall: request.by_syscall || !request.syscalls.is_empty(),
        by_process: request.by_process || request.pid != 0,
        calls: (!request.syscalls.is_empty()).then_some(calls),
        pid: (request.pid != 0).then_some(request.pid),
        top: usize::try_from(top).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked() {
        assert_eq!(interval(0).expect("the default").as_secs(), 5);
        for ms in [1, 99, 300_001] {
            assert_eq!(interval(ms).expect_err("bad").code(), tonic::Code::InvalidArgument);
        }
        let request = |syscalls: &[&str], top| pb::WatchCountersRequest {
            syscalls: syscalls.iter().map(|&name| name.to_owned()).collect(),
            top,
            ..pb::WatchCountersRequest::default()
        };
        let wanted = |request| wanted(request);
        let two = wanted(request(&["read", "openat"], 0)).expect("valid");
        // In both tables.
        assert_eq!(two.calls.map(|calls| calls.len()), Some(4));
        assert_eq!((two.by_syscall, two.top), (true, 10));
        let error = wanted(request(&["raed"], 0)).expect_err("no such call");
        assert!(error.message().contains("\"raed\""));
        assert!(wanted(request(&["read"], 1_000)).is_ok());
        assert!(wanted(request(&[], 1_001)).is_err());
    }
}
