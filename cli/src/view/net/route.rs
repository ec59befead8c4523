//! Routes as a table.

use super::{cell, table_name};
use crate::view::read::Record;
use kctl_events::view::net::{NextHopView, RouteView};

impl Record for RouteView {
    const NOUN: &'static str = "routes";
    const COLUMNS: &'static [&'static str] =
        &["DESTINATION", "TYPE", "GATEWAY", "INTERFACE", "METRIC", "PROTOCOL", "TABLE"];
    const WIDE_COLUMNS: &'static [&'static str] = &["SCOPE", "PREFSRC", "SRC", "FLAGS"];

    fn cells(&self) -> Vec<String> {
        let hops = |of: fn(&NextHopView) -> &Option<String>, own: &Option<String>| {
            let hops = self.nexthops.iter().map(|hop| of(hop).as_deref().unwrap_or("-"));
            own.as_deref().into_iter().chain(hops).collect::<Vec<_>>().join(",")
        };
        let default = self.dst == "0.0.0.0/0" || self.dst == "::/0";
        vec![
            if default { "default".to_owned() } else { self.dst.clone() },
            self.kind.clone(),
            hops(|hop| &hop.gateway, &self.gateway),
            hops(|hop| &hop.interface, &self.interface),
            cell(self.metric),
            self.protocol.clone(),
            table_name(self.table),
            self.scope.clone(),
            cell(self.prefsrc.as_ref()),
            cell(self.src.as_ref()),
            self.flags.join(","),
        ]
    }
}
