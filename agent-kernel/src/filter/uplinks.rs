//! The ways to controllers, which always pass, in memory and in the kernel: the one owner of both.

use super::mapped::Mapped;
use super::record::octets;
use super::table::Table;
use super::{Drift, pins::Pins, program::Program};
use crate::Error;
use agent_records::Uplink;
use agent_records::lookup::Lookup;
use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::Release;

#[derive(Debug)]
pub(super) struct Uplinks {
    table: Table<Uplink, u8>,
    /// Where the program looks first.
    header: Mapped,
    wanted: BTreeSet<SocketAddr>,
}

impl Uplinks {
    /// Takes over what the map holds.
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let mut opened = Self {
            table: Table::open(program, pins, "uplinks")?,
            header: Mapped::open(pins, "lookup", size_of::<Lookup>())?,
            wanted: BTreeSet::new(),
        };
        opened.wanted = opened.read()?;
        opened.publish([&opened.wanted]);
        Ok(opened)
    }

    pub(super) fn all(&self) -> &BTreeSet<SocketAddr> {
        &self.wanted
    }

    pub(super) fn set(&mut self, wanted: &BTreeSet<SocketAddr>) -> Result<(), Error> {
        let canonical = |it: &SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
        let wanted = wanted.iter().map(canonical).collect();
        let old = std::mem::take(&mut self.wanted);
        self.publish([&old, &wanted]);
        let result = self.converge(&old, &wanted);
        // After a failure the kernel knows best what was done.
        self.wanted = if result.is_ok() { wanted } else { self.read()? };
        self.publish([&self.wanted]);
        result
    }

    /// Mends the map and says how much was off.
    pub(super) fn verify(&mut self) -> Result<Drift, Error> {
        let (found, wanted) = (self.read()?, self.wanted.clone());
        let beyond = |one: &BTreeSet<_>, other| one.difference(other).count() as u64;
        let (missing, foreign) = (beyond(&wanted, &found), beyond(&found, &wanted));
        self.converge(&found, &wanted)?;
        Ok(Drift { missing, foreign, changed: self.publish([&wanted]) })
    }

    /// Tells the program which ports these have; 1 when it was told something else.
    fn publish<const N: usize>(&self, uplinks: [&BTreeSet<SocketAddr>; N]) -> u64 {
        let ports = uplinks.into_iter().flatten().fold(0, |all, it| all | 1 << (it.port() & 63));
        let place = &self.header.words()[offset_of!(Lookup, guarded.uplinks) / 8];
        u64::from(place.swap(ports, Release) != ports)
    }

    fn converge(
        &mut self,
        old: &BTreeSet<SocketAddr>,
        new: &BTreeSet<SocketAddr>,
    ) -> Result<(), Error> {
        for address in new.difference(old) {
            self.table.insert(uplink(address), 1)?;
        }
        for address in old.difference(new) {
            self.table.remove(&uplink(address))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<BTreeSet<SocketAddr>, Error> {
        let found = self.table.pinned.dump::<Uplink, u8>()?;
        let address = |uplink: Uplink| {
            let address = IpAddr::from(Ipv6Addr::from(uplink.address)).to_canonical();
            SocketAddr::new(address, uplink.port)
        };
        Ok(found.into_iter().map(|(uplink, _)| address(uplink)).collect())
    }
}

fn uplink(address: &SocketAddr) -> Uplink {
    Uplink { address: octets(address.ip()), port: address.port() }
}
