//! How many events came, went on, were left out and got lost, for those who watch over it all.

use kctl_proto::agent::v1::{Event, LostEvent, event::Payload};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where events can be lost, as docs/events.md has it.
const STAGES: [&str; 6] =
    ["kernel_ring", "netlink", "agent_ring", "controller", "history", "subscriber"];
/// Of a stage that another version knows.
const OTHER: &str = "other";

/// Counts of one daemon since its start.
#[derive(Debug)]
pub struct Ledger {
    /// Stages at which events are lost on the way to one reader.
    own: &'static [&'static str],
    received: AtomicU64,
    delivered: AtomicU64,
    filtered: AtomicU64,
    lost: Mutex<BTreeMap<&'static str, u64>>,
}

/// What a ledger says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// From all sources together; those that a source lost are not among them.
    pub received: u64,
    /// To all readers together.
    pub delivered: u64,
    /// Left out since a reader did not want them, all readers together.
    pub filtered: u64,
    /// By stage: on the way here once, on the way to readers once for each.
    pub lost: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Of a daemon whose readers lose events at these stages.
    pub fn new(own: &'static [&'static str]) -> Self {
        Self {
            own,
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            lost: Mutex::default(),
        }
    }

    /// Events that came.
    pub fn receive<'a>(&self, events: impl IntoIterator<Item = &'a Event>) {
        let mut count = 0;
        for event in events {
            match &event.payload {
                Some(Payload::Lost(lost)) => self.lose(lost),
                _ => count += 1,
            }
        }
        self.receive_many(count);
    }

    /// So many events came, none of which tells of a loss.
    pub fn receive_many(&self, count: u64) {
        self.received.fetch_add(count, Relaxed);
    }

    /// What a reader is told.
    pub fn deliver(&self, events: &[Event], filtered: u64) {
        let mut count = 0;
        for event in events {
            match &event.payload {
                Some(Payload::Lost(lost)) if self.own.contains(&lost.stage.as_str()) => {
                    self.lose(lost);
                }
                Some(Payload::Lost(_)) => {}
                _ => count += 1,
            }
        }
        self.delivered.fetch_add(count, Relaxed);
        self.filtered.fetch_add(filtered, Relaxed);
    }

    /// What it says now; every stage has a number.
    pub fn sums(&self) -> Sums {
        let mut lost: BTreeMap<_, _> = STAGES.iter().map(|stage| (*stage, 0)).collect();
        lost.extend(self.held().iter());
        Sums {
            received: self.received.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            filtered: self.filtered.load(Relaxed),
            lost,
        }
    }

    /// Whatever a host writes there, there are no more stages than we know.
    fn lose(&self, lost: &LostEvent) {
        let known = STAGES.iter().find(|stage| **stage == lost.stage);
        *self.held().entry(known.unwrap_or(&OTHER)).or_default() += lost.count;
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(stage: &str, count: u64) -> Event {
        let lost = LostEvent { stage: stage.to_owned(), count, ..LostEvent::default() };
        Event { payload: Some(Payload::Lost(lost)), ..Event::default() }
    }

    #[test]
    fn each_loss_counts_where_it_happens() {
        let ledger = Ledger::new(&["agent_ring"]);
        ledger.receive(&[Event::default(), lost("kernel_ring", 40), lost("new one", 3)]);
        ledger.receive_many(7);
        let told = [Event::default(), lost("kernel_ring", 40), lost("agent_ring", 5)];
        ledger.deliver(&told, 2);
        ledger.deliver(&told, 0);
        let sums = ledger.sums();
        assert_eq!((sums.received, sums.delivered, sums.filtered), (8, 2, 2));
        let some: Vec<_> = sums.lost.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(some, [("agent_ring", 10), ("kernel_ring", 40), ("other", 3)]);
    }
}
