//! The rules that entries stand for, and what leads from some rules to others.

use super::Held;
use agent_kernel::filter::{Interface, Protocol, Rule, RuleKey, Service, Until};
use ipnet::IpNet;
use kctl_blocklist::{self as blocklist, Action, EntryKey};
use std::collections::HashMap;

/// Several entries can ask for one rule; the latest end counts.
pub(super) fn rules<'a>(
    entries: impl Iterator<Item = &'a Held>,
    is_suspended: impl Fn(&EntryKey) -> bool,
) -> HashMap<RuleKey, Rule> {
    let mut rules: HashMap<RuleKey, Rule> = HashMap::new();
    for held in entries.filter(|held| !is_suspended(&held.entry.key)) {
        let key = &held.entry.key;
        for rule in rule_keys(key) {
            add(&mut rules, rule, key.action, held.until);
        }
    }
    rules
}

/// Makes a rule last at least until then. What is never blocked has no end.
pub(super) fn add(rules: &mut HashMap<RuleKey, Rule>, key: RuleKey, action: Action, until: Until) {
    if action == Action::Protect {
        rules.insert(key, Rule::PASS);
        return;
    }
    let rule = rules.entry(key).or_insert(Rule { drop: None, monitor: None });
    match action {
        Action::Drop => rule.drop = rule.drop.max(Some(until)),
        Action::Monitor => rule.monitor = rule.monitor.max(Some(until)),
        Action::Protect => {}
    }
}

/// The rules that an entry stands for.
pub(crate) fn rule_keys(key: &EntryKey) -> Vec<RuleKey> {
    let interface = key.interface.as_deref().map(Interface::named);
    let guards = key.action == Action::Protect;
    let rule = |service| RuleKey { prefix: key.prefix, service, interface, guards };
    match key.service {
        None => vec![rule(None)],
        Some(blocklist::Service { port: first, last, .. }) => {
            let protocols = key.service.iter().flat_map(|service| service.protocols());
            let service = |protocol| Service { protocol, first, last };
            protocols.map(|&protocol| rule(Some(service(kernel(protocol))))).collect()
        }
    }
}

/// The rule that a prefix is never blocked.
pub(crate) fn guard(prefix: IpNet) -> RuleKey {
    RuleKey { guards: true, ..RuleKey::any(prefix) }
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
