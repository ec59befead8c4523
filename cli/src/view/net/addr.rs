//! Addresses as a table.

use super::cell;
use crate::view::read::Record;
use kctl_events::view::net::AddrView;

impl Record for AddrView {
    const NOUN: &'static str = "addrs";
    const COLUMNS: &'static [&'static str] = &["INTERFACE", "ADDRESS", "SCOPE", "PEER", "FLAGS"];
    const WIDE_COLUMNS: &'static [&'static str] = &["BROADCAST", "LABEL", "VALID S", "PREFERRED S"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.interface.clone(),
            format!("{}/{}", self.address, self.prefix_len),
            self.scope.clone(),
            cell(self.peer.as_ref()),
            self.flags.join(","),
            cell(self.broadcast.as_ref()),
            cell(self.label.as_ref()),
            cell(self.valid_seconds),
            cell(self.preferred_seconds),
        ]
    }
}
