//! The rules, in memory and in the kernel: the one owner of both. It must not know how packets find
//! them.

mod adopt;
mod change;
mod count;

use super::interface::{Interface, Interfaces};
use super::ledger::Ledger;
use super::lookup::LookupTable;
use super::migrate::Carried;
use super::record::{self, Group, Meaning, Owner};
use super::services::{Groups, Held, Pair, is_range, touched};
use super::table::Table;
use super::{Action, Drift, Rule, RuleKey, pins::Pins, program::Program};
use crate::Error;
use agent_records::lookup::Key;
use agent_records::{Entry, NO_SLOT, Range};
use count::saw;
use std::collections::{BTreeSet, HashMap};

pub(super) struct Rules {
    /// Rules without ports, and what blocks of ports say.
    table: LookupTable,
    ledger: Ledger,
    /// Where rules of several ports begin and end, by slot.
    ranges: Table<u32, Range>,
    interfaces: Interfaces,
    max_entries: u32,
    /// Rules with ports.
    groups: Groups,
    /// How many rules there are.
    count: usize,
    /// How many always pass.
    guards: u64,
}

/// The last change of each key, as far as it changes something, with host bits cut off.
type Changes = Vec<(RuleKey, Option<Rule>)>;

impl Rules {
    /// Takes over what the maps hold and what is carried over from others.
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        carried: Carried,
    ) -> Result<Self, Error> {
        let ledger = Ledger::open(program, pins, &carried.told)?;
        let interfaces = Interfaces::open(program, pins)?;
        let is_ours = |key: &Key, entry: &Entry| {
            let is_gone = key.rest & Key::GONE != 0;
            record::meaning(&record::living(key), interfaces.numbers()).is_some()
                && (is_gone || record::rule(entry).is_some())
        };
        let mut table = LookupTable::open(pins, is_ours)?;
        let entries = carried.entries.into_iter().filter(|(key, entry)| is_ours(key, entry));
        table.carry(entries.take(table.available()).collect())?;
        let mut opened = Self {
            max_entries: table.max_entries().min(ledger.capacity() / 2),
            table,
            ledger,
            ranges: Table::open(program, pins, "ranges")?,
            interfaces,
            groups: Groups::default(),
            count: 0,
            guards: 0,
        };
        opened.adopt(program.fresh)?;
        opened.interfaces.publish()?;
        Ok(opened)
    }

    pub(super) fn rules(&self) -> HashMap<RuleKey, Rule> {
        let plain = self.plain().filter_map(|(key, entry)| Some((key, record::rule(entry)?)));
        plain.chain(self.groups.iter().map(|(key, held)| (key, held.rule))).collect()
    }

    /// Those that let pass.
    pub(super) fn passing(&self) -> HashMap<RuleKey, Rule> {
        let numbers = self.interfaces.numbers();
        let plain = self.table.iter().filter(|(_, key, _)| key.guards());
        let plain = plain.filter_map(|(_, key, entry)| match record::meaning(key, numbers)? {
            Meaning::Any(key) => Some((key, record::rule(entry)?)),
            Meaning::Block(..) => None,
        });
        let ports = self.groups.iter().filter(|(key, _)| key.guards);
        plain.chain(ports.map(|(key, held)| (key, held.rule))).collect()
    }

    pub(super) fn rule(&self, key: &RuleKey) -> Option<Rule> {
        self.held(key).map(|held| held.rule)
    }

    /// Rules without ports.
    fn plain(&self) -> impl Iterator<Item = (RuleKey, &Entry)> {
        self.table.iter().filter_map(|(_, key, entry)| {
            match record::meaning(key, self.interfaces.numbers())? {
                Meaning::Any(key) => Some((key, entry)),
                Meaning::Block(..) => None,
            }
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether so many more rules fit beside those that are gone and not told to the end.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let needed = more.saturating_mul(2);
        let fits = self.ledger.available() >= needed && self.table.available() >= needed;
        fits || self.ledger.gone().next().is_none() && self.ledger.leaving().next().is_none()
    }

    /// How many of them always pass.
    pub(super) fn guards(&self) -> u64 {
        self.guards
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Looks which interfaces are there.
    pub(super) fn see_interfaces(&mut self) -> Result<(), Error> {
        self.interfaces.publish()
    }

    fn key(&self, key: &RuleKey) -> Key {
        record::key(key, self.number(key.interface))
    }

    fn block_key(&self, group: &Group, block: u64) -> Key {
        group.key(block, self.number(group.interface))
    }

    /// The number of an interface that a rule names.
    fn number(&self, interface: Option<Interface>) -> u8 {
        self.interfaces.number(interface).unwrap_or(u8::MAX)
    }

    /// All upserts, then all removals; see [`super::Filter::update`].
    pub(super) fn update(&mut self, changes: &[(RuleKey, Option<Rule>)]) -> Result<(), Error> {
        let changes = self.real_changes(changes)?;
        let (new4, new6) = self.check_room(&changes)?;
        let named = changes.iter().filter(|(_, rule)| rule.is_some());
        let named: BTreeSet<_> = named.filter_map(|(key, _)| key.interface).collect();
        if !named.is_empty() {
            let used = self.used_interfaces();
            self.interfaces.admit(&named, || used)?;
        }
        self.table.reserve(new4, new6)?;
        let mut gone = Vec::new();
        let result = self.apply(&changes, &mut gone);
        self.ledger.go(gone);
        // Whatever of it was done is reflected in the masks.
        self.table.publish_lengths();
        result.and_then(|()| self.table.tidy())
    }

    /// Interfaces that rules name, or did until lately.
    fn used_interfaces(&self) -> BTreeSet<Interface> {
        let numbers = self.interfaces.numbers();
        let gone = self.ledger.gone().map(|record| self.table.at(record).0);
        let plain = self.table.iter().map(|(_, key, _)| *key).chain(gone);
        let plain = plain.filter(|key| record::living(key).interface() != 0);
        let plain =
            plain.filter_map(|key| match record::meaning(&record::living(&key), numbers)? {
                Meaning::Any(rule) => rule.interface,
                Meaning::Block(group, _) => group.interface,
            });
        let owners = self.ledger.leaving_owners().filter_map(|owner| owner.key.interface);
        plain.chain(owners).collect()
    }

    /// Makes the changes; `gone` gets the records of entries that went.
    fn apply(&mut self, changes: &Changes, gone: &mut Vec<u32>) -> Result<(), Error> {
        let leaving = self.leaving(changes);
        let slots: Vec<u32> = leaving.iter().map(|(slot, _)| *slot).collect();
        self.ledger.will_leave(&slots, &self.interfaces)?;
        // What drops more, or as much, comes before what drops less: an address that goes from a rule
        // of its own to a wider one is dropped all along.
        let mut less = Vec::new();
        for (rule_key, rule) in changes.iter().filter(|(key, _)| key.service.is_none()) {
            let (key, Some(rule)) = (self.key(rule_key), *rule) else { continue };
            let old = self.table.get(&key).copied();
            if record::until(rule.drop) < old.map_or(0, |old| old.drop_until) {
                less.push((key, rule_key.guards, rule, old));
            } else {
                self.put_plain(key, rule_key.guards, rule, old)?;
            }
        }
        let (mut weaker, mut unneeded) = (Vec::new(), Vec::new());
        for (group, block) in self.change_services(changes)? {
            let key = self.block_key(&group, block);
            match (self.groups.entry(&group, block), self.table.get(&key)) {
                (None, _) => unneeded.push(key),
                (Some(new), Some(old)) if new.drop_until < old.drop_until => {
                    weaker.push((key, new));
                }
                (Some(new), _) => drop(self.table.put(key, new)?),
            }
        }
        // A length is looked at once its entries are there, and until its last one is gone.
        self.table.publish_lengths();
        for (key, entry) in weaker {
            self.table.put(key, entry)?;
        }
        for (key, guards, rule, old) in less {
            self.put_plain(key, guards, rule, old)?;
        }
        gone.extend(unneeded.iter().filter_map(|key| self.table.take(key)));
        for (rule_key, rule) in changes {
            if rule.is_some() || rule_key.service.is_some() {
                continue;
            }
            if let Some(number) = self.table.take(&self.key(rule_key)) {
                gone.push(number);
                self.count -= 1;
                self.guards -= u64::from(rule_key.guards);
            }
        }
        self.ledger.leave(&slots);
        for (slot, _) in leaving.iter().filter(|(_, is_range)| *is_range) {
            self.ranges.remove(slot)?;
        }
        Ok(())
    }

    /// Writes a rule without ports: an action that goes on keeps its counter, a new one starts at zero.
    /// What always passes is not counted.
    fn put_plain(
        &mut self,
        key: Key,
        guards: bool,
        rule: Rule,
        old: Option<Entry>,
    ) -> Result<(), Error> {
        let none = Entry { drop_slot: NO_SLOT, monitor_slot: NO_SLOT, ..Entry::default() };
        let before = old.unwrap_or(none);
        let mut entry = Entry {
            drop_until: record::until(rule.drop),
            monitor_until: record::until(rule.monitor),
            ..before
        };
        for (slot, old_until, until) in [
            (&mut entry.drop_slot, before.drop_until, entry.drop_until),
            (&mut entry.monitor_slot, before.monitor_until, entry.monitor_until),
        ] {
            if until == 0 || guards {
                continue;
            }
            if *slot == NO_SLOT {
                *slot = self.ledger.take();
            } else if old_until == 0 {
                self.ledger.restart(*slot, saw(&self.table, &self.ledger, *slot))?;
            }
        }
        let number = self.table.put(key, entry)?;
        for slot in [entry.drop_slot, entry.monitor_slot] {
            if slot != NO_SLOT && !guards {
                self.ledger.own(slot, number);
            }
        }
        self.count += usize::from(old.is_none());
        self.guards += u64::from(old.is_none() && guards);
        Ok(())
    }

    /// Takes note of changes of rules with ports; the blocks that they touch.
    fn change_services(&mut self, changes: &Changes) -> Result<BTreeSet<(Group, u64)>, Error> {
        let mut blocks = BTreeSet::new();
        for (key, rule) in changes {
            let Some((group, ports)) = Group::of(key) else { continue };
            blocks.extend(touched(group, ports));
            match rule {
                None => self.forget(key),
                Some(rule) => {
                    let held = self.with_slots(*key, self.held(key), *rule);
                    if is_range(key) {
                        self.remember(key, &held)?;
                    }
                    self.note(*key, held);
                }
            }
        }
        Ok(blocks)
    }

    /// Writes down where a rule of several ports begins and ends.
    fn remember(&mut self, key: &RuleKey, held: &Held) -> Result<(), Error> {
        let number = self.number(key.interface);
        let actions = [
            (Action::Drop, held.rule.drop, held.slots.drop),
            (Action::Monitor, held.rule.monitor, held.slots.monitor),
        ];
        for (action, until, slot) in actions {
            if until.is_some() {
                let rule = record::retired(&Owner { key: *key, action }, number);
                self.ranges.insert(slot, Range { rule, until: record::until(until) })?;
            }
        }
        Ok(())
    }

    /// A rule as it is held; `None` when it is not.
    fn held(&self, key: &RuleKey) -> Option<Held> {
        if let Some((group, ports)) = Group::of(key) {
            return self.groups.get(&group, ports).copied();
        }
        // One that names an interface without a number is not there.
        let number = self.interfaces.number(key.interface)?;
        let entry = self.table.get(&record::key(key, number))?;
        let slots = Pair { drop: entry.drop_slot, monitor: entry.monitor_slot };
        Some(Held { rule: record::rule(entry)?, slots })
    }

    /// A rule with ports with its counters: an action that goes on keeps its own, a new one starts at
    /// zero. The number of an action that went stays, for packets that have just met it.
    fn with_slots(&mut self, key: RuleKey, old: Option<Held>, rule: Rule) -> Held {
        let mut slots = old.map_or_else(Pair::default, |old| old.slots);
        // What always passes is not counted; the slot of several ports tells which they are.
        if !key.guards || is_range(&key) {
            if rule.drop.is_some() && old.is_none_or(|old| old.rule.drop.is_none()) {
                slots.drop = self.ledger.take_for(Owner { key, action: Action::Drop });
            }
            if rule.monitor.is_some() && old.is_none_or(|old| old.rule.monitor.is_none()) {
                slots.monitor = self.ledger.take_for(Owner { key, action: Action::Monitor });
            }
        }
        Held { rule, slots }
    }

    /// The slots of actions of rules with ports that the changes end, and whether they are of several.
    fn leaving(&self, changes: &Changes) -> Vec<(u32, bool)> {
        let mut leaving = Vec::new();
        for (key, rule) in changes.iter().filter(|(key, _)| key.service.is_some()) {
            let Some(old) = self.held(key).filter(|_| !key.guards || is_range(key)) else {
                continue;
            };
            if old.rule.drop.is_some() && rule.is_none_or(|rule| rule.drop.is_none()) {
                leaving.push((old.slots.drop, is_range(key)));
            }
            if old.rule.monitor.is_some() && rule.is_none_or(|rule| rule.monitor.is_none()) {
                leaving.push((old.slots.monitor, is_range(key)));
            }
        }
        leaving
    }

    /// Takes note of a rule with ports.
    fn note(&mut self, key: RuleKey, held: Held) {
        let Some((group, ports)) = Group::of(&key) else { return };
        let is_new = self.groups.get(&group, ports).is_none();
        self.count += usize::from(is_new);
        self.guards += u64::from(is_new && key.guards);
        self.groups.insert(group, ports, held);
    }

    fn forget(&mut self, key: &RuleKey) {
        let Some((group, ports)) = Group::of(key) else { return };
        if self.groups.get(&group, ports).is_some() {
            self.count -= 1;
            self.guards -= u64::from(key.guards);
            self.groups.remove(&group, ports);
        }
    }

    pub(super) fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Mends the maps and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        self.table.verify()
    }
}
