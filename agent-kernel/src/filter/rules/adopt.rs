//! What pinned maps tell of the rules of an agent that is gone.

use super::Rules;
use crate::Error;
use crate::filter::record::{self, Group, Meaning, Owner};
use crate::filter::services::{Held, Pair, is_range};
use crate::filter::{Action, Rule, Until};
use agent_records::Range;
use std::collections::BTreeSet;

impl Rules {
    /// Makes rules of what the maps hold, and puts in order what no agent would have left so.
    pub(super) fn adopt(&mut self, pristine: bool) -> Result<(), Error> {
        let of_ranges = self.adopt_ranges()?;
        let (mut slotless, mut there) = (Vec::new(), BTreeSet::new());
        let found: Vec<_> = self.table.iter().map(|(key, entry)| (*key, *entry)).collect();
        for (key, entry) in found {
            let Some(mut rule) = record::rule(&entry) else { continue };
            let rule_key = match record::meaning(&key, self.interfaces.numbers()) {
                Some(Meaning::Any(rule_key)) => rule_key,
                Some(Meaning::Block(group, block)) => {
                    there.insert((group, block));
                    let ports = record::ports(block);
                    if ports.0 != ports.1 {
                        continue;
                    }
                    rule.drop = rule.drop.filter(|_| !of_ranges.contains(&entry.drop_slot));
                    rule.monitor =
                        rule.monitor.filter(|_| !of_ranges.contains(&entry.monitor_slot));
                    if rule.drop.is_none() && rule.monitor.is_none() {
                        continue;
                    }
                    group.rule(ports)
                }
                None => continue,
            };
            let mut own = |action, until: Option<_>, slot| {
                let is_counted = until.is_some() && !rule_key.guards;
                !is_counted || self.ledger.adopt(slot, Owner { key: rule_key, action })
            };
            if !(own(Action::Drop, rule.drop, entry.drop_slot)
                & own(Action::Monitor, rule.monitor, entry.monitor_slot))
            {
                slotless.push(rule_key);
            }
            let slots = Pair { drop: entry.drop_slot, monitor: entry.monitor_slot };
            self.note(rule_key, Held { rule, slots });
        }
        self.ledger.adopted(pristine, self.interfaces.numbers())?;
        for key in slotless {
            let rule = self.rules[&key];
            let held = self.counted(key, None, rule)?;
            self.note(key, held);
            if key.service.is_none() {
                self.table.put(self.key(&key), record::entry(&held))?;
            }
        }
        for (group, block) in &self.groups.blocks() | &there {
            let key = self.block_key(&group, block);
            match self.groups.entry(&group, block) {
                Some(entry) => self.table.put(key, entry)?,
                None => drop(self.table.take(&key)),
            }
        }
        self.table.publish_lengths();
        Ok(())
    }

    /// The rules of several ports; their slots.
    fn adopt_ranges(&mut self) -> Result<BTreeSet<u32>, Error> {
        let mut slots = BTreeSet::new();
        for (slot, range) in self.ranges.pinned.dump::<u32, Range>()? {
            let owner = record::owner(&range.rule, self.interfaces.numbers());
            let owner = owner.filter(|owner| is_range(&owner.key) && range.until != 0);
            let Some(owner) = owner.filter(|owner| self.ledger.adopt(slot, *owner)) else {
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
