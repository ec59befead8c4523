//! Entries that this host makes itself, over its socket.

use super::{Enforcement, Refused, RefusedKind};
use crate::set::{Change, Held, HeldFeed, Suspension};
use ipnet::IpNet;
use kctl_blocklist::{
    Action, Entry, EntryKey, Feed, Protected, Selection, Service, more, now_unix_ms, refusal,
};
use kctl_proto::agent::v1 as pb;

/// How long a local `unblock --force` puts a controller's entry out of force.
const SUSPENSION_MS: i64 = 3_600_000;
/// Entries that an answer lists as still blocking.
const COVERING: usize = 1_000;

/// What to block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) prefixes: Vec<IpNet>,
    pub(crate) service: Option<Service>,
    pub(crate) interface: Option<String>,
    pub(crate) action: Action,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) reason: String,
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    /// `local:UID`
    pub(crate) source: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Blocked {
    pub(crate) warnings: Vec<String>,
    pub(crate) not_enforced: Option<pb::Error>,
}

/// What to unblock.
#[derive(Debug)]
pub(crate) struct Unblock {
    pub(crate) prefixes: Vec<IpNet>,
    pub(crate) service: Option<Service>,
    pub(crate) interface: Option<String>,
    pub(crate) actions: Vec<Action>,
    pub(crate) force: bool,
    /// `local:UID`
    pub(crate) by: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Unblocked {
    pub(crate) still_blocked_by: Vec<pb::Entry>,
    pub(crate) warnings: Vec<String>,
}

impl Enforcement {
    /// Makes local entries, all or none.
    pub(crate) fn block(&mut self, block: &Block) -> Result<Blocked, Refused> {
        let now = now_unix_ms();
        let mut warnings: Vec<_> = self
            .unfiltered()
            .iter()
            .map(|name| format!("interface {name:?} has a global address and is not filtered"))
            .collect();
        let expires_unix_ms = block
            .ttl_ms
            .map(|ttl_ms| now.saturating_add(i64::try_from(ttl_ms).unwrap_or(i64::MAX)));
        let kept_open = self.kept_open();
        let mut changes = Vec::with_capacity(block.prefixes.len());
        for &prefix in &block.prefixes {
            let key = EntryKey {
                prefix,
                service: block.service,
                interface: block.interface.clone(),
                action: block.action,
                source: block.source.clone(),
                selection: Selection::Names([self.config.name.clone()].into()),
            };
            kept_open.refuse(&key, block.force)?;
            let until = self.boot.until(expires_unix_ms);
            let old = self.set.find(&key);
            if old.is_some_and(|old| old.until > until) {
                warnings.push(format!("{prefix}: the new expiry is earlier than the old one"));
            }
            let created_unix_ms = old.map_or(now, |old| old.entry.created_unix_ms);
            let reason = block.reason.clone();
            let exceptions = Vec::new();
            let entry = Entry { key, reason, created_unix_ms, expires_unix_ms, exceptions };
            changes.push(Change::Put(Held { entry, until }));
        }
        let on = self.on_interfaces(block.interface.iter());
        warnings.extend(on.absent.iter().map(|name| absent(name)));
        if !block.dry_run {
            self.make(changes, None)?;
            tracing::info!(
                target: "audit", who = block.source, what = block.action.name(),
                prefixes = block.prefixes.len(), first = ?block.prefixes.first(), "local entries made"
            );
        }
        let not_enforced = self.not_enforced().or(on.not_filtered);
        Ok(Blocked { warnings, not_enforced })
    }

    /// What this host's own blocks must leave open.
    pub(super) fn kept_open(&self) -> KeptOpen {
        let own = self.network.own_addresses();
        let own = own.iter().filter_map(|it| it.parse::<std::net::IpAddr>().ok());
        let own = own.map(|it| (IpNet::from(it), Some("this host's own address")));
        let defaults = self.default_guard();
        let uplinks = self.uplinks.iter().map(|it| IpNet::from(it.ip()));
        let uplinks = uplinks.map(|it| (it, Some("the controller's address")));
        let listed = self.set.protected().filter(|it| !defaults.contains(it));
        let listed = listed.map(|it| (it, None));
        let needed = defaults.iter();
        let needed = needed.map(|&it| (it, Some("a default gateway or resolver of this host")));
        let protected: Vec<_> = own
            .chain(uplinks)
            .chain(needed)
            .chain(listed)
            .map(|(prefix, whose)| Protected { prefix, whose: whose.map(str::to_owned) })
            .collect();
        let ports: Vec<_> = self
            .network
            .ssh_ports
            .iter()
            .map(|&port| (port, "this host's ssh port".to_owned()))
            .collect();
        let listed = self.set.protected_feeds().cloned().collect();
        KeptOpen { protected, listed, ports }
    }

    /// Removes local entries, and with force suspends the controller's; all or none.
    pub(crate) fn unblock(&mut self, unblock: &Unblock) -> Result<Unblocked, Refused> {
        let now = now_unix_ms();
        let (mut changes, mut warnings) = (Vec::new(), Vec::new());
        for prefix in &unblock.prefixes {
            let matching = |key: &EntryKey| {
                (key.service, &key.interface) == (unblock.service, &unblock.interface)
                    && unblock.actions.contains(&key.action)
            };
            let mut held = self.set.all_of_prefix(*prefix);
            held.retain(|held| matching(&held.entry.key));
            let (local, remote): (Vec<_>, Vec<_>) =
                held.into_iter().partition(|held| held.is_local());
            let remove = local.iter().map(|held| Change::Remove(held.entry.key.clone()));
            changes.extend(remove);
            if unblock.force {
                let expires_unix_ms = now + SUSPENSION_MS;
                let until = self.boot.until(Some(expires_unix_ms));
                changes.extend(remote.iter().map(|held| {
                    let by = unblock.by.clone();
                    let suspension = Suspension { by, until, expires_unix_ms };
                    Change::Suspend(held.entry.key.clone(), suspension)
                }));
                warnings.extend(remote.iter().map(|held| {
                    format!(
                        "{prefix}: the entry of {} is suspended on this host for 1 h",
                        held.entry.key.source
                    )
                }));
            } else if let Some(held) = remote.first() {
                return Err(Refused::new(
                    RefusedKind::Precondition,
                    format!(
                        "{prefix}: the controller's entry of {}; unblock it there, or suspend it here for 1 h with --force",
                        held.entry.key.source
                    ),
                ));
            }
            if local.is_empty() && remote.is_empty() {
                return Err(Refused::new(
                    RefusedKind::NotFound,
                    self.nothing_like(*prefix, unblock),
                ));
            }
        }
        self.make(changes, None)?;
        tracing::info!(
            target: "audit", who = unblock.by, force = unblock.force,
            prefixes = unblock.prefixes.len(), first = ?unblock.prefixes.first(), "local entries removed"
        );
        let covering = self.covering(&unblock.prefixes);
        Ok(Unblocked { still_blocked_by: covering, warnings })
    }

    fn nothing_like(&self, prefix: IpNet, unblock: &Unblock) -> String {
        let covering = self.covering(&[prefix]);
        let covered: Vec<_> = covering
            .iter()
            .filter_map(|entry| entry.key.as_ref())
            .map(|key| format!("{} ({})", key.prefix, key.source))
            .collect();
        let what = more(unblock.service, unblock.interface.as_deref());
        match covered.is_empty() {
            true => format!("{prefix}{what}: is not blocked"),
            false => format!(
                "{prefix}{what}: has no entry of its own; it is covered by {}",
                covered.join(", ")
            ),
        }
    }

    /// Entries in force that overlap one of the prefixes.
    fn covering(&self, prefixes: &[IpNet]) -> Vec<pb::Entry> {
        let overlaps = |key: &EntryKey| {
            prefixes.iter().any(|it| key.prefix.contains(it) || it.contains(&key.prefix))
        };
        let in_force = self.set.entries().filter(|held| {
            let key = &held.entry.key;
            key.action != Action::Protect
                && overlaps(key)
                && !self.set.suspended().contains_key(key)
        });
        let own = in_force.map(|held| self.to_proto(held));
        let of_feeds = prefixes.iter().flat_map(|&prefix| self.covering_feeds(prefix));
        own.chain(of_feeds).take(COVERING).collect()
    }

    /// Entries of feeds that do.
    fn covering_feeds(&self, prefix: IpNet) -> impl Iterator<Item = pb::Entry> {
        let feeds = self.set.feeds().filter(|held| held.feed.head().action != Action::Protect);
        feeds.flat_map(move |held| {
            let head = held.feed.head();
            let ttl_ms = self.boot.left_ms(held.until);
            let entries = held.feed.prefixes().overlapping(prefix).map(|it| head.entry(it));
            let in_force = entries.filter(|it| !self.set.suspended().contains_key(&it.key));
            in_force.map(move |entry| pb::Entry { ttl_ms, ..entry.to_proto(0) })
        })
    }

    /// An entry with the time it has left on this boot's clock.
    pub(crate) fn to_proto(&self, held: &Held) -> pb::Entry {
        let ttl_ms = self.boot.left_ms(held.until);
        pb::Entry { ttl_ms, ..held.entry.to_proto(0) }
    }

    /// A feed with the time it has left on this boot's clock.
    pub(crate) fn feed_to_proto(&self, held: &HeldFeed) -> pb::FeedHead {
        let ttl_ms = self.boot.left_ms(held.until);
        pb::FeedHead { ttl_ms, ..held.feed.head().to_proto(0) }
    }

    /// Suspended entries, for a listing.
    pub(crate) fn suspended(&self) -> Vec<pb::SuspendedEntry> {
        let suspended = self.set.suspended().iter().filter(|(key, _)| !key.is_local());
        suspended
            .map(|(key, it)| pb::SuspendedEntry {
                key: Some(key.into()),
                by: it.by.clone(),
                ttl_ms: self.boot.left_ms(it.until).unwrap_or(0),
            })
            .collect()
    }
}

/// What an operator should know of an interface that is not there.
fn absent(name: &str) -> String {
    format!("interface {name:?} is not there; its entries hold when it appears")
}

/// Addresses and ports that a block refuses to close unless it is forced.
pub(super) struct KeptOpen {
    protected: Vec<Protected>,
    listed: Vec<Feed>,
    ports: Vec<(u16, String)>,
}

impl KeptOpen {
    pub(super) fn refuse(&self, key: &EntryKey, force: bool) -> Result<(), Refused> {
        if key.action == Action::Protect {
            return match key.interface {
                None => Ok(()),
                Some(_) => Err(Refused::new(
                    RefusedKind::Invalid,
                    "a never-block entry holds for every interface; leave --interface out",
                )),
            };
        }
        if force {
            return Ok(());
        }
        match refusal(key, &self.protected, &self.listed, &self.ports) {
            None => Ok(()),
            Some(refusal) => Err(Refused::new(RefusedKind::Precondition, refusal.to_string())),
        }
    }
}
