//! What rules met: what their slots hold, and what the homes of their records counted.

use super::Rules;
use crate::Error;
use crate::filter::ledger::{Ledger, sum};
use crate::filter::lookup::LookupTable;
use crate::filter::record::{self, Owner};
use crate::filter::{Action, Hit, RuleKey};
use agent_records::Tally;
use std::collections::{BTreeMap, BTreeSet};

impl Rules {
    /// Whose a slot is, or was until all of it is told.
    pub(in crate::filter) fn owner(&self, slot: u32) -> Option<Owner> {
        match self.ledger.record(slot) {
            None => self.ledger.owner(slot),
            Some(record) => {
                let (key, entry) = self.table.at(record);
                record::owner(&key, &entry, slot, self.interfaces.numbers())
            }
        }
    }

    /// What slots hold.
    pub(in crate::filter) fn counted(
        &self,
        slots: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, Tally>, Error> {
        let mut counted = self.ledger.hits(slots)?;
        for (slot, tally) in &mut counted {
            *tally = sum(*tally, saw(&self.table, &self.ledger, *slot));
        }
        Ok(counted)
    }

    /// What slots hold that are not told to the end: of all of them, or of those whose rules are gone.
    pub(in crate::filter) fn untold(&self, of_all: bool) -> Result<BTreeMap<u32, Tally>, Error> {
        let mut untold = BTreeMap::new();
        let mut gone = self.ledger.gone().peekable();
        let mut leaving = self.ledger.leaving().peekable();
        if !of_all && gone.peek().is_none() && leaving.peek().is_none() {
            return Ok(untold);
        }
        let hits = self.ledger.all()?;
        let mut look = |slot: u32| {
            let Some(hits) = hits.get(slot as usize) else { return };
            let counted = sum(*hits, saw(&self.table, &self.ledger, slot));
            if counted != self.ledger.told(slot) {
                untold.insert(slot, counted);
            }
        };
        if of_all {
            (0..self.ledger.end()).for_each(&mut look);
            return Ok(untold);
        }
        leaving.for_each(&mut look);
        for number in gone {
            let (_, entry) = self.table.at(number);
            let own = [entry.drop_slot, entry.monitor_slot].into_iter();
            own.filter(|slot| self.ledger.record(*slot) == Some(number)).for_each(&mut look);
        }
        Ok(untold)
    }

    /// A cycle is over, and all that was counted by then is told: what belonged to rules that are gone is
    /// given back. The slots that met anything.
    pub(in crate::filter) fn end_cycle(&mut self) -> Result<Vec<u32>, Error> {
        self.ledger.end_cycle();
        self.give_back(false)
    }

    /// Everything that was counted is told, no program has a rule in sight that is gone, and the room is
    /// needed at once.
    pub(in crate::filter) fn release_all(&mut self) -> Result<Vec<u32>, Error> {
        self.give_back(true)
    }

    fn give_back(&mut self, at_once: bool) -> Result<Vec<u32>, Error> {
        let (records, mut slots) = self.ledger.release(at_once)?;
        for &number in &records {
            let (_, entry) = self.table.at(number);
            let both = [entry.drop_slot, entry.monitor_slot].into_iter();
            // Not those of a block of ports, which are its rules'.
            slots.extend(both.filter(|slot| self.ledger.record(*slot) == Some(number)));
        }
        let used = self.ledger.free(slots.into_iter())?;
        for number in records {
            self.table.give_back(number);
        }
        Ok(used)
    }

    /// Rules that met something.
    pub(in crate::filter) fn hits(&self) -> Result<Vec<Hit>, Error> {
        let counted = self.ledger.all()?;
        let met = |slot: u32| {
            let counted = counted.get(slot as usize).copied().unwrap_or_default();
            let counted = sum(counted, saw(&self.table, &self.ledger, slot));
            let base = self.ledger.base(slot);
            let packets = counted.packets.saturating_sub(base.packets);
            (packets > 0).then(|| (packets, counted.bytes.saturating_sub(base.bytes)))
        };
        let mut hits = Vec::new();
        let mut add = |key: RuleKey, action, there: bool, slot: u32| {
            if let Some((packets, bytes)) =
                Some(slot).filter(|_| there && !key.guards).and_then(met)
            {
                hits.push(Hit { key, action, packets, bytes });
            }
        };
        for (key, entry) in self.plain() {
            add(key, Action::Drop, entry.drop_until != 0, entry.drop_slot);
            add(key, Action::Monitor, entry.monitor_until != 0, entry.monitor_slot);
        }
        for (key, held) in self.groups.iter() {
            add(key, Action::Drop, held.rule.drop.is_some(), held.slots.drop);
            add(key, Action::Monitor, held.rule.monitor.is_some(), held.slots.monitor);
        }
        Ok(hits)
    }
}

/// What the home of a slot's record counted on it.
pub(super) fn saw(table: &LookupTable, ledger: &Ledger, slot: u32) -> Tally {
    let record = ledger.record(slot).filter(|record| table.at(*record).1.drop_slot == slot);
    record.map_or(Tally::default(), |record| table.seen(record))
}
