//! Raising what one host's detection blocked to every host, where the controller is told to. What it
//! makes is an entry as any other: refused, counted and audited as one of a person, for as long as the
//! host said. An entry that somebody removes again is not made a second time of the same finding.

use super::{Api, READ_WAIT, listing::host_blocklist};
use crate::{
    audit::Audited, change::block::Block, config::Escalation, reachable::Reachable,
    registry::HostView, status::Error,
};
use kctl_blocklist::{AUTO_SOURCE, Action, Entry, EntryKey, Selection, now_unix_ms};
use kctl_proto::{agent::v1 as pb, controller::v1 as api};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often hosts' statuses are looked at.
const TICK: Duration = Duration::from_millis(500);

/// What is known of one host.
#[derive(Default)]
struct Seen {
    /// How many entries its detection had made when it was asked.
    made: u64,
    /// Those that are settled: the moment of their making.
    settled: HashSet<(EntryKey, i64)>,
}

/// Raises entries until it is cancelled.
pub(crate) async fn run(api: Api, limits: Escalation, cancel: CancellationToken) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: HashMap<String, Seen> = HashMap::new();
    // New entries that may be made; the others wait for a later look.
    let per_second = f64::from(limits.max_blocks_per_second);
    let (mut left, mut looked) = (per_second, Instant::now());
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let hosts = api.registry.hosts();
        seen.retain(|name, _| hosts.iter().any(|host| host.name == *name));
        let now = Instant::now();
        let more = now.duration_since(looked).as_secs_f64() * per_second;
        (left, looked) = ((left + more).min(per_second), now);
        for host in hosts {
            let seen = seen.entry(host.name.clone()).or_default();
            let made = host.status.as_ref().map_or(0, |status| status.auto_made);
            if left >= 1.0 && seen.made != made && host.session.is_some() {
                match look(&api, &host, seen, limits.max_blocks, &mut left).await {
                    Ok(true) => seen.made = made,
                    Ok(false) => {}
                    Err(why) => tracing::warn!(host = host.name, why, "detection: not asked"),
                }
            }
        }
    }
}

/// Raises what a host's detection made; whether that is all of it.
async fn look(
    api: &Api,
    host: &HostView,
    seen: &mut Seen,
    max_blocks: usize,
    left: &mut f64,
) -> Result<bool, String> {
    let Some(session) = &host.session else { return Ok(false) };
    let asked = timeout(READ_WAIT, host_blocklist(session.channel.clone(), true)).await;
    let list = asked.map_err(|_| "no answer".to_owned())?;
    let list = list.map_err(|status| status.message().to_owned())?;
    let now = now_unix_ms();
    let entries = list.entries.into_iter().filter_map(|wire| Entry::from_proto(wire, now).ok());
    let made: Vec<_> = entries.filter(|entry| entry.key.is_auto()).collect();
    let id = |entry: &Entry| (entry.key.clone(), entry.created_unix_ms);
    let still: HashSet<_> = made.iter().map(id).collect();
    seen.settled.retain(|settled| still.contains(settled));
    for entry in made {
        if seen.settled.contains(&id(&entry)) {
            continue;
        }
        if *left < 1.0 {
            return Ok(false);
        }
        seen.settled.insert(id(&entry));
        if raise(api, host, entry, max_blocks).await {
            *left -= 1.0;
        }
    }
    Ok(true)
}

/// Makes a host's entry one of every host; whether that took a revision.
async fn raise(api: &Api, host: &HostView, entry: Entry, max_blocks: usize) -> bool {
    let now = now_unix_ms();
    let (prefix, source) = (entry.key.prefix, entry.key.source.clone());
    let key = EntryKey { selection: Selection::All, ..entry.key };
    let automatic = {
        let desired = api.store.desired();
        let desired = desired.borrow();
        let is_automatic =
            |entry: &&std::sync::Arc<Entry>| entry.key.source.starts_with(AUTO_SOURCE);
        if desired.entry(&key).is_some() {
            return false;
        }
        desired.entries().filter(is_automatic).count()
    };
    let ttl = entry.expires_unix_ms.map(|end| u64::try_from(end - now).unwrap_or(0));
    if key.action != Action::Drop || ttl == Some(0) {
        return false;
    }
    let request = api::BlockRequest {
        prefixes: vec![prefix.to_string()],
        ttl_ms: ttl,
        reason: format!("{} (found by {})", entry.reason, host.name),
        selection: Some(pb::Selection::from(&Selection::All)),
        ..api::BlockRequest::default()
    };
    let ttl = ttl.map(|ms| format!(" for {ms} ms")).unwrap_or_default();
    let what = format!("block {prefix}{ttl} because {:?}", request.reason);
    let audited = Audited::of_detection(&host.name, &source, what);
    let block = if automatic < max_blocks {
        checked(api, request, source, now)
    } else {
        Err(Error::Precondition(format!("there are {max_blocks} automatic entries already")))
    };
    let block = match block {
        Ok(block) => block,
        Err(error) => {
            audited.refused(&api.store, &error).await;
            return true;
        }
    };
    // What came of it is in the log either way.
    let _ = audited.write(&api.store, move |model| Ok(block.decide(model))).await;
    true
}

fn checked(
    api: &Api,
    request: api::BlockRequest,
    source: String,
    now: i64,
) -> Result<Block, Error> {
    let block = Block::parse(request, source, now)?;
    let hosts = api.registry.select(&block.selection)?;
    let desired = api.store.desired();
    let desired = desired.borrow();
    let reachable = Reachable::new(&hosts, &api.controller_addresses(), None, &desired);
    block.check(&hosts, &reachable, &desired)?;
    Ok(block)
}
