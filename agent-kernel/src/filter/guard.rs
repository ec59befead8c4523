//! The guard, in memory and in the kernel: the one owner of both. It must not know the rules.

use super::mapped::Mapped;
use super::table::{Table, absent_is_fine, object};
use super::{Drift, Guard, Protocol, pins::Pins, program::Program};
use crate::Error;
use agent_records::lookup::Lookup;
use agent_records::{GuardPort, Uplink, mapped};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::Release;

#[derive(Debug)]
pub(super) struct Guards {
    guard4: LpmTrie<MapData, [u8; 4], u8>,
    guard6: LpmTrie<MapData, [u8; 16], u8>,
    ports: Table<GuardPort, u8>,
    uplinks: Table<Uplink, u8>,
    /// Where the program looks first.
    header: Mapped,
    guard: Guard,
}

impl Guards {
    /// Takes over what the maps hold.
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let mut opened = Self {
            guard4: program.take("guard4")?,
            guard6: program.take("guard6")?,
            ports: Table::open(program, pins, "guard_ports")?,
            uplinks: Table::open(program, pins, "uplinks")?,
            header: Mapped::open(pins, "lookup", size_of::<Lookup>())?,
            guard: Guard::default(),
        };
        opened.guard = opened.read()?;
        opened.publish([&opened.guard]);
        Ok(opened)
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(super) fn set(&mut self, guard: &Guard) -> Result<(), Error> {
        let guard = canonical(guard);
        let old = std::mem::take(&mut self.guard);
        self.publish([&old, &guard]);
        let result = self.converge(&old, &guard);
        // After a failure the kernel knows best what was done.
        self.guard = if result.is_ok() { guard } else { self.read()? };
        self.publish([&self.guard]);
        result
    }

    /// Mends the maps and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        let found = self.read()?;
        let guard = self.guard.clone();
        let mut drift =
            Drift { missing: beyond(&guard, &found), foreign: beyond(&found, &guard), changed: 0 };
        self.converge(&found, &guard)?;
        drift.changed += self.publish([&guard]);
        Ok(drift)
    }

    /// Tells the program what these have anything of; how many words said something else.
    fn publish<const N: usize>(&self, guards: [&Guard; N]) -> u64 {
        let mut words = [0_u64; 3];
        for guard in guards {
            for prefix in &guard.prefixes {
                words[0] |= if prefix.addr().is_ipv4() { 1 << 4 } else { 1 << 6 };
            }
            guard.ports.iter().for_each(|(_, port)| words[1] |= 1 << (port & 63));
            guard.uplinks.iter().for_each(|it| words[2] |= 1 << (it.port() & 63));
        }
        let places = &self.header.words()[offset_of!(Lookup, guarded) / 8..][..words.len()];
        let changed = places.iter().zip(words);
        changed.map(|(place, word)| u64::from(place.swap(word, Release) != word)).sum()
    }

    fn converge(&mut self, old: &Guard, new: &Guard) -> Result<(), Error> {
        for prefix in new.prefixes.difference(&old.prefixes) {
            match prefix {
                IpNet::V4(net) => lpm("guard4", self.guard4.insert(&key4(net), 1, 0))?,
                IpNet::V6(net) => lpm("guard6", self.guard6.insert(&key6(net), 1, 0))?,
            }
        }
        for service in new.ports.difference(&old.ports) {
            self.ports.insert(guard_port(*service), 1)?;
        }
        for address in new.uplinks.difference(&old.uplinks) {
            self.uplinks.insert(uplink(address), 1)?;
        }
        for prefix in old.prefixes.difference(&new.prefixes) {
            absent_is_fine(match prefix {
                IpNet::V4(net) => lpm("guard4", self.guard4.remove(&key4(net))),
                IpNet::V6(net) => lpm("guard6", self.guard6.remove(&key6(net))),
            })?;
        }
        for service in old.ports.difference(&new.ports) {
            self.ports.remove(&guard_port(*service))?;
        }
        for address in old.uplinks.difference(&new.uplinks) {
            self.uplinks.remove(&uplink(address))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<Guard, Error> {
        let mut guard = Guard::default();
        for key in self.guard4.keys() {
            let key = key.map_err(|error| Error::wrapped(object("guard4"), error))?;
            let net = Ipv4Net::new(key.data().into(), len(key.prefix_len()));
            guard.prefixes.extend(net.map(IpNet::V4));
        }
        for key in self.guard6.keys() {
            let key = key.map_err(|error| Error::wrapped(object("guard6"), error))?;
            let net = Ipv6Net::new(key.data().into(), len(key.prefix_len()));
            guard.prefixes.extend(net.map(IpNet::V6));
        }
        for (service, _) in self.ports.pinned.dump::<GuardPort, u8>()? {
            // Other protocols have no ports that the program would look up.
            let protocol = Protocol::from_number(service.protocol);
            guard.ports.extend(protocol.map(|protocol| (protocol, service.port)));
        }
        for (uplink, _) in self.uplinks.pinned.dump::<Uplink, u8>()? {
            let address = IpAddr::from(Ipv6Addr::from(uplink.address)).to_canonical();
            guard.uplinks.insert(SocketAddr::new(address, uplink.port));
        }
        Ok(guard)
    }
}

/// Each thing written in one way, so that sets of them compare.
fn canonical(guard: &Guard) -> Guard {
    let address = |uplink: &SocketAddr| SocketAddr::new(uplink.ip().to_canonical(), uplink.port());
    Guard {
        prefixes: guard.prefixes.iter().map(IpNet::trunc).collect(),
        ports: guard.ports.clone(),
        uplinks: guard.uplinks.iter().map(address).collect(),
    }
}

/// How much of `one` is not in `other`.
fn beyond(one: &Guard, other: &Guard) -> u64 {
    fn count<T: Ord>(one: &BTreeSet<T>, other: &BTreeSet<T>) -> u64 {
        one.difference(other).count() as u64
    }
    count(&one.prefixes, &other.prefixes)
        + count(&one.ports, &other.ports)
        + count(&one.uplinks, &other.uplinks)
}

fn lpm(name: &str, result: Result<(), MapError>) -> Result<(), Error> {
    result.map_err(|error| Error::wrapped(object(name), error))
}

fn len(prefix_len: u32) -> u8 {
    u8::try_from(prefix_len).expect("the kernel refuses longer prefixes than the key has bits")
}

fn key4(net: &Ipv4Net) -> Key<[u8; 4]> {
    Key::new(net.prefix_len().into(), net.addr().octets())
}

fn key6(net: &Ipv6Net) -> Key<[u8; 16]> {
    Key::new(net.prefix_len().into(), net.addr().octets())
}

fn guard_port((protocol, port): (Protocol, u16)) -> GuardPort {
    GuardPort { port, protocol: protocol.number(), zero: 0 }
}

fn uplink(address: &SocketAddr) -> Uplink {
    let octets = match address.ip() {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    Uplink { address: octets, port: address.port() }
}
