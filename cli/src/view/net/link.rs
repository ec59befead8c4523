//! Links.

use super::cell;
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LinkView {
    name: String,
    index: u32,
    kind: Option<String>,
    state: String,
    flags: Vec<String>,
    mtu: u32,
    mac: Option<String>,
    master: Option<String>,
    link: Option<String>,
    vlan_id: Option<u32>,
    xdp: Vec<XdpView>,
    statistics: StatisticsView,
}

/// An XDP program on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct XdpView {
    mode: String,
    program: u32,
}

/// What a link counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct StatisticsView {
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_errors: u64,
    pub(super) rx_dropped: u64,
    pub(super) tx_dropped: u64,
    multicast: u64,
    collisions: u64,
}

impl From<pb::Link> for LinkView {
    fn from(link: pb::Link) -> Self {
        let counted = link.statistics.unwrap_or_default();
        Self {
            name: link.name,
            index: link.index,
            kind: some(link.kind),
            state: link.state,
            flags: link.flags,
            mtu: link.mtu,
            mac: some(link.mac),
            master: some(link.master),
            link: some(link.link),
            vlan_id: link.vlan_id,
            xdp: link
                .xdp
                .into_iter()
                .map(|xdp| XdpView { mode: xdp.mode, program: xdp.program })
                .collect(),
            statistics: counted.into(),
        }
    }
}

impl From<pb::link::Statistics> for StatisticsView {
    fn from(counted: pb::link::Statistics) -> Self {
        Self {
            rx_packets: counted.rx_packets,
            tx_packets: counted.tx_packets,
            rx_bytes: counted.rx_bytes,
            tx_bytes: counted.tx_bytes,
            rx_errors: counted.rx_errors,
            tx_errors: counted.tx_errors,
            rx_dropped: counted.rx_dropped,
            tx_dropped: counted.tx_dropped,
            multicast: counted.multicast,
            collisions: counted.collisions,
        }
    }
}

impl Record for LinkView {
    const NOUN: &'static str = "links";
    const COLUMNS: &'static [&'static str] =
        &["INDEX", "NAME", "KIND", "STATE", "MTU", "MAC", "MASTER", "XDP", "RX BYTES", "TX BYTES"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["LINK", "VLAN", "RX PACKETS", "TX PACKETS", "ERRORS", "DROPPED", "FLAGS"];

    fn cells(&self) -> Vec<String> {
        let counted = &self.statistics;
        let programs = self.xdp.iter().map(|xdp| format!("{}/{}", xdp.mode, xdp.program));
        vec![
            self.index.to_string(),
            self.name.clone(),
            cell(self.kind.as_ref()),
            self.state.clone(),
            self.mtu.to_string(),
            cell(self.mac.as_ref()),
            cell(self.master.as_ref()),
            programs.collect::<Vec<_>>().join(","),
            counted.rx_bytes.to_string(),
            counted.tx_bytes.to_string(),
            cell(self.link.as_ref()),
            cell(self.vlan_id),
            counted.rx_packets.to_string(),
            counted.tx_packets.to_string(),
            (counted.rx_errors + counted.tx_errors).to_string(),
            (counted.rx_dropped + counted.tx_dropped).to_string(),
            self.flags.join(","),
        ]
    }
}
