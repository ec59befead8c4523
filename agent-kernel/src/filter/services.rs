//! The rules of ports: what each block of ports says. It must not know the kernel's tables.
//!
//! A rule of several ports is a few aligned blocks. Packets look from the smallest block to the largest,
//! so of two ranges one in the other the inner one counts. Where two rules have the very same block, it
//! drops for as long as either does, and counts for the narrower one.

use super::record::{self, Group, PORTLESS, Ports, blocks};
use super::{Rule, RuleKey};
use agent_records::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Counters of a rule's actions; without meaning where it has no such action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pair {
    pub(super) drop: u32,
    pub(super) monitor: u32,
}

/// A rule and its counters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) rule: Rule,
    pub(super) slots: Pair,
}

/// Rules that are alike but for their ports. Single ports are many, and found at once.
#[derive(Debug, Default)]
struct Services {
    single: BTreeMap<u16, Held>,
    ranges: BTreeMap<Ports, Held>,
}

/// All rules with ports.
#[derive(Debug, Default)]
pub(super) struct Groups(HashMap<Group, Services>);

impl Groups {
    pub(super) fn get(&self, group: &Group, ports: Ports) -> Option<&Held> {
        let services = self.0.get(group)?;
        if ports.0 == ports.1 { services.single.get(&ports.0) } else { services.ranges.get(&ports) }
    }

    /// Every rule.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RuleKey, &Held)> {
        self.0.iter().flat_map(|(group, services)| {
            let single = services.single.iter().map(|(port, held)| ((*port, *port), held));
            let ranges = services.ranges.iter().map(|(ports, held)| (*ports, held));
            single.chain(ranges).map(|(ports, held)| (group.rule(ports), held))
        })
    }

    pub(super) fn insert(&mut self, group: Group, ports: Ports, held: Held) {
        let services = self.0.entry(group).or_default();
        if ports.0 == ports.1 {
            services.single.insert(ports.0, held);
        } else {
            services.ranges.insert(ports, held);
        }
    }

    pub(super) fn remove(&mut self, group: &Group, ports: Ports) {
        let Some(services) = self.0.get_mut(group) else { return };
        if ports.0 == ports.1 {
            services.single.remove(&ports.0);
        } else {
            services.ranges.remove(&ports);
        }
        if services.single.is_empty() && services.ranges.is_empty() {
            self.0.remove(group);
        }
    }

    /// Every block that rules have, and those of packets without ports.
    pub(super) fn blocks(&self) -> BTreeSet<(Group, u64)> {
        let of_group = |(group, services): (&Group, &Services)| {
            let single = services.single.keys().map(|port| (*port, *port));
            let ports: Vec<_> = single.chain(services.ranges.keys().copied()).collect();
            ports.into_iter().flat_map(|ports| touched(*group, ports)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_group).collect()
    }

    /// What a block of a group says; `None` when no rule has it.
    pub(super) fn entry(&self, group: &Group, block: u64) -> Option<Entry> {
        let services = self.0.get(group)?;
        if block == PORTLESS { portless(group, services) } else { said(services, block) }
    }
}

/// The blocks that change when a rule does.
pub(super) fn touched(group: Group, ports: Ports) -> impl Iterator<Item = (Group, u64)> {
    let portless = (!group.guards).then_some(PORTLESS);
    blocks(ports).chain(portless).map(move |block| (group, block))
}

/// The entry of the rules that have exactly this block.
fn said(services: &Services, block: u64) -> Option<Entry> {
    let (first, last) = record::ports(block);
    let single = (first == last).then(|| services.single.get(&first)).flatten();
    let having = |(ports, _): &(&Ports, &Held)| {
        ports.0 <= first && ports.1 >= last && blocks(**ports).any(|it| it == block)
    };
    let mut ranges: Vec<_> = services.ranges.iter().filter(having).collect();
    ranges.sort_by_key(|((first, last), _)| (last - first, *first));
    let rules: Vec<&Held> = single.into_iter().chain(ranges.into_iter().map(|it| it.1)).collect();
    if rules.is_empty() {
        return None;
    }
    let drops = || rules.iter().filter(|held| held.rule.drop.is_some());
    let monitors = || rules.iter().filter(|held| held.rule.monitor.is_some());
    Some(Entry {
        drop_until: record::until(drops().filter_map(|held| held.rule.drop).max()),
        monitor_until: record::until(monitors().filter_map(|held| held.rule.monitor).max()),
        // The number of an action that goes stays for packets that have just met it.
        drop_slot: drops().next().or(rules.first()).map_or(0, |held| held.slots.drop),
        monitor_slot: monitors().next().or(rules.first()).map_or(0, |held| held.slots.monitor),
    })
}

/// The entry for packets whose ports can't be read: it drops for as long as any of the group's rules
/// does, and counts for the one of the lowest port.
fn portless(group: &Group, services: &Services) -> Option<Entry> {
    if group.guards {
        return None;
    }
    let single = services.single.iter().map(|(port, held)| ((*port, *port), held));
    let ranges = services.ranges.iter().map(|(ports, held)| (*ports, held));
    let drops = single.chain(ranges).filter(|(_, held)| held.rule.drop.is_some());
    let mut drops: Vec<_> = drops.collect();
    drops.sort_unstable_by_key(|(ports, _)| *ports);
    let drop_slot = drops.first()?.1.slots.drop;
    let latest = drops.iter().filter_map(|(_, held)| held.rule.drop).max();
    Some(Entry { drop_until: record::until(latest), drop_slot, ..Entry::default() })
}

/// Whether a rule's counters are told from it, and not from the entry of its only key.
pub(super) fn is_range(key: &RuleKey) -> bool {
    key.service.is_some_and(|service| !service.is_single())
}
