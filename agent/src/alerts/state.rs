//! When an alert begins and when it is over. It knows the values that it is told and the time that it is
//! told, and nothing else.

use super::thresholds::Thresholds;
use kctl_events::alert::What;
use kctl_proto::agent::v1 as pb;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// So many values can be too high at once; of more nothing is told until some are over.
const MOST: usize = 256;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) what: What,
    /// The mount or link; empty for the whole host.
    pub(super) object: String,
    /// `None` when it is not known just now.
    pub(super) number: Option<f64>,
}

/// All values at one moment. Objects that are not in it are gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) values: Vec<Value>,
    /// Of these nothing could be learnt: what was, still is.
    pub(super) unread: Vec<What>,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Instant,
    /// Nanoseconds since 1970.
    pub(super) unix_ns: i64,
}

/// What is too high, and since when.
#[derive(Debug)]
pub(super) struct Alerts {
    thresholds: Thresholds,
    rows: BTreeMap<(What, String), Row>,
}

/// A value that reached its threshold.
#[derive(Debug)]
struct Row {
    since: Moment,
    /// As it was told; `None` while it has not lasted.
    firing: Option<pb::AlertEvent>,
    /// Since when it is low enough to be over.
    below: Option<Instant>,
}

impl Alerts {
    pub(super) fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, rows: BTreeMap::new() }
    }

    /// Goes on with others: they count from the next moment on.
    pub(super) fn set(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Whether nothing is too high.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes the values of a moment; what has begun or is over with it. Asks for the cause of what begins.
    pub(super) fn take(
        &mut self,
        now: Moment,
        look: &Look,
        mut cause: impl FnMut(What) -> Option<pb::AlertCause>,
    ) -> Vec<pb::AlertEvent> {
        let mut told = self.forget_the_gone(look);
        for value in &look.values {
            told.extend(value.number.and_then(|number| self.step(now, value, number, &mut cause)));
        }
        told
    }

    /// Whether a value of these is too high, told or not.
    pub(super) fn has(&self, what: What) -> bool {
        self.rows.keys().any(|(of, _)| *of == what)
    }

    /// What fires now.
    pub(super) fn firing(&self) -> Vec<pb::AlertEvent> {
        self.rows.values().filter_map(|row| row.firing.clone()).collect()
    }

    fn step(
        &mut self,
        now: Moment,
        value: &Value,
        number: f64,
        cause: &mut impl FnMut(What) -> Option<pb::AlertCause>,
    ) -> Option<pb::AlertEvent> {
        let threshold = self.thresholds.of(value.what)?;
        let key = (value.what, value.object.clone());
        let has_room = self.rows.len() < MOST;
        if !self.rows.contains_key(&key) && (number < threshold.at || !has_room) {
            return None;
        }
        let new = || Row { since: now, firing: None, below: None };
        let row = self.rows.entry(key.clone()).or_insert_with(new);
        let lasts =
            if value.what.is_of_a_window() { Duration::ZERO } else { self.thresholds.lasting };
        match &row.firing {
            None if number < threshold.at => {
                self.rows.remove(&key);
                None
            }
            None if now.at.duration_since(row.since.at) >= lasts => {
                let alert = pb::AlertEvent {
                    name: value.what.name().to_owned(),
                    state: pb::AlertState::Firing.into(),
                    value: Some(number),
                    threshold: threshold.at,
                    clear_below: threshold.clear_below,
                    unit: value.what.unit().to_owned(),
                    object: value.object.clone(),
                    since_unix_ns: row.since.unix_ns,
                    cause: cause(value.what),
                };
                row.firing = Some(alert.clone());
                Some(alert)
            }
            None => None,
            Some(_) if number >= threshold.clear_below => {
                row.below = None;
                None
            }
            Some(_) => {
                let below = *row.below.get_or_insert(now.at);
                if now.at.duration_since(below) < lasts {
                    return None;
                }
                self.rows.remove(&key).and_then(|row| over(row, Some(number)))
            }
        }
    }

    /// A mount or link that is no more is not too full or too shaky.
    fn forget_the_gone(&mut self, look: &Look) -> Vec<pb::AlertEvent> {
        let is_gone = |(what, object): &(What, String)| {
            !look.unread.contains(what)
                && !look.values.iter().any(|it| it.what == *what && it.object == *object)
        };
        let gone: Vec<_> = self.rows.keys().filter(|key| is_gone(key)).cloned().collect();
        gone.iter().filter_map(|key| over(self.rows.remove(key)?, None)).collect()
    }
}

/// What is told of its end, if its beginning was.
fn over(row: Row, value: Option<f64>) -> Option<pb::AlertEvent> {
    row.firing.map(|alert| pb::AlertEvent { state: pb::AlertState::Cleared.into(), value, ..alert })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that stands until it is told.
    struct World {
        alerts: Alerts,
        begin: Instant,
    }

    const FIRING: &str = "firing";
    const CLEARED: &str = "cleared";

    impl World {
        /// CPU from 90 % on, over below 80 %, for 30 s; links from 6 changes on, over below 3.
        fn new() -> Self {
            let of = [(What::Cpu, 90.0, 80.0), (What::Link, 6.0, 3.0)];
            let thresholds = Thresholds::of_tests(Duration::from_secs(30), &of);
            Self { alerts: Alerts::new(thresholds), begin: Instant::now() }
        }

        fn take(&mut self, second: u64, look: &Look) -> Vec<pb::AlertEvent> {
            let at = self.begin + Duration::from_secs(second);
            let now = Moment { at, unix_ns: i64::try_from(second).expect("small") };
            let cause = pb::AlertCause { syscall: "read".to_owned(), ..Default::default() };
            self.alerts.take(now, look, |_| Some(cause.clone()))
        }

        /// One value at one second; the states that were told.
        fn cpu(&mut self, second: u64, number: f64) -> Vec<&'static str> {
            states(&self.take(second, &look(What::Cpu, "", Some(number))))
        }
    }

    fn look(what: What, object: &str, number: Option<f64>) -> Look {
        let value = Value { what, object: object.to_owned(), number };
        Look { values: vec![value], unread: Vec::new() }
    }

    fn states(told: &[pb::AlertEvent]) -> Vec<&'static str> {
        told.iter()
            .map(|it| if it.state() == pb::AlertState::Firing { FIRING } else { CLEARED })
            .collect()
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn it_fires_once_after_it_lasted_and_is_over_once_after_it_was_low_as_long() {
        let mut world = World::new();
        assert_eq!(world.cpu(0, 95.0), NOTHING);
        assert_eq!(world.cpu(29, 95.0), NOTHING);
        let told = world.take(30, &look(What::Cpu, "", Some(97.0)));
        let alert = &told[0];
        assert_eq!((alert.state(), alert.value), (pb::AlertState::Firing, Some(97.0)));
        assert_eq!((alert.name.as_str(), alert.since_unix_ns), ("cpu", 0));
        assert_eq!((alert.threshold, alert.clear_below), (90.0, 80.0));
        assert_eq!(world.alerts.firing(), told);
        assert_eq!(world.cpu(35, 99.0), NOTHING);
        assert_eq!(world.cpu(40, 10.0), NOTHING);
        assert_eq!(world.cpu(69, 10.0), NOTHING);
        let told = world.take(70, &look(What::Cpu, "", Some(11.0)));
        let over = &told[0];
        assert_eq!((over.state(), over.value), (pb::AlertState::Cleared, Some(11.0)));
        assert_eq!((over.since_unix_ns, &over.cause), (alert.since_unix_ns, &alert.cause));
        assert!(world.alerts.firing().is_empty() && !world.alerts.has(What::Cpu));
        assert_eq!(world.cpu(75, 10.0), NOTHING);
    }

    #[test]
    fn what_does_not_last_is_never_told() {
        let mut world = World::new();
        for second in 0..600 {
            let number = if second % 29 == 28 { 89.9 } else { 100.0 };
            assert_eq!(world.cpu(second, number), NOTHING, "{second}");
        }
    }

    #[test]
    fn to_and_fro_within_the_hysteresis_is_silent() {
        let mut world = World::new();
        assert_eq!(world.cpu(0, 90.0), NOTHING);
        assert_eq!(world.cpu(30, 90.0), [FIRING]);
        for second in 31..2_000 {
            let number = if second % 2 == 0 { 80.0 } else { 100.0 };
            assert_eq!(world.cpu(second, number), NOTHING, "{second}");
        }
        // Low, but never for long enough.
        for second in 2_000..4_000 {
            let number = if second % 29 == 0 { 80.0 } else { 0.0 };
            assert_eq!(world.cpu(second, number), NOTHING, "{second}");
        }
        assert_eq!(world.cpu(4_100, 0.0), [CLEARED]);
    }

    #[test]
    fn a_value_that_is_not_known_changes_nothing_and_an_object_that_is_gone_is_over() {
        let mut world = World::new();
        let link = |number| look(What::Link, "eth0", number);
        // A window is a time of its own.
        assert_eq!(states(&world.take(0, &link(Some(6.0)))), [FIRING]);
        assert_eq!(states(&world.take(1, &link(None))), NOTHING);
        let unread = Look { unread: vec![What::Link], ..Look::default() };
        assert_eq!(states(&world.take(2, &unread)), NOTHING);
        // Another one is another one.
        assert_eq!(states(&world.take(3, &look(What::Link, "eth1", Some(5.0)))), [CLEARED]);
        assert_eq!(states(&world.take(4, &link(Some(7.0)))), [FIRING]);
        let told = world.take(5, &Look::default());
        assert_eq!((states(&told), told[0].value), (vec![CLEARED], None));
        assert_eq!(told[0].object, "eth0");
    }

    #[test]
    fn other_thresholds_count_from_then_on_and_what_is_off_is_over() {
        let mut world = World::new();
        assert_eq!(world.cpu(0, 95.0), NOTHING);
        assert_eq!(world.cpu(30, 95.0), [FIRING]);
        let higher = Thresholds::of_tests(Duration::from_secs(10), &[(What::Cpu, 99.0, 97.0)]);
        world.alerts.set(higher);
        assert_eq!(world.cpu(31, 96.0), NOTHING);
        assert_eq!(world.cpu(41, 96.0), [CLEARED]);
        assert_eq!(world.cpu(42, 99.0), NOTHING);
        assert_eq!(world.cpu(52, 99.0), [FIRING]);
        world.alerts.set(Thresholds::of_tests(Duration::from_secs(10), &[]));
        assert_eq!(states(&world.take(53, &Look::default())), [CLEARED]);
        assert!(world.alerts.is_empty());
    }

    #[test]
    fn what_is_off_is_silent_and_there_is_an_end_to_what_is_kept() {
        let mut world = World::new();
        assert!(world.take(0, &look(What::Disk, "/", Some(100.0))).is_empty());
        let values = (0..1_000).map(|n| look(What::Link, &n.to_string(), Some(9.0)).values);
        let all = Look { values: values.flatten().collect(), unread: Vec::new() };
        assert_eq!(world.take(1, &all).len(), MOST);
        assert_eq!(world.alerts.firing().len(), MOST);
        assert_eq!(world.take(2, &Look::default()).len(), MOST);
    }
}
