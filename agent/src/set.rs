//! The entries that one host holds, and the rules that follow from them. Plain data: it knows neither
//! the kernel's maps nor the disk nor the wire.

use agent_kernel::filter::{Guard, Protocol, Rule, RuleKey, Until};
use ipnet::IpNet;
use kctl_blocklist::{self as blocklist, Action, Digest, Entry, EntryKey, Selection};
use std::collections::{BTreeMap, HashMap};

/// One entry with its end on this boot's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) entry: Entry,
    pub(crate) until: Until,
}

impl Held {
    /// Whether this host made it itself.
    pub(crate) fn is_local(&self) -> bool {
        is_local(&self.entry.key)
    }
}

/// Whether an entry's source is this host.
pub(crate) fn is_local(key: &EntryKey) -> bool {
    key.source.starts_with("local:")
}

/// A controller's entry that somebody on this host has put out of force for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspension {
    /// `local:UID`
    pub(crate) by: String,
    pub(crate) until: Until,
    /// The same end on the wall clock, for after a reboot.
    pub(crate) expires_unix_ms: i64,
}

/// One step from one set to the next.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Adds an entry, or replaces the one with its key.
    Put(Held),
    Remove(EntryKey),
    Suspend(EntryKey, Suspension),
    Resume(EntryKey),
}

impl Change {
    pub(crate) fn key(&self) -> &EntryKey {
        match self {
            Self::Put(held) => &held.entry.key,
            Self::Remove(key) | Self::Suspend(key, _) | Self::Resume(key) => key,
        }
    }
}

/// Everything that this host holds.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// Ordered, so that the entries of one prefix stand together.
    entries: BTreeMap<EntryKey, Held>,
    suspended: BTreeMap<EntryKey, Suspension>,
    /// Over the controller's entries.
    digest: Digest,
    /// How many entries are local.
    local: usize,
}

impl Set {
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Held> {
        self.entries.values()
    }

    pub(crate) fn find(&self, key: &EntryKey) -> Option<&Held> {
        self.entries.get(key)
    }

    /// How many entries this host made itself.
    pub(crate) fn local(&self) -> usize {
        self.local
    }

    pub(crate) fn suspended(&self) -> &BTreeMap<EntryKey, Suspension> {
        &self.suspended
    }

    /// Over the controller's entries, suspended ones included: it tells which set the host holds.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// What the kernel's rules must change when these changes are made.
    pub(crate) fn stage(&self, changes: &[Change]) -> Vec<(RuleKey, Option<Rule>)> {
        let mut by_prefix: BTreeMap<IpNet, Vec<&Change>> = BTreeMap::new();
        for change in changes {
            by_prefix.entry(change.key().prefix).or_default().push(change);
        }
        let mut staged = Vec::new();
        for (prefix, changes) in by_prefix {
            let mut held: BTreeMap<&EntryKey, &Held> = self.of_prefix(prefix).collect();
            let mut suspended: BTreeMap<&EntryKey, bool> =
                held.keys().map(|&key| (key, self.suspended.contains_key(key))).collect();
            let before = rules(held.values().copied(), |key| suspended.get(key) == Some(&true));
            for change in changes {
                match change {
                    Change::Put(new) => drop(held.insert(&new.entry.key, new)),
                    Change::Remove(key) => drop(held.remove(key)),
                    Change::Suspend(key, _) => drop(suspended.insert(key, true)),
                    Change::Resume(key) => drop(suspended.insert(key, false)),
                }
            }
            let after = rules(held.values().copied(), |key| suspended.get(key) == Some(&true));
            diff(&before, &after, &mut staged);
        }
        staged
    }

    /// Makes the changes. What belongs to a removed entry goes with it.
    pub(crate) fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(held) => {
                    let key = held.entry.key.clone();
                    let (old, local) = (self.entries.insert(key.clone(), held), is_local(&key));
                    match (old, local) {
                        (Some(_), _) => {}
                        (None, true) => self.local += 1,
                        (None, false) => self.digest.add(&key),
                    }
                }
                Change::Remove(key) => {
                    self.suspended.remove(&key);
                    match (self.entries.remove(&key), is_local(&key)) {
                        (None, _) => {}
                        (Some(_), true) => self.local -= 1,
                        (Some(_), false) => self.digest.remove(&key),
                    }
                }
                Change::Suspend(key, suspension) => {
                    self.suspended.insert(key, suspension);
                }
                Change::Resume(key) => {
                    self.suspended.remove(&key);
                }
            }
        }
    }

    /// Every rule that follows from the whole set.
    pub(crate) fn rules(&self) -> HashMap<RuleKey, Rule> {
        rules(self.entries.values(), |key| self.suspended.contains_key(key))
    }

    /// The never-block list: what `protect` entries put on it.
    pub(crate) fn protect(&self, guard: &mut Guard) {
        let entries = self.entries.values().map(|held| &held.entry.key);
        for key in entries.filter(|key| key.action == Action::Protect) {
            match key.service {
                None => drop(guard.prefixes.insert(key.prefix)),
                Some(service) => guard.ports.extend(
                    service.protocols().iter().map(|&protocol| (kernel(protocol), service.port)),
                ),
            }
        }
    }

    /// Local entries and suspensions that are over at `boot_ns`. The controller's entries leave by a
    /// revision of the controller.
    pub(crate) fn over(&self, boot_ns: u64) -> Vec<Change> {
        let local = self.entries.values().filter(|held| {
            held.is_local() && held.until != Until::FOREVER && held.until.boot_ns() <= boot_ns
        });
        let removals = local.map(|held| Change::Remove(held.entry.key.clone()));
        let resumed = self.suspended.iter().filter(|(_, it)| it.until.boot_ns() <= boot_ns);
        removals.chain(resumed.map(|(key, _)| Change::Resume(key.clone()))).collect()
    }

    /// The entries of exactly this prefix.
    pub(crate) fn of_prefix(&self, prefix: IpNet) -> impl Iterator<Item = (&EntryKey, &Held)> {
        let first = EntryKey {
            prefix,
            service: None,
            action: Action::Drop,
            source: String::new(),
            selection: Selection::All,
        };
        self.entries.range(first..).take_while(move |(key, _)| key.prefix == prefix)
    }
}

/// Several entries can ask for one rule; the latest end counts.
fn rules<'a>(
    entries: impl Iterator<Item = &'a Held>,
    is_suspended: impl Fn(&EntryKey) -> bool,
) -> HashMap<RuleKey, Rule> {
    let mut rules: HashMap<RuleKey, Rule> = HashMap::new();
    for held in entries.filter(|held| !is_suspended(&held.entry.key)) {
        let key = &held.entry.key;
        for service in services(key.service) {
            let rule = rules
                .entry(RuleKey { prefix: key.prefix, service })
                .or_insert(Rule { drop: None, monitor: None });
            match key.action {
                Action::Drop => rule.drop = rule.drop.max(Some(held.until)),
                Action::Monitor => rule.monitor = rule.monitor.max(Some(held.until)),
                Action::Protect => {}
            }
        }
    }
    rules.retain(|_, rule| rule.drop.is_some() || rule.monitor.is_some());
    rules
}

/// The rules' services that an entry's service stands for.
pub(crate) fn services(service: Option<blocklist::Service>) -> Vec<Option<(Protocol, u16)>> {
    match service {
        None => vec![None],
        Some(service) => service
            .protocols()
            .iter()
            .map(|&protocol| Some((kernel(protocol), service.port)))
            .collect(),
    }
}

fn kernel(protocol: blocklist::Protocol) -> Protocol {
    match protocol {
        blocklist::Protocol::Tcp => Protocol::Tcp,
        blocklist::Protocol::Udp => Protocol::Udp,
    }
}

/// Appends what leads from one set of rules to another.
pub(crate) fn diff(
    before: &HashMap<RuleKey, Rule>,
    after: &HashMap<RuleKey, Rule>,
    changes: &mut Vec<(RuleKey, Option<Rule>)>,
) {
    let changed = after.iter().filter(|&(key, rule)| before.get(key) != Some(rule));
    changes.extend(changed.map(|(key, rule)| (*key, Some(*rule))));
    let gone = before.keys().filter(|key| !after.contains_key(key));
    changes.extend(gone.map(|key| (*key, None)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_blocklist::{Service, parse_prefix};

    fn held(prefix: &str, source: &str, action: Action, until: Until) -> Held {
        let key = EntryKey {
            prefix: parse_prefix(prefix).expect("valid"),
            service: None,
            action,
            source: source.to_owned(),
            selection: Selection::All,
        };
        let entry = Entry {
            key,
            reason: String::new(),
            created_unix_ms: 0,
            expires_unix_ms: None,
            exceptions: Vec::new(),
        };
        Held { entry, until }
    }

    fn commit(set: &mut Set, changes: Vec<Change>) -> Vec<(RuleKey, Option<Rule>)> {
        let before = set.rules();
        let staged = set.stage(&changes);
        set.commit(changes);
        // Whatever is staged must lead from the rules of before to the rules of now.
        let mut now = before;
        for (key, rule) in &staged {
            match rule {
                Some(rule) => drop(now.insert(*key, *rule)),
                None => assert!(now.remove(key).is_some(), "removes what is there"),
            }
        }
        assert_eq!(now, set.rules());
        staged
    }

    #[test]
    fn two_sources_of_one_prefix_are_one_rule_until_both_are_gone() {
        let mut set = Set::default();
        let a = held("10.0.0.5", "user:a", Action::Drop, Until::at(100));
        let b = held("10.0.0.5", "feed:b", Action::Drop, Until::FOREVER);
        let forever = Some(Rule { drop: Some(Until::FOREVER), monitor: None });
        let key = RuleKey { prefix: a.entry.key.prefix, service: None };

        commit(&mut set, vec![Change::Put(a.clone())]);
        assert_eq!(commit(&mut set, vec![Change::Put(b.clone())]), [(key, forever)]);
        assert_eq!(commit(&mut set, vec![Change::Remove(a.entry.key)]), []);
        assert_eq!(commit(&mut set, vec![Change::Remove(b.entry.key)]), [(key, None)]);
        assert_eq!(set.digest(), Digest::default());
    }

    #[test]
    fn a_port_without_protocol_is_two_rules() {
        let mut set = Set::default();
        let mut entry = held("10.0.0.5", "user:a", Action::Drop, Until::FOREVER);
        entry.entry.key.service = Some(Service { port: 80, protocol: None });
        assert_eq!(commit(&mut set, vec![Change::Put(entry)]).len(), 2);
    }

    #[test]
    fn a_suspended_entry_makes_no_rule_and_stays_in_the_digest() {
        let mut set = Set::default();
        let entry = held("10.0.0.5", "user:a", Action::Drop, Until::FOREVER);
        let key = entry.entry.key.clone();
        commit(&mut set, vec![Change::Put(entry)]);
        let digest = set.digest();
        let suspension =
            Suspension { by: "local:0".to_owned(), until: Until::at(50), expires_unix_ms: 50 };
        assert_eq!(commit(&mut set, vec![Change::Suspend(key.clone(), suspension)]).len(), 1);
        assert!(set.rules().is_empty());
        assert_eq!(set.digest(), digest);
        assert!(set.over(49).is_empty());
        let over = set.over(50);
        assert_eq!(commit(&mut set, over).len(), 1);
        assert_eq!(set.rules().len(), 1);
    }

    #[test]
    fn only_local_entries_end_by_themselves() {
        let mut set = Set::default();
        let local = held("10.0.0.5", "local:0", Action::Drop, Until::at(50));
        let remote = held("10.0.0.6", "user:a", Action::Drop, Until::at(50));
        commit(&mut set, vec![Change::Put(local.clone()), Change::Put(remote)]);
        let over = set.over(60);
        assert_eq!(over.iter().map(Change::key).collect::<Vec<_>>(), [&local.entry.key]);
        assert_eq!(set.local(), 1);
        commit(&mut set, over);
        assert_eq!(set.local(), 0);
    }

    #[test]
    fn protect_entries_guard_and_make_no_rule() {
        let mut set = Set::default();
        let mut port = held("0.0.0.0/0", "user:a", Action::Protect, Until::FOREVER);
        port.entry.key.service = Some(Service { port: 22, protocol: None });
        let address = held("10.0.0.1", "user:a", Action::Protect, Until::FOREVER);
        commit(&mut set, vec![Change::Put(port), Change::Put(address)]);
        let mut guard = Guard::default();
        set.protect(&mut guard);
        assert!(set.rules().is_empty());
        assert_eq!(guard.ports, [(Protocol::Tcp, 22), (Protocol::Udp, 22)].into());
        assert_eq!(guard.prefixes, [parse_prefix("10.0.0.1").expect("valid")].into());
    }
}
