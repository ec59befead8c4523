//! The metrics of one moment in OpenMetrics text.

use super::{calls, process};
use crate::{Credentials, Validity};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use std::{fmt, time::SystemTime};

/// What is told of one moment.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<Family>,
}

/// All values of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    values: Vec<Value>,
}

#[derive(Debug)]
struct Value {
    labels: Vec<(&'static str, String)>,
    value: Number,
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Count(u64),
    Level(f64),
}

/// A metric to which values are given.
#[derive(Debug)]
pub struct Values<'a>(&'a mut Vec<Value>);

impl Page {
    /// With what every daemon tells: its build, its process, the calls that it answered.
    pub fn new(component: &str, version: &str) -> Self {
        let mut page = Self::default();
        page.gauge("kctl_build_info", "Always 1; the labels say what runs")
            .labelled(&[("component", component), ("version", version)], 1.0);
        process::tell(&mut page);
        page
    }

    /// A metric that only grows while the daemon runs; the text adds `_total` to its name.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Values<'_> {
        self.family(name, help, MetricType::Counter)
    }

    /// A metric that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Values<'_> {
        self.family(name, help, MetricType::Gauge)
    }

    /// When the own certificate and that of the CA end; nothing without them.
    pub fn certificates(&mut self, credentials: Option<&Credentials>) {
        let mut ends = self.gauge(
            "kctl_certificate_expiry_timestamp_seconds",
            "When a certificate ends, seconds since 1970; the earliest, where there are several",
        );
        let Some(credentials) = credentials else { return };
        for (what, chain) in [("own", &credentials.chain), ("ca", &credentials.ca)] {
            let first = chain.iter().filter_map(Validity::of).map(|it| it.not_after).min();
            if let Some(end) = first {
                ends.labelled(&[("certificate", what)], seconds(end));
            }
        }
    }

    /// What came to this daemon, and what became of it on the way to its readers.
    pub fn events(
        &mut self,
        received: u64,
        delivered: u64,
        filtered: u64,
        lost: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        self.counter("kctl_events_received", "Events that came, on every stream here")
            .count(received);
        self.counter(
            "kctl_events_delivered",
            "Events that readers were told, all readers together",
        )
        .count(delivered);
        self.counter("kctl_events_filtered", "Events that readers did not want, all together")
            .count(filtered);
        let mut by_stage = self.counter("kctl_events_lost", "Events lost, by stage");
        for (stage, count) in lost {
            by_stage.counted(&[("stage", stage)], count);
        }
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: MetricType) -> Values<'_> {
        let values = Vec::new();
        self.families.push(Family { name, help, kind, values });
        let family = self.families.last_mut().expect("one was pushed");
        Values(&mut family.values)
    }

    /// As it is served.
    pub(super) fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        calls::register(&mut registry);
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

impl Values<'_> {
    /// The only value.
    pub fn set(&mut self, value: f64) {
        self.labelled(&[], value);
    }

    /// The only value of a counter.
    pub fn count(&mut self, value: u64) {
        self.counted(&[], value);
    }

    /// The value of these labels.
    pub fn labelled(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.push(labels, Number::Level(value));
    }

    /// The value of a counter with these labels.
    pub fn counted(&mut self, labels: &[(&'static str, &str)], value: u64) {
        self.push(labels, Number::Count(value));
    }

    fn push(&mut self, labels: &[(&'static str, &str)], value: Number) {
        let labels = labels.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        self.0.push(Value { labels, value });
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.families {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for value in &family.values {
                if value.labels.is_empty() {
                    value.value.encode(family.kind, &mut metric)?;
                } else {
                    value.value.encode(family.kind, &mut metric.encode_family(&value.labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Number {
    fn encode(self, kind: MetricType, metric: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match (kind, self) {
            (MetricType::Counter, Self::Count(n)) => {
                metric.encode_counter::<NoLabelSet, _, u64>(&n, None)
            }
            (MetricType::Counter, Self::Level(n)) => {
                metric.encode_counter::<NoLabelSet, _, u64>(&n, None)
            }
            (_, Self::Count(n)) => metric.encode_gauge(&(n as f64)),
            (_, Self::Level(n)) => metric.encode_gauge(&n),
        }
    }
}

/// A moment as Prometheus has it.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_openmetrics() {
        let mut page = Page::default();
        let mut seen = page.counter("kctl_seen", "Seen");
        seen.counted(&[("verdict", "drop")], u64::MAX);
        seen.counted(&[("verdict", "a\"b\\c\n")], 1);
        page.gauge("kctl_empty", "Nothing has it");
        page.gauge("kctl_size_bytes", "Size").set(1.5);
        let text = page.into_text().expect("text");
        for line in [
            "# TYPE kctl_seen counter",
            "kctl_seen_total{verdict=\"drop\"} 18446744073709551615",
            "kctl_seen_total{verdict=\"a\\\"b\\\\c\\n\"} 1",
            "# TYPE kctl_empty gauge",
            "kctl_size_bytes 1.5",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
