//! Which sources of which slots have been told of, and how much of each. It must not know the kernel.

use crate::filter::ledger::sum;
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

/// How much more `a` is than `b`.
pub(super) fn beyond(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.saturating_sub(b.packets), bytes: a.bytes.saturating_sub(b.bytes) }
}

fn least(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.min(b.packets), bytes: a.bytes.min(b.bytes) }
}
#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u32 = 7;

    fn tally(packets: u64) -> Tally {
        Tally { packets, bytes: packets * 100 }
    }

    fn sighting(source: u32, before: u64, boot_ns: u64) -> Sighting {
        let mut octets = [0; 16];
        octets[12..].copy_from_slice(&source.to_be_bytes());
        Sighting {
            boot_ns,
            bytes: 100,
            before: tally(before),
            source: octets,
            destination: [0; 16],
            slot: SLOT,
            ifindex: 1,
            source_port: 0,
            port: 0,
            protocol: 0,
            tcp_flags: 0,
            has: 0,
            zero: 0,
        }
    }

    #[test]
    fn a_source_is_news_once_and_again_after_a_minute() {
        let mut sources = Sources::default();
        assert!(sources.sighted(SLOT, &sighting(1, 0, 1), 0, true));
        assert!(!sources.sighted(SLOT, &sighting(1, 5, 2), 1, true));
        assert!(sources.sighted(SLOT + 1, &sighting(1, 0, 2), 1, true), "of another rule");
        sources.sweep(QUIET_NS, 50);
        assert!(!sources.sighted(SLOT, &sighting(1, 5, QUIET_NS), 50, true));
        sources.sweep(2 * QUIET_NS, 100);
        assert!(sources.sighted(SLOT, &sighting(1, 5, 2 * QUIET_NS), 100, true));
    }

    #[test]
    fn what_a_source_was_told_is_not_told_again() {
        let mut sources = Sources::default();
        sources.sighted(SLOT, &sighting(1, 40, 1), 0, true);
        let [source] = sources.active(SLOT, 0)[..] else { panic!("one source") };
        // 40 were told before it was news, and one as the first.
        assert_eq!(sources.tell(SLOT, source, tally(50), tally(100)), tally(9));
        assert_eq!(sources.tell(SLOT, source, tally(50), tally(100)), tally(0));
        assert_eq!(
            sources.tell(SLOT, source, tally(60), tally(4)),
            tally(4),
            "no more than is due"
        );
        assert_eq!(sources.tell(SLOT, source, tally(60), tally(100)), tally(6), "the rest later");
        // It lost its place in the kernel's table.
        sources.sighted(SLOT, &sighting(1, 0, 2), 1, true);
        assert_eq!(sources.tell(SLOT, source, tally(3), tally(100)), tally(3));
        assert!(sources.active(SLOT, 4).is_empty(), "not seen for long enough");
    }

    #[test]
    fn who_was_told_in_a_crowd_is_told_by_name_from_its_next_sighting_on() {
        let mut sources = Sources::default();
        sources.sighted(SLOT, &sighting(1, 0, 1), 0, true);
        sources.sighted(SLOT, &sighting(2, 0, 1), 0, false);
        sources.told_together(SLOT);
        assert!(sources.active(SLOT, 0).is_empty());
        assert!(!sources.sighted(SLOT, &sighting(1, 30, 2), 1, true), "was told before");
        assert!(sources.sighted(SLOT, &sighting(2, 30, 2), 1, true), "was never told");
        let [first, _] = sources.active(SLOT, 1)[..] else { panic!("two sources") };
        assert_eq!(sources.tell(SLOT, first, tally(32), tally(100)), tally(2));
        sources.forget(SLOT);
        assert!(sources.active(SLOT, 1).is_empty());
    }

    #[test]
    fn a_full_table_tells_nobody_by_name_until_there_is_room() {
        let mut sources = Sources::default();
        for source in 0..u32::try_from(MAX_KNOWN).expect("small") {
            assert!(sources.sighted(SLOT, &sighting(source, 0, 1), 0, true));
        }
        assert!(sources.is_full());
        assert!(!sources.sighted(SLOT, &sighting(u32::MAX, 0, 1), 5, true));
        sources.make_room(5);
        assert!(sources.sighted(SLOT, &sighting(u32::MAX, 0, 1), 5, true));
    }
}
