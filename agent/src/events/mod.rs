//! Everything that happens on this host, from its sources to those who read it.
//!
//! Each source is a task of its own: it takes what its kernel interface holds, gives it to the journal,
//! and claims up to which moment that is everything. It knows neither gRPC nor who reads.

mod connections;
mod content;
mod journal;
mod kernel;
mod marks;
mod network;
mod packets;
mod processes;
mod sources;

pub(crate) use content::{Content, weight};
pub(crate) use journal::Journal;
use marks::Marks;
pub(crate) use marks::Source;
pub(crate) use sources::{check, start};

use agent_kernel::sys::boottime_ns;
use kctl_events::{Ledger, Place, Reader};
use kctl_proto::agent::v1 as pb;
use std::sync::Arc;

/// The host's events, for those who read them. Its clones share one journal.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    journal: Arc<Journal>,
    marks: Marks,
    origin: pb::Origin,
}

impl Events {
    pub(crate) fn new(journal: Journal, host: String) -> Self {
        let boot_id = journal.boot_id().to_owned();
        let journal = Arc::new(journal);
        Self { marks: Marks::new(), journal, origin: pb::Origin { host, boot_id } }
    }

    /// Who the events are of.
    pub(crate) fn origin(&self) -> &pb::Origin {
        &self.origin
    }

    /// A new source, which from now on has a say in what is claimed.
    pub(crate) fn source(&self) -> Source {
        self.marks.source(Arc::clone(&self.journal))
    }

    /// Adds what has no source: what the agent tells of itself.
    pub(crate) fn tell(&self, payload: pb::event::Payload) {
        let event = pb::Event {
            time_unix_ns: now_unix_ns(),
            payload: Some(payload),
            ..pb::Event::default()
        };
        self.journal.push(Content::Told(vec![event]), self.marks.watermark());
    }

    /// Makes every source take what its kernel interface holds; up to which moment that is everything,
    /// nanoseconds since 1970. Cancel safe.
    pub(crate) async fn flush(&self) -> i64 {
        let watermark = self.marks.flush().await;
        self.journal.advance(watermark);
        watermark
    }

    /// What came, and what became of it.
    pub(crate) fn ledger(&self) -> &Ledger {
        self.journal.ledger()
    }

    /// The place before the oldest event that is still there.
    pub(crate) fn start(&self) -> Place {
        self.journal.ring().start()
    }

    /// The place after the newest event.
    pub(crate) fn end(&self) -> Place {
        self.journal.ring().end()
    }

    /// A reader at a place.
    pub(crate) fn reader(&self, place: Place) -> Reader<Content> {
        self.journal.ring().reader(place)
    }
}

/// Two looks at a clock are close to one another below that.
const CLOSE_NS: u64 = 5_000;
/// So often it is tried again to look closely.
const LOOKS: usize = 4;

/// How far the wall clock was from that of the kernel's records at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall_ns: i64,
    boot_ns: u64,
}

impl Clock {
    /// The closest of a few looks at both: whatever the processor does between them would be in all times that
    /// are told of it.
    pub(crate) fn now() -> Self {
        let look = || {
            let (boot_ns, wall_ns) = (boottime_ns(), now_unix_ns());
            let apart = boottime_ns().saturating_sub(boot_ns);
            (apart, Self { wall_ns, boot_ns: boot_ns + apart / 2 })
        };
        let mut closest = look();
        for _ in 0..LOOKS {
            if closest.0 < CLOSE_NS {
                break;
            }
            let next = look();
            if next.0 < closest.0 {
                closest = next;
            }
        }
        closest.1
    }

    /// A moment of CLOCK_BOOTTIME in nanoseconds since 1970.
    pub(crate) fn unix_ns(self, boot_ns: u64) -> i64 {
        self.wall_ns.saturating_add(boot_ns.wrapping_sub(self.boot_ns).cast_signed())
    }
}

/// So many events were lost at a stage.
pub(crate) fn lost(stage: &str, source: &str, count: u64) -> pb::LostEvent {
    let (stage, source) = (stage.to_owned(), source.to_owned());
    pb::LostEvent { stage, count, source, name: String::new() }
}

/// Nanoseconds since 1970 on the wall clock.
pub(crate) fn now_unix_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
