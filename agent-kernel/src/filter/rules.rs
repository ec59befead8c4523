//! The rules, in memory and in the kernel: the one owner of both. It must not know the guard or
//! the interfaces.

use super::ledger::Ledger;
use super::record::{self, Group, Key, Meaning, Owner};
use super::table::{Row, Table};
use super::{Action, Drift, Hit, Rule, RuleKey, pins::Pins, program::Program};
use crate::error::{Error, ErrorKind};
use agent_records::{Entry, Key4, Key6, mask};
use std::collections::{BTreeSet, HashMap, HashSet};

pub(super) struct Rules {
    rules4: Table<Key4, Entry>,
    rules6: Table<Key6, Entry>,
    masks: Row<u64>,
    ledger: Ledger,
    max_entries: u32,
    /// What was asked for.
    rules: HashMap<RuleKey, Rule>,
    /// What the maps hold: `rules` as records, and the derived entries.
    held: HashMap<Key, Entry>,
    /// Ports of the rules with a service.
    services: HashMap<Group, BTreeSet<u16>>,
    /// How many entries need each bit of the masks.
    lengths: HashMap<(u32, u32), u64>,
    /// What the masks hold.
    words: [u64; mask::COUNT as usize],
}

/// What an update really changes.
#[derive(Default)]
struct Changes {
    /// The last change of each key.
    rules: HashMap<RuleKey, Option<Rule>>,
    /// Ports that the changes name.
    services: HashMap<Group, BTreeSet<u16>>,
}

impl Rules {
    /// Takes over what the maps hold and puts in order what no agent would have left so.
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let rules4 = Table::open(program, pins, "rules4")?;
        let rules6 = Table::open(program, pins, "rules6")?;
        let ledger = Ledger::open(program, pins)?;
        let max_entries = rules4
            .pinned
            .max_entries()?
            .min(rules6.pinned.max_entries()?)
            .min(ledger.capacity() / 2);
        let mut opened = Self {
            rules4,
            rules6,
            masks: Row::open(program, pins, "masks")?,
            ledger,
            max_entries,
            rules: HashMap::new(),
            held: HashMap::new(),
            services: HashMap::new(),
            lengths: HashMap::new(),
            words: [0; mask::COUNT as usize],
        };
        opened.adopt(program.fresh)?;
        Ok(opened)
    }

    fn adopt(&mut self, pristine: bool) -> Result<(), Error> {
        let mut slotless = Vec::new();
        for (key, entry) in self.dump()? {
            match (key.meaning(), record::rule(&entry)) {
                (Some(Meaning::Rule(rule_key)), Some(rule)) => {
                    let mut own = |action, until: Option<_>, slot| {
                        until.is_none() || self.ledger.adopt(slot, Owner { key: rule_key, action })
                    };
                    if own(Action::Drop, rule.drop, entry.drop_slot)
                        & own(Action::Monitor, rule.monitor, entry.monitor_slot)
                    {
                        self.note(key, entry);
                    } else {
                        slotless.push((key, rule));
                    }
                }
                (Some(Meaning::Derived(_)), Some(_)) => self.note(key, entry),
                _ => self.erase(&key)?,
            }
        }
        self.ledger.adopted(pristine)?;
        for (key, rule) in slotless {
            let entry = self.entry(key, rule)?;
            self.put(key, entry)?;
        }
        let derived = self.held.keys().filter_map(|key| match key.meaning() {
            Some(Meaning::Derived(group)) => Some(group),
            _ => None,
        });
        let groups: HashSet<Group> = derived.chain(self.services.keys().copied()).collect();
        for group in groups {
            match self.derive(group, &Changes::default()) {
                Some(entry) => self.put(Key::derived(group), entry)?,
                None => self.take(&Key::derived(group))?,
            }
        }
        self.words = self.masks.values()?.try_into().expect("the array has as many words");
        self.set_words(self.needed_words())
    }

    pub(super) fn rules(&self) -> &HashMap<RuleKey, Rule> {
        &self.rules
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// All upserts, then all removals; see [`super::Filter::update`].
    pub(super) fn update(&mut self, changes: &[(RuleKey, Option<Rule>)]) -> Result<(), Error> {
        let changes = self.real_changes(changes)?;
        self.check_room(&changes)?;
        let result = self.apply(&changes);
        // Whatever of it was done is reflected in the masks.
        self.set_words(self.needed_words())?;
        result
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        // What drops more, or as much, comes before what drops less: an address that goes from a rule
        // of its own to a wider one is dropped all along.
        let upserts = changes.rules.iter().filter_map(|(key, rule)| Some((key, (*rule)?)));
        let (more, less): (Vec<_>, Vec<_>) = upserts
            .partition(|(key, rule)| rule.drop >= self.rules.get(key).and_then(|old| old.drop));
        self.put_rules(&more)?;
        let (mut weaker, mut unneeded) = (Vec::new(), Vec::new());
        for group in changes.services.keys() {
            let key = Key::derived(*group);
            match (self.derive(*group, changes), self.held.get(&key)) {
                (None, _) => unneeded.push(key),
                (Some(new), Some(old)) if new.drop_until < old.drop_until => {
                    weaker.push((key, new));
                }
                (Some(new), _) => self.put(key, new)?,
            }
        }
        // A length is looked at once its entries are there, and until its last one is gone.
        self.set_words(self.needed_words())?;
        for (key, entry) in weaker {
            self.put(key, entry)?;
        }
        self.put_rules(&less)?;
        let removed = changes.rules.iter().filter(|(_, rule)| rule.is_none());
        for key in unneeded.into_iter().chain(removed.map(|(key, _)| Key::rule(key))) {
            self.take(&key)?;
        }
        Ok(())
    }

    fn put_rules(&mut self, rules: &[(&RuleKey, Rule)]) -> Result<(), Error> {
        for (key, rule) in rules {
            let key = Key::rule(key);
            let entry = self.entry(key, *rule)?;
            self.put(key, entry)?;
        }
        Ok(())
    }

    /// The changes that change something, with host bits cut off.
    fn real_changes(&self, changes: &[(RuleKey, Option<Rule>)]) -> Result<Changes, Error> {
        let mut real = Changes::default();
        for (key, rule) in changes {
            let invalid = |why| Error::new(ErrorKind::Invalid, format!("rule {}", key.prefix), why);
            if key.service.is_some_and(|(_, port)| port == 0) {
                return Err(invalid("port must be 1 to 65535"));
            }
            if rule.is_some_and(|rule| rule.drop.is_none() && rule.monitor.is_none()) {
                return Err(invalid("must drop or monitor"));
            }
            real.rules.insert(RuleKey { prefix: key.prefix.trunc(), ..*key }, *rule);
        }
        real.rules.retain(|key, rule| self.rules.get(key) != rule.as_ref());
        for key in real.rules.keys() {
            if let (Some(group), Some((_, port))) = (group(key), key.service) {
                real.services.entry(group).or_default().insert(port);
            }
        }
        Ok(real)
    }

    fn check_room(&self, changes: &Changes) -> Result<(), Error> {
        let new_rules = changes
            .rules
            .iter()
            .filter(|(key, rule)| rule.is_some() && !self.rules.contains_key(key))
            .count();
        let new_derived = changes
            .services
            .keys()
            .filter(|group| !self.held.contains_key(&Key::derived(**group)))
            .filter(|group| self.future_drops(**group, changes).next().is_some())
            .count();
        let (new, held) = (new_rules + new_derived, self.held.len());
        if new == 0 || held + new <= self.max_entries as usize {
            return Ok(());
        }
        let max = self.max_entries;
        let why = format!("no room for {new} more entries beside {held}: it holds {max}");
        Err(Error::new(ErrorKind::Full, "filter", why)
            .with_remedy("remove entries, or start with a larger max_entries after a detach"))
    }

    /// Ports and drops of a group, lowest port first, as the changes leave them.
    fn future_drops<'a>(
        &'a self,
        group: Group,
        changes: &'a Changes,
    ) -> impl Iterator<Item = (Key, super::Until)> + 'a {
        let (prefix, protocol) = group;
        let ports: BTreeSet<u16> = [&self.services, &changes.services]
            .into_iter()
            .filter_map(|services| services.get(&group))
            .flatten()
            .copied()
            .collect();
        ports.into_iter().filter_map(move |port| {
            let key = RuleKey { prefix, service: Some((protocol, port)) };
            let rule = match changes.rules.get(&key) {
                Some(change) => change.as_ref(),
                None => self.rules.get(&key),
            };
            Some((Key::rule(&key), rule?.drop?))
        })
    }

    /// The entry for packets of a group whose ports can't be read: it drops for as long as any of
    /// the group's ports does, and counts for the lowest of them.
    fn derive(&self, group: Group, changes: &Changes) -> Option<Entry> {
        let mut drops = self.future_drops(group, changes).peekable();
        let lowest = drops.peek()?.0;
        let drop_slot = self.held.get(&lowest)?.drop_slot;
        let latest = drops.map(|(_, until)| until).max();
        Some(Entry { drop_until: record::until(latest), drop_slot, ..Entry::default() })
    }

    /// The record of a rule: an action that goes on keeps its counter, a new one starts at zero.
    fn entry(&mut self, key: Key, rule: Rule) -> Result<Entry, Error> {
        let old = self.held.get(&key).copied().unwrap_or_default();
        let Some(Meaning::Rule(rule_key)) = key.meaning() else {
            unreachable!("rules have keys of rules")
        };
        let mut slot = |action, is_new: bool, kept: u32| {
            if is_new { self.ledger.take(Owner { key: rule_key, action }) } else { Ok(kept) }
        };
        let drops_anew = rule.drop.is_some() && old.drop_until == 0;
        let drop_slot = slot(Action::Drop, drops_anew, old.drop_slot)?;
        let monitors_anew = rule.monitor.is_some() && old.monitor_until == 0;
        let monitor_slot = slot(Action::Monitor, monitors_anew, old.monitor_slot)?;
        Ok(Entry {
            drop_until: record::until(rule.drop),
            monitor_until: record::until(rule.monitor),
            drop_slot: if rule.drop.is_some() { drop_slot } else { 0 },
            monitor_slot: if rule.monitor.is_some() { monitor_slot } else { 0 },
        })
    }

    /// Writes an entry and remembers it.
    fn put(&mut self, key: Key, entry: Entry) -> Result<(), Error> {
        if self.held.get(&key) == Some(&entry) {
            return Ok(());
        }
        let leaving = self.leaving(&key, entry);
        self.ledger.will_leave(&leaving)?;
        self.write(key, entry)?;
        self.note(key, entry);
        self.ledger.leave(&leaving);
        Ok(())
    }

    fn note(&mut self, key: Key, entry: Entry) {
        let old = self.held.insert(key, entry);
        if old.is_none() {
            *self.lengths.entry(key.mask()).or_default() += 1;
        }
        if let (Some(Meaning::Rule(rule_key)), Some(rule)) = (key.meaning(), record::rule(&entry)) {
            self.rules.insert(rule_key, rule);
            if let (Some(group), Some((_, port))) = (group(&rule_key), rule_key.service) {
                self.services.entry(group).or_default().insert(port);
            }
        }
    }

    /// Removes an entry, if it is there, and forgets it.
    fn take(&mut self, key: &Key) -> Result<(), Error> {
        if !self.held.contains_key(key) {
            return Ok(());
        }
        let leaving = self.leaving(key, Entry::default());
        self.ledger.will_leave(&leaving)?;
        self.erase(key)?;
        self.held.remove(key);
        self.ledger.leave(&leaving);
        if let Some(count) = self.lengths.get_mut(&key.mask()) {
            *count -= 1;
        }
        if let Some(Meaning::Rule(rule_key)) = key.meaning() {
            self.rules.remove(&rule_key);
            if let (Some(group), Some((_, port))) = (group(&rule_key), rule_key.service)
                && let Some(ports) = self.services.get_mut(&group)
            {
                ports.remove(&port);
                if ports.is_empty() {
                    self.services.remove(&group);
                }
            }
        }
        Ok(())
    }

    /// Slots of actions that a rule would have no longer with that entry.
    fn leaving(&self, key: &Key, new: Entry) -> Vec<u32> {
        let (Some(Meaning::Rule(_)), Some(old)) = (key.meaning(), self.held.get(key)) else {
            return Vec::new();
        };
        let drop = old.drop_until != 0 && new.drop_until == 0;
        let monitor = old.monitor_until != 0 && new.monitor_until == 0;
        let slots = [drop.then_some(old.drop_slot), monitor.then_some(old.monitor_slot)];
        slots.into_iter().flatten().collect()
    }

    pub(super) fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    fn write(&mut self, key: Key, entry: Entry) -> Result<(), Error> {
        match key {
            Key::V4(key) => self.rules4.insert(key, entry),
            Key::V6(key) => self.rules6.insert(key, entry),
        }
    }

    fn erase(&mut self, key: &Key) -> Result<(), Error> {
        match key {
            Key::V4(key) => self.rules4.remove(key),
            Key::V6(key) => self.rules6.remove(key),
        }
    }

    fn dump(&self) -> Result<HashMap<Key, Entry>, Error> {
        let v4 = self.rules4.pinned.dump::<Key4, Entry>()?;
        let v6 = self.rules6.pinned.dump::<Key6, Entry>()?;
        let v4 = v4.into_iter().map(|(key, entry)| (Key::V4(key), entry));
        Ok(v4.chain(v6.into_iter().map(|(key, entry)| (Key::V6(key), entry))).collect())
    }

    fn needed_words(&self) -> [u64; mask::COUNT as usize] {
        let mut words = [0; mask::COUNT as usize];
        for ((word, bit), count) in &self.lengths {
            words[*word as usize] |= u64::from(*count > 0) << bit;
        }
        words
    }

    fn set_words(&mut self, words: [u64; mask::COUNT as usize]) -> Result<(), Error> {
        for (index, word) in (0..).zip(words) {
            if self.words[index as usize] != word {
                self.masks.set(index, word)?;
                self.words[index as usize] = word;
            }
        }
        Ok(())
    }

    /// Mends the maps and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        let mut drift = Drift::default();
        let found = self.dump()?;
        // Foreign entries first, since they may take the room of ours.
        for key in found.keys().filter(|key| !self.held.contains_key(key)).collect::<Vec<_>>() {
            self.erase(key)?;
            drift.foreign += 1;
        }
        let held: Vec<_> = self.held.iter().map(|(key, entry)| (*key, *entry)).collect();
        for (key, entry) in held {
            match found.get(&key) {
                Some(same) if *same == entry => continue,
                Some(_) => drift.changed += 1,
                None => drift.missing += 1,
            }
            self.write(key, entry)?;
        }
        let words = self.words;
        self.words = self.masks.values()?.try_into().expect("the array has as many words");
        drift.changed += self.words.iter().zip(words).filter(|(a, b)| **a != *b).count() as u64;
        self.set_words(words)?;
        Ok(drift)
    }

    /// Rules that met something.
    pub(super) fn hits(&self) -> Result<Vec<Hit>, Error> {
        let tallies = self.ledger.met()?;
        let mut hits = Vec::new();
        for (key, rule) in &self.rules {
            let entry = self.held.get(&Key::rule(key)).expect("every rule is held");
            let actions = [
                (Action::Drop, rule.drop, entry.drop_slot),
                (Action::Monitor, rule.monitor, entry.monitor_slot),
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

fn group(key: &RuleKey) -> Option<Group> {
    key.service.map(|(protocol, _)| (key.prefix, protocol))
}
