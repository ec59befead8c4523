//! The lab's network: one namespace a place, all joined by a bridge in a namespace of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use anyhow::{Context, Result};

use crate::namespace::{Namespace, run};

/// The place of the controller.
pub const CONTROLLER: &str = "controller";
/// The place where kctl runs.
pub const WORKSTATION: &str = "workstation";
/// The place whose traffic is blocked. It also owns one address in each of two other prefixes of
/// either family, see [`Place::in_prefix`].
pub const ATTACKER: &str = "attacker";
/// A place that nobody blocks.
pub const BYSTANDER: &str = "bystander";

/// Each place's interface, named as on a real host.
pub(crate) const INTERFACE: &str = "eth0";
const BRIDGE: &str = "br0";

/// One machine of the lab.
#[derive(Debug)]
pub struct Place {
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its address in 10.77.0.0/24.
    pub v4: Ipv4Addr,
    /// Its address in fd77::/64.
    pub v6: Ipv6Addr,
}

impl Place {
    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The address that the attacker owns in 10.78.`third`.0/24 and in fd78:0:0:`third`::/64; it has
    /// one for 1 and 2. Every host reaches them on the link.
    pub fn in_prefix(third: u8) -> [IpAddr; 2] {
        [
            Ipv4Addr::new(10, 78, third, 5).into(),
            Ipv6Addr::new(0xfd78, 0, 0, third.into(), 0, 0, 0, 5).into(),
        ]
    }
}

/// The bridge and everything on it.
#[derive(Debug)]
pub(crate) struct Network {
    places: BTreeMap<String, Place>,
    switch: Namespace,
    id: String,
}

impl Network {
    pub(crate) fn create(id: &str) -> Result<Self> {
        let switch = Namespace::create(format!("{id}-switch"))?;
        // Snooping would hold back neighbour discovery until it has learned who listens.
        switch.ip(&[
            format!("link add {BRIDGE} type bridge mcast_snooping 0"),
            format!("link set {BRIDGE} up"),
        ])?;
        Ok(Self { places: BTreeMap::new(), switch, id: id.to_owned() })
    }

    /// Adds a place with the last octet of its addresses.
    pub(crate) fn add(&mut self, name: &str, last: u8) -> Result<()> {
        let namespace = Namespace::create(format!("{}-{name}", self.id))?;
        let place = Place {
            namespace,
            v4: Ipv4Addr::new(10, 77, 0, last),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()),
        };
        // Duplicate address detection would keep addresses unusable for a second.
        place.namespace.within(|| -> std::io::Result<()> {
            fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0")?;
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        })??;
        self.switch.ip(&[
            format!(
                "link add {name} type veth peer name {INTERFACE} netns {}",
                place.namespace.name()
            ),
            format!("link set {name} master {BRIDGE} up"),
        ])?;
        // With these offloads a tag put on by a sender would leave the switch as metadata beside the
        // frame, and a filter behind it would never meet a tagged frame.
        run(Command::new("nsenter").arg(format!("--net={}", self.switch.path())).args([
            "ethtool",
            "-K",
            name,
            "txvlan",
            "off",
            "tx-vlan-stag-hw-insert",
            "off",
        ]))?;
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link set {INTERFACE} up"),
            format!("addr add {}/24 dev {INTERFACE}", place.v4),
            format!("addr add {}/64 dev {INTERFACE} nodad", place.v6),
        ];
        if name == ATTACKER {
            for address in [1, 2].into_iter().flat_map(Place::in_prefix) {
                let length = if address.is_ipv4() { 32 } else { 128 };
                lines.push(format!("addr add {address}/{length} dev {INTERFACE}"));
            }
        } else {
            lines.push(format!("route add 10.78.0.0/16 dev {INTERFACE}"));
            lines.push(format!("route add fd78::/32 dev {INTERFACE}"));
        }
        place.namespace.ip(&lines)?;
        self.places.insert(name.to_owned(), place);
        Ok(())
    }

    pub(crate) fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).with_context(|| format!("place {name:?}: not in the lab"))
    }

    /// Where the other ends of all places' links are, each called as its place.
    pub(crate) fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Takes a place's link down or up, at the switch, as if its cable were pulled.
    pub(crate) fn set_link(&self, name: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.switch.ip(&[format!("link set {name} {state}")])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Capture, Datagram, FrameSender, Pinger, ping, sweep::unique_id, until};

    const SOON: Duration = Duration::from_secs(60);

    fn network() -> Result<Network> {
        let mut network = Network::create(&unique_id())?;
        for (at, name) in (1..).zip([WORKSTATION, ATTACKER]) {
            network.add(name, at)?;
        }
        Ok(network)
    }

    #[test]
    fn every_address_of_the_attacker_reaches_a_place_until_the_cable_is_pulled() -> Result<()> {
        let network = network()?;
        let attacker = &network.place(ATTACKER)?.namespace;
        let [v4, v6] = network.place(WORKSTATION)?.addresses();
        assert_eq!(ping(attacker, None, v4, 3)?, 3);
        assert_eq!(ping(attacker, None, v6, 3)?, 3);
        for prefix in [1, 2] {
            let [from_v4, from_v6] = Place::in_prefix(prefix);
            assert_eq!(ping(attacker, Some(from_v4), v4, 3)?, 3);
            assert_eq!(ping(attacker, Some(from_v6), v6, 3)?, 3);
        }
        network.set_link(WORKSTATION, false)?;
        assert_eq!(ping(attacker, None, v4, 2)?, 0);
        network.set_link(WORKSTATION, true)?;
        until("the ping passes again", SOON, || Ok(ping(attacker, None, v4, 1)? == 1))?;
        Ok(())
    }

    #[test]
    fn a_pinger_counts_replies_only_while_there_are_some() -> Result<()> {
        let network = network()?;
        let place = network.place(WORKSTATION)?;
        for (to, from) in place.addresses().into_iter().zip(Place::in_prefix(2)) {
            let pinger = Pinger::start(&network.place(ATTACKER)?.namespace, Some(from), to)?;
            until("100 replies", SOON, || Ok(pinger.tally().replies > 100))?;
            network.set_link(WORKSTATION, false)?;
            let silent = pinger.tally();
            until("100 requests", SOON, || Ok(pinger.tally().sent > silent.sent + 100))?;
            // One may have been on its way when the cable was pulled.
            assert!(pinger.tally().replies <= silent.replies + 1);
            network.set_link(WORKSTATION, true)?;
            until("replies again", SOON, || Ok(pinger.tally().replies > silent.replies + 100))?;
        }
        Ok(())
    }

    #[test]
    fn frames_arrive_with_none_one_and_two_tags() -> Result<()> {
        let network = network()?;
        let place = network.place(WORKSTATION)?;
        let sender = FrameSender::open(&network.place(ATTACKER)?.namespace)?;
        let mut capture = Capture::start(&place.namespace)?;
        for (source, destination) in Place::in_prefix(1).into_iter().zip(place.addresses()) {
            for vlans in [vec![], vec![5], vec![5, 7]] {
                let payload = format!("{source} with tags {vlans:?}").into_bytes();
                let datagram = Datagram { source, destination, vlans, payload: payload.clone() };
                sender.send(&datagram, &place.namespace)?;
                capture.wait(&payload, 1, SOON)?;
            }
        }
        Ok(())
    }
}
