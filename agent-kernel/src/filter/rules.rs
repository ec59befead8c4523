//! The rules, in memory and in the kernel: the one owner of both. It must not know how packets find
//! them.

mod adopt;

use super::interface::{Interface, Interfaces};
use super::ledger::Ledger;
use super::lookup::LookupTable;
use super::record::{self, Group, Owner, PORTLESS};
use super::services::{Groups, Held, Pair, is_range, touched};
use super::table::Table;
use super::{Action, Drift, Hit, Rule, RuleKey, pins::Pins, program::Program};
use crate::error::{Error, ErrorKind};
use agent_records::lookup::Key;
use agent_records::{Entry, Range};
use std::collections::{BTreeSet, HashMap};

pub(super) struct Rules {
    /// `rules` as entries, and the entries of packets without ports.
    table: LookupTable,
    ledger: Ledger,
    /// Where rules of several ports begin and end, by slot.
    ranges: Table<u32, Range>,
    interfaces: Interfaces,
    max_entries: u32,
    /// What was asked for.
    rules: HashMap<RuleKey, Rule>,
    /// Those with ports.
    groups: Groups,
    /// How many always pass.
    guards: u64,
}

/// The last change of each key, as far as it changes something.
type Changes = HashMap<RuleKey, Option<Rule>>;

impl Rules {
    /// Takes over what the maps hold and what is carried over from others.
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        carried: Vec<(Key, Entry)>,
    ) -> Result<Self, Error> {
        let ledger = Ledger::open(program, pins)?;
        let interfaces = Interfaces::open(program, pins)?;
        let is_ours = |key: &Key, entry: &Entry| {
            record::meaning(key, interfaces.numbers()).is_some() && record::rule(entry).is_some()
        };
        let mut table = LookupTable::open(pins, is_ours)?;
        let carried = carried.into_iter().filter(|(key, entry)| is_ours(key, entry));
        table.carry(carried.take(table.capacity() as usize).collect())?;
        let mut opened = Self {
            max_entries: table.capacity().min(ledger.capacity() / 2),
            table,
            ledger,
            ranges: Table::open(program, pins, "ranges")?,
            interfaces,
            rules: HashMap::new(),
            groups: Groups::default(),
            guards: 0,
        };
        opened.adopt(program.fresh)?;
        opened.interfaces.publish()?;
        Ok(opened)
    }

    pub(super) fn rules(&self) -> &HashMap<RuleKey, Rule> {
        &self.rules
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
            let (rules, ledger) = (&self.rules, &self.ledger);
            let used = || {
                let owners = ledger.leaving_owners().filter_map(|owner| owner.key.interface);
                rules.keys().filter_map(|key| key.interface).chain(owners).collect()
            };
            self.interfaces.admit(&named, used)?;
        }
        self.table.reserve(new4, new6)?;
        let result = self.apply(&changes);
        // Whatever of it was done is reflected in the masks.
        self.table.publish_lengths();
        result.and_then(|()| self.table.tidy())
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        let leaving = self.leaving(changes);
        let slots: Vec<u32> = leaving.iter().map(|(slot, _)| *slot).collect();
        self.ledger.will_leave(&slots, &self.interfaces)?;
        // What drops more, or as much, comes before what drops less: an address that goes from a rule
        // of its own to a wider one is dropped all along.
        let plain = changes.iter().filter(|(key, _)| key.service.is_none());
        let upserts = plain.clone().filter_map(|(key, rule)| Some((*key, (*rule)?)));
        let (more, less): (Vec<_>, Vec<_>) = upserts
            .partition(|(key, rule)| rule.drop >= self.rules.get(key).and_then(|old| old.drop));
        self.put_plain(&more)?;
        let (mut weaker, mut unneeded) = (Vec::new(), Vec::new());
        for (group, block) in self.change_services(changes)? {
            let key = self.block_key(&group, block);
            match (self.groups.entry(&group, block), self.table.get(&key)) {
                (None, _) => unneeded.push(key),
                (Some(new), Some(old)) if new.drop_until < old.drop_until => {
                    weaker.push((key, new))
                }
                (Some(new), _) => self.table.put(key, new)?,
            }
        }
        // A length is looked at once its entries are there, and until its last one is gone.
        self.table.publish_lengths();
        for (key, entry) in weaker {
            self.table.put(key, entry)?;
        }
        self.put_plain(&less)?;
        for key in unneeded {
            self.table.take(&key);
        }
        for (key, _) in plain.filter(|(_, rule)| rule.is_none()) {
            if self.forget(key) {
                self.table.take(&self.key(key));
            }
        }
        self.ledger.leave(&slots);
        for (slot, _) in leaving.iter().filter(|(_, is_range)| *is_range) {
            self.ranges.remove(slot)?;
        }
        Ok(())
    }

    fn put_plain(&mut self, rules: &[(RuleKey, Rule)]) -> Result<(), Error> {
        for (key, rule) in rules {
            let held = self.counted(*key, self.held(key), *rule)?;
            self.table.put(self.key(key), record::entry(&held))?;
            self.note(*key, held);
        }
        Ok(())
    }

    /// Takes note of changes of rules with ports; the blocks that they touch.
    fn change_services(&mut self, changes: &Changes) -> Result<BTreeSet<(Group, u64)>, Error> {
        let mut blocks = BTreeSet::new();
        for (key, rule) in changes {
            let Some((group, ports)) = Group::of(key) else { continue };
            blocks.extend(touched(group, ports));
            match rule {
                None => drop(self.forget(key)),
                Some(rule) => {
                    let held = self.counted(*key, self.held(key), *rule)?;
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

    /// The changes that change something, with host bits cut off.
    fn real_changes(&self, changes: &[(RuleKey, Option<Rule>)]) -> Result<Changes, Error> {
        let mut real = Changes::default();
        for (key, rule) in changes {
            let invalid = |why| Error::new(ErrorKind::Invalid, format!("rule {}", key.prefix), why);
            if key.service.is_some_and(|it| it.first == 0 || it.first > it.last) {
                return Err(invalid("ports must be 1 to 65535, the lower first"));
            }
            if key.guards
                && (rule.is_some_and(|rule| rule != Rule::PASS) || key.interface.is_some())
            {
                return Err(invalid("what always passes does so forever, by every interface"));
            }
            if rule.is_some_and(|rule| rule.drop.is_none() && rule.monitor.is_none()) {
                return Err(invalid("must drop or monitor"));
            }
            real.insert(RuleKey { prefix: key.prefix.trunc(), ..*key }, *rule);
        }
        real.retain(|key, rule| self.rules.get(key) != rule.as_ref());
        Ok(real)
    }

    /// How many entries of each family the changes add.
    fn check_room(&self, changes: &Changes) -> Result<(usize, usize), Error> {
        let (mut new4, mut new6, mut new_rules) = (0, 0, 0);
        let mut blocks = BTreeSet::new();
        let mut add = |key: Option<Key>, prefix: &ipnet::IpNet| {
            if key.is_none_or(|key| self.table.get(&key).is_none()) {
                *(if prefix.network().is_ipv4() { &mut new4 } else { &mut new6 }) += 1;
            }
        };
        for (key, rule) in changes {
            let Some(rule) = rule else { continue };
            new_rules += usize::from(!self.rules.contains_key(key));
            match Group::of(key) {
                None => {
                    let number = self.interfaces.number(key.interface);
                    add(number.map(|number| record::key(key, number)), &key.prefix);
                }
                Some((group, ports)) => {
                    let drops = rule.drop.is_some();
                    blocks.extend(touched(group, ports).filter(|it| drops || it.1 != PORTLESS));
                }
            }
        }
        for (group, block) in blocks {
            let number = self.interfaces.number(group.interface);
            add(number.map(|number| group.key(block, number)), &group.prefix);
        }
        let (new, held) = (new4 + new6, self.table.len());
        let max = self.max_entries as usize;
        let fits = held + new <= max && self.rules.len() + new_rules <= max;
        if fits || (new == 0 && new_rules == 0) {
            return Ok((new4, new6));
        }
        let new = new.max(new_rules);
        let why = format!("no room for {new} more entries beside {held}: it holds {max}");
        Err(Error::new(ErrorKind::Full, "filter", why)
            .with_remedy("remove entries, or start with a larger max_entries after a detach"))
    }

    /// A rule as it is held; `None` when it is not.
    fn held(&self, key: &RuleKey) -> Option<Held> {
        if let Some((group, ports)) = Group::of(key) {
            return self.groups.get(&group, ports).copied();
        }
        let rule = *self.rules.get(key)?;
        let entry = self.table.get(&self.key(key))?;
        Some(Held { rule, slots: Pair { drop: entry.drop_slot, monitor: entry.monitor_slot } })
    }

    /// A rule with its counters: an action that goes on keeps its own, a new one starts at zero. The
    /// number of an action that went stays, for packets that have just met it.
    fn counted(&mut self, key: RuleKey, old: Option<Held>, rule: Rule) -> Result<Held, Error> {
        let mut slots = old.map_or_else(Pair::default, |old| old.slots);
        // What always passes is not counted; the slot of several ports tells which they are.
        if !key.guards || is_range(&key) {
            if rule.drop.is_some() && old.is_none_or(|old| old.rule.drop.is_none()) {
                slots.drop = self.ledger.take(Owner { key, action: Action::Drop })?;
            }
            if rule.monitor.is_some() && old.is_none_or(|old| old.rule.monitor.is_none()) {
                slots.monitor = self.ledger.take(Owner { key, action: Action::Monitor })?;
            }
        }
        Ok(Held { rule, slots })
    }

    /// The slots of actions that the changes end, and whether they are of several ports.
    fn leaving(&self, changes: &Changes) -> Vec<(u32, bool)> {
        let mut leaving = Vec::new();
        for (key, rule) in changes {
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

    fn note(&mut self, key: RuleKey, held: Held) {
        let is_new = self.rules.insert(key, held.rule).is_none();
        self.guards += u64::from(is_new && key.guards);
        if let Some((group, ports)) = Group::of(&key) {
            self.groups.insert(group, ports, held);
        }
    }

    /// Whether the rule was there.
    fn forget(&mut self, key: &RuleKey) -> bool {
        let was_there = self.rules.remove(key).is_some();
        self.guards -= u64::from(was_there && key.guards);
        if let Some((group, ports)) = Group::of(key) {
            self.groups.remove(&group, ports);
        }
        was_there
    }

    pub(super) fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Mends the maps and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        self.table.verify()
    }

    /// Rules that met something.
    pub(super) fn hits(&self) -> Result<Vec<Hit>, Error> {
        let tallies = self.ledger.met()?;
        let mut hits = Vec::new();
        for key in self.rules.keys().filter(|key| !key.guards) {
            let Held { rule, slots } = self.held(key).expect("every rule is held");
            let actions = [
                (Action::Drop, rule.drop, slots.drop),
                (Action::Monitor, rule.monitor, slots.monitor),
            ];
            for (action, until, slot) in actions {
                let tally = tallies.get(slot as usize).copied().unwrap_or_default();
                if until.is_some() && tally.packets > 0 {
                    let (packets, bytes) = (tally.packets, tally.bytes);
                    hits.push(Hit { key: *key, action, packets, bytes });
                }
            }
        }
        Ok(hits)
    }
}
