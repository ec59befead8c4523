//! `signal`: one signal to one process of one host.

use super::{
    completion::Names,
    read::{self, reads},
};
use crate::{
    args::{Global, host_name},
    connect::Target,
    exit::{Exit, usage},
    output::{note, plain},
    view::{
        proc::{SignalledView, StatusView},
        process::shortened,
    },
};
use clap::Args;
use jiff::Timestamp;
use kctl_blocklist::Selection;
use kctl_proto::agent::v1 as agent;
use std::io::{IsTerminal as _, Write as _, stderr, stdin, stdout};

/// Arguments of `signal`.
#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// Id of the process
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// Name or number: TERM, SIGTERM, 15, USR1, RTMIN+3; 0 checks everything and sends nothing
    #[arg(value_parser = parse_signal)]
    signal: String,
    /// The host
    #[arg(long, value_name = "NAME", value_parser = host_name, add = Names::Hosts.candidates())]
    host: Option<String>,
    /// Only if the process started then, as "kctl ps -o json" shows it
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    start_time: Option<i64>,
    /// Only if the process has this name, as "kctl ps -o json" shows it
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    comm: Option<String>,
}

/// Runs `signal`.
pub(crate) async fn run(global: &Global, args: SignalArgs) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    let selection = match (&target, args.host) {
        (Target::Controller(_), Some(host)) => Some((&Selection::Names([host].into())).into()),
        (Target::Controller(_), None) => {
            return Err(usage("signal is for one host: say which with --host NAME"));
        }
        (Target::Agent(_), None) => None,
        (Target::Agent(_), Some(_)) => {
            return Err(usage(
                "--agent speaks to one host: leave --host away, or use a controller",
            ));
        }
    };
    let mut request = agent::SignalProcessRequest {
        pid: args.pid,
        signal: args.signal,
        start_unix_ms: args.start_time.unwrap_or_default(),
        comm: args.comm.unwrap_or_default(),
    };
    if request.start_unix_ms == 0 && request.comm.is_empty() {
        if !(stdin().is_terminal() && stdout().is_terminal()) {
            return Err(usage(
                "signal: the process may be another by now: give --start-time or --comm as \
                 \"kctl ps -o json\" shows them",
            ));
        }
        let asked = agent::GetProcessStatusRequest { pid: request.pid };
        let rows = read::rows(global, &target, selection.clone(), &asked).await?;
        let Some(row) = rows.into_iter().next() else { anyhow::bail!("no host answered") };
        let process = row.result.map_err(|error| anyhow::anyhow!("{}", error.message))?;
        let Some(process) = process.first() else { anyhow::bail!("{}: no answer", row.host) };
        if !confirmed(&row.host, process, &request.signal).await? {
            note("nothing was sent");
            return Ok(Exit::Failed);
        }
        request.start_unix_ms = process.start_unix_ms;
    }
    read::change_on(global, &target, selection, false, &request).await
}

/// Shows the process and asks.
async fn confirmed(host: &str, process: &StatusView, signal: &str) -> anyhow::Result<bool> {
    // In one line: a process may have line feeds in its name, and tell what it likes behind them.
    note(&plain(&format!(
        "{host}: process {} ({}) of user {}, started {}: {}",
        process.pid,
        process.comm,
        process.user(),
        process.start_time.as_deref().unwrap_or("at an unknown time"),
        shortened(&process.command),
    )));
    let mut out = stderr().lock();
    write!(out, "send it {}? [y/N] ", plain(signal))?;
    out.flush()?;
    drop(out);
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        stdin().read_line(&mut line).map(|_| line)
    });
    let answer = read.await??;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Signals of Linux by name, as in signal(7).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// In capitals and without `SIG`; the host knows the numbers.
fn parse_signal(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let digits = |text: &str| text.parse::<u8>().is_ok_and(|it| it <= 64) && !text.starts_with('+');
    let real_time = match bare.strip_prefix("RTMIN").zip(Some('+')) {
        None => bare.strip_prefix("RTMAX").zip(Some('-')),
        found => found,
    };
    let known = match real_time {
        Some((rest, sign)) => rest.is_empty() || rest.strip_prefix(sign).is_some_and(digits),
        None => NAMES.contains(&bare) || digits(bare),
    };
    match known {
        true => Ok(bare.to_owned()),
        false => Err("no such signal: name one such as TERM, KILL, USR1, RTMIN+3, or give its \
                      number"
            .to_owned()),
    }
}

/// Milliseconds since 1970.
fn parse_time(text: &str) -> Result<i64, String> {
    let form = "must be as \"kctl ps -o json\" shows it: 2026-01-02T03:04:05.670Z";
    let time: Timestamp = text.parse().map_err(|_| form.to_owned())?;
    Some(time.as_millisecond()).filter(|ms| *ms != 0).ok_or_else(|| form.to_owned())
}

reads! { process_service_client ProcessServiceClient
    SignalProcessRequest SignalProcessResponse signalled signal_process SignalledView,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_numbers_and_real_time_ones() {
        for (text, expected) in [
            ("TERM", "TERM"),
            ("sigusr1", "USR1"),
            ("15", "15"),
            ("0", "0"),
            ("RTMIN", "RTMIN"),
            ("rtmin+3", "RTMIN+3"),
            ("SIGRTMAX-2", "RTMAX-2"),
        ] {
            assert_eq!(parse_signal(text).as_deref(), Ok(expected));
        }
        for text in ["", "SIG", "FOO", "65", "+9", "-9", "RTMIN-1", "RTMIN+", "RTMIN++1", "TERM;"] {
            assert!(parse_signal(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_start_time_is_exact_to_the_millisecond() {
        assert_eq!(parse_time("2026-01-02T03:04:05.678Z"), Ok(1_767_323_045_678));
        for text in ["", "now", "2026-01-02", "1970-01-01T00:00:00Z"] {
            assert!(parse_time(text).is_err(), "{text:?}");
        }
    }
}
