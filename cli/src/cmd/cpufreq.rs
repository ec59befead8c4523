//! `cpufreq`: governors and frequencies of processors.

use super::read::{self, ChangeArgs, ReadArgs, reads};
use crate::{
    args::Global,
    exit::Exit,
    view::cpufreq::{CpufreqChangeView, CpufreqView},
};
use clap::Args;
use kctl_proto::agent::v1::{self as agent, set_cpufreq_request::Target};

/// Most processors in one question.
const MOST: usize = 8_192;

/// Arguments of `cpufreq`.
#[derive(Debug, Args)]
pub(crate) struct CpufreqArgs {
    /// Set who decides the frequency: performance, powersave, schedutil, …
    #[arg(long, value_name = "GOVERNOR", conflicts_with = "frequency")]
    governor: Option<String>,
    /// Set the frequency, by the governor userspace: 2400000000, 2400MHz or 2.4GHz
    #[arg(long, value_name = "HZ", value_parser = parse_frequency)]
    frequency: Option<u64>,
    /// Only these processors: 0-3,7
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    cpu: Option<Cpus>,
    #[command(flatten)]
    change: ChangeArgs,
    /// Exit with 3 when a host did not answer
    #[arg(long, conflicts_with_all = ["governor", "frequency"])]
    strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpus(Vec<u32>);

/// Runs `cpufreq`: without something to set it is a read.
pub(crate) async fn run(global: &Global, args: CpufreqArgs) -> anyhow::Result<Exit> {
    let cpus = args.cpu.map(|cpus| cpus.0).unwrap_or_default();
    let target = match (args.governor, args.frequency) {
        (Some(governor), _) => Target::Governor(governor),
        (None, Some(hz)) => Target::FrequencyHz(hz),
        (None, None) => {
            let read = ReadArgs::new(args.strict, args.change.into_selection()?);
            return read::run(global, &read, &agent::ListCpufreqRequest { cpus }).await;
        }
    };
    let request = agent::SetCpufreqRequest { cpus, target: Some(target) };
    read::change(global, &args.change, &request).await
}

reads! { cpufreq_service_client CpufreqServiceClient
    ListCpufreqRequest ListCpufreqResponse cpus list_cpufreq CpufreqView,
    SetCpufreqRequest SetCpufreqResponse changes set_cpufreq CpufreqChangeView,
}

/// Hertz, with or without a unit.
fn parse_frequency(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let units = [("ghz", 9), ("mhz", 6), ("khz", 3), ("hz", 0)];
    let found = units.iter().find_map(|(unit, zeros)| Some((lower.strip_suffix(unit)?, *zeros)));
    let (number, zeros) = found.unwrap_or((&lower, 0));
    let (whole, fraction) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hz = || {
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > zeros {
            return None;
        }
        format!("{whole}{fraction:0<zeros$}").parse::<u64>().ok().filter(|hz| *hz > 0)
    };
    hz().ok_or_else(|| "must be a frequency like 2400000000, 2400MHz or 2.4GHz".to_owned())
}

/// Numbers and ranges of them.
fn parse_cpus(text: &str) -> Result<Cpus, String> {
    let wrong = || "must be numbers and ranges like 0-3,7".to_owned();
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>(), last.parse::<u32>());
        let (Ok(first), Ok(last)) = (first, last) else { return Err(wrong()) };
        if first > last {
            return Err(wrong());
        }
        if cpus.len() + (last - first) as usize >= MOST {
            return Err(format!("must be at most {MOST} processors"));
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(Cpus(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_have_units() {
        for (text, hz) in [
            ("2400000000", 2_400_000_000),
            ("2400MHz", 2_400_000_000),
            ("2.4GHz", 2_400_000_000),
            ("800000 kHz", 800_000_000),
            ("1hz", 1),
        ] {
            assert_eq!(parse_frequency(text), Ok(hz), "{text}");
        }
        for text in ["", "0", "-1", "2.4", "fast", "2..4GHz", "99999999999GHz", "GHz"] {
            assert!(parse_frequency(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn processors_are_numbers_and_ranges() {
        assert_eq!(parse_cpus("7,0-2,2"), Ok(Cpus(vec![0, 1, 2, 7])));
        for text in ["", "a", "3-1", "1-", "0-4294967295", "1,,2"] {
            assert!(parse_cpus(text).is_err(), "{text:?}");
        }
    }
}
