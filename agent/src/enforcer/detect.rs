//! What follows from what detection found: events, and entries of this host's own where it is told to
//! make them. They obey the never-block list, and there are never too many of them: whoever forges
//! sources can't fill the list.

use super::{Enforcement, Refused};
use crate::events::Clock;
use crate::set::{Change, Held};
use agent_kernel::filter::{Detection, Finding, Found, Limit};
use ipnet::IpNet;
use kctl_blocklist::{Action, Entry, EntryKey, Selection, now_unix_ms};
use kctl_events::Kind;
use kctl_proto::agent::v1::{self as pb, event::Payload};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many entries may be made: a bucket that fills again by so many a second.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: f64,
    left: f64,
    at: Instant,
    /// Not made since it was told last.
    not_made: [u64; 2],
}

/// Why an entry is not made although it could be: places in [`Allowance::not_made`].
const TOO_MANY: usize = 0;
const TOO_FAST: usize = 1;

impl Allowance {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = per_second.into();
        Self { per_second, left: per_second, at: Instant::now(), not_made: [0; 2] }
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let more = now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = ((self.left + more).min(self.per_second), now);
    }

    fn take(&mut self) -> bool {
        let has = self.left >= 1.0;
        self.left -= if has { 1.0 } else { 0.0 };
        has
    }
}

/// A source to block, and why.
struct Block {
    src: IpAddr,
    source: &'static str,
    reason: String,
    time: Duration,
}

impl Enforcement {
    /// Makes the program look for what is wanted.
    pub(super) fn set_detection(&mut self) {
        let limits = self.looked_for();
        let Ok(filter) = &mut self.filter else { return };
        if let Err(error) = filter.set_detection(&limits) {
            tracing::error!(%error, "detection can't be set");
        }
    }

    /// Without what nobody would hear of and nothing follows from.
    fn looked_for(&self) -> Detection {
        let kinds = self.config.events.kinds;
        self.config.detect.limits(kinds.contains(Kind::Scan), kinds.contains(Kind::Flood))
    }

    /// What is looked for, and what follows, as people see it.
    pub(super) fn detection(&self) -> pb::DetectionStatus {
        let config = &self.config.detect;
        let Detection { scan, connections, flood } = self.looked_for();
        let rule = |block: Option<Duration>, found: Option<(u32, Option<u32>, Duration)>| {
            let Some((count, source_count, window)) = found else {
                let action = pb::detection_status::Action::Off.into();
                return pb::detection_status::Rule { action, ..Default::default() };
            };
            let action = match block {
                Some(_) => pb::detection_status::Action::Block,
                None => pb::detection_status::Action::Report,
            };
            pb::detection_status::Rule {
                action: action.into(),
                block_ms: block.map(milliseconds),
                count: Some(count),
                source_count,
                window_ms: Some(milliseconds(window)),
            }
        };
        let limit = |it: Limit| (it.count, None, it.window);
        let flood = flood.map(|it| (it.port, Some(it.source), it.window));
        pb::DetectionStatus {
            portscan: Some(rule(config.portscan, scan.map(limit))),
            connections: Some(rule(config.connections, connections.map(limit))),
            synflood: Some(rule(config.synflood, flood)),
            max_blocks: config.max_blocks,
            max_blocks_per_second: config.max_blocks_per_second,
        }
    }

    /// What was found, and what was done about it; once a cycle also what is flooded. `None` without a
    /// filter.
    pub(crate) fn detect(&mut self, is_cycle: bool) -> Result<Option<Vec<pb::Event>>, Refused> {
        let Ok(filter) = &mut self.filter else { return Ok(None) };
        let found = filter.found(is_cycle);
        let lost = if is_cycle { filter.unalarmed()? } else { 0 };
        let clock = Clock::now();
        let mut events = Vec::new();
        let mut blocks = Vec::new();
        for finding in found {
            let time_unix_ns = clock.unix_ns(finding.boot_ns);
            blocks.extend(self.block_of(&finding).map(|block| (block, time_unix_ns)));
            events.push(event(time_unix_ns, self.payload(finding)));
        }
        events.extend(self.autoblock(blocks));
        let now = clock.unix_ns(agent_kernel::sys::boottime_ns());
        if is_cycle {
            events.extend(self.not_made().into_iter().map(|payload| event(now, payload)));
        }
        if lost > 0 {
            let lost = crate::events::lost("kernel_ring", "detection", lost);
            events.push(event(now, Payload::Lost(lost)));
        }
        Ok(Some(events))
    }

    fn payload(&self, finding: Finding) -> Payload {
        let limits = &self.config.detect.limits;
        let window = |window: Option<Duration>| window.map_or(0, milliseconds);
        match finding.found {
            Found::Scan { src, ports, first, interface } => Payload::Scan(pb::ScanEvent {
                src: src.to_string(),
                ports,
                first_ports: first.into_iter().map(u32::from).collect(),
                interface: interface.unwrap_or_default(),
                window_ms: window(limits.scan.map(|it| it.window)),
            }),
            Found::Connections { src, port, connections, interface } => {
                Payload::Flood(pb::FloodEvent {
                    kind: pb::FloodKind::Connections.into(),
                    src: src.to_string(),
                    dst_port: port.into(),
                    syns: connections.into(),
                    progress: None,
                    sources: 1,
                    interface: interface.unwrap_or_default(),
                    duration_ms: window(limits.connections.map(|it| it.window)),
                })
            }
            Found::Flood { src, port, syns, progress, sources, over } => {
                Payload::Flood(pb::FloodEvent {
                    kind: pb::FloodKind::Syn.into(),
                    src: src.map(|src| src.to_string()).unwrap_or_default(),
                    dst_port: port.into(),
                    syns,
                    progress: Some(progress),
                    sources,
                    interface: String::new(),
                    duration_ms: milliseconds(over),
                })
            }
        }
    }

    /// Whom to block for what was found, if anybody.
    fn block_of(&self, finding: &Finding) -> Option<Block> {
        let config = &self.config.detect;
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        match &finding.found {
            Found::Scan { src, ports, first, .. } => {
                let within = seconds(config.limits.scan.map(|it| it.window));
                let first: Vec<_> = first.iter().map(ToString::to_string).collect();
                let reason = format!("{ports} ports within {within} s: {}, …", first.join(", "));
                Some(Block { src: *src, source: "auto:portscan", reason, time: config.portscan? })
            }
            Found::Connections { src, port, connections, .. } => {
                let within = seconds(config.limits.connections.map(|it| it.window));
                let reason = format!("{connections} connections to port {port} within {within} s");
                let time = config.connections?;
                Some(Block { src: *src, source: "auto:connections", reason, time })
            }
            // A flood of many sources is nobody's.
            Found::Flood { src: Some(src), port, syns, progress, over, .. } => {
                let within = over.as_secs_f64();
                let reason = format!(
                    "{syns} SYNs to port {port} within {within:.1} s, {progress} followed up"
                );
                Some(Block { src: *src, source: "auto:synflood", reason, time: config.synflood? })
            }
            Found::Flood { src: None, .. } => None,
        }
    }

    /// Makes entries, as many as are allowed, and tells of them.
    fn autoblock(&mut self, blocks: Vec<(Block, i64)>) -> Vec<pb::Event> {
        if blocks.is_empty() {
            return Vec::new();
        }
        self.allowance.refill();
        let kept_open = self.kept_open();
        let now = now_unix_ms();
        let (mut changes, mut events, mut new) = (Vec::new(), Vec::new(), 0);
        for (block, time_unix_ns) in blocks {
            let key = EntryKey {
                prefix: IpNet::from(block.src),
                service: None,
                interface: None,
                action: Action::Drop,
                source: block.source.to_owned(),
                selection: Selection::Names([self.config.name.clone()].into()),
            };
            if let Err(refused) = kept_open.refuse(&key, false) {
                tracing::info!(src = %block.src, source = block.source, why = refused.message,
                    "detection does not block it");
                continue;
            }
            let is_new = self.set.find(&key).is_none();
            if is_new {
                let max_blocks =
                    usize::try_from(self.config.detect.max_blocks).unwrap_or(usize::MAX);
                if self.set.auto() + new >= max_blocks {
                    self.allowance.not_made[TOO_MANY] += 1;
                    continue;
                }
                if !self.allowance.take() {
                    self.allowance.not_made[TOO_FAST] += 1;
                    continue;
                }
                new += 1;
            }
            let expires_unix_ms = now.saturating_add_unsigned(milliseconds(block.time));
            let until = self.boot.until(Some(expires_unix_ms));
            let entry = Entry {
                key,
                reason: block.reason.clone(),
                created_unix_ms: now,
                expires_unix_ms: Some(expires_unix_ms),
                exceptions: Vec::new(),
            };
            changes.push(Change::Put(Held { entry, until }));
            let told = pb::AutoblockEvent {
                src: block.src.to_string(),
                source: block.source.to_owned(),
                reason: block.reason,
                ttl_ms: milliseconds(block.time),
                not_made: 0,
            };
            events.push(event(time_unix_ns, Payload::Autoblock(told)));
        }
        let made = changes.len();
        if made == 0 {
            return events;
        }
        match self.make(changes, None) {
            Ok(()) => {
                self.auto_made += made as u64;
                tracing::info!(
                    target: "audit", who = "detection", what = "drop", made, "local entries made"
                );
            }
            Err(error) => {
                tracing::error!(%error, made, "detection can't block");
                self.allowance.not_made[TOO_MANY] += made as u64;
                events.clear();
            }
        }
        events
    }

    /// What was not made since it was told last.
    fn not_made(&mut self) -> Vec<Payload> {
        let config = &self.config.detect;
        let reasons = [
            format!("there are {} automatic entries, or no room for more", config.max_blocks),
            format!("more than {} automatic entries a second", config.max_blocks_per_second),
        ];
        let counts = std::mem::take(&mut self.allowance.not_made);
        let told = counts.into_iter().zip(reasons).filter(|(count, _)| *count > 0);
        told.map(|(not_made, reason)| {
            Payload::Autoblock(pb::AutoblockEvent { reason, not_made, ..Default::default() })
        })
        .collect()
    }
}

fn event(time_unix_ns: i64, payload: Payload) -> pb::Event {
    pb::Event { time_unix_ns, payload: Some(payload), ..pb::Event::default() }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
