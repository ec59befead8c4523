//! What the filter tells of packets, as events: with the reason that the entry of the rule has.

use super::{Enforcement, Refused};
use crate::events::Clock;
use crate::set::{self, Held};
use agent_kernel::filter::{Action, Protocol, RuleKey, Telling};
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
        let (rule_protocol, rule_port) = match telling.rule.service {
            None => (pb::Protocol::Unspecified, 0),
            Some((Protocol::Tcp, port)) => (pb::Protocol::Tcp, port),
            Some((Protocol::Udp, port)) => (pb::Protocol::Udp, port),
        };
        let packets = pb::PacketEvent {
            src: address(telling.src),
            dst: address(telling.dst),
            src_port: telling.src_port.map(u32::from),
            dst_port: telling.dst_port.map(u32::from),
            protocol: telling.protocol.map(u32::from),
            tcp_flags: telling.tcp_flags.map(u32::from),
            interface: telling.interface.unwrap_or_default(),
            rule: telling.rule.prefix.to_string(),
            rule_port: rule_port.into(),
            rule_protocol: rule_protocol.into(),
            reason: self.reason(&telling.rule, telling.action),
            packets: telling.packets,
            bytes: Some(telling.bytes),
            sources: telling.sources,
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
            key.action == action && set::services(key.service).contains(&rule.service)
        };
        let entries = self.set.all_of_prefix(rule.prefix).into_iter().filter(of_rule);
        let mut reasons = entries.map(|held| held.entry.reason);
        reasons.find(|reason| !reason.is_empty()).unwrap_or_default()
    }
}
