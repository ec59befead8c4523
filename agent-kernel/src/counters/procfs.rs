//! What the kernel counts anyway, and tells in procfs.

use crate::error::{Error, ErrorKind, named};
use crate::proc::text;
use std::path::Path;

/// Page faults of the whole kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// All that were served, as `pgfault` of /proc/vmstat counts them.
    pub served: u64,
    /// Those that had to wait for a device, `pgmajfault`.
    pub major: u64,
    /// Raised in user mode by processes in scope; `None` where the tracepoint is missing.
    pub user: Option<u64>,
    /// Raised in kernel mode.
    pub kernel: Option<u64>,
}

/// TCP in the network namespace of the agent, as of /proc/net/snmp (RFC 4022).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tcp {
    /// Connections that began here, `ActiveOpens`.
    pub active_opens: u64,
    /// Connections that others began, `PassiveOpens`.
    pub passive_opens: u64,
    /// Attempts that failed, `AttemptFails`.
    pub failed_attempts: u64,
    /// Connections that ended by a reset, `EstabResets`.
    pub connection_resets: u64,
    /// Resets sent, `OutRsts`.
    pub resets_sent: u64,
    /// Segments sent again, `RetransSegs`.
    pub retransmits: u64,
    /// Segments sent, `OutSegs`.
    pub segments_sent: u64,
    /// Segments received, `InSegs`.
    pub segments_received: u64,
}

pub(super) fn faults(proc: &Path) -> Result<Faults, Error> {
    let vmstat = text(proc, "vmstat")?;
    let value = |name: &str| {
        let found = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.and_then(|value| value.trim().parse().ok()).ok_or_else(|| unreadable("vmstat"))
    };
    let (served, major) = (value("pgfault")?, value("pgmajfault")?);
    Ok(Faults { served, major, user: None, kernel: None })
}

/// Times that a processor went over to another thread, since boot.
pub(super) fn switches(proc: &Path) -> Result<u64, Error> {
    let stat = text(proc, "stat")?;
    let found = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    found.and_then(|value| value.trim().parse().ok()).ok_or_else(|| unreadable("stat"))
}

pub(super) fn tcp(proc: &Path) -> Result<Tcp, Error> {
    let snmp = text(proc, "net/snmp")?;
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).ok_or_else(|| unreadable("net/snmp"))?;
    let value = |name: &str| {
        let at = names.split(' ').position(|it| it == name);
        // MaxConn, and only it, may be below zero.
        let value = at.and_then(|at| values.split(' ').nth(at)).and_then(|it| it.parse().ok());
        value.ok_or_else(|| unreadable("net/snmp"))
    };
    Ok(Tcp {
        active_opens: value("ActiveOpens")?,
        passive_opens: value("PassiveOpens")?,
        failed_attempts: value("AttemptFails")?,
        connection_resets: value("EstabResets")?,
        resets_sent: value("OutRsts")?,
        retransmits: value("RetransSegs")?,
        segments_sent: value("OutSegs")?,
        segments_received: value("InSegs")?,
    })
}

/// Of clock ticks.
pub(super) fn nanoseconds(ticks: u64) -> u64 {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    let per_second = per_second.ok().flatten().and_then(|it| u64::try_from(it).ok());
    ticks.saturating_mul(1_000_000_000 / per_second.filter(|it| *it > 0).unwrap_or(100))
}

fn unreadable(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, named("file", name), "it has another form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let folder = tempfile::tempdir().expect("temp dir");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("writes");
            std::fs::write(path, text).expect("writes");
        };
        write("vmstat", "pgfault_x 1\npgfault 70\npgmajfault 3\n");
        write("stat", "cpu 1 2 3 4\nctxt 12345678901234567890\n");
        write(
            "net/snmp",
            "Ip: A\nIp: 1\nTcp: MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets InSegs \
             OutSegs RetransSegs InErrs OutRsts\nTcp: -1 1 2 3 4 5 6 7 8 9\nUdp: A\nUdp: 1\n",
        );
        let found = faults(folder.path()).expect("faults");
        assert_eq!((found.served, found.major), (70, 3));
        assert_eq!(switches(folder.path()).expect("switches"), 12_345_678_901_234_567_890);
        let tcp = tcp(folder.path()).expect("tcp");
        assert_eq!((tcp.active_opens, tcp.passive_opens, tcp.failed_attempts), (1, 2, 3));
        assert_eq!((tcp.connection_resets, tcp.retransmits, tcp.resets_sent), (4, 7, 9));
        write("vmstat", "pgfault 70\n");
        assert!(faults(folder.path()).is_err());
    }
}
