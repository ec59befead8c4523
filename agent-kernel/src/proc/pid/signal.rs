//! Signals to one process, checked before they are sent. What is checked is held by a pidfd, so that no
//! process that took over the id is hit.

use super::{Handle, entry, gone, lines, number};
use crate::error::{Error, ErrorKind, named};
use crate::proc::clock::Clock;
use crate::proc::stat::Stat;
use nix::libc;
use nix::sys::signal::Signal as Named;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// A signal that this kernel has; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// Reads `TERM`, `SIGTERM`, `15`, `RTMIN+3`, `RTMAX-1` or `0`, in any case.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
        let beyond = |rest: &str| match rest {
            "" => Some(0),
            rest if rest[1..].starts_with(|it: char| it.is_ascii_digit()) => rest[1..].parse().ok(),
            _ => None,
        };
        let found = if let Some(rest) = bare.strip_prefix("RTMIN").filter(|it| !it.starts_with('-'))
        {
            beyond(rest).and_then(|count: i32| first.checked_add(count)).filter(|it| *it <= last)
        } else if let Some(rest) = bare.strip_prefix("RTMAX").filter(|it| !it.starts_with('+')) {
            beyond(rest).and_then(|count: i32| last.checked_sub(count)).filter(|it| *it >= first)
        } else if let Ok(number) = bare.parse::<i32>() {
            (0..=last).contains(&number).then_some(number)
        } else {
            format!("SIG{bare}").parse::<Named>().ok().map(|signal| signal as i32)
        };
        found.map(Self).ok_or_else(|| {
            let why =
                "no such signal; name one such as TERM, KILL, USR1, RTMIN+3, or give its number";
            Error::new(ErrorKind::Invalid, named("signal", text), why)
        })
    }

    /// Without `SIG`: `TERM`, `RTMIN+3`; the number where there is no name.
    pub fn name(self) -> String {
        name(self.0)
    }
}

/// Of a signal's number, without `SIG`.
pub(super) fn name(number: i32) -> String {
    let first = libc::SIGRTMIN();
    match Named::try_from(number) {
        Ok(signal) => signal.as_str().trim_start_matches("SIG").to_owned(),
        Err(_) if number == first => "RTMIN".to_owned(),
        Err(_) if (first..=libc::SIGRTMAX()).contains(&number) => {
            format!("RTMIN+{}", number - first)
        }
        Err(_) => number.to_string(),
    }
}

/// What the process must be, lest another one is hit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected<T> {
    /// When it started, milliseconds since 1970 as a listing tells it; `None` for any.
    pub start_unix_ms: Option<i64>,
    /// What the caller makes of its name; `None` for any.
    pub comm: Option<T>,
}

/// The process that was signalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signalled {
    /// The name that it goes by.
    pub comm: Vec<u8>,
    /// When it started, milliseconds since 1970.
    pub start_unix_ms: i64,
}

/// Sends a signal to a process; 0 only checks. `is_named` says whether a name is the expected one.
///
/// Never to process 1, a kernel thread, a zombie or the caller itself.
pub fn signal<T>(
    root: &Path,
    pid: u32,
    signal: Signal,
    expected: &Expected<T>,
    is_named: impl Fn(&[u8], &T) -> bool,
) -> Result<Signalled, Error> {
    let held = hold(root, pid)?;
    // Read after it is held: if its id goes to another process from here on, the signal goes nowhere.
    let stat = Handle::open(root, pid)?.stat()?;
    let start_unix_ms = Clock::read(root)?.start_unix_ms(&stat);
    refuse(root, &stat)?;
    let object = named("process", pid);
    let differs = |why: String| {
        Err(Error::new(ErrorKind::Busy, object.clone(), format!("{why}; nothing was sent")))
    };
    let comm = String::from_utf8_lossy(&stat.comm);
    if expected.start_unix_ms.is_some_and(|wanted| wanted != start_unix_ms) {
        return differs(format!(
            "it did not start then: another process has this id now, {comm:?}"
        ));
    }
    if expected.comm.as_ref().is_some_and(|wanted| !is_named(&stat.comm, wanted)) {
        return differs(format!("it is named {comm:?}"));
    }
    send(&held, signal).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Error::io(object, error).with_remedy("give the agent CAP_KILL")
        }
        _ => super::failed(pid, error),
    })?;
    Ok(Signalled { comm: stat.comm, start_unix_ms })
}

/// Holds the process that procfs shows under this id.
fn hold(root: &Path, pid: u32) -> Result<OwnedFd, Error> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| gone(pid))?;
    let held = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(held) => held,
        // Of a thread that is no process: the first of these on older kernels.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
            return Err(no_process(root, pid));
        }
        Err(error) => return Err(super::failed(pid, error.into())),
    };
    // In a container with the host's procfs but not its pids, the same number is another process.
    let info = std::fs::read(root.join(format!("self/fdinfo/{}", held.as_raw_fd())));
    let info = info.unwrap_or_default();
    let told = lines(&info).filter_map(entry).find(|(key, _)| *key == b"Pid");
    match told.and_then(|(_, value)| number::<i64>(value)) {
        Some(told) if told == i64::from(pid) => Ok(held),
        Some(-1) => Err(gone(pid)),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            named("process", pid),
            "the agent has other process ids than its --proc-root",
        )
        .with_remedy("run the agent in the host's pid namespace (hostPID)")),
    }
}

fn no_process(root: &Path, pid: u32) -> Error {
    let status =
        Handle::open(root, pid).and_then(|handle| handle.read("status", super::LONGEST_FILE));
    let (status, _) = match status {
        Ok(status) => status,
        Err(error) => return error,
    };
    let tgid = lines(&status).filter_map(entry).find(|(key, _)| *key == b"Tgid");
    match tgid.and_then(|(_, value)| number::<u32>(value)) {
        Some(tgid) if tgid != pid => {
            let why = format!("it is a thread of process {tgid}; signal that");
            Error::new(ErrorKind::NotFound, named("process", pid), why)
        }
        _ => gone(pid),
    }
}

/// Refuses what no operator means.
fn refuse(root: &Path, stat: &Stat) -> Result<(), Error> {
    let own = std::fs::read_link(root.join("self")).unwrap_or_default();
    let why = if stat.pid == 1 {
        "it is the first one; the host, or its container, would go down with it"
    } else if own == Path::new(&stat.pid.to_string()) {
        "it is the agent itself; stop it on the host"
    } else if stat.kernel_thread {
        "it is a kernel thread, and takes no signals"
    } else if matches!(stat.state, 'Z' | 'X' | 'x') {
        "it has ended, and its parent has not noticed (a zombie)"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Busy, named("process", stat.pid), why))
}

#[expect(
    unsafe_code,
    reason = "the library has safe names for real-time signals on some systems only"
)]
fn send(held: &OwnedFd, signal: Signal) -> std::io::Result<()> {
    if signal.0 == 0 {
        return Ok(());
    }
    // SAFETY: the number is from 1 to SIGRTMAX, as `Signal::parse` checked, and it is sent and not handled:
    // the C library's own signals are no concern of this process.
    let signal = unsafe { rustix::process::Signal::from_raw_unchecked(signal.0) };
    Ok(pidfd_send_signal(held, signal)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number, name) in [
            ("TERM", 15, "TERM"),
            ("sigterm", 15, "TERM"),
            ("15", 15, "TERM"),
            ("0", 0, "0"),
            ("RTMIN", libc::SIGRTMIN(), "RTMIN"),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3, "RTMIN+3"),
            ("RTMAX-1", libc::SIGRTMAX() - 1, "RTMIN+29"),
            ("64", 64, "RTMIN+30"),
        ] {
            let signal = Signal::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((signal.0, signal.name().as_str()), (number, name), "{text}");
        }
        for text in [
            "", "SIG", "FOO", "-1", "65", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+-1", "RTMIN+",
            "TERM ",
        ] {
            let error = Signal::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
