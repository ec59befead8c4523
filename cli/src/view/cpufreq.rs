//! How fast processors run.

use super::read::Record;
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CpufreqView {
    cpu: u32,
    driver: String,
    governor: String,
    available_governors: Vec<String>,
    /// `None` where the kernel does not tell, here and below.
    frequency_hz: Option<u64>,
    min_hz: Option<u64>,
    max_hz: Option<u64>,
    hardware_min_hz: Option<u64>,
    hardware_max_hz: Option<u64>,
    available_hz: Vec<u64>,
}

/// What a processor did and does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CpufreqChangeView {
    cpu: u32,
    old_governor: String,
    new_governor: String,
    /// `None` where the governor decides, here and below.
    old_hz: Option<u64>,
    new_hz: Option<u64>,
}

fn known(hz: u64) -> Option<u64> {
    Some(hz).filter(|hz| *hz > 0)
}

impl From<pb::Cpufreq> for CpufreqView {
    fn from(told: pb::Cpufreq) -> Self {
        Self {
            cpu: told.cpu,
            driver: told.driver,
            governor: told.governor,
            available_governors: told.available_governors,
            frequency_hz: known(told.frequency_hz),
            min_hz: known(told.min_hz),
            max_hz: known(told.max_hz),
            hardware_min_hz: known(told.hardware_min_hz),
            hardware_max_hz: known(told.hardware_max_hz),
            available_hz: told.available_hz,
        }
    }
}

impl From<pb::set_cpufreq_response::Change> for CpufreqChangeView {
    fn from(change: pb::set_cpufreq_response::Change) -> Self {
        Self {
            cpu: change.cpu,
            old_governor: change.old_governor,
            new_governor: change.new_governor,
            old_hz: known(change.old_hz),
            new_hz: known(change.new_hz),
        }
    }
}

impl Record for CpufreqView {
    const NOUN: &'static str = "cpus";
    const COLUMNS: &'static [&'static str] = &["CPU", "GOVERNOR", "FREQUENCY", "MIN", "MAX"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["HARDWARE MIN", "HARDWARE MAX", "DRIVER", "GOVERNORS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cpu.to_string(),
            self.governor.clone(),
            ghz(self.frequency_hz),
            ghz(self.min_hz),
            ghz(self.max_hz),
            ghz(self.hardware_min_hz),
            ghz(self.hardware_max_hz),
            self.driver.clone(),
            self.available_governors.join(","),
        ]
    }
}

impl Record for CpufreqChangeView {
    const NOUN: &'static str = "cpus";
    const COLUMNS: &'static [&'static str] =
        &["CPU", "OLD GOVERNOR", "NEW GOVERNOR", "OLD FREQUENCY", "NEW FREQUENCY"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cpu.to_string(),
            self.old_governor.clone(),
            self.new_governor.clone(),
            ghz(self.old_hz),
            ghz(self.new_hz),
        ]
    }
}

/// `2.40 GHz`, in whole tens of megahertz.
fn ghz(hz: Option<u64>) -> String {
    hz.map_or_else(String::new, |hz| {
        let hundredths = hz / 10_000_000;
        format!("{}.{:02} GHz", hundredths / 100, hundredths % 100)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_for_people_in_tables_and_hertz_in_json() {
        let told = pb::Cpufreq { cpu: 1, frequency_hz: 2_400_000_000, ..pb::Cpufreq::default() };
        let view = CpufreqView::from(told);
        assert_eq!(view.cells()[2..4], ["2.40 GHz", ""]);
        assert_eq!(view.cells().len(), 9);
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!(json["frequency_hz"], 2_400_000_000_u64);
        assert!(json["min_hz"].is_null());
    }
}
