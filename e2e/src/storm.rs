//! Floods at a host that are as fast as the machine gives, put on the wire at the switch.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_flood::{Flood, Sender, Sent, Sources, Sums, all_passed, count_passed, datagram, passed};

use crate::{frame::link, lab::Lab, syn, wait::until};

const SOON: Duration = Duration::from_secs(60);

/// The source of a [`Storm`] that a test blocks.
pub const STORM_BLOCKED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The one that nobody blocks.
pub const STORM_FREE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Datagrams from a source that is blocked and one that is not, in turn.
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
        let to = place.namespace.within(|| {
            count_passed(sources)?;
            link()?.addr().context("a link without an address")
        })??;
        let sender = Sender::new(datagram(to, place.v4), Sums::Header)?;
        let turns = Sources::InTurn(sources);
        let flood = lab.network.switch().within(|| Flood::start(sender, host, turns))??;
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
        let mut counts = [0; 2];
        until("none of the free source is lost", SOON, || {
            counts = namespace.within(passed)??;
            Ok(all_passed(&sent, counts))
        })
        .with_context(|| format!("{sent:?}, passed {counts:?}"))?;
        ensure!(counts[0] == 0 && counts[1] <= sent.turns[1], "{sent:?}, passed {counts:?}");
        Ok(sent)
    }
}

/// Begins to send SYNs from all over IPv4 to a port of a host.
pub fn syn_storm(lab: &Lab, host: &str, port: u16) -> Result<Flood> {
    let place = lab.place(host)?;
    let to = place.namespace.within(link)??.addr().context("a link without an address")?;
    let mut head = [0x02; 12];
    head[..6].copy_from_slice(&to);
    let nobody = Ipv4Addr::UNSPECIFIED.into();
    let frame = syn::frame(head, nobody, place.v4.into(), 40_000, port);
    let sender = Sender::new(frame, Sums::Tcp)?;
    let sources = Sources::Numbered { first: 0, count: 1 << 32 };
    lab.network.switch().within(|| Flood::start(sender, host, sources))?
}
