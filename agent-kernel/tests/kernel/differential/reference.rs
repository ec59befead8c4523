//! The reference's verdict and counters: every rule is looked at for every packet.

use super::packet::{Packet, Parsed, Transport, parse};
use agent_kernel::filter::{Action, Count, Protocol, Rule, RuleKey, Service, Until};
use agent_kernel::sys::boottime_ns;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Default)]
pub(super) struct Reference {
    rules: BTreeMap<RuleKey, Rule>,
    pub(super) uplinks: BTreeSet<SocketAddr>,
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

/// Frames that are run enter by it.
pub(super) const ENTERS_BY: &str = "lo";

/// The more specific of two matches is the larger: length, how exact its ports are, whether it names an
/// interface.
type Rank = (u8, u8, bool, bool);

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
        self.best(packet, Action::Drop)
    }

    fn monitor(&self, packet: &Packet) -> Option<RuleKey> {
        self.best(packet, Action::Monitor)
    }

    fn best(&self, packet: &Packet, action: Action) -> Option<RuleKey> {
        let mut best: Option<(Rank, RuleKey)> = None;
        for (key, rule) in self.rules.iter().filter(|(key, _)| !key.guards) {
            let enters = key.interface.is_none_or(|interface| interface.name() == ENTERS_BY);
            let until = until(rule, action);
            if !key.prefix.contains(&packet.source) || !enters || !until.is_some_and(is_ahead) {
                continue;
            }
            let Some((exact, counts)) = self.about(key, packet, action) else { continue };
            let tcp = key.service.is_some_and(|service| service.protocol == Protocol::Tcp);
            let rank = (key.prefix.prefix_len(), exact, key.interface.is_some(), tcp);
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, counts));
            }
        }
        best.map(|(_, key)| key)
    }

    /// How exact a rule of the packet's source is about it, if it is, and which rule that counts on.
    fn about(&self, key: &RuleKey, packet: &Packet, action: Action) -> Option<(u8, RuleKey)> {
        let Some(service) = key.service else { return Some((0, *key)) };
        let same = packet.protocol == service.protocol.number();
        let alike = self.rules.iter().filter(|(other, rule)| {
            let protocol = other.service.map(|other| other.protocol);
            (other.prefix, other.interface, other.guards) == (key.prefix, key.interface, false)
                && protocol == Some(service.protocol)
                && until(rule, action).is_some()
        });
        let alike = alike.filter_map(|(other, _)| Some((other.service?, *other)));
        match packet.transport {
            Transport::Ports { destination, .. } if same => {
                let mine = block(service, destination)?;
                // Of rules with the very same block the narrowest counts, expired or not.
                let alike = alike.filter(|(it, _)| block(*it, destination) == Some(mine));
                let narrowest = alike.min_by_key(|(it, _)| (it.last - it.first, it.first));
                narrowest.map(|(_, other)| (17 - mine, other))
            }
            // Any port may be meant: it counts on the lowest with a drop, expired or not.
            Transport::Portless | Transport::Unknown
                if action == Action::Drop && (same || packet.transport == Transport::Unknown) =>
            {
                let lowest = alike.min_by_key(|(it, _)| (it.first, it.last));
                lowest.map(|(_, other)| (1, other))
            }
            _ => None,
        }
    }

    fn is_guarded(&self, packet: &Packet) -> bool {
        let guards = self.rules.keys().filter(|key| key.guards);
        let mut guards = guards.filter(|key| key.prefix.contains(&packet.source));
        let by_ports = match packet.transport {
            Transport::Ports { source, destination } => {
                let (dhcp_server, dhcp_client) =
                    if packet.source.is_ipv4() { (67, 68) } else { (547, 546) };
                let protocol = if packet.protocol == 6 { Protocol::Tcp } else { Protocol::Udp };
                let uplink = SocketAddr::new(packet.source, source);
                let named = |service: Service| {
                    service.protocol == protocol && block(service, destination).is_some()
                };
                guards.clone().any(|key| key.service.is_some_and(named))
                    || (protocol == Protocol::Tcp && self.uplinks.contains(&uplink))
                    || (protocol == Protocol::Udp
                        && (source, destination) == (dhcp_server, dhcp_client))
            }
            _ => false,
        };
        by_ports || packet.discovery || guards.any(|key| key.service.is_none())
    }
}

/// The largest block of 2 to the n ports, beginning at a multiple of that, that has the port and none but
/// those of the service: its n. `None` where the service has not the port.
fn block(service: Service, port: u16) -> Option<u8> {
    let (first, last, port) = (u32::from(service.first), u32::from(service.last), u32::from(port));
    (0..=16).rev().find(|bits| {
        let begin = port / (1 << bits) * (1 << bits);
        begin >= first && begin + (1 << bits) - 1 <= last
    })
}

fn until(rule: &Rule, action: Action) -> Option<Until> {
    match action {
        Action::Drop => rule.drop,
        Action::Monitor => rule.monitor,
    }
}

fn is_ahead(until: Until) -> bool {
    boottime_ns() < until.boot_ns()
}

fn add(count: &mut Count, bytes: u64) {
    count.packets += 1;
    count.bytes += bytes;
}
