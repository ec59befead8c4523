//! Numbers of Linux as the names that people know; a number without a name is its text. Where
//! architectures differ the numbers are those of x86-64: an agent of another one translates.

use std::borrow::Cow;

/// Errors by number, as in errno(3).
const ERRORS: [&str; 134] = [
    "",
    "EPERM",
    "ENOENT",
    "ESRCH",
    "EINTR",
    "EIO",
    "ENXIO",
    "E2BIG",
    "ENOEXEC",
    "EBADF",
    "ECHILD",
    "EAGAIN",
    "ENOMEM",
    "EACCES",
    "EFAULT",
    "ENOTBLK",
    "EBUSY",
    "EEXIST",
    "EXDEV",
    "ENODEV",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENFILE",
    "EMFILE",
    "ENOTTY",
    "ETXTBSY",
    "EFBIG",
    "ENOSPC",
    "ESPIPE",
    "EROFS",
    "EMLINK",
    "EPIPE",
    "EDOM",
    "ERANGE",
    "EDEADLK",
    "ENAMETOOLONG",
    "ENOLCK",
    "ENOSYS",
    "ENOTEMPTY",
    "ELOOP",
    "",
    "ENOMSG",
    "EIDRM",
    "ECHRNG",
    "EL2NSYNC",
    "EL3HLT",
    "EL3RST",
    "ELNRNG",
    "EUNATCH",
    "ENOCSI",
    "EL2HLT",
    "EBADE",
    "EBADR",
    "EXFULL",
    "ENOANO",
    "EBADRQC",
    "EBADSLT",
    "",
    "EBFONT",
    "ENOSTR",
    "ENODATA",
    "ETIME",
    "ENOSR",
    "ENONET",
    "ENOPKG",
    "EREMOTE",
    "ENOLINK",
    "EADV",
    "ESRMNT",
    "ECOMM",
    "EPROTO",
    "EMULTIHOP",
    "EDOTDOT",
    "EBADMSG",
    "EOVERFLOW",
    "ENOTUNIQ",
    "EBADFD",
    "EREMCHG",
    "ELIBACC",
    "ELIBBAD",
    "ELIBSCN",
    "ELIBMAX",
    "ELIBEXEC",
    "EILSEQ",
    "ERESTART",
    "ESTRPIPE",
    "EUSERS",
    "ENOTSOCK",
    "EDESTADDRREQ",
    "EMSGSIZE",
    "EPROTOTYPE",
    "ENOPROTOOPT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "EOPNOTSUPP",
    "EPFNOSUPPORT",
    "EAFNOSUPPORT",
    "EADDRINUSE",
    "EADDRNOTAVAIL",
    "ENETDOWN",
    "ENETUNREACH",
    "ENETRESET",
    "ECONNABORTED",
    "ECONNRESET",
    "ENOBUFS",
    "EISCONN",
    "ENOTCONN",
    "ESHUTDOWN",
    "ETOOMANYREFS",
    "ETIMEDOUT",
    "ECONNREFUSED",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EALREADY",
    "EINPROGRESS",
    "ESTALE",
    "EUCLEAN",
    "ENOTNAM",
    "ENAVAIL",
    "EISNAM",
    "EREMOTEIO",
    "EDQUOT",
    "ENOMEDIUM",
    "EMEDIUMTYPE",
    "ECANCELED",
    "ENOKEY",
    "EKEYEXPIRED",
    "EKEYREVOKED",
    "EKEYREJECTED",
    "EOWNERDEAD",
    "ENOTRECOVERABLE",
    "ERFKILL",
    "",
];

/// Signals by number, as in signal(7); 0 is none.
const SIGNALS: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Flags of open(2) after the access mode. A flag of several bits is before those that it holds.
const OPEN_FLAGS: [(u32, &str); 17] = [
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1_000, "O_TRUNC"),
    (0o2_000, "O_APPEND"),
    (0o4_000, "O_NONBLOCK"),
    (0o4_010_000, "O_SYNC"),
    (0o10_000, "O_DSYNC"),
    (0o20_000, "O_ASYNC"),
    (0o40_000, "O_DIRECT"),
    (0o100_000, "O_LARGEFILE"),
    (0o20_200_000, "O_TMPFILE"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o1_000_000, "O_NOATIME"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];

/// Flags of TCP by bit, from RFC 9293 and RFC 3168.
const TCP_FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// The first signal that is for programs, as programs count.
const FIRST_REAL_TIME: u32 = 34;
const LAST_REAL_TIME: u32 = 64;

fn listed(table: &[&'static str], number: u32) -> Cow<'static, str> {
    let name = usize::try_from(number).ok().and_then(|number| table.get(number).copied());
    match name {
        None | Some("") => Cow::Owned(number.to_string()),
        Some(name) => Cow::Borrowed(name),
    }
}

/// `ECONNREFUSED`
pub(crate) fn error(number: u32) -> Cow<'static, str> {
    listed(&ERRORS, number)
}

/// `TERM`, `RTMIN+3`
pub(crate) fn signal(number: u32) -> Cow<'static, str> {
    match number.checked_sub(FIRST_REAL_TIME) {
        Some(0) => Cow::Borrowed("RTMIN"),
        Some(beyond) if number <= LAST_REAL_TIME => Cow::Owned(format!("RTMIN+{beyond}")),
        _ => listed(&SIGNALS, number),
    }
}

/// An IP protocol as in IANA's registry: `tcp`, `ipv6-icmp`; the number where it has no name that people
/// know.
pub fn protocol(number: u32) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        0 => "hopopt",
        1 => "icmp",
        2 => "igmp",
        4 => "ipip",
        6 => "tcp",
        17 => "udp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "ipv6-icmp",
        89 => "ospf",
        103 => "pim",
        112 => "vrrp",
        132 => "sctp",
        136 => "udplite",
        number => return Cow::Owned(number.to_string()),
    })
}

/// `SYN,ACK`; empty for no flag.
pub(crate) fn tcp_flags(flags: u32) -> Cow<'static, str> {
    match flags {
        0x02 => return Cow::Borrowed("SYN"),
        0x10 => return Cow::Borrowed("ACK"),
        0x12 => return Cow::Borrowed("SYN,ACK"),
        _ => {}
    }
    let set = TCP_FLAGS.iter().enumerate().filter(|(bit, _)| flags & 1 << bit != 0);
    Cow::Owned(set.map(|(_, name)| *name).collect::<Vec<_>>().join(","))
}

/// `O_RDONLY|O_CLOEXEC`; what has no name is told in octal.
pub(crate) fn open_flags(flags: u32) -> String {
    let mut text = match flags & 0o3 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    }
    .to_owned();
    let mut rest = flags & !0o3;
    for (bits, name) in OPEN_FLAGS {
        if rest & bits == bits {
            rest &= !bits;
            text.push('|');
            text.push_str(name);
        }
    }
    if rest != 0 {
        text.push_str(&format!("|0o{rest:o}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_that_the_manuals_use() {
        assert_eq!(
            (error(111), error(2), error(133)),
            ("ECONNREFUSED".into(), "ENOENT".into(), "133".into())
        );
        assert_eq!(
            (signal(9), signal(34), signal(37)),
            ("KILL".into(), "RTMIN".into(), "RTMIN+3".into())
        );
        assert_eq!((signal(0), signal(65)), ("0".into(), "65".into()));
        assert_eq!(
            (protocol(6), protocol(58), protocol(99)),
            ("tcp".into(), "ipv6-icmp".into(), "99".into())
        );
        assert_eq!(
            (tcp_flags(0x12), tcp_flags(0), tcp_flags(0xc1)),
            ("SYN,ACK".into(), "".into(), "FIN,ECE,CWR".into())
        );
    }

    #[test]
    fn open_flags_are_told_whole() {
        assert_eq!(open_flags(0o2_000_000), "O_RDONLY|O_CLOEXEC");
        assert_eq!(open_flags(0o20_200_002), "O_RDWR|O_TMPFILE");
        assert_eq!(open_flags(0o4_010_101), "O_WRONLY|O_CREAT|O_SYNC");
        assert_eq!(open_flags(0o10_003), "O_ACCMODE|O_DSYNC");
        assert_eq!(open_flags(1 << 30), "O_RDONLY|0o10000000000");
    }
}
