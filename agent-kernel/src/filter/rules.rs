//! The rules, in memory and in the kernel: the one owner of both. It must not know the guard or
//! the interfaces.

use super::ledger::Ledger;
use super::lookup::LookupTable;
use super::record::{self, Group, Meaning, Owner};
use super::{Action, Drift, Hit, Rule, RuleKey, pins::Pins, program::Program};
use crate::error::{Error, ErrorKind};
use agent_records::Entry;
use agent_records::lookup::Key;
use std::collections::{BTreeSet, HashMap, HashSet};

pub(super) struct Rules {
    /// `rules` as entries, and the derived entries.
    table: LookupTable,
    ledger: Ledger,
    max_entries: u32,
    /// What was asked for.
    rules: HashMap<RuleKey, Rule>,
    /// Ports of the rules with a service.
    services: HashMap<Group, BTreeSet<u16>>,
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
    /// Takes over what the maps hold and what is carried over from others, and puts in order what no agent would have left so.
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        carried: Vec<(Key, Entry)>,
    ) -> Result<Self, Error> {
        let ledger = Ledger::open(program, pins)?;
        let is_ours = |key: &Key, entry: &Entry| {
            record::meaning(key).is_some() && record::rule(entry).is_some()
        };
        let mut table = LookupTable::open(pins, is_ours)?;
        let carried = carried.into_iter().filter(|(key, entry)| is_ours(key, entry));
        table.carry(carried.take(table.capacity() as usize).collect())?;
        let mut opened = Self {
            max_entries: table.capacity().min(ledger.capacity() / 2),
            table,
            ledger,
            rules: HashMap::new(),
            services: HashMap::new(),
        };
        opened.adopt(program.fresh)?;
        Ok(opened)
    }

    fn adopt(&mut self, pristine: bool) -> Result<(), Error> {
        let mut slotless = Vec::new();
        let found: Vec<_> = self.table.iter().map(|(key, entry)| (*key, *entry)).collect();
        for (key, entry) in found {
            if let (Some(Meaning::Rule(rule_key)), Some(rule)) =
                (record::meaning(&key), record::rule(&entry))
            {
                let mut own = |action, until: Option<_>, slot| {
                    until.is_none() || self.ledger.adopt(slot, Owner { key: rule_key, action })
                };
                if !(own(Action::Drop, rule.drop, entry.drop_slot)
                    & own(Action::Monitor, rule.monitor, entry.monitor_slot))
                {
                    slotless.push((rule_key, rule));
                }
                self.note(rule_key, rule);
            }
        }
        self.ledger.adopted(pristine)?;
        for (key, rule) in slotless {
            let entry = self.entry(key, Entry::default(), rule)?;
            self.table.put(record::key(&key), entry)?;
        }
        let derived = self.table.iter().filter_map(|(key, _)| match record::meaning(key) {
            Some(Meaning::Derived(group)) => Some(group),
            _ => None,
        });
        let groups: HashSet<Group> = derived.chain(self.services.keys().copied()).collect();
        for group in groups {
            match self.derive(group, &Changes::default()) {
                Some(entry) => self.table.put(record::derived(group), entry)?,
                None => {
                    self.table.take(&record::derived(group));
                }
            }
        }
        self.table.publish_lengths();
        Ok(())
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
        let (new4, new6) = self.check_room(&changes)?;
        self.table.reserve(new4, new6)?;
        let result = self.apply(&changes);
        // Whatever of it was done is reflected in the masks.
        self.table.publish_lengths();
        result.and_then(|()| self.table.tidy())
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
            let key = record::derived(*group);
            match (self.derive(*group, changes), self.table.get(&key)) {
                (None, _) => unneeded.push(key),
                (Some(new), Some(old)) if new.drop_until < old.drop_until => {
                    weaker.push((key, new));
                }
                (Some(new), _) => self.table.put(key, new)?,
            }
        }
        // A length is looked at once its entries are there, and until its last one is gone.
        self.table.publish_lengths();
        for (key, entry) in weaker {
            self.table.put(key, entry)?;
        }
        self.put_rules(&less)?;
        for key in unneeded {
            self.table.take(&key);
        }
        for (key, _) in changes.rules.iter().filter(|(_, rule)| rule.is_none()) {
            self.take(key)?;
        }
        Ok(())
    }

    fn put_rules(&mut self, rules: &[(&RuleKey, Rule)]) -> Result<(), Error> {
        for (key, rule) in rules {
            let place = record::key(key);
            let old = self.table.get(&place).copied().unwrap_or_default();
            let entry = self.entry(**key, old, *rule)?;
            self.leave(&old, &entry, |table| table.put(place, entry))?;
            self.note(**key, *rule);
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

    /// How many entries of each family the changes add.
    fn check_room(&self, changes: &Changes) -> Result<(usize, usize), Error> {
        let rules = changes.rules.iter().filter(|(_, rule)| rule.is_some());
        let derived = changes
            .services
            .keys()
            .filter(|group| self.future_drops(**group, changes).next().is_some());
        let keys =
            rules.map(|(key, _)| record::key(key)).chain(derived.map(|it| record::derived(*it)));
        let (mut new4, mut new6) = (0, 0);
        for key in keys.filter(|key| self.table.get(key).is_none()) {
            *(if key.version() == 4 { &mut new4 } else { &mut new6 }) += 1;
        }
        let (new, held) = (new4 + new6, self.table.len());
        if new == 0 || held + new <= self.max_entries as usize {
            return Ok((new4, new6));
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
            Some((record::key(&key), rule?.drop?))
        })
    }

    /// The entry for packets of a group whose ports can't be read: it drops for as long as any of
    /// the group's ports does, and counts for the lowest of them.
    fn derive(&self, group: Group, changes: &Changes) -> Option<Entry> {
        let mut drops = self.future_drops(group, changes).peekable();
        let lowest = drops.peek()?.0;
        let drop_slot = self.table.get(&lowest)?.drop_slot;
        let latest = drops.map(|(_, until)| until).max();
        Some(Entry { drop_until: record::until(latest), drop_slot, ..Entry::default() })
    }

    /// The entry of a rule: an action that goes on keeps its counter, a new one starts at zero. The
    /// number of an action that went stays, for packets that have just met it.
    fn entry(&mut self, key: RuleKey, old: Entry, rule: Rule) -> Result<Entry, Error> {
        let mut slot = |action, is_new: bool, kept: u32| {
            if is_new { self.ledger.take(Owner { key, action }) } else { Ok(kept) }
        };
        let drops_anew = rule.drop.is_some() && old.drop_until == 0;
        let drop_slot = slot(Action::Drop, drops_anew, old.drop_slot)?;
        let monitors_anew = rule.monitor.is_some() && old.monitor_until == 0;
        let monitor_slot = slot(Action::Monitor, monitors_anew, old.monitor_slot)?;
        Ok(Entry {
            drop_until: record::until(rule.drop),
            monitor_until: record::until(rule.monitor),
            drop_slot,
            monitor_slot,
        })
    }

    fn note(&mut self, key: RuleKey, rule: Rule) {
        self.rules.insert(key, rule);
        if let (Some(group), Some((_, port))) = (group(&key), key.service) {
            self.services.entry(group).or_default().insert(port);
        }
    }

    /// Removes a rule, if it is there.
    fn take(&mut self, key: &RuleKey) -> Result<(), Error> {
        let place = record::key(key);
        let Some(old) = self.table.get(&place).copied() else { return Ok(()) };
        self.leave(&old, &Entry::default(), |table| {
            table.take(&place);
            Ok(())
        })?;
        self.rules.remove(key);
        if let (Some(group), Some((_, port))) = (group(key), key.service)
            && let Some(ports) = self.services.get_mut(&group)
        {
            ports.remove(&port);
            if ports.is_empty() {
                self.services.remove(&group);
            }
        }
        Ok(())
    }

    /// Makes a change to a rule, around which the slots of actions that it ends are given back.
    fn leave(
        &mut self,
        old: &Entry,
        new: &Entry,
        change: impl FnOnce(&mut LookupTable) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let drop = old.drop_until != 0 && new.drop_until == 0;
        let monitor = old.monitor_until != 0 && new.monitor_until == 0;
        let slots = [drop.then_some(old.drop_slot), monitor.then_some(old.monitor_slot)];
        let slots: Vec<u32> = slots.into_iter().flatten().collect();
        self.ledger.will_leave(&slots)?;
        change(&mut self.table)?;
        self.ledger.leave(&slots);
        Ok(())
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
        for (key, rule) in &self.rules {
            let entry = self.table.get(&record::key(key)).expect("every rule is held");
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
