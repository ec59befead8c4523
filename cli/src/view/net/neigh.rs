//! Neighbours as a table.

use super::cell;
use crate::view::read::Record;
use kctl_events::view::net::NeighView;

impl Record for NeighView {
    const NOUN: &'static str = "neigh";
    const COLUMNS: &'static [&'static str] = &["ADDRESS", "INTERFACE", "MAC", "STATE", "FLAGS"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.interface.clone(),
            cell(self.mac.as_ref()),
            self.state.clone(),
            self.flags.join(","),
        ]
    }
}
