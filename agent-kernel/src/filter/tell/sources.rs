//! Which sources of which slots have been told of, and how much of each. It must not know the kernel.

use agent_records::{Sighting, Tally};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Sources remembered, at most; more of them are told without being named.
const MAX_KNOWN: usize = 16_384;
/// A source that was not seen for that long is news again.
pub(super) const QUIET_NS: u64 = 60_000_000_000;
/// Cycles after which what was counted before the last sighting's own end is certainly read.
const CYCLES_ACTIVE: u64 = 2;

/// An address as keys of the kernel have it.
pub(super) type Octets = [u8; 16];

#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<(u32, Octets), Source>);

#[derive(Debug)]
struct Source {
    /// What of its count in the kernel is told; `None` when sums that don't name it told some of it.
    told: Option<Tally>,
    /// Whether its first packet was told.
    announced: bool,
    cycle: u64,
    seen_ns: u64,
}

impl Sources {
    /// A packet of a source was sighted in this cycle. Whether it is to be told as the first one: only
    /// where it may be, and the source is news.
    pub(super) fn sighted(
        &mut self,
        slot: u32,
        sighting: &Sighting,
        cycle: u64,
        may: bool,
    ) -> bool {
        let before = sighting.before;
        let key = (slot, sighting.source);
        if let Some(source) = self.0.get_mut(&key) {
            source.told = match source.told {
                // It lost its place in the kernel's table and got another.
                Some(told) if before.packets == 0 && told.packets > 1 => Some(before),
                None => Some(before),
                told => told,
            };
            (source.cycle, source.seen_ns) = (cycle, sighting.boot_ns);
            return false;
        }
        if self.0.len() >= MAX_KNOWN {
            return false;
        }
        let first = Tally { packets: 1, bytes: sighting.bytes };
        let told = Some(if may { sum(before, first) } else { before });
        let seen_ns = sighting.boot_ns;
        self.0.insert(key, Source { told, announced: may, cycle, seen_ns });
        may
    }

    /// Sources of a slot that may have been counted since they were told last.
    pub(super) fn active(&self, slot: u32, cycle: u64) -> Vec<Octets> {
        let all = self.0.range(of(slot));
        all.filter(|(_, it)| it.told.is_some() && is_active(it.cycle, cycle))
            .map(|((_, source), _)| *source)
            .collect()
    }

    /// Of what the kernel counted of a source, what is not told yet: at most `left`, which is what is
    /// left to tell of its slot. Now it is told.
    pub(super) fn tell(&mut self, slot: u32, source: Octets, counted: Tally, left: Tally) -> Tally {
        let Some(told) = self.0.get_mut(&(slot, source)).and_then(|it| it.told.as_mut()) else {
            return Tally::default();
        };
        let due = least(beyond(counted, *told), left);
        *told = sum(*told, due);
        due
    }

    /// All of a slot was told without naming sources.
    pub(super) fn told_together(&mut self, slot: u32) {
        self.remove(slot, |source| !source.announced);
        for (_, source) in self.0.range_mut(of(slot)) {
            source.told = None;
        }
    }

    /// The slot gets another owner.
    pub(super) fn forget(&mut self, slot: u32) {
        self.remove(slot, |_| true);
    }

    fn remove(&mut self, slot: u32, which: impl Fn(&Source) -> bool) {
        let those = self.0.range(of(slot)).filter(|(_, source)| which(source));
        for key in those.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.0.remove(&key);
        }
    }

    /// Forgets who was not seen for long.
    pub(super) fn sweep(&mut self, now_ns: u64, cycle: u64) {
        self.0.retain(|_, it| {
            is_active(it.cycle, cycle) || now_ns.saturating_sub(it.seen_ns) < QUIET_NS
        });
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_KNOWN
    }

    /// Forgets who is not active now.
    pub(super) fn make_room(&mut self, cycle: u64) {
        self.0.retain(|_, it| is_active(it.cycle, cycle));
    }
}

/// The keys of a slot.
fn of(slot: u32) -> RangeInclusive<(u32, Octets)> {
    (slot, [0; 16])..=(slot, [u8::MAX; 16])
}

/// Whether what was sighted in a cycle may still be counted in another.
pub(super) fn is_active(sighted: u64, cycle: u64) -> bool {
    sighted + CYCLES_ACTIVE >= cycle
}

pub(super) fn sum(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

/// How much more `a` is than `b`.
pub(super) fn beyond(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.saturating_sub(b.packets), bytes: a.bytes.saturating_sub(b.bytes) }
}

fn least(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.min(b.packets), bytes: a.bytes.min(b.bytes) }
}
