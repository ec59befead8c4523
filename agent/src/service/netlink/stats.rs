//! Counters of links and how fast they grow.

use super::convert;
use crate::service::blocking::blocking;
use agent_kernel::netlink::{Link, Rates, links, rates};
use kctl_proto::agent::v1 as pb;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tonic::Status;

/// The links, or the one of this name, after this time.
pub(super) async fn watch(
    name: Option<String>,
    interval: Duration,
) -> Result<Vec<pb::LinkStats>, Status> {
    let before = Reading::take(name.clone()).await?;
    if interval.is_zero() {
        return Ok(before.links.into_iter().map(|link| stats(link, None)).collect());
    }
    tokio::time::sleep(interval).await;
    let after = Reading::take(name).await?;
    Ok(compare(before, after))
}

/// Counters at one moment.
struct Reading {
    at: Instant,
    links: Vec<Link>,
}

impl Reading {
    async fn take(name: Option<String>) -> Result<Self, Status> {
        blocking(move || {
            let links = links(name)?;
            // The kernel has told everything; what follows is reading that.
            let at = Instant::now();
            Ok(Self { at, links: links.collect::<Result<_, _>>()? })
        })
        .await
    }
}

/// Those that are there at the end. One of the same name with another index is another link.
fn compare(before: Reading, after: Reading) -> Vec<pb::LinkStats> {
    let elapsed = after.at.duration_since(before.at);
    let begun: HashMap<_, _> =
        before.links.into_iter().filter_map(|link| Some((link.index, link.statistics?))).collect();
    let compared = after.links.into_iter().map(|link| {
        let counted = begun.get(&link.index).zip(link.statistics.as_ref());
        let grown = counted.and_then(|(begun, ended)| rates(begun, ended, elapsed));
        stats(link, grown.map(|grown| rates_to_proto(grown, elapsed)))
    });
    compared.collect()
}

fn stats(link: Link, rates: Option<pb::link_stats::Rates>) -> pb::LinkStats {
    pb::LinkStats {
        interface: link.name,
        index: link.index,
        statistics: link.statistics.map(convert::statistics),
        rates,
    }
}

fn rates_to_proto(rates: Rates, elapsed: Duration) -> pb::link_stats::Rates {
    pb::link_stats::Rates {
        interval_ms: elapsed.as_secs_f64() * 1_000.0,
        rx_bytes: rates.rx_bytes,
        tx_bytes: rates.tx_bytes,
        rx_packets: rates.rx_packets,
        tx_packets: rates.tx_packets,
        rx_errors: rates.rx_errors,
        tx_errors: rates.tx_errors,
        rx_dropped: rates.rx_dropped,
        tx_dropped: rates.tx_dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_kernel::netlink::Statistics;

    fn link(name: &str, index: u32, rx_bytes: u64) -> Link {
        Link {
            name: name.to_owned(),
            index,
            kind: None,
            state: "UP".into(),
            flags: Vec::new(),
            mtu: 1500,
            mac: None,
            master: None,
            link: None,
            vlan_id: None,
            xdp: Vec::new(),
            statistics: Some(Statistics { rx_bytes, ..Statistics::default() }),
        }
    }

    #[test]
    fn only_a_link_that_was_there_all_the_time_has_rates() {
        let at = Instant::now();
        let links = vec![link("eth0", 2, 100), link("eth1", 3, 100), link("gone", 4, 7)];
        let before = Reading { at, links };
        // eth1 was made anew, eth2 renamed from eth0, new came.
        let links = vec![link("eth2", 2, 1_100), link("eth1", 5, 900), link("new", 6, 1)];
        let after = Reading { at: at + Duration::from_millis(2_000), links };
        let compared = compare(before, after);
        let shown: Vec<_> = compared
            .iter()
            .map(|it| (it.interface.as_str(), it.rates.as_ref().map(|rates| rates.rx_bytes)))
            .collect();
        assert_eq!(shown, [("eth2", Some(500.0)), ("eth1", None), ("new", None)]);
        assert_eq!(compared[0].rates.as_ref().map(|it| it.interval_ms), Some(2_000.0));
    }
}
