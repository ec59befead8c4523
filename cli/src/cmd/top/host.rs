//! One host of `top`: what it told last, and what follows from that.

use crate::view::host::HostRow;
use kctl_proto::agent::v1 as agent;
use std::{collections::BTreeMap, mem, time::Instant};

/// Links of a host that are kept.
const LINKS: usize = 1_000;

/// What is asked of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Hosts,
    System,
    Links,
    Counters,
    Stats,
    Processes,
    Events,
}

/// What a host told.
pub(super) enum Told {
    System(Box<agent::System>),
    Links(Vec<agent::LinkStats>),
    /// System calls a second.
    Syscalls(Option<f64>),
    /// Totals, and when they came.
    Stats(Box<agent::Stats>, Instant),
    Processes(Vec<agent::Process>),
}

/// One host. What is `None` was not told, or can't be told.
#[derive(Default)]
pub(super) struct Host {
    state: &'static str,
    /// The interfaces that its filter is on.
    filtered: Vec<String>,
    /// How many alerts fire.
    pub(super) alerts: usize,
    system: Option<Box<agent::System>>,
    pub(super) links: Option<Vec<agent::LinkStats>>,
    coming: Vec<agent::LinkStats>,
    pub(super) syscalls: Option<f64>,
    pub(super) stats: Option<Box<agent::Stats>>,
    /// Packets a second.
    pub(super) drops: Option<f64>,
    dropped: Option<(u64, Instant)>,
    errors: BTreeMap<Kind, agent::Error>,
}

impl Host {
    /// What the controller or the agent says of it.
    pub(super) fn known(&mut self, row: HostRow) {
        self.state = row.state;
        self.alerts = row.alerts.len();
        self.filtered = row.filter.interfaces.into_iter().map(|it| it.name).collect();
    }

    /// What came of an answer that was not ended is thrown away.
    pub(super) fn begin(&mut self) {
        self.coming.clear();
    }

    /// It answered, or a part of its answer came.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::System(system) => self.system = Some(system),
            Told::Links(links) if self.coming.len() < LINKS => self.coming.extend(links),
            Told::Syscalls(rate) => self.syscalls = rate,
            Told::Stats(stats, now) => self.stats(stats, now),
            // Processes are kept of one host only.
            Told::Links(_) | Told::Processes(_) => {}
        }
    }

    /// Its answer is whole.
    pub(super) fn ended(&mut self, kind: Kind) {
        self.errors.remove(&kind);
        if kind == Kind::Links {
            self.links = Some(mem::take(&mut self.coming));
        }
    }

    /// It did not answer, or said no: then what it told before is over.
    pub(super) fn failed(&mut self, kind: Kind, error: agent::Error) {
        self.forget(kind);
        self.errors.insert(kind, error);
    }

    /// Why it does not answer, or not everything.
    pub(super) fn why(&self) -> Option<String> {
        let error = self.errors.values().next()?;
        Some(if error.message.is_empty() { error.code.clone() } else { error.message.clone() })
    }

    /// Its state in a word.
    pub(super) fn word(&self) -> &'static str {
        match self.errors.get(&Kind::System).map(|error| error.code.as_str()) {
            Some("UNAVAILABLE") => "disconnected",
            Some("DEADLINE_EXCEEDED") => "silent",
            Some(_) => "error",
            None => self.state,
        }
    }

    pub(super) fn is_well(&self) -> bool {
        matches!(self.word(), "connected" | "local")
    }

    /// Percent of all processors' time.
    pub(super) fn cpu(&self) -> Option<f64> {
        let cpu = self.system.as_ref()?.cpu.as_ref()?;
        Some((100.0 - cpu.idle_percent - cpu.iowait_percent).max(0.0))
    }

    /// Bytes in use and in all.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        let memory = self.system.as_ref()?.memory.as_ref()?;
        Some((memory.total_bytes.saturating_sub(memory.available_bytes), memory.total_bytes))
    }

    /// Bytes a second in and out of the filtered interfaces; without any of all but loopback.
    pub(super) fn network(&self) -> Option<(f64, f64)> {
        let counts = |name: &String| match self.filtered.is_empty() {
            true => name != "lo",
            false => self.filtered.contains(name),
        };
        let links = self.links.as_ref()?.iter().filter(|link| counts(&link.interface));
        let rates: Vec<_> = links.filter_map(|link| link.rates.as_ref()).collect();
        let sum = |of: fn(&agent::link_stats::Rates) -> f64| rates.iter().map(|it| of(it)).sum();
        (!rates.is_empty()).then(|| (sum(|it| it.rx_bytes), sum(|it| it.tx_bytes)))
    }

    fn stats(&mut self, stats: Box<agent::Stats>, now: Instant) {
        let total = stats.dropped.as_ref().map_or(0, |count| count.packets);
        if let Some((before, then)) = self.dropped.replace((total, now)) {
            // Fewer than before: the filter was made anew.
            let count = total.checked_sub(before).unwrap_or(total);
            let seconds = now.saturating_duration_since(then).as_secs_f64().max(0.001);
            self.drops =
                Some(u32::try_from(count).map_or(f64::from(u32::MAX), f64::from) / seconds);
        }
        self.stats = Some(stats);
    }

    fn forget(&mut self, kind: Kind) {
        match kind {
            Kind::System => self.system = None,
            Kind::Links => (self.links, self.coming) = (None, Vec::new()),
            Kind::Counters => self.syscalls = None,
            Kind::Stats => (self.stats, self.drops, self.dropped) = (None, None, None),
            Kind::Hosts | Kind::Processes | Kind::Events => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stats(dropped: u64) -> agent::Stats {
        let dropped = Some(agent::PacketCount { packets: dropped, bytes: 0 });
        agent::Stats { dropped, ..Default::default() }
    }

    fn link(interface: &str, rx_bytes: f64) -> agent::LinkStats {
        let rates = agent::link_stats::Rates { rx_bytes, ..Default::default() };
        let interface = interface.to_owned();
        agent::LinkStats { interface, rates: Some(rates), ..Default::default() }
    }

    #[test]
    fn drops_are_rates_also_when_the_filter_is_made_anew() {
        let (mut host, begin) = (Host::default(), Instant::now());
        let mut rate = |total, seconds| {
            let at = begin + Duration::from_secs(seconds);
            host.told(Told::Stats(Box::new(stats(total)), at));
            host.drops
        };
        assert_eq!(rate(1_000, 0), None);
        assert_eq!(rate(1_500, 2), Some(250.0));
        assert_eq!(rate(30, 3), Some(30.0));
        host.failed(Kind::Stats, agent::Error::default());
        assert_eq!(host.drops, None);
    }

    #[test]
    fn the_network_is_that_of_filtered_interfaces_and_comes_as_a_whole() {
        let mut host = Host::default();
        host.begin();
        host.told(Told::Links(vec![link("lo", 7.0), link("eth0", 10.0)]));
        // Cut off: the next round does not add to it.
        host.begin();
        host.told(Told::Links(vec![link("lo", 7.0), link("eth0", 20.0)]));
        assert_eq!(host.network(), None);
        host.told(Told::Links(vec![link("veth0", 5.0)]));
        host.ended(Kind::Links);
        assert_eq!(host.network(), Some((25.0, 0.0)));
        host.filtered.push("eth0".to_owned());
        assert_eq!(host.network(), Some((20.0, 0.0)));
    }
}
