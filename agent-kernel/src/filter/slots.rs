//! Numbers of counters that are free. It must not know what they are for.

use std::collections::{HashSet, VecDeque};

#[derive(Debug)]
pub(super) struct Slots {
    /// Freed ones, the longest free first.
    freed: VecDeque<u32>,
    /// The first that was never given out.
    next: u32,
    capacity: u32,
}

impl Slots {
    /// All free but `taken`.
    pub(super) fn new(capacity: u32, taken: &HashSet<u32>) -> Self {
        let next = taken.iter().max().map_or(0, |highest| highest + 1);
        let freed = (0..next).filter(|slot| !taken.contains(slot)).collect();
        Self { freed, next, capacity }
    }

    /// Freed ones first, so that what must be looked at stays small.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(freed) = self.freed.pop_front() {
            return Some(freed);
        }
        let never = (self.next < self.capacity).then_some(self.next)?;
        self.next += 1;
        Some(never)
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
        let mut slots = Slots::new(4, &HashSet::from([1]));
        let taken: Vec<u32> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken, [0, 2, 3]);
        slots.free(1);
        assert_eq!(slots.take(), Some(1));
        assert_eq!(slots.take(), None);
    }
}
