//! `block`, `block --monitor` and `protect add`.

use super::{
    NAMED, check_reason, prefixes,
    room::{Rules, Unions},
    selection, want_hosts,
};
use crate::{
    reachable::Reachable,
    registry::{HostView, timestamp},
    status::Error,
    store::{Desired, Model, Write},
};
use ipnet::IpNet;
use kctl_blocklist::{Action, Entry, EntryKey, Selection, Service, interface_from_proto};
use kctl_proto::controller::v1 as api;
use std::sync::Arc;

/// A checked request.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) prefixes: Vec<IpNet>,
    pub(crate) service: Option<Service>,
    interface: Option<String>,
    action: Action,
    expires_unix_ms: Option<i64>,
    reason: String,
    pub(crate) selection: Selection,
    source: String,
    force: bool,
    allow_empty: bool,
    now_unix_ms: i64,
}

/// What was recorded, for the answer.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    pub(crate) warnings: Vec<String>,
}

impl Block {
    /// Reads a request of `source`.
    pub(crate) fn parse(
        request: api::BlockRequest,
        source: String,
        now_unix_ms: i64,
    ) -> Result<Self, Error> {
        let invalid = |error: &dyn std::fmt::Display| Error::Invalid(error.to_string());
        let prefixes = prefixes(&request.prefixes)?;
        let service = Service::from_proto(request.port, request.port_last, request.protocol)
            .map_err(|e| invalid(&e))?;
        let interface = interface_from_proto(request.interface.clone()).map_err(|e| invalid(&e))?;
        let action = Action::from_proto(request.action).map_err(|e| invalid(&e))?;
        let action = action.unwrap_or(Action::Drop);
        if action == Action::Protect && interface.is_some() {
            return Err(Error::Invalid(
                "interface: a never-block entry holds for every one; leave it out".to_owned(),
            ));
        }
        let expires_unix_ms = match request.ttl_ms {
            Some(0) => return Err(Error::Invalid("ttl: must be at least 1 ms".to_owned())),
            Some(_) if action == Action::Protect => {
                return Err(Error::Invalid("ttl: never-block entries do not expire".to_owned()));
            }
            ttl => {
                ttl.map(|ttl| now_unix_ms.saturating_add(i64::try_from(ttl).unwrap_or(i64::MAX)))
            }
        };
        let reason = request.reason;
        check_reason(&reason)?;
        Ok(Self {
            prefixes,
            service,
            interface,
            action,
            expires_unix_ms,
            reason,
            selection: selection(request.selection)?,
            source,
            force: request.force,
            allow_empty: request.allow_empty,
            now_unix_ms,
        })
    }

    /// Whether it may be done: hosts are there, nobody is cut off, and the maps are large enough.
    /// Returns what the operator should know.
    pub(crate) fn check(
        &self,
        hosts: &[HostView],
        reachable: &Reachable,
        desired: &Desired,
    ) -> Result<Vec<String>, Error> {
        want_hosts(&self.selection, hosts, self.allow_empty)?;
        let mut warnings = Vec::new();
        let mut refused = Vec::new();
        for key in self.keys() {
            if !self.force {
                refused.extend(reachable.refusal(&key).map(|refusal| refusal.to_string()));
            } else if key.action == Action::Drop {
                warnings.extend(reachable.ineffective(&key));
            }
        }
        if !refused.is_empty() {
            return Err(Error::Precondition(super::few(refused)));
        }
        let mut unions = Unions::default();
        for host in hosts {
            self.check_capacity(host, desired, &mut unions)?;
            warnings.extend(unfiltered(host));
        }
        Ok(warnings)
    }

    /// The writes: new entries, and new ends and reasons of entries that are there.
    pub(crate) fn decide(&self, model: &Model) -> (Vec<Write>, Blocked) {
        let mut writes = Vec::new();
        let mut shortened = Vec::new();
        for key in self.keys() {
            let known = model.desired.entry(&key);
            let entry = Entry {
                key,
                reason: self.reason.clone(),
                created_unix_ms: known.map_or(self.now_unix_ms, |known| known.created_unix_ms),
                expires_unix_ms: self.expires_unix_ms,
                exceptions: Vec::new(),
            };
            if known.is_some_and(|known| **known == entry) {
                continue;
            }
            shortened.extend(known.and_then(|known| shortens(known, &entry)));
            writes.push(Write::Upsert(Arc::new(entry)));
        }
        let more = shortened.len().saturating_sub(NAMED);
        shortened.truncate(NAMED);
        if more > 0 {
            shortened.push(format!("and {more} more expiries shortened"));
        }
        (writes, Blocked { warnings: shortened })
    }

    /// Whether it drops anything.
    pub(crate) fn drops(&self) -> bool {
        self.action == Action::Drop
    }

    /// The keys of its entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = EntryKey> {
        self.prefixes.iter().map(|&prefix| EntryKey {
            prefix,
            service: self.service,
            interface: self.interface.clone(),
            action: self.action,
            source: self.source.clone(),
            selection: self.selection.clone(),
        })
    }

    /// Refuses what makes a host's set larger than its maps. A host that has too much to hold already
    /// is no reason to refuse a block on the others.
    fn check_capacity(
        &self,
        host: &HostView,
        desired: &Desired,
        unions: &mut Unions,
    ) -> Result<(), Error> {
        let rules = Rules::of(desired, host);
        let new: Vec<_> = self.keys().collect();
        match rules.check(&new, unions) {
            Err(error) if !rules.is_over(unions) => Err(error),
            _ => Ok(()),
        }
    }
}

fn shortens(known: &Entry, new: &Entry) -> Option<String> {
    let new_end = new.expires_unix_ms?;
    let from = match known.expires_unix_ms {
        None => "never".to_owned(),
        Some(end) if new_end < end => timestamp(end),
        Some(_) => return None,
    };
    Some(format!("{}: expiry shortened from {from} to {}", new.key.prefix, timestamp(new_end)))
}

pub(super) fn unfiltered(host: &HostView) -> Option<String> {
    let filter = host.status.as_ref()?.filter.as_ref()?;
    let names = filter.unfiltered_interfaces.join(", ");
    let plural = if filter.unfiltered_interfaces.len() == 1 { "is" } else { "are" };
    (!names.is_empty()).then(|| format!("host {:?}: {names} {plural} not filtered", host.name))
}
