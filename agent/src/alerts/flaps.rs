//! How often links lost and found their carrier within a window.

use agent_kernel::netlink::Link;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The changes of every link.
#[derive(Debug)]
pub(super) struct Flaps {
    window: Duration,
    /// By the index of the link.
    links: HashMap<u32, Flap>,
}

#[derive(Debug, Default)]
struct Flap {
    /// What the kernel has counted.
    count: u64,
    /// When changes were seen, and how many.
    changes: VecDeque<(Instant, u64)>,
}

impl Flaps {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, links: HashMap::new() }
    }

    pub(super) fn set(&mut self, window: Duration) {
        self.window = window;
    }

    /// The links as they are now; each one's name, and its changes within the window. Of a link that was
    /// not seen before there are none.
    pub(super) fn take(&mut self, now: Instant, links: &[Link]) -> Vec<(String, u64)> {
        let mut seen = HashMap::with_capacity(links.len());
        let mut told = Vec::with_capacity(links.len());
        for link in links {
            let Some(count) = link.statistics.and_then(|it| it.carrier_changes) else { continue };
            let known = self.links.remove(&link.index);
            let mut flap = known.unwrap_or(Flap { count, changes: VecDeque::new() });
            let changes = count.saturating_sub(flap.count);
            flap.count = count;
            if changes > 0 {
                flap.changes.push_back((now, changes));
            }
            flap.changes.retain(|(at, _)| now.duration_since(*at) < self.window);
            told.push((link.name.clone(), flap.changes.iter().map(|(_, count)| count).sum()));
            seen.insert(link.index, flap);
        }
        // Those that are left are gone.
        self.links = seen;
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_kernel::netlink::Statistics;

    fn link(name: &str, index: u32, carrier_changes: u64) -> Link {
        let counted = Statistics { carrier_changes: Some(carrier_changes), ..Default::default() };
        Link {
            name: name.to_owned(),
            index,
            kind: None,
            state: "UP".into(),
            flags: Vec::new(),
            mtu: 1_500,
            mac: None,
            master: None,
            link: None,
            vlan_id: None,
            xdp: Vec::new(),
            statistics: Some(counted),
        }
    }

    #[test]
    fn changes_count_for_a_window_and_what_was_before_does_not() {
        let mut flaps = Flaps::new(Duration::from_secs(60));
        let begin = Instant::now();
        let mut at = |second, links: &[Link]| -> Vec<u64> {
            let told = flaps.take(begin + Duration::from_secs(second), links);
            told.into_iter().map(|(_, changes)| changes).collect()
        };
        assert_eq!(at(0, &[link("a", 1, 100)]), [0]);
        assert_eq!(at(5, &[link("a", 1, 104), link("b", 2, 9)]), [4, 0]);
        assert_eq!(at(60, &[link("a", 1, 106), link("b", 2, 10)]), [6, 1]);
        // The first four are too long ago; a new link has the name of the old one.
        assert_eq!(at(65, &[link("a", 1, 106), link("b", 3, 50)]), [2, 0]);
        assert_eq!(at(120, &[link("a", 1, 106)]), [0]);
    }
}
