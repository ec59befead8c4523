//! What the filter tells of packets, as events: with the reason that the entry of the rule has.

use super::{Enforcement, Refused};
use crate::events::Clock;
use crate::set::{self, Held};
use agent_kernel::filter::{Action, Interface, Protocol, RuleKey, Service, Telling};
use kctl_blocklist as blocklist;
use kctl_proto::agent::v1::{self as pb, event::Payload};

impl Enforcement {
    /// First packets that wait to be told, and once a cycle what was counted since. `None` without a
    /// filter.
    pub(crate) fn tell(&mut self, is_cycle: bool) -> Result<Option<Vec<pb::Event>>, Refused> {
        let Ok(filter) = &mut self.filter else { return Ok(None) };
        let told = if is_cycle { filter.summarize()? } else { filter.tell()? };
        let clock = Clock::now();
        Ok(Some(told.into_iter().map(|telling| self.event(telling, clock)).collect()))
    }

    fn event(&self, telling: Telling, clock: Clock) -> pb::Event {
        let address = |address: Option<std::net::IpAddr>| {
            address.map(|address| address.to_string()).unwrap_or_default()
        };
        let (rule_port, rule_port_last, rule_protocol) = service_to_proto(telling.rule.service);
        let packets = pb::PacketEvent {
            src: address(telling.src),
            dst: address(telling.dst),
            src_port: telling.src_port.map(u32::from),
            dst_port: telling.dst_port.map(u32::from),
            protocol: telling.protocol.map(u32::from),
            tcp_flags: telling.tcp_flags.map(u32::from),
            interface: telling.interface.unwrap_or_default(),
            rule: telling.rule.prefix.to_string(),
            rule_port,
            rule_port_last,
            rule_protocol: rule_protocol.into(),
            reason: self.reason(&telling.rule, telling.action),
            packets: telling.packets,
            bytes: Some(telling.bytes),
            sources: telling.sources,
            rule_interface: telling.rule.interface.map_or("", Interface::name).to_owned(),
        };
        let payload = match telling.action {
            Action::Drop => Payload::Drop(packets),
            Action::Monitor => Payload::Monitor(packets),
        };
        pb::Event {
            time_unix_ns: clock.unix_ns(telling.boot_ns),
            payload: Some(payload),
            ..pb::Event::default()
        }
    }

    /// Of the first entry that the rule follows from; empty when it is gone, or gives none.
    fn reason(&self, rule: &RuleKey, action: Action) -> String {
        let action = match action {
            Action::Drop => blocklist::Action::Drop,
            Action::Monitor => blocklist::Action::Monitor,
        };
        let of_rule = |held: &Held| {
            let key = &held.entry.key;
            key.action == action && set::rule_keys(key).contains(rule)
        };
        let entries = self.set.all_of_prefix(rule.prefix).into_iter().filter(of_rule);
        let mut reasons = entries.map(|held| held.entry.reason);
        reasons.find(|reason| !reason.is_empty()).unwrap_or_default()
    }
}

/// First port, last port of a range, and protocol of a rule's service.
pub(crate) fn service_to_proto(service: Option<Service>) -> (u32, u32, pb::Protocol) {
    let Some(service) = service else { return (0, 0, pb::Protocol::Unspecified) };
    let last = if service.is_single() { 0 } else { service.last };
    let protocol = match service.protocol {
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
    };
    (service.first.into(), last.into(), protocol)
}
