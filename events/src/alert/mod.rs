//! Alerts as configurations say them: what can be too high, from where on it is, and for how long. Agents
//! have them of their own, and the controller for the fleet.

mod what;

pub use what::{COUNT, Threshold, What};

use serde::Deserialize;
use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

/// The times among the keys: name, least, and most.
const TIMES: [(&str, Duration, Duration); 3] = [
    ("for", Duration::ZERO, HOUR),
    ("interval", Duration::from_millis(100), Duration::from_secs(300)),
    ("link-window", Duration::from_secs(1), HOUR),
];
const HOUR: Duration = Duration::from_secs(3_600);

/// A value as it was said: a file may have a number.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "must be a number, \"off\" or \"N clear M\"")]
pub enum Said {
    /// A level.
    Number(f64),
    /// Anything.
    Text(String),
}

impl FromStr for Said {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::Text(text.to_owned()))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(at) => at.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// From where on a value is too high, if it is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    /// It is not.
    Off,
    /// From there on.
    At(Threshold),
}

/// What somebody said; what is absent nobody did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    levels: [Option<Level>; COUNT],
    times: [Option<Duration>; TIMES.len()],
}

/// It can't be said so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("alerts {0}")]
pub struct Invalid(String);

impl Settings {
    /// Takes in what somebody says of a key.
    pub fn set(&mut self, key: &str, said: &str) -> Result<(), Invalid> {
        if let Some(what) = What::all().find(|what| what.name() == key) {
            self.levels[what as usize] = Some(level(what, said)?);
            return Ok(());
        }
        let Some(at) = TIMES.iter().position(|(name, ..)| *name == key) else {
            let names = What::all().map(What::name).chain(TIMES.map(|(name, ..)| name));
            let names: Vec<_> = names.collect();
            return Err(Invalid(format!("{key:?}: no such key; there are {}", names.join(", "))));
        };
        let (_, least, most) = TIMES[at];
        let time = duration(said).filter(|time| (least..=most).contains(time));
        let wrong = || Invalid(format!("{key} {said:?}: must be a time of {least:?} to {most:?}"));
        self.times[at] = Some(time.ok_or_else(wrong)?);
        Ok(())
    }

    /// This, and of what it does not say what another one does.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            levels: std::array::from_fn(|at| self.levels[at].or(other.levels[at])),
            times: std::array::from_fn(|at| self.times[at].or(other.times[at])),
        }
    }

    /// From where on a value is too high.
    pub fn level(&self, what: What) -> Option<Level> {
        self.levels[what as usize]
    }

    /// How long a value has to be too high, and low enough.
    pub fn lasting(&self) -> Option<Duration> {
        self.times[0]
    }

    /// How often values are looked at.
    pub fn interval(&self) -> Option<Duration> {
        self.times[1]
    }

    /// In which changes of a link add up.
    pub fn link_window(&self) -> Option<Duration> {
        self.times[2]
    }
}

/// `off`, `N`, `N clear M`.
fn level(what: What, said: &str) -> Result<Level, Invalid> {
    let name = what.name();
    let words: Vec<_> = said.split_whitespace().collect();
    let number = |word: &str| word.parse::<f64>().ok();
    let parsed = match words[..] {
        ["off"] => return Ok(Level::Off),
        [at] => number(at).map(|at| what.threshold(at)),
        [at, "clear", below] => {
            number(at).zip(number(below)).map(|(at, clear_below)| Threshold { at, clear_below })
        }
        _ => None,
    };
    let Some(threshold) = parsed else {
        return Err(Invalid(format!("{name} {said:?}: must be off, N, or N clear M")));
    };
    let Threshold { at, clear_below } = threshold;
    let most = if what.unit() == "%" { 100.0 } else { 1e15 };
    // What is no number is in no range.
    if !(at > 0.0 && at <= most) {
        return Err(Invalid(format!("{name} {at}: must be above 0 and at most {most}")));
    }
    if !(clear_below > 0.0 && clear_below <= at) {
        let why = format!("{name} clear {clear_below}: must be above 0 and at most {at}");
        return Err(Invalid(why));
    }
    Ok(Level::At(threshold))
}

/// `10s`, `5m`, `1h`, also zero; `None` for what is no such time.
fn duration(text: &str) -> Option<Duration> {
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let parsed = text.parse::<jiff::Span>().and_then(|span| span.to_duration(relative));
    parsed.and_then(Duration::try_from).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> Result<Settings, Invalid> {
        let mut settings = Settings::default();
        pairs.iter().try_for_each(|(key, said)| settings.set(key, said))?;
        Ok(settings)
    }

    #[test]
    fn levels_and_times_are_said_as_people_do() {
        let settings = said(&[
            ("syscalls", "10000"),
            ("faults", "off"),
            ("switches", "5000 clear 1000"),
            ("memory-pressure", "50"),
            ("disk", "95 clear 95"),
            ("for", "0s"),
            ("interval", "100ms"),
            ("link-window", "5m"),
        ]);
        let settings = settings.expect("valid");
        let at = |at, clear_below| Some(Level::At(Threshold { at, clear_below }));
        assert_eq!(settings.level(What::Syscalls), at(10_000.0, 8_000.0));
        assert_eq!(settings.level(What::Faults), Some(Level::Off));
        assert_eq!(settings.level(What::Switches), at(5_000.0, 1_000.0));
        assert_eq!(settings.level(What::MemoryPressure), at(50.0, 25.0));
        assert_eq!(settings.level(What::Disk), at(95.0, 95.0));
        assert_eq!(settings.level(What::Cpu), None);
        assert_eq!(
            (settings.lasting(), settings.interval()),
            (Some(Duration::ZERO), Some(TIMES[1].1))
        );
        assert_eq!(settings.link_window(), Some(Duration::from_secs(300)));
    }

    #[test]
    fn what_one_does_not_say_another_may() {
        let own = said(&[("disk", "off"), ("for", "1s")]).expect("valid");
        let fleet = said(&[("disk", "80"), ("cpu", "90"), ("interval", "1s")]).expect("valid");
        let both = own.or(&fleet);
        assert_eq!(
            (both.level(What::Disk), both.level(What::Cpu)),
            (Some(Level::Off), fleet.level(What::Cpu))
        );
        assert_eq!((both.lasting(), both.interval()), (own.lasting(), fleet.interval()));
        assert_eq!((both.level(What::Link), both.link_window()), (None, None));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (key, value, word) in [
            ("cpu", "101", "cpu"),
            ("cpu", "0", "cpu"),
            ("disk", "full", "disk"),
            ("disk", "90 clear 91", "disk clear 91"),
            ("disk", "90 clear 0", "disk clear 0"),
            ("disk", "90 below 80", "disk"),
            ("disk", "", "disk"),
            ("link", "nan", "link"),
            ("link", "-1", "link"),
            ("syscalls", "inf", "syscalls"),
            ("interval", "50ms", "interval"),
            ("interval", "ten", "interval"),
            ("for", "2h", "for"),
            ("for", "-1s", "for"),
            ("link-window", "0s", "link-window"),
            ("colour", "1", "colour"),
        ] {
            let error = said(&[(key, value)]).expect_err(key).to_string();
            assert!(error.starts_with("alerts ") && error.contains(word), "{key}: {error}");
        }
    }
}
