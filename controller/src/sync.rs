//! What a host must be sent so that it holds what it should: nothing, a difference, or the whole set.
//!
//! Pure: it looks at desired state and at what the host told. It knows no connections.

use crate::store::Desired;
use futures_util::{Stream, stream};
use kctl_blocklist::{Digest, Entry, EntryKey, now_unix_ms};
use kctl_proto::agent::v1 as pb;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Entries in one message: a few hundred kilobytes at most.
const CHUNK: usize = 1_000;

/// One entry as it was and as it is.
type BeforeAfter<'a> = (Option<&'a Arc<Entry>>, Option<&'a Arc<Entry>>);

/// What one host should hold, followed from revision to revision.
#[derive(Debug)]
pub(crate) struct Expected {
    name: String,
    labels: BTreeMap<String, String>,
    epoch: u64,
    revision: u64,
    digest: Digest,
}

/// What to do about a host.
#[derive(Debug)]
pub(crate) enum Plan {
    /// It holds what it should.
    InSync,
    /// It holds something that this store does not know: change nothing there. Why, and what to do.
    Refused(String),
    /// Send it this.
    Apply(Apply),
}

/// What to send, and what the host holds afterwards.
#[derive(Debug)]
pub(crate) struct Apply {
    header: pb::apply_blocklist_request::Header,
    upserts: Vec<Arc<Entry>>,
    removals: Vec<EntryKey>,
    /// Of the entries that the host holds afterwards.
    pub(crate) digest: Digest,
}

impl Expected {
    /// For a host of this name and these labels.
    pub(crate) fn new(desired: &Desired, name: &str, labels: BTreeMap<String, String>) -> Self {
        let mut expected = Self {
            name: name.to_owned(),
            labels,
            epoch: 0,
            revision: 0,
            digest: Digest::default(),
        };
        expected.recount(desired);
        expected
    }

    /// Whether the host's labels are still these.
    pub(crate) fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels == *labels
    }

    /// What to do about the host, which told `state`. With `whole`, a difference is not enough; with
    /// `adopt`, it takes our set whatever it holds.
    pub(crate) fn plan(
        &mut self,
        desired: &Desired,
        state: &pb::StoreState,
        whole: bool,
        adopt: bool,
    ) -> Plan {
        self.follow(desired);
        let known = match standing(desired, state, &self.name) {
            Ok(known) => known,
            Err(_) if adopt => false,
            Err(why) => return Plan::Refused(why),
        };
        let digest = Digest::from_bytes(&state.digest);
        if known && state.revision == desired.revision && digest == Some(self.digest) {
            return Plan::InSync;
        }
        if known
            && !whole
            && !adopt
            && digest.is_some()
            && digest == self.at(desired, state.revision)
        {
            return Plan::Apply(self.difference(desired, state));
        }
        Plan::Apply(self.whole(desired, adopt))
    }

    fn concerns(&self, entry: Option<&Arc<Entry>>) -> bool {
        entry.is_some_and(|entry| entry.concerns(&self.name, &self.labels))
    }

    fn recount(&mut self, desired: &Desired) {
        self.digest = desired
            .entries()
            .filter(|entry| self.concerns(Some(entry)))
            .map(|entry| &entry.key)
            .collect();
        (self.epoch, self.revision) = (desired.epoch(), desired.revision);
    }

    fn follow(&mut self, desired: &Desired) {
        let changes =
            desired.changes_since(self.revision).filter(|_| self.epoch == desired.epoch());
        let Some(changes) = changes else { return self.recount(desired) };
        let mut digest = self.digest;
        for change in changes {
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            before.filter(|_| self.concerns(before)).inspect(|entry| digest.remove(&entry.key));
            after.filter(|_| self.concerns(after)).inspect(|entry| digest.add(&entry.key));
        }
        (self.digest, self.revision) = (digest, desired.revision);
    }

    /// The digest that the host should have had at an earlier revision.
    fn at(&self, desired: &Desired, revision: u64) -> Option<Digest> {
        let mut digest = self.digest;
        for change in desired.changes_since(revision)? {
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            before.filter(|_| self.concerns(before)).inspect(|entry| digest.add(&entry.key));
            after.filter(|_| self.concerns(after)).inspect(|entry| digest.remove(&entry.key));
        }
        Some(digest)
    }

    fn difference(&self, desired: &Desired, base: &pb::StoreState) -> Apply {
        // Of several changes of one entry, the first tells what the host has, the last what it should.
        let mut net: HashMap<&EntryKey, BeforeAfter<'_>> = HashMap::new();
        for change in desired.changes_since(base.revision).into_iter().flatten() {
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            if let Some(entry) = before.or(after) {
                net.entry(&entry.key).or_insert((before, None)).1 = after;
            }
        }
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for (key, (before, after)) in net {
            match after {
                Some(entry) if self.concerns(after) => upserts.push(Arc::clone(entry)),
                _ if self.concerns(before) => removals.push(key.clone()),
                _ => {}
            }
        }
        Apply {
            header: header(desired, Some(base.clone()), false),
            upserts,
            removals,
            digest: self.digest,
        }
    }

    fn whole(&self, desired: &Desired, adopt: bool) -> Apply {
        let upserts =
            desired.entries().filter(|entry| self.concerns(Some(entry))).cloned().collect();
        Apply {
            header: header(desired, None, adopt),
            upserts,
            removals: Vec::new(),
            digest: self.digest,
        }
    }
}

impl Apply {
    /// The revision that the host has afterwards.
    pub(crate) fn revision(&self) -> u64 {
        self.header.revision
    }

    /// Whether it replaces all that the host holds.
    pub(crate) fn is_whole(&self) -> bool {
        self.header.base.is_none()
    }

    /// The messages. Times left are those at the moment of sending.
    pub(crate) fn messages(
        self,
    ) -> impl Stream<Item = pb::ApplyBlocklistRequest> + Send + Unpin + 'static {
        use pb::apply_blocklist_request::{Chunk, Part};
        let Self { header, upserts, removals, .. } = self;
        let upserts = chunks(upserts).map(|entries| {
            let now = now_unix_ms();
            let upserts = entries.iter().map(|entry| entry.to_proto(now)).collect();
            Part::Chunk(Chunk { upserts, removals: Vec::new() })
        });
        let removals = chunks(removals).map(|keys| {
            let removals = keys.iter().map(pb::EntryKey::from).collect();
            Part::Chunk(Chunk { upserts: Vec::new(), removals })
        });
        let parts = std::iter::once(Part::Header(header)).chain(upserts).chain(removals);
        stream::iter(parts.map(|part| pb::ApplyBlocklistRequest { part: Some(part) }))
    }
}

fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn header(
    desired: &Desired,
    base: Option<pb::StoreState>,
    adopt: bool,
) -> pb::apply_blocklist_request::Header {
    pb::apply_blocklist_request::Header {
        store_id: desired.store_id.clone(),
        epoch: desired.epoch(),
        revision: desired.revision,
        base,
        adopt,
    }
}

/// Whether a host's state is an earlier one of this store (`true`), or that of a host that never had
/// one (`false`); else why it must be left alone, and what to do.
pub(crate) fn standing(
    desired: &Desired,
    state: &pb::StoreState,
    host: &str,
) -> Result<bool, String> {
    if state.store_id.is_empty() {
        return Ok(false);
    }
    let told = |epoch: &&crate::store::Epoch| {
        epoch.epoch == state.epoch
            && epoch.first.saturating_sub(1) <= state.revision
            && state.revision <= epoch.last.unwrap_or(desired.revision)
    };
    if state.store_id == desired.store_id && desired.epochs.iter().any(|epoch| told(&epoch)) {
        return Ok(true);
    }
    let short = |id: &str| id.chars().take(8).collect::<String>();
    Err(format!(
        "holds store {} revision {}, which this controller's store ({} revision {}) does not know; \
         run \"kctl blocklist recover --from-host {host}\" to take its entries, or \"kctl hosts adopt \
         {host}\" to give it this controller's",
        short(&state.store_id),
        state.revision,
        short(&desired.store_id),
        desired.revision,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Epoch, Write};
    use futures_util::StreamExt as _;
    use kctl_blocklist::{Action, Selection, parse_prefix};

    fn entry(prefix: &str, exceptions: Vec<Selection>) -> Write {
        let key = EntryKey {
            prefix: parse_prefix(prefix).expect("valid"),
            service: None,
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
        Desired::new("store".to_owned(), epochs, 5, [])
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
        let many: Vec<_> = (0..2_500)
            .map(|i| entry(&format!("10.0.{}.{}", i / 256, i % 256), Vec::new()))
            .collect();
        desired.apply(&many);
        let mut expected = host(&desired);
        let apply = applied(expected.plan(&desired, &pb::StoreState::default(), false, false));
        let messages: Vec<_> = apply.messages().collect().await;
        assert_eq!(messages.len(), 1 + 3);
    }
}
