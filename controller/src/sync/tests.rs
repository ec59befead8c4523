//! What goes to hosts in which state.

use super::*;
use crate::store::{Epoch, Write};
use futures_util::StreamExt as _;
use kctl_blocklist::{Action, FeedHead, Prefixes, Selection, parse_prefix, unpack};

fn entry(prefix: &str, exceptions: Vec<Selection>) -> Write {
    let key = EntryKey {
        prefix: parse_prefix(prefix).expect("valid"),
        service: None,
        interface: None,
        action: Action::Drop,
        source: "user:a".to_owned(),
        selection: Selection::All,
    };
    Write::Upsert(Arc::new(Entry {
        key,
        reason: String::new(),
        created_unix_ms: 0,
        expires_unix_ms: None,
        exceptions,
    }))
}

fn desired() -> Desired {
    let epochs = vec![
        Epoch { epoch: 11, first: 1, last: Some(5) },
        Epoch { epoch: 22, first: 6, last: None },
    ];
    Desired::new("store".to_owned(), epochs, 5, [], [])
}

fn state(epoch: u64, revision: u64, digest: Digest) -> pb::StoreState {
    let (store_id, digest) = ("store".to_owned(), digest.to_bytes().into());
    pb::StoreState { store_id, epoch, revision, digest }
}

fn host(desired: &Desired) -> Expected {
    Expected::new(desired, "web-1", BTreeMap::new())
}

fn applied(plan: Plan) -> Apply {
    match plan {
        Plan::Apply(apply) => apply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_states_that_this_store_led_to_are_known() {
    let mut desired = desired();
    desired.apply(&[entry("10.0.0.1", Vec::new())]);
    let known = |epoch, revision| {
        standing(&desired, &state(epoch, revision, Digest::default()), "web-1").ok()
    };
    for (epoch, revision) in [(11, 0), (11, 5), (22, 5), (22, 6)] {
        assert_eq!(known(epoch, revision), Some(true), "{epoch} {revision}");
    }
    // Revisions that an epoch did not have, or an epoch that a backup does not remember.
    for (epoch, revision) in [(11, 6), (22, 7), (22, 4), (33, 5)] {
        assert_eq!(known(epoch, revision), None, "{epoch} {revision}");
    }
    assert_eq!(standing(&desired, &pb::StoreState::default(), "web-1"), Ok(false));
    let foreign = pb::StoreState { store_id: "3f2a".to_owned(), ..Default::default() };
    let why = standing(&desired, &foreign, "web-1").expect_err("foreign");
    assert!(why.contains("holds store 3f2a revision 0"), "{why}");
    assert!(why.contains("kctl hosts adopt web-1"), "{why}");
}

#[test]
fn a_host_at_a_remembered_revision_gets_the_net_difference() {
    let mut desired = desired();
    let start = host(&desired).digest;
    desired.apply(&[entry("10.0.0.1", Vec::new())]);
    let Plan::Apply(first) = host(&desired).plan(&desired, &state(11, 5, start), false, false)
    else {
        panic!("it is behind")
    };
    let one = first.digest;
    let mut expected = host(&desired);
    desired.apply(&[entry("10.0.0.2", Vec::new())]);
    let web = Selection::Names(["web-1".to_owned()].into());
    desired.apply(&[entry("10.0.0.1", vec![web.clone()]), entry("10.0.0.3", vec![web])]);
    let apply = applied(expected.plan(&desired, &state(22, 6, one), false, false));
    assert!(!apply.is_whole());
    let prefixes = |keys: Vec<&EntryKey>| {
        keys.into_iter().map(|key| key.prefix.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(prefixes(apply.upserts.iter().map(|e| &e.key).collect()), ["10.0.0.2/32"]);
    assert_eq!(prefixes(apply.removals.iter().collect()), ["10.0.0.1/32"]);
    // Followed step by step or counted anew, it is the same set.
    assert_eq!(apply.digest, host(&desired).digest);
    let there = state(22, desired.revision, apply.digest);
    assert!(matches!(expected.plan(&desired, &there, false, false), Plan::InSync));
}

#[test]
fn drift_and_adoption_take_the_whole_set() {
    let mut desired = desired();
    desired.apply(&[entry("10.0.0.1", Vec::new())]);
    let mut expected = host(&desired);
    let drifted = state(22, 6, Digest::default());
    let apply = applied(expected.plan(&desired, &drifted, false, false));
    assert!(apply.is_whole() && !apply.header.adopt);
    let foreign = pb::StoreState { store_id: "other".to_owned(), ..drifted };
    assert!(matches!(expected.plan(&desired, &foreign, true, false), Plan::Refused(_)));
    let apply = applied(expected.plan(&desired, &foreign, false, true));
    assert!(apply.is_whole() && apply.header.adopt);
}

#[tokio::test]
async fn sets_go_out_in_bounded_messages() {
    let mut desired = desired();
    let many: Vec<_> =
        (0..2_500).map(|i| entry(&format!("10.0.{}.{}", i / 256, i % 256), Vec::new())).collect();
    desired.apply(&many);
    let mut expected = host(&desired);
    let apply = applied(expected.plan(&desired, &pb::StoreState::default(), false, false));
    let messages: Vec<_> = apply.messages().collect().await;
    assert_eq!(messages.len(), 1 + 3);
}

fn import(desired: &mut Desired, selection: Selection, prefixes: Prefixes) {
    let head = FeedHead {
        name: "drop".to_owned(),
        action: Action::Drop,
        selection,
        reason: String::new(),
        imported_unix_ms: 0,
        expires_unix_ms: None,
    };
    let change = FeedChange::import(desired.feed("drop"), head, prefixes);
    desired.apply(&[Write::Feed(Arc::new(change))]);
}

fn prefixes(texts: &[&str]) -> Prefixes {
    texts.iter().map(|text| parse_prefix(text).expect("valid")).collect()
}

/// The changes of feeds that a plan sends: whether the head is told, how many come and go, and
/// whether the feed goes.
async fn feed_messages(apply: Apply) -> Vec<(bool, usize, usize, bool)> {
    let messages: Vec<_> = apply.messages().collect().await;
    let change = |message: pb::ApplyBlocklistRequest| match message.part {
        Some(pb::apply_blocklist_request::Part::Feed(change)) => {
            let count = |packed: Option<pb::Prefixes>| {
                let mut prefixes = Vec::new();
                unpack(&packed.unwrap_or_default(), &mut prefixes).expect("valid");
                prefixes.len()
            };
            Some((change.head.is_some(), count(change.added), count(change.removed), change.gone))
        }
        _ => None,
    };
    messages.into_iter().filter_map(change).collect()
}

#[tokio::test]
async fn a_feed_goes_out_as_its_difference_also_over_several_imports() {
    let mut desired = desired();
    let web = Selection::Names(["web-1".to_owned()].into());
    import(&mut desired, Selection::All, prefixes(&["10.0.0.1", "10.0.0.2"]));
    let mut expected = host(&desired);
    let first = expected.digest;
    let at = |revision| state(22, revision, first);
    import(&mut desired, Selection::All, prefixes(&["10.0.0.1", "10.0.0.3"]));
    let apply = applied(expected.plan(&desired, &at(6), false, false));
    assert_eq!(apply.digest, host(&desired).digest);
    assert!(!apply.is_whole());
    // The time of the import is the same here, so the head is.
    assert_eq!(feed_messages(apply).await, [(false, 1, 0, false), (false, 0, 1, false)]);
    import(&mut desired, web, prefixes(&["10.0.0.1", "10.0.0.4"]));
    let apply = applied(expected.plan(&desired, &at(6), false, false));
    assert_eq!(apply.digest, host(&desired).digest);
    assert_eq!(feed_messages(apply).await, [(true, 1, 0, false), (false, 0, 1, false)]);

    // Another host loses it with the selection, and one that had nothing gets it whole.
    let mut other = Expected::new(&desired, "web-2", BTreeMap::new());
    let apply = applied(other.plan(&desired, &at(6), false, false));
    assert_eq!(apply.digest, Digest::default());
    assert_eq!(feed_messages(apply).await, [(false, 0, 0, true)]);
    let nothing = pb::StoreState::default();
    let apply = applied(expected.plan(&desired, &nothing, false, false));
    assert_eq!(feed_messages(apply).await, [(true, 2, 0, false)]);
    let before = state(11, 5, Digest::default());
    let apply = applied(expected.plan(&desired, &before, false, false));
    assert_eq!(feed_messages(apply).await, [(true, 2, 0, false)]);

    // Gone before it was ever there: nothing to tell.
    import(&mut desired, Selection::All, Prefixes::default());
    let apply = applied(expected.plan(&desired, &before, false, false));
    assert_eq!(feed_messages(apply).await, []);
}

#[tokio::test]
async fn a_large_feed_goes_out_in_bounded_messages() {
    let mut desired = desired();
    let many = (0..120_000_u32).map(|n| std::net::IpAddr::from(n.to_be_bytes()).into());
    import(&mut desired, Selection::All, many.collect());
    let apply = applied(host(&desired).plan(&desired, &pb::StoreState::default(), false, false));
    let messages = feed_messages(apply).await;
    assert_eq!(messages.iter().map(|(head, ..)| *head).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(messages.iter().map(|(_, added, ..)| added).sum::<usize>(), 120_000);
}
