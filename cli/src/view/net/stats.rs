//! Counters of links and their rates.

use crate::view::{read::Record, size};
use kctl_events::view::net::StatisticsView;
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LinkStatsView {
    interface: String,
    index: u32,
    #[serde(flatten)]
    statistics: StatisticsView,
    rates: Option<RatesView>,
}

/// What a link counted in each second of an interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct RatesView {
    interval_ms: f64,
    rx_bytes_per_second: f64,
    tx_bytes_per_second: f64,
    rx_packets_per_second: f64,
    tx_packets_per_second: f64,
    rx_errors_per_second: f64,
    tx_errors_per_second: f64,
    rx_dropped_per_second: f64,
    tx_dropped_per_second: f64,
}

impl From<pb::link_stats::Rates> for RatesView {
    fn from(rates: pb::link_stats::Rates) -> Self {
        let rounded = |rate: f64| (rate * 100.0).round() / 100.0;
        Self {
            interval_ms: rounded(rates.interval_ms),
            rx_bytes_per_second: rounded(rates.rx_bytes),
            tx_bytes_per_second: rounded(rates.tx_bytes),
            rx_packets_per_second: rounded(rates.rx_packets),
            tx_packets_per_second: rounded(rates.tx_packets),
            rx_errors_per_second: rounded(rates.rx_errors),
            tx_errors_per_second: rounded(rates.tx_errors),
            rx_dropped_per_second: rounded(rates.rx_dropped),
            tx_dropped_per_second: rounded(rates.tx_dropped),
        }
    }
}

impl From<pb::LinkStats> for LinkStatsView {
    fn from(stats: pb::LinkStats) -> Self {
        Self {
            interface: stats.interface,
            index: stats.index,
            statistics: stats.statistics.unwrap_or_default().into(),
            rates: stats.rates.map(RatesView::from),
        }
    }
}

impl Record for LinkStatsView {
    const NOUN: &'static str = "stats";
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "RX BYTES",
        "TX BYTES",
        "RX/s",
        "TX/s",
        "RX PACKETS/s",
        "TX PACKETS/s",
        "ERRORS/s",
        "DROPPED/s",
    ];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["INDEX", "RX PACKETS", "TX PACKETS", "ERRORS", "DROPPED"];

    fn cells(&self) -> Vec<String> {
        let counted = &self.statistics;
        let rate = |of: fn(&RatesView) -> f64| self.rates.as_ref().map(of);
        let number = |of| rate(of).map(|rate| format!("{rate:.1}")).unwrap_or_default();
        let bytes = |of| rate(of).map(bytes).unwrap_or_default();
        vec![
            self.interface.clone(),
            size(counted.rx_bytes),
            size(counted.tx_bytes),
            bytes(|it| it.rx_bytes_per_second),
            bytes(|it| it.tx_bytes_per_second),
            number(|it| it.rx_packets_per_second),
            number(|it| it.tx_packets_per_second),
            number(|it| it.rx_errors_per_second + it.tx_errors_per_second),
            number(|it| it.rx_dropped_per_second + it.tx_dropped_per_second),
            self.index.to_string(),
            counted.rx_packets.to_string(),
            counted.tx_packets.to_string(),
            (u128::from(counted.rx_errors) + u128::from(counted.tx_errors)).to_string(),
            (u128::from(counted.rx_dropped) + u128::from(counted.tx_dropped)).to_string(),
        ]
    }
}

/// A rate of bytes for people.
fn bytes(rate: f64) -> String {
    // What is no number of bytes, as of a strange agent, is shown as the nearest one.
    #[expect(clippy::cast_possible_truncation, reason = "rounded, and cut at both ends")]
    let whole = rate.round() as u64;
    size(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(rates: Option<pb::link_stats::Rates>) -> LinkStatsView {
        let statistics =
            pb::link::Statistics { rx_bytes: 2_048, tx_errors: 3, ..Default::default() };
        let statistics = Some(statistics);
        let interface = "eth0".to_owned();
        pb::LinkStats { interface, index: 2, statistics, rates }.into()
    }

    #[test]
    fn json_has_counters_and_rates_or_null() {
        let rates = pb::link_stats::Rates {
            interval_ms: 1_000.123_4,
            rx_bytes: 1_234.567,
            ..Default::default()
        };
        let json = serde_json::to_value(stats(Some(rates))).expect("json");
        let expected = serde_json::json!({
            "interface": "eth0", "index": 2, "rx_bytes": 2048, "tx_bytes": 0, "rx_packets": 0,
            "tx_packets": 0, "rx_errors": 0, "tx_errors": 3, "rx_dropped": 0, "tx_dropped": 0,
            "multicast": 0, "collisions": 0,
            "rates": {
                "interval_ms": 1000.12, "rx_bytes_per_second": 1234.57, "tx_bytes_per_second": 0.0,
                "rx_packets_per_second": 0.0, "tx_packets_per_second": 0.0,
                "rx_errors_per_second": 0.0, "tx_errors_per_second": 0.0,
                "rx_dropped_per_second": 0.0, "tx_dropped_per_second": 0.0,
            },
        });
        assert_eq!(json, expected);
        let json = serde_json::to_value(stats(None)).expect("json");
        assert!(json["rates"].is_null() && json["rx_bytes"] == 2048, "{json}");
    }

    #[test]
    fn people_see_a_cell_for_every_column() {
        let columns = LinkStatsView::COLUMNS.len() + LinkStatsView::WIDE_COLUMNS.len();
        assert_eq!(stats(None).cells().len(), columns);
        assert_eq!(stats(None).cells()[3], "");
        let rates = pb::link_stats::Rates { rx_bytes: 2_048.4, ..Default::default() };
        assert_eq!(stats(Some(rates)).cells()[3], "2.0K");
    }
}
