//! Links as a table.

use super::cell;
use crate::view::read::Record;
use kctl_events::view::net::LinkView;

impl Record for LinkView {
    const NOUN: &'static str = "links";
    const COLUMNS: &'static [&'static str] =
        &["INDEX", "NAME", "KIND", "STATE", "MTU", "MAC", "MASTER", "XDP", "RX BYTES", "TX BYTES"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["LINK", "VLAN", "RX PACKETS", "TX PACKETS", "ERRORS", "DROPPED", "FLAGS"];

    fn cells(&self) -> Vec<String> {
        let counted = self.statistics.clone().unwrap_or_default();
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
