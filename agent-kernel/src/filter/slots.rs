//! Which counters are free. A counter belongs to one action of one rule for as long as that is in
//! force, whatever happens to its expiry. It must not know what is counted.

use std::collections::{HashSet, VecDeque};

#[derive(Debug)]
pub(super) struct Slots {
    /// Freed ones, the longest free first: a packet that is just being counted on a slot is done by
    /// the time it is given out again.
    freed: VecDeque<u32>,
    /// The first that was never given out.
    next: u32,
    capacity: u32,
    /// Whether those never given out are known to be zero.
    pristine: bool,
}

/// A slot that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) index: u32,
    /// Whether it may hold an old count.
    pub(super) used_before: bool,
}

impl Slots {
    /// All free but `taken`; `pristine` when the counters were just made.
    pub(super) fn new(capacity: u32, taken: &HashSet<u32>, pristine: bool) -> Self {
        let next = taken.iter().max().map_or(0, |highest| highest + 1);
        let freed = (0..next).filter(|slot| !taken.contains(slot)).collect();
        Self { freed, next, capacity, pristine }
    }

    pub(super) fn take(&mut self) -> Option<Slot> {
        if self.next < self.capacity {
            let index = self.next;
            self.next += 1;
            return Some(Slot { index, used_before: !self.pristine });
        }
        self.freed.pop_front().map(|index| Slot { index, used_before: true })
    }

    /// Below it are all that were ever given out.
    pub(super) fn end(&self) -> u32 {
        self.next
    }

    /// How many can be taken.
    pub(super) fn available(&self) -> usize {
        self.freed.len() + (self.capacity - self.next) as usize
    }

    pub(super) fn free(&mut self, index: u32) {
        self.freed.push_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_given_out_once_until_it_is_freed() {
        let mut slots = Slots::new(4, &HashSet::from([1]), false);
        let mut taken: Vec<u32> = std::iter::from_fn(|| slots.take()).map(|s| s.index).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 2, 3]);
        slots.free(1);
        assert_eq!(slots.take(), Some(Slot { index: 1, used_before: true }));
        assert_eq!(slots.take(), None);
    }

    #[test]
    fn only_new_counters_are_known_to_be_zero() {
        let used =
            |pristine| Slots::new(1, &HashSet::new(), pristine).take().map(|s| s.used_before);
        assert_eq!((used(true), used(false)), (Some(false), Some(true)));
    }
}
