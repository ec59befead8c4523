//! What pinned maps tell of the rules of an agent that is gone.

use super::Rules;
use crate::Error;
use crate::filter::record::{self, Group, Meaning, Owner};
use crate::filter::services::{Held, Pair, is_range};
use crate::filter::{Action, Rule, RuleKey, Until};
use agent_records::{Entry, NO_SLOT, Range};
use std::collections::BTreeSet;

impl Rules {
    /// Makes rules of what the maps hold, and puts in order what no agent would have left so.
    pub(super) fn adopt(&mut self, pristine: bool) -> Result<(), Error> {
        let of_ranges = self.adopt_ranges()?;
        let (mut slotless, mut bare) = (Vec::new(), Vec::new());
        let mut there = BTreeSet::new();
        let found = self.table.iter();
        let found: Vec<_> = found.map(|(number, key, entry)| (number, *key, *entry)).collect();
        for (number, key, entry) in found {
            match record::meaning(&key, self.interfaces.numbers()) {
                Some(Meaning::Any(rule_key)) => {
                    let owned = self.adopt_plain(number, entry, rule_key.guards);
                    if owned != entry {
                        bare.push((key, rule_key.guards, owned));
                    }
                    self.count += 1;
                    self.guards += u64::from(rule_key.guards);
                }
                Some(Meaning::Block(group, block)) => {
                    there.insert((group, block));
                    slotless.extend(self.adopt_port(group, block, &entry, &of_ranges));
                }
                None => {}
            }
        }
        let gone = self.table.gone().into_iter().filter(|number| self.adopt_gone(*number));
        let gone = gone.collect();
        self.ledger.go(gone);
        self.ledger.adopted(pristine, self.interfaces.numbers())?;
        for (key, guards, entry) in bare {
            let rule = record::rule(&entry).expect("only such are held");
            self.put_plain(key, guards, rule, Some(entry))?;
        }
        for (key, rule) in slotless {
            let held = self.with_slots(key, None, rule);
            self.note(key, held);
        }
        let mut unneeded = Vec::new();
        for (group, block) in &self.groups.blocks() | &there {
            let key = self.block_key(&group, block);
            match self.groups.entry(&group, block) {
                Some(entry) => drop(self.table.put(key, entry)?),
                None => unneeded.extend(self.table.take(&key)),
            }
        }
        self.ledger.go(unneeded);
        self.table.publish_lengths();
        Ok(())
    }

    /// The entry of a rule without ports, with those slots that it may keep.
    fn adopt_plain(&mut self, number: u32, entry: Entry, guards: bool) -> Entry {
        let mut own = |until: u64, slot| match slot {
            _ if guards => slot,
            NO_SLOT if until == 0 => NO_SLOT,
            slot if self.ledger.adopt(slot, number) => slot,
            _ => NO_SLOT,
        };
        let drop_slot = own(entry.drop_until, entry.drop_slot);
        let monitor_slot = own(entry.monitor_until, entry.monitor_slot);
        Entry { drop_slot, monitor_slot, ..entry }
    }

    /// A record whose rule is gone keeps its slots, unless they are another's.
    fn adopt_gone(&mut self, number: u32) -> bool {
        let (_, entry) = self.table.at(number);
        let mut own = |slot| slot != NO_SLOT && self.ledger.adopt(slot, number);
        let keeps = own(entry.drop_slot) | own(entry.monitor_slot);
        if !keeps {
            self.table.give_back(number);
        }
        keeps
    }

    /// The rule of a single port, from its block; returned when it needs other slots.
    fn adopt_port(
        &mut self,
        group: Group,
        block: u64,
        entry: &Entry,
        of_ranges: &BTreeSet<u32>,
    ) -> Option<(RuleKey, Rule)> {
        let ports = record::ports(block);
        if ports.0 != ports.1 {
            return None;
        }
        let mut rule = record::rule(entry)?;
        rule.drop = rule.drop.filter(|_| !of_ranges.contains(&entry.drop_slot));
        rule.monitor = rule.monitor.filter(|_| !of_ranges.contains(&entry.monitor_slot));
        if rule.drop.is_none() && rule.monitor.is_none() {
            return None;
        }
        let key = group.rule(ports);
        let mut own = |action, until: Option<_>, slot| {
            let is_counted = until.is_some() && !key.guards;
            !is_counted || self.ledger.adopt_for(slot, Owner { key, action })
        };
        let owns = own(Action::Drop, rule.drop, entry.drop_slot)
            & own(Action::Monitor, rule.monitor, entry.monitor_slot);
        let slots = Pair { drop: entry.drop_slot, monitor: entry.monitor_slot };
        self.note(key, Held { rule, slots });
        (!owns).then_some((key, rule))
    }

    /// The rules of several ports; their slots.
    fn adopt_ranges(&mut self) -> Result<BTreeSet<u32>, Error> {
        let mut slots = BTreeSet::new();
        for (slot, range) in self.ranges.pinned.dump::<u32, Range>()? {
            let owner = record::retired_owner(&range.rule, self.interfaces.numbers());
            let owner = owner.filter(|owner| is_range(&owner.key) && range.until != 0);
            let Some(owner) = owner.filter(|owner| self.ledger.adopt_for(slot, *owner)) else {
                self.ranges.remove(&slot)?;
                continue;
            };
            let none = Rule { drop: None, monitor: None };
            let known =
                Group::of(&owner.key).and_then(|(group, ports)| self.groups.get(&group, ports));
            let mut held = known.copied().unwrap_or(Held { rule: none, slots: Pair::default() });
            match owner.action {
                Action::Drop => {
                    (held.rule.drop, held.slots.drop) = (Until::from_record(range.until), slot);
                }
                Action::Monitor => {
                    (held.rule.monitor, held.slots.monitor) =
                        (Until::from_record(range.until), slot);
                }
            }
            self.note(owner.key, held);
            slots.insert(slot);
        }
        Ok(slots)
    }
}
