//! Links.

use super::some;
use kctl_proto::agent::v1 as pb;
use schemars::JsonSchema;
use serde::Serialize;

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Link")]
pub struct LinkView {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// "veth", "bridge"; null for plain hardware and loopback.
    pub kind: Option<String>,
    /// RFC 2863: "UP", "DOWN".
    pub state: String,
    /// As in ip-link(8).
    pub flags: Vec<String>,
    /// Bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: Option<String>,
    /// The link that it is a port of.
    pub master: Option<String>,
    /// The link below it or its peer, in the same namespace.
    pub link: Option<String>,
    /// Of a VLAN.
    pub vlan_id: Option<u32>,
    /// Its XDP programs.
    pub xdp: Vec<XdpView>,
    /// What it counted; null in an event.
    pub statistics: Option<StatisticsView>,
}

/// An XDP program on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Xdp")]
pub struct XdpView {
    /// "xdp-native", "xdp-generic", "xdp-offload".
    pub mode: String,
    /// Id of the program.
    pub program: u32,
}

/// What a link counted since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "LinkStatistics")]
#[expect(missing_docs, reason = "as in ip-link(8)")]
pub struct StatisticsView {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
    pub multicast: u64,
    pub collisions: u64,
}

impl From<pb::Link> for LinkView {
    fn from(link: pb::Link) -> Self {
        let xdp = |it: pb::link::Xdp| XdpView { mode: it.mode, program: it.program };
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
            xdp: link.xdp.into_iter().map(xdp).collect(),
            statistics: link.statistics.map(StatisticsView::from),
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
