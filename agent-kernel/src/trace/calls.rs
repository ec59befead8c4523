//! Numbers of the system calls that are told of. They differ between architectures.

use super::source::{Source, Sources};
use agent_records::trace::{CALLS, call};
use nix::libc;

/// What each number is to the programs, by what is wanted.
pub(super) fn table(sources: Sources) -> [u8; CALLS] {
    let mut table = [call::OTHER; CALLS];
    for (source, number, which) in NUMBERS {
        let place = usize::try_from(*number).ok().and_then(|number| table.get_mut(number));
        if let (true, Some(place)) = (sources.contains(*source), place) {
            *place = *which;
        }
    }
    table
}

#[cfg(target_arch = "x86_64")]
const NUMBERS: &[(Source, libc::c_long, u8)] = &[
    (Source::Open, libc::SYS_open, call::OPEN),
    (Source::Open, libc::SYS_creat, call::CREAT),
    (Source::Open, libc::SYS_openat, call::OPENAT),
    (Source::Open, libc::SYS_openat2, call::OPENAT2),
    (Source::Cred, libc::SYS_setuid, call::CRED),
    (Source::Cred, libc::SYS_setgid, call::CRED),
    (Source::Cred, libc::SYS_setreuid, call::CRED),
    (Source::Cred, libc::SYS_setregid, call::CRED),
    (Source::Cred, libc::SYS_setresuid, call::CRED),
    (Source::Cred, libc::SYS_setresgid, call::CRED),
    (Source::Cred, libc::SYS_setfsuid, call::CRED),
    (Source::Cred, libc::SYS_capset, call::CRED),
    (Source::Cred, libc::SYS_execve, call::CRED),
    (Source::Cred, libc::SYS_execveat, call::CRED),
    (Source::Bpf, libc::SYS_bpf, call::BPF),
    (Source::Ptrace, libc::SYS_ptrace, call::PTRACE),
];
/// The programs know no other architecture's registers.
#[cfg(not(target_arch = "x86_64"))]
const NUMBERS: &[(Source, libc::c_long, u8)] = &[];
