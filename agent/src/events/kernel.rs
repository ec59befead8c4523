//! The rings of the tracing programs as sources: their raw records go into the journal as they are, and
//! are read when somebody wants them.

use super::{Clock, Content, Source, connections, lost, processes};
use agent_kernel::Error;
use agent_kernel::trace::tcp::{self, TcpTracer};
use agent_kernel::trace::{self, CgroupPaths, Tracer};
use kctl_proto::agent::v1::{self as pb, event::Payload};
use std::sync::Arc;

/// A tracer, and how its records are read.
pub(super) trait Ring: Send {
    /// As `Lost.source` names it.
    const NAME: &'static str;

    /// Waits until there is something. Cancel safe.
    fn readable(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// What is there; `None` when there is nothing.
    fn drain(&mut self) -> Option<Records>;

    /// How many records found no room since the last call.
    fn lost(&mut self) -> u64;
}

/// Raw records.
#[derive(Debug)]
pub(super) enum Records {
    Processes(trace::Records),
    Connections(tcp::Records),
}

/// Records of one look, with what it takes to read them.
#[derive(Debug)]
pub(crate) struct Batch {
    records: Records,
    cgroups: Arc<CgroupPaths>,
    clock: Clock,
}

/// Tells of what a ring's programs see.
pub(super) async fn run<R: Ring>(
    mut source: Source,
    mut ring: R,
    cgroups: Arc<CgroupPaths>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            readable = ring.readable() => readable?,
            () = source.asked() => {}
        }
        let look = source.look();
        let clock = Clock::now();
        while let Some(records) = ring.drain() {
            source.push(Content::Raw(Batch { records, cgroups: Arc::clone(&cgroups), clock }));
            // Others want this thread too, and what comes while we drain must not hold them up.
            tokio::task::yield_now().await;
        }
        // What found no room came after some of these, and before what comes next.
        source.push(Content::Told(missed::<R>(ring.lost())));
        source.done(look);
    }
}

fn missed<R: Ring>(count: u64) -> Vec<pb::Event> {
    let lost = pb::Event {
        time_unix_ns: super::now_unix_ns(),
        payload: Some(Payload::Lost(lost("kernel_ring", R::NAME, count))),
        ..pb::Event::default()
    };
    (count > 0).then_some(lost).into_iter().collect()
}

impl Ring for Tracer {
    const NAME: &'static str = "tracing";

    async fn readable(&mut self) -> Result<(), Error> {
        Self::readable(self).await
    }

    fn drain(&mut self) -> Option<Records> {
        Some(Self::drain(self)).filter(|records| !records.is_empty()).map(Records::Processes)
    }

    fn lost(&mut self) -> u64 {
        Self::lost(self)
    }
}

impl Ring for TcpTracer {
    const NAME: &'static str = "tcp";

    async fn readable(&mut self) -> Result<(), Error> {
        Self::readable(self).await
    }

    fn drain(&mut self) -> Option<Records> {
        Some(Self::drain(self)).filter(|records| !records.is_empty()).map(Records::Connections)
    }

    fn lost(&mut self) -> u64 {
        Self::lost(self)
    }
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        match &self.records {
            Records::Processes(records) => records.len(),
            Records::Connections(records) => records.len(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let records = match &self.records {
            Records::Processes(records) => records.bytes(),
            Records::Connections(records) => records.bytes(),
        };
        size_of::<Self>() + records
    }

    pub(super) fn events(&self) -> Vec<pb::Event> {
        match &self.records {
            Records::Processes(records) => processes::events(records, &self.cgroups, self.clock),
            Records::Connections(records) => {
                connections::events(records, &self.cgroups, self.clock)
            }
        }
    }
}
