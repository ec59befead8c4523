//! What a change would do on each host, for dry runs.

use super::{
    block::Block,
    room::{Rules, Unions},
};
use crate::{
    registry::HostView,
    status::{Error, error_data},
    store::{Desired, FeedChange},
};
use ipnet::IpNet;
use kctl_blocklist::{Action, Prefixes};
use kctl_proto::controller::v1::HostForecast;
use tonic::Code;

/// An import's.
pub(crate) fn of_import(
    hosts: &[HostView],
    desired: &Desired,
    change: Option<&FeedChange>,
) -> Vec<HostForecast> {
    let mut unions = Unions::default();
    let forecast = |host: &HostView| {
        let mut forecast = HostForecast { host: host.name.clone(), ..HostForecast::default() };
        let Some(change) = change else { return forecast };
        let labels = host.labels();
        let concerned = |feed: &&kctl_blocklist::Feed| feed.concerns(&host.name, &labels);
        let before = change.before.as_ref().filter(concerned);
        let after = change.after.as_ref().filter(concerned);
        let none = Prefixes::default();
        let (before, now) = (
            before.map_or(&none, |feed| feed.prefixes()),
            after.map_or(&none, |feed| feed.prefixes()),
        );
        let difference = before.difference(now);
        let drops = after.is_some_and(|feed| feed.head().action == Action::Drop);
        let dropped = if drops { dropped(desired, host, Some(&change.name)) } else { Vec::new() };
        forecast.added = difference.added.len() as u64;
        forecast.removed = difference.removed.len() as u64;
        forecast.covered = difference.added.covered_by(&dropped);
        let room = Rules::with_feed(desired, host, &change.name, change.after.as_ref());
        forecast.error = room.check(&[], &mut unions).err().map(refusal);
        forecast
    };
    hosts.iter().map(forecast).collect()
}

/// A block's.
pub(crate) fn of_block(hosts: &[HostView], desired: &Desired, block: &Block) -> Vec<HostForecast> {
    let forecast = |host: &HostView| {
        let labels = host.labels();
        let new = block.keys().filter(|key| {
            !desired.entry(key).is_some_and(|entry| entry.concerns(&host.name, &labels))
        });
        let added: Prefixes = new.map(|key| key.prefix).collect();
        // What is dropped on every port covers what is to be dropped on one.
        let dropped = dropped(desired, host, None);
        HostForecast {
            host: host.name.clone(),
            added: added.len() as u64,
            covered: if block.drops() { added.covered_by(&dropped) } else { 0 },
            ..HostForecast::default()
        }
    };
    hosts.iter().map(forecast).collect()
}

/// What a host drops on every port, sorted; without the feed `but`.
fn dropped(desired: &Desired, host: &HostView, but: Option<&str>) -> Vec<IpNet> {
    let labels = host.labels();
    let entries = desired.entries().filter(|entry| {
        entry.key.action == Action::Drop
            && entry.key.service.is_none()
            && entry.key.interface.is_none()
            && entry.concerns(&host.name, &labels)
    });
    let mut dropped: Vec<_> = entries.map(|entry| entry.key.prefix).collect();
    for feed in desired.feeds() {
        let other = but != Some(feed.head().name.as_str());
        if other && feed.head().action == Action::Drop && feed.concerns(&host.name, &labels) {
            dropped.extend_from_slice(feed.prefixes().as_slice());
        }
    }
    // Runs that are sorted already, which a stable sort merges.
    dropped.sort();
    dropped
}

fn refusal(error: Error) -> kctl_proto::agent::v1::Error {
    error_data(Code::ResourceExhausted, error.to_string())
}
