//! Which interfaces are filtered, and what the guard keeps open, as the host's network changes.

use super::{Enforcement, Interface};
use crate::config::Interfaces;
use crate::set;
use agent_kernel::filter::{Attachment, Filter, Rule};
use agent_kernel::netlink;
use ipnet::IpNet;
use kctl_blocklist::Service;
use kctl_proto::agent::v1 as pb;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What the host's network looks like.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) interfaces: Vec<netlink::Interface>,
    pub(crate) gateways: BTreeSet<IpAddr>,
    pub(crate) resolvers: BTreeSet<IpAddr>,
    pub(crate) ssh_ports: BTreeSet<u16>,
}

impl Network {
    /// Every address of the host but loopback.
    pub(super) fn own_addresses(&self) -> Vec<String> {
        let addresses = self.interfaces.iter().flat_map(|it| &it.addresses);
        let own: BTreeSet<_> =
            addresses.map(|it| it.net.addr()).filter(|it| !it.is_loopback()).collect();
        own.iter().map(ToString::to_string).collect()
    }
}

/// See [`Enforcement::on_interfaces`].
#[derive(Debug, Default)]
pub(super) struct OnInterfaces {
    /// Why the first of those that are there and not filtered is not.
    pub(super) not_filtered: Option<pb::Error>,
    pub(super) absent: Vec<String>,
}

impl Enforcement {
    /// Takes a new look at the network: attaches to what has come, and guards what is needed now.
    pub(crate) fn look(&mut self, network: Network) {
        self.network = network;
        if let Ok(filter) = &mut self.filter
            && let Err(error) = filter.see_interfaces()
        {
            tracing::error!(%error, "interfaces that entries name can't be told to the kernel");
        }
        self.set_guard();
        self.attach();
    }

    /// The controller's addresses, before they are connected to.
    pub(crate) fn set_uplinks(&mut self, uplinks: BTreeSet<SocketAddr>) {
        if self.uplinks != uplinks {
            self.uplinks = uplinks;
            self.set_guard();
        }
    }

    /// What is never blocked by default, beside the way to the controller: default gateways, resolvers.
    pub(super) fn default_guard(&self) -> BTreeSet<IpNet> {
        let hosts = self.network.gateways.iter().chain(&self.network.resolvers);
        hosts.filter(|it| !it.is_loopback()).map(|&it| IpNet::from(it)).collect()
    }

    pub(super) fn set_guard(&mut self) {
        let defaults = self.default_guard();
        let mut uplinks = self.uplinks.clone();
        let Ok(filter) = &mut self.filter else { return };
        if uplinks.is_empty() {
            // Not resolved yet: the pinned ones of the last run still stand.
            uplinks.clone_from(filter.uplinks());
        }
        let mut changes = Vec::new();
        if let Some(guarded) = self.guarded.as_ref().filter(|_| !self.orphaned) {
            let new = defaults.difference(guarded).map(|it| (set::guard(*it), Some(Rule::PASS)));
            let old = guarded.difference(&defaults).filter(|it| !self.set.protects(**it));
            changes.extend(new.chain(old.map(|it| (set::guard(*it), None))));
        } else {
            let mut wanted = self.set.guards();
            wanted.extend(defaults.iter().map(|it| (set::guard(*it), Rule::PASS)));
            set::diff(&filter.passing(), &wanted, &mut changes);
            // Nobody knows yet what is not to be guarded any more.
            changes.retain(|(_, rule)| !self.orphaned || rule.is_some());
        }
        let result = filter.update(&changes).and_then(|()| filter.set_uplinks(&uplinks));
        if let Err(error) = result {
            self.trusted = false;
            tracing::error!(%error, "the guard can't be set");
            return;
        }
        self.guarded = Some(defaults);
    }

    /// Whether packets of a source to a port pass whatever is blocked.
    pub(crate) fn is_guarded(&self, source: IpAddr, to: Service) -> bool {
        let Ok(filter) = &self.filter else { return false };
        let longest = IpNet::from(source).max_prefix_len();
        let mut prefixes = (0..=longest).filter_map(|len| IpNet::new(source, len).ok());
        filter.guards() > 0
            && (prefixes.any(|prefix| filter.rule(&set::guard(prefix.trunc())).is_some())
                || self.set.protects_service(source, to))
    }

    /// What is to be said of interfaces that changed entries name.
    pub(super) fn on_interfaces<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
    ) -> OnInterfaces {
        let mut on = OnInterfaces::default();
        let names: BTreeSet<_> = names.collect();
        for name in names {
            let is_there = self.network.interfaces.iter().any(|it| it.name == *name);
            let filtered = self.interfaces.get(name).is_some_and(|it| it.attached.is_ok());
            if !is_there {
                on.absent.push(name.clone());
            } else if !filtered && on.not_filtered.is_none() {
                let message = format!(
                    "interface {name:?} is not filtered on this host, so entries for it do nothing; \
                     start the agent with --interface {name}"
                );
                let code = "FAILED_PRECONDITION".to_owned();
                on.not_filtered = Some(pb::Error { code, message });
            }
        }
        on
    }

    /// Interfaces that entries name and that are not there.
    pub(super) fn absent_interfaces(&self) -> Vec<String> {
        let named = self.set.entries().filter_map(|held| held.entry.key.interface.as_ref());
        self.on_interfaces(named).absent
    }

    /// Filters every chosen interface. One that is filtered stays so, whatever it loses.
    pub(super) fn attach(&mut self) {
        let (Ok(filter), Some(mode)) = (&mut self.filter, self.config.mode.kernel()) else {
            return;
        };
        let mut chosen: BTreeSet<String> = self.config.interfaces.names.iter().cloned().collect();
        chosen.extend(attachments(filter).into_iter().map(|it| it.interface));
        let taken = self.network.interfaces.iter().filter(|it| self.config.interfaces.takes(it));
        chosen.extend(taken.map(|it| it.name.clone()));
        let attached: Vec<_> =
            chosen.iter().map(|interface| filter.attach(interface, mode)).collect();
        let reasons = attachments(filter).into_iter();
        let reasons: BTreeMap<_, _> =
            reasons.filter_map(|it| Some((it.interface, it.reason?))).collect();
        let indexes: BTreeMap<_, _> =
            self.network.interfaces.iter().map(|it| (it.name.as_str(), it.index)).collect();
        let mut interfaces = BTreeMap::new();
        for (name, attached) in chosen.into_iter().zip(attached) {
            let interface = Interface {
                ifindex: indexes.get(name.as_str()).copied().unwrap_or(0),
                attached: attached.map_err(|error| super::refused::with_remedy(&error)),
                reason: reasons.get(&name).cloned(),
            };
            if self.interfaces.get(&name) != Some(&interface) {
                interface.log(&name);
            }
            interfaces.insert(name, interface);
        }
        self.interfaces = interfaces;
    }

    /// Interfaces with a global address that nothing filters.
    pub(super) fn unfiltered(&self) -> Vec<String> {
        let filtered = |name: &str| self.interfaces.get(name).is_some_and(|it| it.attached.is_ok());
        let open = self.network.interfaces.iter().filter(|it| {
            it.up && !it.loopback && !filtered(&it.name) && it.addresses.iter().any(|it| it.global)
        });
        open.map(|it| it.name.clone()).collect()
    }
}

impl Interface {
    fn log(&self, name: &str) {
        match (&self.attached, &self.reason) {
            (Ok(mode), Some(reason)) => {
                tracing::warn!(interface = name, mode = mode.name(), reason, "filtering");
            }
            (Ok(mode), None) => tracing::info!(interface = name, mode = mode.name(), "filtering"),
            (Err(error), _) => tracing::error!(interface = name, error, "not filtering"),
        }
    }
}

fn attachments(filter: &Filter) -> Vec<Attachment> {
    filter.attachments().unwrap_or_else(|error| {
        tracing::error!(%error, "filtered interfaces can't be listed");
        Vec::new()
    })
}

impl Interfaces {
    /// Whether an interface that is there is to be filtered.
    pub(crate) fn takes(&self, interface: &netlink::Interface) -> bool {
        self.names.contains(&interface.name)
            || self.patterns.iter().any(|pattern| pattern.matches(&interface.name))
            || (self.auto && is_suitable(interface))
    }
}

/// Whether `auto` takes an interface: up, with a global address, and a way out of the host.
fn is_suitable(interface: &netlink::Interface) -> bool {
    const CONTAINER_BRIDGES: [&str; 7] =
        ["docker", "cni", "cbr", "virbr", "lxcbr", "podman", "br-"];
    let kind = interface.kind.as_deref();
    let is_container_bridge = kind == Some("bridge")
        && CONTAINER_BRIDGES.iter().any(|prefix| interface.name.starts_with(prefix));
    interface.up
        && !interface.loopback
        && !interface.bridge_port
        && kind != Some("veth")
        && !is_container_bridge
        && interface.addresses.iter().any(|address| address.global)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::Address;

    fn interface(name: &str, kind: Option<&str>) -> netlink::Interface {
        let net = "10.0.0.1/24".parse().expect("valid");
        netlink::Interface {
            name: name.to_owned(),
            index: 2,
            kind: kind.map(str::to_owned),
            up: true,
            loopback: false,
            bridge_port: false,
            addresses: vec![Address { net, global: true }],
            xdp_program: None,
            ethernet: true,
        }
    }

    #[test]
    fn auto_takes_ways_out_of_the_host() {
        assert!(is_suitable(&interface("eth0", None)));
        assert!(is_suitable(&interface("bond0", Some("bond"))));
        assert!(is_suitable(&interface("br0", Some("bridge"))));
    }

    #[test]
    fn a_pattern_takes_what_it_matches() {
        let lan = glob::Pattern::new("lan*").expect("valid");
        let names = vec!["eth0".to_owned()];
        let chosen = Interfaces { auto: false, names, patterns: vec![lan] };
        assert!(chosen.takes(&interface("eth0", None)));
        assert!(chosen.takes(&interface("lan7", Some("veth"))));
        assert!(!chosen.takes(&interface("eth1", None)));
    }

    #[test]
    fn auto_leaves_what_is_inside_the_host_or_has_no_address() {
        assert!(!is_suitable(&interface("veth1", Some("veth"))));
        assert!(!is_suitable(&interface("docker0", Some("bridge"))));
        assert!(!is_suitable(&interface("br-0a1b2c3d4e5f", Some("bridge"))));
        let eth0 = interface("eth0", None);
        assert!(!is_suitable(&netlink::Interface { up: false, ..eth0.clone() }));
        assert!(!is_suitable(&netlink::Interface { loopback: true, ..eth0.clone() }));
        assert!(!is_suitable(&netlink::Interface { bridge_port: true, ..eth0.clone() }));
        assert!(!is_suitable(&netlink::Interface { addresses: vec![], ..eth0 }));
    }
}
