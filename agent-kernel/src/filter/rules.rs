//! The rules, in memory and in the kernel: the one owner of both. It must not know the guard or
//! the interfaces.

use super::ledger::{Ledger, sum};
use super::lookup::LookupTable;
use super::migrate::Carried;
use super::record::{self, Group, Meaning, Owner};
use super::{Action, Drift, Hit, Rule, RuleKey, pins::Pins, program::Program};
use crate::error::{Error, ErrorKind};
use agent_records::lookup::Key;
use agent_records::{Entry, NO_SLOT, Tally};
use hashbrown::HashTable;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub(super) struct Rules {
    /// The rules as entries, and the derived entries.
    table: LookupTable,
    ledger: Ledger,
    max_entries: u32,
    /// How many rules there are.
    count: usize,
    /// Ports of the rules with a service.
    services: HashMap<Group, BTreeSet<u16>>,
}

/// What an update really changes.
struct Changes<'a> {
    /// Each key once, with the last that was said of it.
    rules: Vec<(Key, &'a RuleKey, Option<Rule>)>,
    /// Places in `rules` of those that name a service.
    named: HashMap<Key, usize>,
    /// Ports that the changes name.
    services: HashMap<Group, BTreeSet<u16>>,
}

impl Rules {
    /// Takes over what the maps hold and what is carried over from others, and puts in order what no agent
    /// would have left so.
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        carried: Carried,
    ) -> Result<Self, Error> {
        let ledger = Ledger::open(program, pins, &carried.told)?;
        let is_ours = |key: &Key, entry: &Entry| {
            let is_gone = key.rest & Key::GONE != 0;
            record::meaning(&record::living(key)).is_some()
                && (is_gone || record::rule(entry).is_some())
        };
        let mut table = LookupTable::open(pins, is_ours)?;
        let entries = carried.entries.into_iter().filter(|(key, entry)| is_ours(key, entry));
        table.carry(entries.take(table.available()).collect())?;
        let mut opened = Self {
            max_entries: table.max_entries().min(ledger.capacity() / 2),
            table,
            ledger,
            count: 0,
            services: HashMap::new(),
        };
        opened.adopt(program.fresh)?;
        Ok(opened)
    }

    fn adopt(&mut self, pristine: bool) -> Result<(), Error> {
        let mut slotless = Vec::new();
        let found = self.table.iter();
        let found: Vec<_> = found.map(|(number, key, entry)| (number, *key, *entry)).collect();
        for (number, key, entry) in found {
            let Some(Meaning::Rule(rule_key)) = record::meaning(&key) else { continue };
            let mut own = |until, slot| match slot {
                NO_SLOT if until == 0 => NO_SLOT,
                slot if self.ledger.adopt(slot, number) => slot,
                _ => NO_SLOT,
            };
            let drop_slot = own(entry.drop_until, entry.drop_slot);
            let monitor_slot = own(entry.monitor_until, entry.monitor_slot);
            if (drop_slot, monitor_slot) != (entry.drop_slot, entry.monitor_slot) {
                slotless.push((key, Entry { drop_slot, monitor_slot, ..entry }));
            }
            self.note(&rule_key);
            self.count += 1;
        }
        let gone =
            self.table.gone().into_iter().filter(|number| self.adopt_gone(*number)).collect();
        self.ledger.leave(gone);
        self.ledger.adopted(pristine)?;
        for (key, entry) in slotless {
            let rule = record::rule(&entry).expect("only such are held");
            self.put_rule(key, rule, entry)?;
        }
        let derived = self.table.iter().filter_map(|(_, key, _)| match record::meaning(key) {
            Some(Meaning::Derived(group)) => Some(group),
            _ => None,
        });
        let groups: HashSet<Group> = derived.chain(self.services.keys().copied()).collect();
        for group in groups {
            match self.derive(group, &Changes::none()) {
                Some(entry) => drop(self.table.put(record::derived(group), entry)?),
                None => self.take_derived(&record::derived(group)),
            }
        }
        self.table.publish_lengths();
        Ok(())
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

    pub(super) fn rules(&self) -> HashMap<RuleKey, Rule> {
        let rules = self.table.iter().filter_map(|(_, key, entry)| match record::meaning(key)? {
            Meaning::Rule(key) => Some((key, record::rule(entry)?)),
            Meaning::Derived(_) => None,
        });
        rules.collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Whether so many more rules fit beside those that are gone and not told to the end.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let needed = more.saturating_mul(2);
        let fits = self.ledger.available() >= needed && self.table.available() >= needed;
        fits || self.ledger.leaving().next().is_none()
    }

    /// All upserts, then all removals; see [`super::Filter::update`].
    pub(super) fn update(&mut self, changes: &[(RuleKey, Option<Rule>)]) -> Result<(), Error> {
        let changes = self.real_changes(changes)?;
        let (new4, new6) = self.check_room(&changes)?;
        self.table.reserve(new4, new6)?;
        let mut gone = Vec::new();
        let result = self.apply(&changes, &mut gone);
        self.ledger.leave(gone);
        // Whatever of it was done is reflected in the masks.
        self.table.publish_lengths();
        result.and_then(|()| self.table.tidy())
    }

    fn apply(&mut self, changes: &Changes<'_>, gone: &mut Vec<u32>) -> Result<(), Error> {
        // What drops more, or as much, comes before what drops less: an address that goes from a rule
        // of its own to a wider one is dropped all along.
        let mut less = Vec::new();
        for (key, rule_key, rule) in &changes.rules {
            let Some(rule) = *rule else { continue };
            let old = self.table.get(key).copied();
            if record::until(rule.drop) < old.map_or(0, |old| old.drop_until) {
                less.push((*key, *rule_key, rule));
            } else {
                self.upsert(*key, rule_key, rule, old)?;
            }
        }
        let (mut weaker, mut unneeded) = (Vec::new(), Vec::new());
        for group in changes.services.keys() {
            let key = record::derived(*group);
            match (self.derive(*group, changes), self.table.get(&key)) {
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
        for (key, rule_key, rule) in less {
            let old = self.table.get(&key).copied();
            self.upsert(key, rule_key, rule, old)?;
        }
        for key in unneeded {
            self.take_derived(&key);
        }
        for (key, rule_key, _) in changes.rules.iter().filter(|(.., rule)| rule.is_none()) {
            gone.extend(self.take(key, rule_key));
        }
        Ok(())
    }

    fn upsert(
        &mut self,
        key: Key,
        rule_key: &RuleKey,
        rule: Rule,
        old: Option<Entry>,
    ) -> Result<(), Error> {
        let no_slots = Entry { drop_slot: NO_SLOT, monitor_slot: NO_SLOT, ..Entry::default() };
        self.put_rule(key, rule, old.unwrap_or(no_slots))?;
        self.count += usize::from(old.is_none());
        self.note(rule_key);
        Ok(())
    }

    /// The changes that change something.
    fn real_changes<'a>(
        &self,
        changes: &'a [(RuleKey, Option<Rule>)],
    ) -> Result<Changes<'a>, Error> {
        for (key, rule) in changes {
            let invalid = |why| Error::new(ErrorKind::Invalid, format!("rule {}", key.prefix), why);
            if key.service.is_some_and(|(_, port)| port == 0) {
                return Err(invalid("port must be 1 to 65535"));
            }
            if rule.is_some_and(|rule| rule.drop.is_none() && rule.monitor.is_none()) {
                return Err(invalid("must drop or monitor"));
            }
        }
        let mut real = Changes::none();
        real.rules.reserve(changes.len());
        let mut seen: HashTable<u32> = HashTable::with_capacity(changes.len());
        // From the end, so that of each key the last is met first.
        for (place, (rule_key, rule)) in changes.iter().enumerate().rev() {
            let key = record::key(rule_key);
            let hash = |number: &u32| self.table.hash(&record::key(&changes[*number as usize].0));
            let same = |number: &u32| record::key(&changes[*number as usize].0) == key;
            let hashed = self.table.hash(&key);
            if seen.find(hashed, same).is_some() {
                continue;
            }
            seen.insert_unique(hashed, u32::try_from(place).expect("bounded"), hash);
            if self.table.get(&key).and_then(record::rule) == *rule {
                continue;
            }
            if let (Some(group), Some((_, port))) = (group(rule_key), rule_key.service) {
                real.services.entry(group).or_default().insert(port);
                real.named.insert(key, real.rules.len());
            }
            real.rules.push((key, rule_key, *rule));
        }
        Ok(real)
    }

    /// How many entries of each family the changes add.
    fn check_room(&self, changes: &Changes<'_>) -> Result<(usize, usize), Error> {
        let rules = changes.rules.iter().filter(|(.., rule)| rule.is_some());
        let derived = changes
            .services
            .keys()
            .filter(|group| self.future_drops(**group, changes).next().is_some());
        let keys = rules.map(|(key, ..)| *key).chain(derived.map(|it| record::derived(*it)));
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
        changes: &'a Changes<'_>,
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
            let key = record::key(&key);
            let rule = match changes.named.get(&key) {
                Some(place) => changes.rules[*place].2,
                None => record::rule(self.table.get(&key)?),
            };
            Some((key, rule?.drop?))
        })
    }

    /// The entry for packets of a group whose ports can't be read: it drops for as long as any of
    /// the group's ports does, and counts for the lowest of them.
    fn derive(&self, group: Group, changes: &Changes<'_>) -> Option<Entry> {
        let mut drops = self.future_drops(group, changes).peekable();
        let lowest = drops.peek()?.0;
        let drop_slot = self.table.get(&lowest)?.drop_slot;
        let latest = drops.map(|(_, until)| until).max();
        let drop_until = record::until(latest);
        Some(Entry { drop_until, monitor_until: 0, drop_slot, monitor_slot: NO_SLOT })
    }

    /// Writes a rule: an action that goes on keeps its counter, a new one starts at zero.
    fn put_rule(&mut self, key: Key, rule: Rule, old: Entry) -> Result<(), Error> {
        let mut entry = Entry {
            drop_until: record::until(rule.drop),
            monitor_until: record::until(rule.monitor),
            ..old
        };
        for (slot, old_until, until) in [
            (&mut entry.drop_slot, old.drop_until, entry.drop_until),
            (&mut entry.monitor_slot, old.monitor_until, entry.monitor_until),
        ] {
            if until != 0 && *slot == NO_SLOT {
                *slot = self.ledger.take();
            } else if until != 0 && old_until == 0 {
                self.ledger.restart(*slot, saw(&self.table, &self.ledger, *slot))?;
            }
        }
        let number = self.table.put(key, entry)?;
        for slot in [entry.drop_slot, entry.monitor_slot] {
            if slot != NO_SLOT {
                self.ledger.own(slot, number);
            }
        }
        Ok(())
    }

    fn note(&mut self, key: &RuleKey) {
        if let (Some(group), Some((_, port))) = (group(key), key.service) {
            self.services.entry(group).or_default().insert(port);
        }
    }

    /// Removes a rule, if it is there; its record stays until all that it met is told.
    fn take(&mut self, key: &Key, rule_key: &RuleKey) -> Option<u32> {
        let number = self.table.take(key)?;
        self.count -= 1;
        if let (Some(group), Some((_, port))) = (group(rule_key), rule_key.service)
            && let Some(ports) = self.services.get_mut(&group)
        {
            ports.remove(&port);
            if ports.is_empty() {
                self.services.remove(&group);
            }
        }
        Some(number)
    }

    /// Removes a derived entry, if it is there. It has no slots of its own, so nothing is to be told; but
    /// programs may have its record in sight.
    fn take_derived(&mut self, key: &Key) {
        let number = self.table.take(key);
        self.ledger.leave(number.into_iter().collect());
    }

    /// Whose a slot is, or was until all of it is told.
    pub(super) fn owner(&self, slot: u32) -> Option<Owner> {
        let (key, entry) = self.table.at(self.ledger.home(slot)?);
        record::owner(&key, &entry, slot)
    }

    /// What slots hold.
    pub(super) fn counted(&self, slots: &BTreeSet<u32>) -> Result<BTreeMap<u32, Tally>, Error> {
        let mut counted = self.ledger.hits(slots)?;
        for (slot, tally) in &mut counted {
            *tally = sum(*tally, saw(&self.table, &self.ledger, *slot));
        }
        Ok(counted)
    }

    /// What slots hold that are not told to the end: of all of them, or of those whose rules are gone.
    pub(super) fn untold(&self, of_all: bool) -> Result<BTreeMap<u32, Tally>, Error> {
        let mut untold = BTreeMap::new();
        if !of_all && self.ledger.leaving().next().is_none() {
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
        } else {
            for number in self.ledger.leaving() {
                let (_, entry) = self.table.at(number);
                look(entry.drop_slot);
                look(entry.monitor_slot);
            }
        }
        Ok(untold)
    }

    /// A cycle is over, and all that was counted by then is told: records of rules that are gone are
    /// given back. Their slots that met anything.
    pub(super) fn end_cycle(&mut self) -> Result<Vec<u32>, Error> {
        let records = self.ledger.end_cycle();
        self.give_back(&records)
    }

    /// Everything that was counted is told, no program has a rule in sight that is gone, and the room is
    /// needed at once.
    pub(super) fn release_all(&mut self) -> Result<Vec<u32>, Error> {
        let records = self.ledger.release_all();
        self.give_back(&records)
    }

    fn give_back(&mut self, records: &[u32]) -> Result<Vec<u32>, Error> {
        let slots = records.iter().flat_map(|number| {
            let (_, entry) = self.table.at(*number);
            [(entry.drop_slot, *number), (entry.monitor_slot, *number)]
        });
        // Not those of a derived entry, which are another record's.
        let own = slots.filter(|(slot, number)| self.ledger.home(*slot) == Some(*number));
        let own: Vec<u32> = own.map(|(slot, _)| slot).collect();
        let used = self.ledger.free(own.into_iter())?;
        for &number in records {
            self.table.give_back(number);
        }
        Ok(used)
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
        let counted = self.ledger.all()?;
        let mut hits = Vec::new();
        for (_, key, entry) in self.table.iter() {
            let actions = [
                (Action::Drop, entry.drop_until, entry.drop_slot),
                (Action::Monitor, entry.monitor_until, entry.monitor_slot),
            ];
            for (action, _, slot) in actions.into_iter().filter(|(_, until, _)| *until != 0) {
                let counted = counted.get(slot as usize).copied().unwrap_or_default();
                let counted = sum(counted, saw(&self.table, &self.ledger, slot));
                let base = self.ledger.base(slot);
                if counted.packets <= base.packets {
                    continue;
                }
                let Some(Meaning::Rule(key)) = record::meaning(key) else { continue };
                let packets = counted.packets - base.packets;
                let bytes = counted.bytes.saturating_sub(base.bytes);
                hits.push(Hit { key, action, packets, bytes });
            }
        }
        Ok(hits)
    }
}

impl Changes<'_> {
    fn none() -> Self {
        Self { rules: Vec::new(), named: HashMap::new(), services: HashMap::new() }
    }
}

/// What the record of a slot counted on it by itself.
fn saw(table: &LookupTable, ledger: &Ledger, slot: u32) -> Tally {
    let home = ledger.home(slot).filter(|home| table.at(*home).1.drop_slot == slot);
    home.map_or(Tally::default(), |home| table.seen(home))
}

fn group(key: &RuleKey) -> Option<Group> {
    key.service.map(|(protocol, _)| (key.prefix, protocol))
}
