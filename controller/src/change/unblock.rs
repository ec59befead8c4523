//! `unblock` and `protect remove`.

use super::{few, prefixes, selection, want_hosts};
use crate::{
    registry::HostView,
    status::Error,
    store::{Desired, Model, Write},
};
use ipnet::IpNet;
use kctl_blocklist::{
    AUTO_SOURCE, Action, Entry, EntryKey, InvalidEntry, Selection, Service, interface_from_proto,
    more,
};
use kctl_proto::controller::v1 as api;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Entries that an answer lists as still blocking.
const STILL: usize = 1_000;

/// A checked request.
#[derive(Debug, Clone)]
pub(crate) struct Unblock {
    pub(crate) prefixes: Vec<IpNet>,
    service: Option<Service>,
    interface: Option<String>,
    actions: &'static [Action],
    pub(crate) selection: Selection,
    allow_empty: bool,
}

/// Names and labels of the selected hosts.
pub(crate) type Hosts = Vec<(String, BTreeMap<String, String>)>;

impl Unblock {
    /// Reads a request.
    pub(crate) fn parse(request: api::UnblockRequest) -> Result<Self, Error> {
        let invalid = |error: InvalidEntry| Error::Invalid(error.to_string());
        let service = Service::from_proto(request.port, request.port_last, request.protocol)
            .map_err(invalid)?;
        let interface = interface_from_proto(request.interface.clone()).map_err(invalid)?;
        let actions: &[Action] = match Action::from_proto(request.action).map_err(invalid)? {
            None => &[Action::Drop, Action::Monitor],
            Some(Action::Drop) => &[Action::Drop],
            Some(Action::Monitor) => &[Action::Monitor],
            Some(Action::Protect) => &[Action::Protect],
        };
        Ok(Self {
            prefixes: prefixes(&request.prefixes)?,
            service,
            interface,
            actions,
            selection: selection(request.selection)?,
            allow_empty: request.allow_empty,
        })
    }

    /// Whether there are hosts that it is about.
    pub(crate) fn check(&self, hosts: &[HostView]) -> Result<(), Error> {
        want_hosts(&self.selection, hosts, self.allow_empty)
    }

    /// The writes, and the entries that block the same addresses on the selected hosts afterwards.
    pub(crate) fn decide(
        &self,
        model: &Model,
        hosts: &Hosts,
    ) -> Result<(Vec<Write>, Vec<Arc<Entry>>), Error> {
        let desired = &model.desired;
        let mut writes = Vec::new();
        let mut missing = Vec::new();
        for &prefix in &self.prefixes {
            let mut found = self.exact(desired, prefix);
            if found.is_empty() {
                found = self.narrowed(desired, prefix, hosts);
            }
            if found.is_empty() {
                missing.push(self.not_found(desired, prefix, hosts));
            }
            writes.extend(found);
        }
        if !missing.is_empty() {
            return Err(Error::NotFound(few(missing)));
        }
        let still = self.still(desired, &writes, hosts);
        Ok((writes, still))
    }

    /// Entries of this prefix, service and action that people or detection made, and no feed.
    fn manual<'a>(
        &'a self,
        desired: &'a Desired,
        prefix: IpNet,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        desired.of_prefix(prefix).filter(|entry| {
            (entry.key.service, &entry.key.interface) == (self.service, &self.interface)
                && self.actions.contains(&entry.key.action)
                && (entry.key.source.starts_with("user:")
                    || entry.key.source.starts_with(AUTO_SOURCE))
        })
    }

    fn exact(&self, desired: &Desired, prefix: IpNet) -> Vec<Write> {
        self.manual(desired, prefix)
            .filter(|entry| entry.key.selection == self.selection)
            .map(|entry| Write::Remove(entry.key.clone()))
            .collect()
    }

    /// A selection of some of an entry's hosts excepts them. "All hosts" is never some of others.
    fn narrowed(&self, desired: &Desired, prefix: IpNet, hosts: &Hosts) -> Vec<Write> {
        let narrower = |entry: &&Arc<Entry>| {
            self.selection != Selection::All
                && hosts.iter().all(|(name, labels)| entry.key.selection.matches(name, labels))
                && hosts.iter().any(|(name, labels)| entry.concerns(name, labels))
        };
        self.manual(desired, prefix)
            .filter(narrower)
            .map(|entry| {
                let mut entry = Entry::clone(entry);
                entry.exceptions.push(self.selection.clone());
                Write::Upsert(Arc::new(entry))
            })
            .collect()
    }

    fn not_found(&self, desired: &Desired, prefix: IpNet, hosts: &Hosts) -> String {
        let covering = desired
            .overlapping(prefix)
            .filter(|entry| self.actions.contains(&entry.key.action))
            .filter(|entry| hosts.iter().any(|(name, labels)| entry.concerns(name, labels)))
            .take(3)
            .map(|entry| describe(&entry.key))
            .collect::<Vec<_>>()
            .join(", ");
        let hint = if covering.is_empty() {
            "see `kctl blocklist`".to_owned()
        } else {
            format!("it is covered by {covering}")
        };
        let more = more(self.service, self.interface.as_deref());
        format!(
            "{prefix}{more}: no manual entry for hosts {:?}; {hint}",
            self.selection.to_string()
        )
    }

    fn still(&self, desired: &Desired, writes: &[Write], hosts: &Hosts) -> Vec<Arc<Entry>> {
        if self.actions.contains(&Action::Protect) {
            return Vec::new();
        }
        let after: HashMap<&EntryKey, Option<&Arc<Entry>>> = writes
            .iter()
            .filter_map(|write| match write {
                Write::Remove(key) => Some((key, None)),
                Write::Upsert(entry) => Some((&entry.key, Some(entry))),
                _ => None,
            })
            .collect();
        let mut told = HashSet::new();
        self.prefixes
            .iter()
            .flat_map(|&prefix| desired.overlapping(prefix))
            .filter(|entry| entry.key.action != Action::Protect)
            .filter_map(|entry| match after.get(&entry.key) {
                Some(changed) => changed.cloned(),
                None => Some(entry),
            })
            .filter(|entry| {
                hosts.is_empty() || hosts.iter().any(|(name, labels)| entry.concerns(name, labels))
            })
            .filter(|entry| told.insert(entry.key.clone()))
            .take(STILL)
            .collect()
    }
}

fn describe(key: &EntryKey) -> String {
    let (prefix, action, source) = (key.prefix, key.action.name(), &key.source);
    let more = key.more();
    format!("{prefix}{more} ({action}, {source}, hosts {})", key.selection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Records;
    use kctl_blocklist::parse_prefix;
    use kctl_proto::agent::v1 as pb;

    fn entry(prefix: &str, action: Action, source: &str, selection: Selection) -> Entry {
        let prefix = parse_prefix(prefix).expect("valid");
        let (service, source) = (None, source.to_owned());
        Entry {
            key: EntryKey { prefix, service, interface: None, action, source, selection },
            reason: String::new(),
            created_unix_ms: 0,
            expires_unix_ms: None,
            exceptions: Vec::new(),
        }
    }

    fn web(numbers: &[u8]) -> Selection {
        Selection::Names(numbers.iter().map(|n| format!("web-{n}")).collect())
    }

    fn model(entries: Vec<Entry>) -> Model {
        let desired = Desired::new("s".to_owned(), Vec::new(), 1, entries, []);
        Model { desired, records: Records::default() }
    }

    fn decide(
        model: &Model,
        selection: &Selection,
        action: pb::Action,
    ) -> Result<(Vec<Write>, Vec<String>), Error> {
        let request = api::UnblockRequest {
            prefixes: vec!["10.0.0.5".to_owned()],
            action: action.into(),
            selection: Some(selection.into()),
            ..Default::default()
        };
        let hosts: Hosts = (1..=2)
            .map(|n| (format!("web-{n}"), BTreeMap::new()))
            .filter(|(name, labels)| selection.matches(name, labels))
            .collect();
        let (writes, still) = Unblock::parse(request)?.decide(model, &hosts)?;
        Ok((writes, still.iter().map(|entry| describe(&entry.key)).collect()))
    }

    #[test]
    fn exactly_this_selection_is_removed_and_the_rest_is_told() {
        let model = model(vec![
            entry("10.0.0.5", Action::Drop, "user:a", Selection::All),
            entry("10.0.0.5", Action::Monitor, "user:b", Selection::All),
            entry("10.0.0.5", Action::Drop, "user:a", web(&[1])),
            entry("10.0.0.5", Action::Drop, "feed:x", Selection::All),
            entry("10.0.0.5", Action::Protect, "user:a", Selection::All),
            entry("10.0.0.0/24", Action::Drop, "user:a", web(&[3])),
        ]);
        let unspecified = pb::Action::Unspecified;
        let (writes, still) = decide(&model, &Selection::All, unspecified).expect("found");
        assert_eq!(writes.len(), 2);
        assert!(writes.iter().all(|write| matches!(write, Write::Remove(_))), "{writes:?}");
        assert_eq!(
            still,
            ["10.0.0.5/32 (drop, feed:x, hosts all)", "10.0.0.5/32 (drop, user:a, hosts web-1)"]
        );
        let (writes, _) = decide(&model, &Selection::All, pb::Action::Monitor).expect("found");
        assert_eq!(writes.len(), 1);
        let (writes, still) = decide(&model, &Selection::All, pb::Action::Protect).expect("found");
        assert_eq!((writes.len(), still.len()), (1, 0));
    }

    #[test]
    fn a_narrower_selection_is_excepted() {
        let model = model(vec![entry("10.0.0.5", Action::Drop, "user:a", Selection::All)]);
        let (writes, still) = decide(&model, &web(&[1]), pb::Action::Unspecified).expect("found");
        let [Write::Upsert(entry)] = writes.as_slice() else { panic!("{writes:?}") };
        assert_eq!(entry.exceptions, [web(&[1])]);
        assert!(still.is_empty(), "{still:?}");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_covers_it() {
        let model = model(vec![
            entry("10.0.0.5", Action::Drop, "user:a", web(&[1, 2])),
            entry("10.0.0.0/8", Action::Drop, "feed:x", Selection::All),
        ]);
        // All hosts, also later ones, are never some of these two.
        let missing = decide(&model, &Selection::All, pb::Action::Unspecified).expect_err("not it");
        let Error::NotFound(message) = missing else { panic!("{missing:?}") };
        assert!(message.contains("hosts web-1,web-2") && message.contains("feed:x"), "{message}");
    }
}
