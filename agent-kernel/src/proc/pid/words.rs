//! Bits and numbers of the kernel in the words of its headers.

use nix::libc;

/// The names of these bits; those without a name together, hexadecimal.
pub(super) fn words(bits: u64, names: &[(u64, &str)]) -> Vec<String> {
    let mut left = bits;
    let mut words = Vec::new();
    for &(bit, name) in names {
        // A name may stand for several bits, such as O_SYNC.
        if bit != 0 && left & bit == bit {
            left &= !bit;
            words.push(name.to_owned());
        }
    }
    if left != 0 {
        words.push(format!("{left:#x}"));
    }
    words
}

/// Of bits 0, 1, 2 …
fn numbered(bits: u64, name: impl Fn(usize) -> String) -> Vec<String> {
    (0..64).filter(|bit| bits & (1 << bit) != 0).map(name).collect()
}

const CAPABILITIES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// Of a set of capabilities, as in capabilities(7).
pub fn capabilities(set: u64) -> Vec<String> {
    numbered(set, |bit| {
        CAPABILITIES.get(bit).map_or_else(|| format!("cap_{bit}"), |name| (*name).to_owned())
    })
}

/// Of a set of signals, as procfs prints one: bit 0 is signal 1.
pub(super) fn signals(set: u64) -> Vec<String> {
    numbered(set, |bit| super::signal::name(i32::try_from(bit + 1).unwrap_or_default()))
}

/// Of the flags of an open file, as in open(2).
pub(super) fn open_flags(flags: u64) -> Vec<String> {
    let bit = |flag: libc::c_int| u64::try_from(flag).unwrap_or_default();
    // The C library says 0 where files are always large.
    let large =
        if cfg!(any(target_arch = "aarch64", target_arch = "arm")) { 0o400_000 } else { 0o100_000 };
    let access = match flags & bit(libc::O_ACCMODE) {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    };
    let rest = words(
        flags & !bit(libc::O_ACCMODE),
        &[
            (bit(libc::O_APPEND), "O_APPEND"),
            (bit(libc::O_ASYNC), "O_ASYNC"),
            (bit(libc::O_CLOEXEC), "O_CLOEXEC"),
            (bit(libc::O_CREAT), "O_CREAT"),
            (bit(libc::O_DIRECT), "O_DIRECT"),
            (bit(libc::O_TMPFILE), "O_TMPFILE"),
            (bit(libc::O_DIRECTORY), "O_DIRECTORY"),
            (bit(libc::O_SYNC), "O_SYNC"),
            (bit(libc::O_DSYNC), "O_DSYNC"),
            (bit(libc::O_EXCL), "O_EXCL"),
            (large, "O_LARGEFILE"),
            (bit(libc::O_NOATIME), "O_NOATIME"),
            (bit(libc::O_NOCTTY), "O_NOCTTY"),
            (bit(libc::O_NOFOLLOW), "O_NOFOLLOW"),
            (bit(libc::O_NONBLOCK), "O_NONBLOCK"),
            (bit(libc::O_PATH), "O_PATH"),
            (bit(libc::O_TRUNC), "O_TRUNC"),
        ],
    );
    std::iter::once(access.to_owned()).chain(rest).collect()
}

/// Of epoll_ctl(2).
pub(super) fn epoll_events(events: u64) -> Vec<String> {
    words(
        events,
        &[
            (0x001, "EPOLLIN"),
            (0x002, "EPOLLPRI"),
            (0x004, "EPOLLOUT"),
            (0x008, "EPOLLERR"),
            (0x010, "EPOLLHUP"),
            (0x040, "EPOLLRDNORM"),
            (0x080, "EPOLLRDBAND"),
            (0x100, "EPOLLWRNORM"),
            (0x200, "EPOLLWRBAND"),
            (0x400, "EPOLLMSG"),
            (0x2000, "EPOLLRDHUP"),
            (1 << 28, "EPOLLEXCLUSIVE"),
            (1 << 29, "EPOLLWAKEUP"),
            (1 << 30, "EPOLLONESHOT"),
            (1 << 31, "EPOLLET"),
        ],
    )
}

/// Of inotify(7).
pub(super) fn inotify_mask(mask: u64) -> Vec<String> {
    words(
        mask,
        &[
            (0x001, "IN_ACCESS"),
            (0x002, "IN_MODIFY"),
            (0x004, "IN_ATTRIB"),
            (0x008, "IN_CLOSE_WRITE"),
            (0x010, "IN_CLOSE_NOWRITE"),
            (0x020, "IN_OPEN"),
            (0x040, "IN_MOVED_FROM"),
            (0x080, "IN_MOVED_TO"),
            (0x100, "IN_CREATE"),
            (0x200, "IN_DELETE"),
            (0x400, "IN_DELETE_SELF"),
            (0x800, "IN_MOVE_SELF"),
            (0x2000, "IN_UNMOUNT"),
            (0x4000, "IN_Q_OVERFLOW"),
            (0x8000, "IN_IGNORED"),
            (1 << 24, "IN_ONLYDIR"),
            (1 << 25, "IN_DONT_FOLLOW"),
            (1 << 26, "IN_EXCL_UNLINK"),
            (1 << 28, "IN_MASK_CREATE"),
            (1 << 29, "IN_MASK_ADD"),
            (1 << 30, "IN_ISDIR"),
            (1 << 31, "IN_ONESHOT"),
        ],
    )
}

/// Of timerfd_create(2).
pub(super) fn clock(id: i64) -> String {
    match id {
        0 => "CLOCK_REALTIME",
        1 => "CLOCK_MONOTONIC",
        7 => "CLOCK_BOOTTIME",
        8 => "CLOCK_REALTIME_ALARM",
        9 => "CLOCK_BOOTTIME_ALARM",
        other => return other.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names_and_those_without_are_not_lost() {
        assert_eq!(words(0b1011, &[(1, "A"), (2, "B"), (4, "C")]), ["A", "B", "0x8"]);
        assert_eq!(open_flags(0o2_000_002), ["O_RDWR", "O_CLOEXEC"]);
        assert_eq!(open_flags(0), ["O_RDONLY"]);
        let sync = u64::try_from(libc::O_SYNC | libc::O_WRONLY).expect("positive");
        assert_eq!(open_flags(sync), ["O_WRONLY", "O_SYNC"]);
        assert_eq!(capabilities(1 << 39 | 1 << 63 | 1), ["cap_chown", "cap_bpf", "cap_63"]);
        assert_eq!(capabilities(u64::MAX).len(), 64);
        assert_eq!(signals(1 << 14 | 1), ["HUP", "TERM"]);
        assert_eq!(epoll_events(0x19 | 1 << 31), ["EPOLLIN", "EPOLLERR", "EPOLLHUP", "EPOLLET"]);
        assert_eq!(inotify_mask(0x102), ["IN_MODIFY", "IN_CREATE"]);
        assert_eq!((clock(1).as_str(), clock(99).as_str()), ("CLOCK_MONOTONIC", "99"));
    }
}
