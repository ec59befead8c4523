//! The agent's own programs and reader.

use crate::{Attached, Read, Reader, cpu_time};
use agent_kernel::trace::{Scope, Source, Tracer, TracerConfig};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// So many drains.
const KEPT: usize = 32;

pub(crate) fn opens() -> Attached {
    attach(&[Source::Open], Scope::Host)
}

/// The scope is everything, but that is looked at.
pub(crate) fn opens_in_scope() -> Attached {
    attach(&[Source::Open], Scope::Cgroup("/".into()))
}

pub(crate) fn defaults() -> Attached {
    let all = Source::all().filter(|source| !matches!(source, Source::Open | Source::Signal));
    attach(&all.collect::<Vec<_>>(), Scope::Host)
}

fn attach(sources: &[Source], scope: Scope) -> Attached {
    let config = TracerConfig {
        sources: sources.iter().copied().collect(),
        scope,
        open_paths: Vec::new(),
        ring_bytes: 1 << 20,
        proc_root: "/proc".into(),
        sys_root: "/sys".into(),
        bpffs: None,
    };
    let (ready, is_ready) = mpsc::channel();
    let reader = Reader::start(move |stop| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (mut tracer, _) = Tracer::open(&config).expect("root: the programs");
            ready.send(()).expect("somebody waits");
            read(&mut tracer, stop).await
        })
    });
    is_ready.recv().expect("it is ready");
    Attached { programs: Box::new(()), reader: Some(reader) }
}

async fn read(tracer: &mut Tracer, stop: &AtomicBool) -> Read {
    let (before, mut events, mut lost) = (cpu_time(), 0, 0);
    let mut left = true;
    // The agent keeps what it read for a while.
    let mut kept = VecDeque::new();
    while left || !stop.load(Ordering::Relaxed) {
        let patience = Duration::from_millis(50);
        left = tokio::time::timeout(patience, tracer.readable()).await.is_ok();
        let records = tracer.drain();
        events += records.len() as u64;
        lost += tracer.lost();
        kept.push_back(records);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
    Read { events, lost, cpu: cpu_time() - before }
}
