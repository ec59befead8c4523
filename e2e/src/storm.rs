//! Floods at a host that are as fast as the machine gives, put on the wire at the switch.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_flood::{
    Addresses, Flood, Sender, Sent, Sources, Sums, all_passed, count_passed, datagrams,
    only_second, passed,
};

use crate::{
    frame::link,
    lab::Lab,
    network::{INTERFACE, Place},
    syn,
    wait::until,
};

const SOON: Duration = Duration::from_secs(60);

/// The source of a [`Storm`] that a test blocks.
pub const STORM_BLOCKED: Addresses =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// The one that nobody blocks.
pub const STORM_FREE: Addresses =
    (Ipv4Addr::new(198, 51, 100, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// Datagrams from a source that is blocked and one that is not, in turn, over IPv4 and IPv6.
#[derive(Debug)]
pub struct Storm {
    flood: Flood,
    host: String,
}

impl Storm {
    /// Begins to send to a host whose filter drops those of [`STORM_BLOCKED`].
    pub fn start(lab: &Lab, host: &str) -> Result<Self> {
        let place = lab.place(host)?;
        let sources = [STORM_BLOCKED, STORM_FREE];
        place.namespace.within(|| count_passed(sources))??;
        let frames = datagrams(taking_in(place)?, (place.v4, place.v6), sources);
        let sender = Sender::new(&frames, Sources::Own)?;
        let flood = lab.network.switch().within(|| Flood::start(sender, host))??;
        let storm = Self { flood, host: host.to_owned() };
        storm.goes_on()?;
        Ok(storm)
    }

    /// Waits until more was sent.
    pub fn goes_on(&self) -> Result<()> {
        let before = self.flood.frames();
        until("the storm goes on", SOON, || Ok(self.flood.frames() > before)).map(drop)
    }

    /// Ends it. Fails when one packet of the blocked source passed, or one of the other was lost; else says
    /// what was sent.
    pub fn end(self, lab: &Lab) -> Result<Sent> {
        self.goes_on()?;
        let sent = self.flood.end()?;
        let namespace = &lab.place(&self.host)?.namespace;
        let mut counts = [0; 4];
        until("none of the free source is lost", SOON, || {
            counts = namespace.within(passed)??;
            Ok(all_passed(&sent, counts))
        })
        .with_context(|| format!("{sent:?}, passed {counts:?}"))?;
        ensure!(only_second(&sent, counts), "{sent:?}, passed {counts:?}");
        Ok(sent)
    }
}

/// Begins to send SYNs from all over IPv4 and IPv6, in turn, to a port of a host.
pub fn syn_storm(lab: &Lab, host: &str, port: u16) -> Result<Flood> {
    let place = lab.place(host)?;
    let mut head = [0x02; 12];
    head[..6].copy_from_slice(&taking_in(place)?);
    let nobody = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let to = place.addresses();
    let frames = [0, 1].map(|family| syn::frame(head, nobody[family], to[family], 40_000, port));
    let sources = Sources::Numbered { first: 0, count: 1 << 32, sums: Sums::Tcp };
    let sender = Sender::new(&frames, sources)?;
    lab.network.switch().within(|| Flood::start(sender, host))?
}

/// Lets a place's link take frames in whatever filters it; its address.
fn taking_in(place: &Place) -> Result<[u8; 6]> {
    let mut gro = Command::new("ethtool");
    gro.args(["-K", INTERFACE, "gro", "on"]);
    place.namespace.output(gro)?.code(0)?;
    place.namespace.within(link)??.addr().context("a link without an address")
}
