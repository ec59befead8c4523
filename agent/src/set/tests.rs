//! The rules that follow from a set, step by step and as a whole.

use super::*;
use agent_kernel::filter::{Interface, Protocol};
use kctl_blocklist::{Feed, FeedHead, Prefixes, Service, parse_prefix};

fn held(prefix: &str, source: &str, action: Action, until: Until) -> Held {
    let key = EntryKey {
        prefix: parse_prefix(prefix).expect("valid"),
        service: None,
        interface: None,
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
    let key = RuleKey::any(a.entry.key.prefix);

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
    entry.entry.key.service = Some(Service::port(80, None));
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
    assert_eq!(over.iter().map(Change::key).collect::<Vec<_>>(), [Some(&local.entry.key)]);
    assert_eq!(set.local(), 1);
    commit(&mut set, over);
    assert_eq!(set.local(), 0);
}

#[test]
fn protect_entries_are_rules_that_let_pass() {
    let mut set = Set::default();
    let mut port = held("0.0.0.0/0", "user:a", Action::Protect, Until::FOREVER);
    port.entry.key.service = Some(Service::port(22, None));
    let address = held("10.0.0.1", "user:a", Action::Protect, Until::FOREVER);
    commit(&mut set, vec![Change::Put(port), Change::Put(address)]);
    let prefix = parse_prefix("10.0.0.1").expect("valid");
    let everyone = parse_prefix("0.0.0.0/0").expect("valid");
    let ssh = |protocol| {
        let service = Some(agent_kernel::filter::Service::port(protocol, 22));
        RuleKey { service, ..guard(everyone) }
    };
    let wanted = [guard(prefix), ssh(Protocol::Tcp), ssh(Protocol::Udp)];
    assert_eq!(set.rules(), wanted.map(|key| (key, Rule::PASS)).into());
    assert_eq!(set.guards(), set.rules());
    assert!(set.protects(prefix) && !set.protects(everyone));
}

#[test]
fn a_range_on_an_interface_is_a_rule_of_its_own() {
    let mut set = Set::default();
    let plain = held("10.0.0.5", "user:a", Action::Drop, Until::FOREVER);
    let mut range = plain.clone();
    let protocol = Some(kctl_blocklist::Protocol::Tcp);
    range.entry.key.service = Some(Service { port: 8_000, last: 8_999, protocol });
    range.entry.key.interface = Some("eth1".to_owned());
    let staged = commit(&mut set, vec![Change::Put(plain.clone()), Change::Put(range.clone())]);
    let service =
        agent_kernel::filter::Service { protocol: Protocol::Tcp, first: 8_000, last: 8_999 };
    let interface = Some(Interface::named("eth1"));
    let key = RuleKey { service: Some(service), interface, ..RuleKey::any(plain.entry.key.prefix) };
    assert!(staged.contains(&(key, Some(Rule { drop: Some(Until::FOREVER), monitor: None }))));
    assert_eq!(set.rules().len(), 2);
    commit(&mut set, vec![Change::Remove(range.entry.key)]);
    assert_eq!(set.rules().len(), 1);
}

fn feed(name: &str, texts: &[&str], action: Action, until: Until) -> HeldFeed {
    let head = FeedHead {
        name: name.to_owned(),
        action,
        selection: Selection::All,
        reason: String::new(),
        imported_unix_ms: 0,
        expires_unix_ms: None,
    };
    let prefixes = texts.iter().map(|text| parse_prefix(text).expect("valid")).collect();
    HeldFeed { feed: Feed::new(head, prefixes), until }
}

/// Makes a feed that of `after`.
fn step(set: &Set, name: &str, after: Option<HeldFeed>) -> Change {
    let none = Prefixes::default();
    let before = set.feed(name).map_or(&none, |held| held.feed.prefixes());
    let difference = before.difference(after.as_ref().map_or(&none, |held| held.feed.prefixes()));
    Change::Feed(FeedStep { name: name.to_owned(), after, difference })
}

#[test]
fn an_address_of_two_feeds_and_a_manual_block_is_dropped_until_the_last_goes() {
    let mut set = Set::default();
    let manual = held("10.0.0.5", "user:a", Action::Drop, Until::FOREVER);
    let put = |set: &Set, name: &str, texts: &[&str]| {
        step(set, name, Some(feed(name, texts, Action::Drop, Until::FOREVER)))
    };
    let key = RuleKey::any(manual.entry.key.prefix);
    let change = put(&set, "a", &["10.0.0.5", "10.0.0.6"]);
    assert_eq!(commit(&mut set, vec![change]).len(), 2);
    let change = put(&set, "b", &["10.0.0.5", "10.0.1.0/24"]);
    assert_eq!(commit(&mut set, vec![change]).len(), 1);
    assert_eq!(commit(&mut set, vec![Change::Put(manual.clone())]), []);

    // A swap: what is in both stays as it is.
    let change = put(&set, "a", &["10.0.0.5", "10.0.0.7"]);
    assert_eq!(commit(&mut set, vec![change]).len(), 2);
    let change = step(&set, "a", None);
    assert_eq!(commit(&mut set, vec![change]).len(), 1);
    assert_eq!(commit(&mut set, vec![Change::Remove(manual.entry.key)]), []);
    let change = step(&set, "b", None);
    let gone = commit(&mut set, vec![change]);
    assert!(gone.contains(&(key, None)) && gone.len() == 2, "{gone:?}");
    assert_eq!(set.digest(), Digest::default());
    assert!(set.rules().is_empty());
}

#[test]
fn a_feed_that_changes_its_action_or_end_changes_every_rule() {
    let mut set = Set::default();
    let texts = ["10.0.0.5", "10.0.0.6", "2001:db8::/32"];
    for (action, until) in [
        (Action::Drop, Until::FOREVER),
        (Action::Drop, Until::at(50)),
        (Action::Monitor, Until::at(50)),
    ] {
        let change = step(&set, "a", Some(feed("a", &texts, action, until)));
        assert_eq!(commit(&mut set, vec![change]).len(), 3);
    }
    let change = step(&set, "a", Some(feed("a", &texts, Action::Monitor, Until::at(50))));
    assert_eq!(commit(&mut set, vec![change]), []);
    let change = step(&set, "a", Some(feed("a", &texts, Action::Protect, Until::FOREVER)));
    // Three rules go, and three that let pass come.
    assert_eq!(commit(&mut set, vec![change]).len(), 6);
    assert_eq!(set.guards().len(), 3);
}

#[test]
fn one_entry_of_a_feed_can_be_suspended_until_it_leaves_the_feed() {
    let mut set = Set::default();
    let held = feed("a", &["10.0.0.5", "10.0.0.6"], Action::Drop, Until::FOREVER);
    let key = held.feed.head().key(parse_prefix("10.0.0.5").expect("valid"));
    let change = step(&set, "a", Some(held.clone()));
    commit(&mut set, vec![change]);
    let suspension =
        Suspension { by: "local:0".to_owned(), until: Until::at(50), expires_unix_ms: 50 };
    assert_eq!(commit(&mut set, vec![Change::Suspend(key.clone(), suspension)]).len(), 1);
    assert_eq!(set.rules().len(), 1);
    assert_eq!(set.all_of_prefix(key.prefix).len(), 1);
    let change = step(&set, "a", Some(feed("a", &["10.0.0.6"], Action::Drop, Until::FOREVER)));
    assert_eq!(commit(&mut set, vec![change]), []);
    assert!(set.suspended().is_empty());
    let change = step(&set, "a", Some(held));
    assert_eq!(commit(&mut set, vec![change]).len(), 1);
}

#[test]
fn random_steps_lead_where_a_fresh_set_begins() {
    let mut seed = 88_172_645_463_325_252_u64;
    let mut next = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut set = Set::default();
    for _ in 0..300 {
        let mut changes = Vec::new();
        for _ in 0..=next(3) {
            let prefix = format!("10.0.0.{}/{}", next(16), 28 + next(5));
            let until = [Until::FOREVER, Until::at(50 + next(3))][usize::from(next(2) == 0)];
            let action = [Action::Drop, Action::Monitor][usize::from(next(4) == 0)];
            let one = held(&prefix, ["user:a", "user:b"][usize::from(next(2) == 0)], action, until);
            changes.push(match next(3) {
                0 => Change::Remove(one.entry.key),
                _ => Change::Put(one),
            });
        }
        let name = ["a", "b", "c"][usize::try_from(next(3)).expect("small")];
        let texts: Vec<_> =
            (0..next(12)).map(|_| format!("10.0.0.{}/{}", next(16), 28 + next(5))).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let action = [Action::Drop, Action::Monitor, Action::Protect]
            [usize::try_from(next(3)).expect("small")];
        let after = (next(4) > 0).then(|| feed(name, &texts, action, Until::FOREVER));
        changes.push(step(&set, name, after));
        commit(&mut set, changes);
        let mut fresh = Set::default();
        fresh.commit(set.everything());
        assert_eq!((fresh.rules(), fresh.digest()), (set.rules(), set.digest()));
    }
}
