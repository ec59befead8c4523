//! The reference's verdict and counters: every rule is looked at for every packet.

use super::packet::{Packet, Parsed, Transport, parse};
use agent_kernel::filter::{Action, Count, Guard, Protocol, Rule, RuleKey, Until};
use agent_kernel::sys::boottime_ns;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Default)]
pub(super) struct Reference {
    rules: BTreeMap<RuleKey, Rule>,
    pub(super) guard: Guard,
    pub(super) passed: Count,
    pub(super) dropped: Count,
    pub(super) monitored: Count,
    pub(super) guarded: Count,
    pub(super) malformed: Count,
    pub(super) protocols: BTreeMap<u8, Count>,
    pub(super) connections: BTreeMap<u16, u64>,
    pub(super) hits: BTreeMap<(RuleKey, Action), Count>,
    /// The same, and those of rules that are gone.
    pub(super) ever: BTreeMap<(RuleKey, Action), Count>,
    /// Dropped by a rule that is wider than an address.
    wide: BTreeMap<IpAddr, Count>,
}

/// The more specific of two matches is the larger: length, then whether it names a service.
type Rank = (u8, bool, bool);

impl Reference {
    pub(super) fn update(&mut self, changes: &[(RuleKey, Option<Rule>)]) {
        for (key, rule) in changes {
            match rule {
                Some(rule) => self.rules.insert(*key, *rule),
                None => self.rules.remove(key),
            };
        }
        // A count lives as long as its rule has that action at the end of every change.
        let rules = &self.rules;
        self.hits.retain(|(key, action), _| {
            rules.get(key).is_some_and(|rule| match action {
                Action::Drop => rule.drop.is_some(),
                Action::Monitor => rule.monitor.is_some(),
            })
        });
    }

    /// Whether the frame is dropped; counts it.
    pub(super) fn judge(&mut self, frame: &[u8]) -> bool {
        let bytes = frame.len() as u64;
        let packet = match parse(frame) {
            Parsed::Ip(packet) => packet,
            other => {
                if other == Parsed::Malformed {
                    add(&mut self.malformed, bytes);
                }
                add(&mut self.passed, bytes);
                return false;
            }
        };
        add(self.protocols.entry(packet.protocol).or_default(), bytes);
        let (drop, monitor) = (self.drop(&packet), self.monitor(&packet));
        if (drop.is_some() || monitor.is_some()) && self.is_guarded(&packet) {
            add(&mut self.guarded, bytes);
        } else if let Some(key) = drop {
            add(&mut self.dropped, bytes);
            add(self.hits.entry((key, Action::Drop)).or_default(), bytes);
            add(self.ever.entry((key, Action::Drop)).or_default(), bytes);
            if key.prefix.prefix_len() != key.prefix.max_prefix_len() {
                add(self.wide.entry(packet.source).or_default(), bytes);
            }
            return true;
        } else if let Some(key) = monitor {
            add(&mut self.monitored, bytes);
            add(self.hits.entry((key, Action::Monitor)).or_default(), bytes);
            add(self.ever.entry((key, Action::Monitor)).or_default(), bytes);
        }
        add(&mut self.passed, bytes);
        if let (true, Transport::Ports { destination, .. }) = (packet.attempt, packet.transport) {
            *self.connections.entry(destination).or_default() += 1;
        }
        false
    }

    /// Dropped packets by source, in order.
    pub(super) fn sources(&self) -> Vec<(IpAddr, Count)> {
        let mut sources = self.wide.clone();
        for ((key, action), count) in &self.hits {
            if *action == Action::Drop && key.prefix.prefix_len() == key.prefix.max_prefix_len() {
                let source = sources.entry(key.prefix.addr()).or_default();
                source.packets += count.packets;
                source.bytes += count.bytes;
            }
        }
        sources.into_iter().collect()
    }

    /// The rule that a drop counts on.
    fn drop(&self, packet: &Packet) -> Option<RuleKey> {
        let mut best: Option<(Rank, RuleKey)> = None;
        for (key, rule) in &self.rules {
            if !key.prefix.contains(&packet.source) || !rule.drop.is_some_and(is_ahead) {
                continue;
            }
            let Some(counts) = self.drop_by(key, packet) else { continue };
            let tcp = key.service.is_some_and(|(protocol, _)| protocol == Protocol::Tcp);
            let rank = (key.prefix.prefix_len(), key.service.is_some(), tcp);
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, counts));
            }
        }
        best.map(|(_, key)| key)
    }

    /// The rule that a packet of this rule's source counts on, if the rule is about the packet.
    fn drop_by(&self, key: &RuleKey, packet: &Packet) -> Option<RuleKey> {
        let Some((protocol, port)) = key.service else { return Some(*key) };
        let same = packet.protocol == protocol.number();
        match packet.transport {
            Transport::Ports { destination, .. } => (same && destination == port).then_some(*key),
            Transport::Other => None,
            Transport::Portless if !same => None,
            // Any port may be meant: it counts on the lowest with a drop, expired or not.
            Transport::Portless | Transport::Unknown => self
                .rules
                .iter()
                .filter(|(other, rule)| other.prefix == key.prefix && rule.drop.is_some())
                .filter_map(|(other, _)| Some((other.service?, *other)))
                .filter(|((other, _), _)| *other == protocol)
                .min_by_key(|((_, port), _)| *port)
                .map(|(_, other)| other),
        }
    }

    fn monitor(&self, packet: &Packet) -> Option<RuleKey> {
        let matching = self.rules.iter().filter(|(key, rule)| {
            let about_it = match (key.service, packet.transport) {
                (None, _) => true,
                (Some((protocol, port)), Transport::Ports { destination, .. }) => {
                    protocol.number() == packet.protocol && port == destination
                }
                _ => false,
            };
            about_it && key.prefix.contains(&packet.source) && rule.monitor.is_some_and(is_ahead)
        });
        let rank = |key: &RuleKey| (key.prefix.prefix_len(), key.service.is_some());
        matching.map(|(key, _)| *key).max_by_key(rank)
    }

    fn is_guarded(&self, packet: &Packet) -> bool {
        let by_ports = match packet.transport {
            Transport::Ports { source, destination } => {
                let (dhcp_server, dhcp_client) =
                    if packet.source.is_ipv4() { (67, 68) } else { (547, 546) };
                let protocol = if packet.protocol == 6 { Protocol::Tcp } else { Protocol::Udp };
                let uplink = SocketAddr::new(packet.source, source);
                self.guard.ports.contains(&(protocol, destination))
                    || (protocol == Protocol::Tcp && self.guard.uplinks.contains(&uplink))
                    || (protocol == Protocol::Udp
                        && (source, destination) == (dhcp_server, dhcp_client))
            }
            _ => false,
        };
        by_ports
            || packet.discovery
            || self.guard.prefixes.iter().any(|prefix| prefix.contains(&packet.source))
    }
}

fn is_ahead(until: Until) -> bool {
    boottime_ns() < until.boot_ns()
}

fn add(count: &mut Count, bytes: u64) {
    count.packets += 1;
    count.bytes += bytes;
}
