//! The thresholds that count: the host's own, else the fleet's, else the usual ones.

use kctl_events::alert::{COUNT, Level, Settings, Threshold, What};
use std::collections::HashMap;
use std::time::Duration;

/// What is looked at, and when.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Thresholds {
    /// By the number of what they are of; `None` for off.
    of: [Option<Threshold>; COUNT],
    pub(super) interval: Duration,
    /// How long a value has to be too high, and low enough.
    pub(super) lasting: Duration,
    /// In which changes of a link add up.
    pub(super) link_window: Duration,
}

impl Thresholds {
    /// Of what the host says and, by key, what the controller says for the fleet.
    pub(super) fn new(own: &Settings, fleet: &HashMap<String, String>) -> Self {
        let mut settings = Settings::default();
        for (key, said) in fleet {
            // A controller of another version may know more than we do.
            if let Err(error) = settings.set(key, said) {
                tracing::warn!(%error, "the controller's setting for the fleet is left aside");
            }
        }
        let settings = own.or(&settings);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        let mut of = [None; COUNT];
        for what in What::all() {
            of[what as usize] = match settings.level(what) {
                Some(Level::Off) => None,
                Some(Level::At(threshold)) => Some(threshold),
                None => Some(what.threshold(what.default_at(processors))),
            };
        }
        Self {
            of,
            interval: settings.interval().unwrap_or(Duration::from_secs(5)),
            lasting: settings.lasting().unwrap_or(Duration::from_secs(30)),
            link_window: settings.link_window().unwrap_or(Duration::from_secs(60)),
        }
    }

    /// `None` for what is not looked at.
    pub(super) fn of(&self, what: What) -> Option<Threshold> {
        self.of[what as usize]
    }

    /// Whether nothing is looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.of.iter().all(Option::is_none)
    }

    /// Whether the counters are looked at.
    pub(super) fn count(&self) -> bool {
        What::all().any(|what| what.is_counted() && self.of(what).is_some())
    }
}

#[cfg(test)]
impl Thresholds {
    /// With nothing to look at but this.
    pub(super) fn of_tests(lasting: Duration, of: &[(What, f64, f64)]) -> Self {
        let mut thresholds = Self {
            of: [None; COUNT],
            lasting,
            interval: Duration::from_secs(5),
            link_window: Duration::from_secs(60),
        };
        for (what, at, clear_below) in of {
            thresholds.of[*what as usize] = Some(Threshold { at: *at, clear_below: *clear_below });
        }
        thresholds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_win_over_the_fleets_and_those_over_the_usual_ones() {
        let nobody = Thresholds::new(&Settings::default(), &HashMap::new());
        assert!(!nobody.is_empty() && nobody.count());
        assert_eq!(nobody.of(What::Disk).map(|it| it.at), Some(90.0));
        let times = [nobody.interval, nobody.lasting, nobody.link_window];
        assert_eq!(times, [5, 30, 60].map(Duration::from_secs));
        let mut own = Settings::default();
        own.set("disk", "70").expect("valid");
        own.set("cpu", "off").expect("valid");
        let fleet = [("disk", "80"), ("cpu", "80"), ("memory", "80"), ("for", "1s"), ("new", "1")];
        let fleet = fleet.map(|(key, said)| (key.to_owned(), said.to_owned())).into();
        let both = Thresholds::new(&own, &fleet);
        let at = |what| both.of(what).map(|it| it.at);
        assert_eq!(
            (at(What::Disk), at(What::Cpu), at(What::Memory)),
            (Some(70.0), None, Some(80.0))
        );
        assert_eq!((at(What::Link), both.lasting), (Some(6.0), Duration::from_secs(1)));
        let mut off = Settings::default();
        What::all().for_each(|what| off.set(what.name(), "off").expect("valid"));
        let off = Thresholds::new(&off, &fleet);
        assert!(off.is_empty() && !off.count());
    }
}
