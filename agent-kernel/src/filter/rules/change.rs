//! What an update really changes, and whether there is room for it. It must not change anything.

use super::{Changes, Rules};
use crate::error::{Error, ErrorKind};
use crate::filter::record::{self, Group, PORTLESS};
use crate::filter::services::touched;
use crate::filter::{Rule, RuleKey};
use agent_records::lookup::Key;
use hashbrown::HashTable;
use std::collections::BTreeSet;

impl Rules {
    /// The changes that change something, with host bits cut off.
    pub(super) fn real_changes(
        &self,
        changes: &[(RuleKey, Option<Rule>)],
    ) -> Result<Changes, Error> {
        changes.iter().try_for_each(|(key, rule)| possible(key, *rule))?;
        let trunc = |key: &RuleKey| RuleKey { prefix: key.prefix.trunc(), ..*key };
        let mut real = Vec::with_capacity(changes.len());
        let mut seen: HashTable<u32> = HashTable::with_capacity(changes.len());
        let hash = |key: &RuleKey| self.table.hash(&self.key(key));
        // From the end, so that of each key the last is met first.
        for (place, (key, rule)) in changes.iter().enumerate().rev() {
            let key = trunc(key);
            let hashed = hash(&key);
            let known = |place: &u32| &changes[*place as usize].0;
            if seen.find(hashed, |place| trunc(known(place)) == key).is_some() {
                continue;
            }
            let place = u32::try_from(place).expect("nobody makes four billion changes");
            seen.insert_unique(hashed, place, |place| hash(known(place)));
            if self.held(&key).map(|held| held.rule) != *rule {
                real.push((key, *rule));
            }
        }
        Ok(real)
    }

    /// How many entries of each family the changes add.
    pub(super) fn check_room(&self, changes: &Changes) -> Result<(usize, usize), Error> {
        let (mut new4, mut new6, mut new_rules) = (0, 0, 0);
        let mut blocks = BTreeSet::new();
        let mut add = |key: Option<Key>, prefix: &ipnet::IpNet| {
            if key.is_none_or(|key| self.table.get(&key).is_none()) {
                *(if prefix.network().is_ipv4() { &mut new4 } else { &mut new6 }) += 1;
            }
        };
        for (key, rule) in changes {
            let Some(rule) = rule else { continue };
            new_rules += usize::from(self.held(key).is_none());
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
        let fits = held + new <= max && self.count + new_rules <= max;
        if fits || (new == 0 && new_rules == 0) {
            return Ok((new4, new6));
        }
        let new = new.max(new_rules);
        let why = format!("no room for {new} more entries beside {held}: it holds {max}");
        Err(Error::new(ErrorKind::Full, "filter", why)
            .with_remedy("remove entries, or start with a larger max_entries after a detach"))
    }
}

/// Refuses what no rule can be.
fn possible(key: &RuleKey, rule: Option<Rule>) -> Result<(), Error> {
    let invalid = |why| Err(Error::new(ErrorKind::Invalid, format!("rule {}", key.prefix), why));
    if key.service.is_some_and(|it| it.first == 0 || it.first > it.last) {
        return invalid("ports must be 1 to 65535, the lower first");
    }
    if key.guards && (rule.is_some_and(|rule| rule != Rule::PASS) || key.interface.is_some()) {
        return invalid("what always passes does so forever, by every interface");
    }
    if rule.is_some_and(|rule| rule.drop.is_none() && rule.monitor.is_none()) {
        return invalid("must drop or monitor");
    }
    Ok(())
}
