//! The index: where the record of a key is. It must not know what records say.

use crate::Error;
use crate::filter::mapped::{Mapped, wait_for_programs};
use crate::filter::pins::Pins;
use agent_records::lookup::{Bucket, Key, LANES, LOAD, Lookup, MIN_ORDER, PRINT, Seed, place};
use std::mem::{offset_of, size_of};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Free lanes that let a key go into its first bucket without a look at its second's: so nearly all are
/// found in the first, and hardly ever is a bucket full.
const ROOMY: usize = LANES / 2;
/// Seeds tried for one set of keys. One fails for one of a thousand sets of a million keys.
const ATTEMPTS: u32 = 16;

#[derive(Debug)]
pub(super) struct Index {
    buckets: Mapped,
    /// Order of a half.
    max_order: u32,
    /// Whether the second half counts.
    second: bool,
    order: u32,
    seed: Seed,
    /// Whether each half may have told programs of keys.
    told: [bool; 2],
}

/// The smallest order that holds so many keys.
pub(super) fn order(keys: usize) -> u32 {
    let units = keys.div_ceil(LOAD as usize).max(1);
    units.next_power_of_two().ilog2().max(MIN_ORDER)
}

pub(super) fn hash(seed: &Seed, key: &Key) -> u64 {
    if key.version() == 4 {
        seed.hash4(key.high, key.rest)
    } else {
        seed.hash6(key.high, key.low, key.rest)
    }
}

impl Index {
    /// As it is pinned; it must be built before it is used.
    pub(super) fn open(header: &Mapped, pins: &Pins) -> Result<Self, Error> {
        let buckets = Mapped::open(pins, "index", size_of::<Bucket>())?;
        let max_order = (buckets.elements() / 2).max(1).ilog2();
        let word = header.words()[offset_of!(Lookup, index) / 8].load(Relaxed);
        let second = word >> 32 != 0;
        let (order, seed, told) = (MIN_ORDER, Seed::default(), [word != 0; 2]);
        Ok(Self { buckets, max_order, second, order, seed, told })
    }

    pub(super) fn order(&self) -> u32 {
        self.order
    }

    /// Builds the other half of these keys, and lets it count.
    pub(super) fn build(
        &mut self,
        header: &Mapped,
        order: u32,
        keys: impl Iterator<Item = (Key, u32)> + Clone,
    ) -> Result<(), Error> {
        // Nobody may still look at what was let count before the last time, if anything was in it.
        let other = usize::from(!self.second);
        if self.told[other] {
            wait_for_programs();
        }
        self.told[other] = keys.clone().next().is_some();
        let order = order.min(self.max_order);
        let old = (self.second, self.order, self.seed);
        self.second = !self.second;
        self.order = order;
        for _ in 0..ATTEMPTS {
            self.seed = super::seed()?;
            self.clear();
            if keys.clone().all(|(key, number)| self.insert(&key, number)) {
                self.publish(header);
                return Ok(());
            }
        }
        (self.second, self.order, self.seed) = old;
        let why = "its keys fit under no seed";
        Err(Error::new(crate::ErrorKind::Full, super::object(&self.buckets), why))
    }

    /// Says to the program which half counts.
    fn publish(&self, header: &Mapped) {
        let seeds = offset_of!(Lookup, index_seeds) + usize::from(self.second) * size_of::<Seed>();
        super::store_seed(header, seeds, &self.seed);
        header.words()[offset_of!(Lookup, index) / 8].store(self.word(), Release);
    }

    /// What the program is told.
    fn word(&self) -> u64 {
        u64::from(self.start()) << 32 | u64::from(self.order)
    }

    fn start(&self) -> u32 {
        u32::from(self.second) << self.max_order
    }

    /// Whether the program is told what is so.
    pub(super) fn is_published(&self, header: &Mapped) -> bool {
        let seeds = offset_of!(Lookup, index_seeds) + usize::from(self.second) * size_of::<Seed>();
        header.words()[offset_of!(Lookup, index) / 8].load(Relaxed) == self.word()
            && super::load_seed(header, seeds) == self.seed
    }

    fn clear(&self) {
        for lane in self.lanes() {
            lane.store(0, Relaxed);
        }
    }

    fn lanes(&self) -> &[AtomicU64] {
        let start = self.start() as usize * LANES;
        &self.buckets.words()[start..start + (LANES << self.order)]
    }

    fn bucket(&self, number: u32) -> &[AtomicU64] {
        &self.lanes()[number as usize * LANES..][..LANES]
    }

    /// Adds a key that is not there; `false` when another seed must be tried.
    #[must_use]
    pub(super) fn add(&mut self, key: &Key, number: u32) -> bool {
        self.told[usize::from(self.second)] = true;
        self.insert(key, number)
    }

    fn insert(&self, key: &Key, number: u32) -> bool {
        let (print, first, second) = place(hash(&self.seed, key), self.order);
        let (mut best, mut room) = (None, 0);
        for bucket in [first, second] {
            let (mut free, mut empty) = (0, None);
            for lane in self.bucket(bucket) {
                match lane.load(Relaxed) {
                    0 => (free, empty) = (free + 1, Some(lane)),
                    // The program looks at one record only.
                    other if has(other, print) => return false,
                    _ => {}
                }
            }
            let free = free.min(ROOMY);
            if free > room {
                (best, room) = (empty, free);
            }
        }
        let Some(empty) = best else { return false };
        empty.store(u64::from(print) << PRINT | u64::from(number), Release);
        true
    }

    /// Where the index says that a key's record is.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        let number = self.lane(key)?.load(Relaxed) & u64::from(u32::MAX);
        u32::try_from(number).ok()
    }

    pub(super) fn remove(&self, key: &Key) {
        if let Some(lane) = self.lane(key) {
            lane.store(0, Release);
        }
    }

    fn lane(&self, key: &Key) -> Option<&AtomicU64> {
        let (print, first, second) = place(hash(&self.seed, key), self.order);
        let mut lanes = [first, second].into_iter().flat_map(|bucket| self.bucket(bucket));
        lanes.find(|lane| has(lane.load(Relaxed), print))
    }

    /// Keys in it, whosever they are.
    pub(super) fn len(&self) -> usize {
        self.lanes().iter().filter(|lane| lane.load(Relaxed) != 0).count()
    }
}

/// Whether a lane has a fingerprint.
fn has(lane: u64, print: u32) -> bool {
    lane >> PRINT == u64::from(print)
}
