//! The counters of the rules by slot: whose record a slot belongs to, what it holds, and how much of that
//! is told. It must not know sources or packets.
//!
//! A slot of a rule without ports belongs to one action of the rule's record for as long as the record is in
//! use, and that is until all that the rule met is told. What was counted is what the slot holds and what
//! the record saw by itself. A rule with ports may have many records, so its slots belong to its actions,
//! and stay theirs until all is told. A counter never goes back; a rule that gets a used slot counts from
//! its base on.

use super::interface::{Interfaces, Numbers};
use super::mapped::Mapped;
use super::record::{self, Owner};
use super::slots::Slots;
use super::table::{Row, Table};
use super::{pins::Pins, program::Program};
use crate::Error;
use agent_records::{Pace, Retired, Tally, Told};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::mem::size_of;
use std::sync::atomic::Ordering::{Relaxed, Release};

pub(super) struct Ledger {
    hits: Row<Tally>,
    paces: Row<Pace>,
    told: Mapped,
    retired: Table<u32, Retired>,
    capacity: u32,
    slots: Slots,
    /// Numbers of the records that slots belong to, by slot.
    records: Vec<u32>,
    /// Records whose rules are gone, by how many cycles were summed up since; the oldest first.
    gone: VecDeque<(u32, Vec<u32>)>,
    /// Of rules in force that have ports.
    owners: HashMap<u32, Owner>,
    /// Of such actions that are gone.
    leaving: BTreeMap<u32, Leaving>,
}

struct Leaving {
    owner: Owner,
    /// Cycles that it was summed up in since.
    cycles: u32,
}

/// Counters for two actions of so many entries, and of some whose rules are gone and not told to the end.
pub(super) fn slots(max_entries: u32) -> u32 {
    let rules = max_entries.saturating_add(max_entries / 8).saturating_add(64);
    rules.saturating_mul(2)
}

/// A slot that is nobody's.
const NOBODY: u32 = u32::MAX;
/// A packet that found a rule just before it went is counted by the second cycle after that.
const CYCLES_TO_LEAVE: u32 = 2;

impl Ledger {
    /// Takes over what the maps hold, and what others told; nobody owns a slot yet.
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        carried: &[(u32, Told)],
    ) -> Result<Self, Error> {
        let hits: Row<Tally> = Row::open(program, pins, "hits")?;
        let told = Mapped::open(pins, "told", size_of::<Told>())?;
        let capacity = hits.pinned.max_entries()?.min(told.elements());
        let opened = Self {
            hits,
            paces: Row::open(program, pins, "paces")?,
            told,
            retired: Table::open(program, pins, "retired")?,
            capacity,
            slots: Slots::new(capacity, &HashSet::new()),
            records: Vec::new(),
            gone: VecDeque::new(),
            owners: HashMap::new(),
            leaving: BTreeMap::new(),
        };
        for (slot, told) in carried.iter().filter(|(slot, _)| *slot < capacity) {
            opened.store(*slot, *told);
        }
        Ok(opened)
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Gives a slot to the record that had it before; not when there is no such slot, or it is another's.
    pub(super) fn adopt(&mut self, slot: u32, record: u32) -> bool {
        let is_free = self.is_free(slot);
        if is_free {
            self.settle(slot, record);
        }
        is_free
    }

    /// The same for an action of a rule with ports.
    pub(super) fn adopt_for(&mut self, slot: u32, owner: Owner) -> bool {
        let is_free = self.is_free(slot);
        if is_free {
            self.owners.insert(slot, owner);
        }
        is_free
    }

    fn is_free(&self, slot: u32) -> bool {
        slot < self.capacity && self.record(slot).is_none() && !self.owners.contains_key(&slot)
    }

    /// Everybody has adopted; what is left is free, but for what is not told to the end, and starts where
    /// it is.
    pub(super) fn adopted(&mut self, pristine: bool, numbers: &Numbers) -> Result<(), Error> {
        for (slot, retired) in self.retired.pinned.dump::<u32, Retired>()? {
            match record::retired_owner(&retired, numbers) {
                Some(owner) if self.is_free(slot) => {
                    self.leaving.insert(slot, Leaving { owner, cycles: 0 });
                }
                _ => self.retired.remove(&slot)?,
            }
        }
        let owned = (0..).zip(&self.records).filter(|(_, record)| **record != NOBODY);
        let owned = owned.map(|(slot, _)| slot).chain(self.owners.keys().copied());
        let taken: HashSet<u32> = owned.chain(self.leaving.keys().copied()).collect();
        if !pristine {
            for (slot, hits) in (0..).zip(self.hits.below(self.capacity)?) {
                let told = Told { told: hits, base: hits };
                if !taken.contains(&slot) && slot < self.capacity && self.at(slot) != told {
                    self.store(slot, told);
                }
            }
        }
        self.slots = Slots::new(self.capacity, &taken);
        Ok(())
    }

    /// The record that a slot belongs to.
    pub(super) fn record(&self, slot: u32) -> Option<u32> {
        self.records.get(slot as usize).copied().filter(|record| *record != NOBODY)
    }

    fn settle(&mut self, slot: u32, record: u32) {
        let place = slot as usize;
        if self.records.len() <= place {
            self.records.resize(place + 1, NOBODY);
        }
        self.records[place] = record;
    }

    /// A slot for a rule that has none yet; it counts from here on.
    pub(super) fn take(&mut self) -> u32 {
        self.slots.take().expect("twice as many counters as entries")
    }

    /// A slot for an action of a rule with ports.
    pub(super) fn take_for(&mut self, owner: Owner) -> u32 {
        let slot = self.take();
        self.owners.insert(slot, owner);
        slot
    }

    /// It is that record's.
    pub(super) fn own(&mut self, slot: u32, record: u32) {
        if self.record(slot) != Some(record) {
            self.settle(slot, record);
        }
    }

    /// An action that was out of force comes back, and counts from here on. What it `saw` by itself is in
    /// its counter.
    pub(super) fn restart(&mut self, slot: u32, saw: Tally) -> Result<(), Error> {
        let base = sum(self.hits.get(slot)?, saw);
        self.store(slot, Told { base, ..self.at(slot) });
        // Whatever it meets is news.
        self.paces.set(slot, Pace::default())
    }

    /// The rules of these records are gone.
    pub(super) fn go(&mut self, records: Vec<u32>) {
        if !records.is_empty() {
            self.gone.push_back((0, records));
        }
    }

    /// Records whose rules are gone.
    pub(super) fn gone(&self) -> impl Iterator<Item = u32> + '_ {
        self.gone.iter().flat_map(|(_, records)| records.iter().copied())
    }

    /// Remembers whose slots are, beyond the end of this process; before their actions go.
    pub(super) fn will_leave(
        &mut self,
        slots: &[u32],
        interfaces: &Interfaces,
    ) -> Result<(), Error> {
        for slot in slots {
            if let Some(owner) = self.owners.get(slot) {
                let number = interfaces.number(owner.key.interface).unwrap_or(0);
                self.retired.insert(*slot, record::retired(owner, number))?;
            }
        }
        Ok(())
    }

    /// Their actions are gone.
    pub(super) fn leave(&mut self, slots: &[u32]) {
        for slot in slots {
            if let Some(owner) = self.owners.remove(slot) {
                self.leaving.insert(*slot, Leaving { owner, cycles: 0 });
            }
        }
    }

    /// The slots of actions of rules with ports that are gone.
    pub(super) fn leaving(&self) -> impl Iterator<Item = u32> + '_ {
        self.leaving.keys().copied()
    }

    /// Who had them.
    pub(super) fn leaving_owners(&self) -> impl Iterator<Item = Owner> + '_ {
        self.leaving.values().map(|leaving| leaving.owner)
    }

    /// Who has or had the slot of an action of a rule with ports.
    pub(super) fn owner(&self, slot: u32) -> Option<Owner> {
        self.owners.get(&slot).copied().or_else(|| Some(self.leaving.get(&slot)?.owner))
    }

    /// A cycle is over, and all that was counted by then is told.
    pub(super) fn end_cycle(&mut self) {
        for (cycles, _) in &mut self.gone {
            *cycles += 1;
        }
        for leaving in self.leaving.values_mut() {
            leaving.cycles += 1;
        }
    }

    /// The records that may go, and the slots of actions of rules with ports; `at_once` when everything
    /// that was counted is told, and the room is needed.
    pub(super) fn release(&mut self, at_once: bool) -> Result<(Vec<u32>, Vec<u32>), Error> {
        let cycles = if at_once { 0 } else { CYCLES_TO_LEAVE };
        let done = self.gone.partition_point(|(age, _)| *age >= cycles);
        let records = self.gone.drain(..done).flat_map(|(_, records)| records).collect();
        let done = self.leaving.iter().filter(|(_, it)| it.cycles >= cycles);
        let slots: Vec<u32> = done.map(|(slot, _)| *slot).collect();
        for slot in &slots {
            self.retired.remove(slot)?;
            self.leaving.remove(slot);
        }
        Ok((records, slots))
    }

    /// These slots are free. All that they met is told, so that is what they hold from now on, with what the
    /// homes of their records counted. Those that met anything are returned.
    pub(super) fn free(&mut self, slots: impl Iterator<Item = u32>) -> Result<Vec<u32>, Error> {
        let (mut hits, mut paces) = (BTreeMap::new(), BTreeMap::new());
        for slot in slots {
            let Told { told, base } = self.at(slot);
            // Also where its last rule met nothing since it came back: a home may have counted before that.
            if told != Tally::default() {
                self.store(slot, Told { told, base: told });
                hits.insert(slot, told);
            }
            if told != base {
                paces.insert(slot, Pace::default());
            }
            if let Some(record) = self.records.get_mut(slot as usize) {
                *record = NOBODY;
            }
            self.slots.free(slot);
        }
        self.hits.write(&hits)?;
        self.paces.write(&paces)?;
        Ok(paces.into_keys().collect())
    }

    /// How many slots can be taken.
    pub(super) fn available(&self) -> usize {
        self.slots.available()
    }

    /// What slots hold, of those below [`Self::end`].
    pub(super) fn hits(&self, slots: &BTreeSet<u32>) -> Result<BTreeMap<u32, Tally>, Error> {
        self.hits.some(slots, self.end())
    }

    /// What all slots hold, and maybe some more.
    pub(super) fn all(&self) -> Result<Vec<Tally>, Error> {
        self.hits.below(self.end())
    }

    /// Below it are all slots that are anybody's.
    pub(super) fn end(&self) -> u32 {
        self.slots.end()
    }

    pub(super) fn paces(&self, slots: &BTreeSet<u32>) -> Result<BTreeMap<u32, Pace>, Error> {
        self.paces.some(slots, self.end())
    }

    /// How much of a slot is told.
    pub(super) fn told(&self, slot: u32) -> Tally {
        self.at(slot).told
    }

    /// Where its rule began to count.
    pub(super) fn base(&self, slot: u32) -> Tally {
        self.at(slot).base
    }

    pub(super) fn set_told(&mut self, slot: u32, told: Tally) {
        self.store(slot, Told { told, ..self.at(slot) });
    }

    fn at(&self, slot: u32) -> Told {
        let words = &self.told.words()[slot as usize * 4..][..4];
        let tally = |place: usize| Tally {
            packets: words[place].load(Relaxed),
            bytes: words[place + 1].load(Relaxed),
        };
        Told { told: tally(0), base: tally(2) }
    }

    fn store(&self, slot: u32, Told { told, base }: Told) {
        let words = &self.told.words()[slot as usize * 4..][..4];
        let values = [told.packets, told.bytes, base.packets, base.bytes];
        for (word, value) in words.iter().zip(values) {
            word.store(value, Release);
        }
    }
}

pub(super) fn sum(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}
