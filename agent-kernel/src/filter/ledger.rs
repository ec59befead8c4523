//! The counters of the rules: which slot is whose, what it holds, and how much of that is told. It must
//! not know sources or packets.
//!
//! A counter never goes back, so what is counted late or read late is never lost: a rule that gets a used
//! slot counts from its base on, and a rule that goes keeps its slot until the rest of it is told.

use super::interface::{Interfaces, Numbers};
use super::record::{self, Owner};
use super::slots::Slots;
use super::table::{Row, Table};
use super::{pins::Pins, program::Program};
use crate::Error;
use agent_records::{Pace, Retired, Tally, Told};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub(super) struct Ledger {
    hits: Row<Tally>,
    paces: Row<Pace>,
    told: Row<Told>,
    retired: Table<u32, Retired>,
    capacity: u32,
    slots: Slots,
    /// Of the rules in force.
    owners: HashMap<u32, Owner>,
    /// Of rules that are gone.
    leaving: BTreeMap<u32, Leaving>,
    /// What slots held when their rules got them, where that is not zero.
    bases: HashMap<u32, Tally>,
}

struct Leaving {
    owner: Owner,
    /// Cycles that it was summed up in since.
    cycles: u32,
}

/// A packet that found a rule just before it went is counted by the second cycle after that.
const CYCLES_TO_LEAVE: u32 = 2;

impl Ledger {
    /// Takes over what the maps hold; nobody owns a slot yet.
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let hits: Row<Tally> = Row::open(program, pins, "hits")?;
        let capacity = hits.pinned.max_entries()?;
        let told: Row<Told> = Row::open(program, pins, "told")?;
        let bases = (0..).zip(told.values()?).map(|(slot, told)| (slot, told.base));
        let bases = bases.filter(|(_, base)| *base != Tally::default()).collect();
        Ok(Self {
            hits,
            paces: Row::open(program, pins, "paces")?,
            told,
            retired: Table::open(program, pins, "retired")?,
            capacity,
            slots: Slots::new(capacity, &HashSet::new(), program.fresh),
            owners: HashMap::new(),
            leaving: BTreeMap::new(),
            bases,
        })
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Gives a slot to who had it before; not when there is none such, or it is another's.
    pub(super) fn adopt(&mut self, slot: u32, owner: Owner) -> bool {
        let is_free = slot < self.capacity && !self.owners.contains_key(&slot);
        if is_free {
            self.owners.insert(slot, owner);
        }
        is_free
    }

    /// Everybody has adopted: what is left is free, but for what is not told to the end.
    pub(super) fn adopted(&mut self, pristine: bool, numbers: &Numbers) -> Result<(), Error> {
        for (slot, retired) in self.retired.pinned.dump::<u32, Retired>()? {
            match record::owner(&retired, numbers) {
                Some(owner) if slot < self.capacity && !self.owners.contains_key(&slot) => {
                    self.leaving.insert(slot, Leaving { owner, cycles: 0 });
                }
                _ => self.retired.remove(&slot)?,
            }
        }
        let taken = self.owners.keys().chain(self.leaving.keys()).copied().collect();
        self.slots = Slots::new(self.capacity, &taken, pristine);
        Ok(())
    }

    /// A slot that counts from here on.
    pub(super) fn take(&mut self, owner: Owner) -> Result<u32, Error> {
        let slot = self.slots.take().expect("twice as many counters as entries");
        if slot.used_before {
            let base = self.hits.get(slot.index)?;
            let told = Told { base, ..self.told.get(slot.index)? };
            self.told.set(slot.index, told)?;
            self.bases.insert(slot.index, base);
            // Whatever it meets is news.
            self.paces.set(slot.index, Pace::default())?;
        }
        self.owners.insert(slot.index, owner);
        Ok(slot.index)
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

    /// The slots whose rules are gone.
    pub(super) fn leaving(&self) -> impl Iterator<Item = u32> + '_ {
        self.leaving.keys().copied()
    }

    /// Who had them.
    pub(super) fn leaving_owners(&self) -> impl Iterator<Item = Owner> + '_ {
        self.leaving.values().map(|leaving| leaving.owner)
    }

    /// A cycle is over, and all that was counted by then is told; what may go is free, and returned.
    pub(super) fn end_cycle(&mut self) -> Result<Vec<u32>, Error> {
        for leaving in self.leaving.values_mut() {
            leaving.cycles += 1;
        }
        self.release(CYCLES_TO_LEAVE)
    }

    /// Everything that was counted is told, and the room is needed at once.
    pub(super) fn release_all(&mut self) -> Result<Vec<u32>, Error> {
        self.release(0)
    }

    fn release(&mut self, cycles: u32) -> Result<Vec<u32>, Error> {
        let done = self.leaving.iter().filter(|(_, it)| it.cycles >= cycles);
        let done: Vec<u32> = done.map(|(slot, _)| *slot).collect();
        for slot in &done {
            self.retired.remove(slot)?;
            self.leaving.remove(slot);
            self.slots.free(*slot);
        }
        Ok(done)
    }

    /// How many slots can be taken.
    pub(super) fn available(&self) -> usize {
        self.slots.available()
    }

    /// Whose a slot is, or was until all of it is told.
    pub(super) fn owner(&self, slot: u32) -> Option<Owner> {
        self.owners.get(&slot).copied().or_else(|| Some(self.leaving.get(&slot)?.owner))
    }

    /// What slots hold.
    pub(super) fn hits(&self, slots: &BTreeSet<u32>) -> Result<BTreeMap<u32, Tally>, Error> {
        self.hits.some(slots, self.slots.end())
    }

    /// What slots hold that are not told to the end; of all of them.
    pub(super) fn untold(&self) -> Result<BTreeMap<u32, Tally>, Error> {
        let end = self.slots.end();
        let both = self.hits.below(end)?.into_iter().zip(self.told.below(end)?);
        let untold = (0..).zip(both).filter(|(_, (hits, it))| *hits != it.told);
        Ok(untold.map(|(slot, (hits, _))| (slot, hits)).collect())
    }

    pub(super) fn paces(&self, slots: &BTreeSet<u32>) -> Result<BTreeMap<u32, Pace>, Error> {
        self.paces.some(slots, self.slots.end())
    }

    /// How much of a slot is told.
    pub(super) fn told(&self, slot: u32) -> Result<Tally, Error> {
        Ok(self.told.get(slot)?.told)
    }

    pub(super) fn set_told(&mut self, told: &BTreeMap<u32, Tally>) -> Result<(), Error> {
        let base = |slot| self.bases.get(slot).copied().unwrap_or_default();
        let told = told.iter().map(|(slot, told)| (*slot, Told { told: *told, base: base(slot) }));
        self.told.write(&told.collect())
    }

    /// What rules met, by slot: what was counted since they got it.
    pub(super) fn met(&self) -> Result<Vec<Tally>, Error> {
        let mut met = self.hits.below(self.slots.end())?;
        for (slot, base) in &self.bases {
            if let Some(tally) = met.get_mut(*slot as usize) {
                tally.packets = tally.packets.saturating_sub(base.packets);
                tally.bytes = tally.bytes.saturating_sub(base.bytes);
            }
        }
        Ok(met)
    }
}
