//! `/proc/PID/fdinfo/FD`, as in proc_pid_fdinfo(5).

use super::{Socket, entry, fields, hex, lines, number, words};

/// Watches of one epoll or inotify instance that are told.
const MOST_WATCHES: usize = 1_000;

/// What one file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fdinfo {
    pub(super) position: u64,
    pub(super) flags: u64,
    pub(super) inode: Option<u64>,
    pub(super) detail: Option<Detail>,
}

/// What some types of descriptors have besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// Where it is connected.
    Socket(Socket),
    /// As in eventfd(2).
    Eventfd {
        /// What a read would tell.
        count: u64,
        /// Whether a read takes one off it.
        semaphore: bool,
    },
    /// As in epoll(7).
    Epoll {
        /// 1,000 at most.
        watches: Vec<EpollWatch>,
        /// Whether there are more.
        truncated: bool,
    },
    /// As in timerfd_create(2).
    Timerfd {
        /// `CLOCK_MONOTONIC` …
        clock: String,
        /// Expirations that nobody has read.
        ticks: u64,
        /// `TFD_TIMER_ABSTIME` …
        settime_flags: Vec<String>,
        /// Until the next expiration; 0 when it is not armed.
        value_ns: u64,
        /// Between later ones; 0 for none.
        interval_ns: u64,
    },
    /// As in signalfd(2).
    Signalfd {
        /// Names without `SIG`.
        signals: Vec<String>,
    },
    /// As in inotify(7).
    Inotify {
        /// 1,000 at most.
        watches: Vec<InotifyWatch>,
        /// Whether there are more.
        truncated: bool,
    },
    /// As in pidfd_open(2).
    Pidfd {
        /// -1 for a process that is gone.
        pid: i32,
    },
}

/// A descriptor that an epoll instance watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpollWatch {
    /// The descriptor, when it was added.
    pub fd: u32,
    /// `EPOLLIN` …
    pub events: Vec<String>,
}

/// A file that an inotify instance watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InotifyWatch {
    /// The watch descriptor.
    pub wd: i32,
    /// Of the file.
    pub inode: u64,
    /// Of its file system.
    pub device: u64,
    /// `IN_CREATE` …
    pub mask: Vec<String>,
}

/// `cut` when the text is longer than what is given. What it does not know is left out.
pub(super) fn parse(text: &[u8], kind: &str, cut: bool) -> Fdinfo {
    let value = |name: &str| {
        let found = lines(text).filter_map(entry).find(|(key, _)| *key == name.as_bytes());
        found.map(|(_, value)| value)
    };
    let octal = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
    Fdinfo {
        position: value("pos").and_then(number).unwrap_or_default(),
        flags: value("flags").and_then(octal).unwrap_or_default(),
        inode: value("ino").and_then(number),
        detail: detail(text, kind, cut, value),
    }
}

fn detail<'a>(
    text: &'a [u8],
    kind: &str,
    cut: bool,
    value: impl Fn(&str) -> Option<&'a [u8]>,
) -> Option<Detail> {
    match kind {
        "eventfd" => Some(Detail::Eventfd {
            count: hex(value("eventfd-count")?)?,
            semaphore: value("eventfd-semaphore") == Some(b"1"),
        }),
        "eventpoll" => {
            let (watches, truncated) = watches(text, b"tfd:", cut, epoll_watch);
            Some(Detail::Epoll { watches, truncated })
        }
        "timerfd" => {
            let flags = value("settime flags")
                .and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
            let names = [(1, "TFD_TIMER_ABSTIME"), (2, "TFD_TIMER_CANCEL_ON_SET")];
            Some(Detail::Timerfd {
                clock: words::clock(number(value("clockid")?)?),
                ticks: number(value("ticks")?)?,
                settime_flags: words::words(flags.unwrap_or_default(), &names),
                value_ns: nanoseconds(value("it_value")?)?,
                interval_ns: nanoseconds(value("it_interval")?)?,
            })
        }
        "signalfd" => Some(Detail::Signalfd { signals: words::signals(hex(value("sigmask")?)?) }),
        "inotify" => {
            let (watches, truncated) = watches(text, b"inotify ", cut, inotify_watch);
            Some(Detail::Inotify { watches, truncated })
        }
        "pidfd" => Some(Detail::Pidfd { pid: number(value("Pid")?)? }),
        _ => None,
    }
}

fn watches<T>(
    text: &[u8],
    begins: &[u8],
    cut: bool,
    parse: fn(&[u8]) -> Option<T>,
) -> (Vec<T>, bool) {
    let mut watches: Vec<_> = lines(text)
        .filter(|line| line.starts_with(begins))
        .filter_map(parse)
        .take(MOST_WATCHES + 1)
        .collect();
    let truncated = cut || watches.len() > MOST_WATCHES;
    watches.truncate(MOST_WATCHES);
    (watches, truncated)
}

/// `tfd:        3 events:       19 data:                3  pos:0 ino:13bea8 sdev:f`
fn epoll_watch(line: &[u8]) -> Option<EpollWatch> {
    let mut fields = fields(line);
    let fd = number(fields.nth(1)?)?;
    let events = words::epoll_events(hex(fields.nth(1)?)?);
    Some(EpollWatch { fd, events })
}

/// `inotify wd:1 ino:3c4a7 sdev:fe00000 mask:100 …`
fn inotify_watch(line: &[u8]) -> Option<InotifyWatch> {
    let value = |name: &[u8]| fields(line).find_map(|field| field.strip_prefix(name));
    Some(InotifyWatch {
        // In hexadecimal, as all of them.
        wd: i32::try_from(hex(value(b"wd:")?)?).ok()?,
        inode: hex(value(b"ino:")?)?,
        device: hex(value(b"sdev:")?)?,
        mask: words::inotify_mask(hex(value(b"mask:")?)?),
    })
}

/// `(1, 500)`: seconds and nanoseconds.
fn nanoseconds(pair: &[u8]) -> Option<u64> {
    let pair = pair.strip_prefix(b"(")?.strip_suffix(b")")?;
    let comma = pair.iter().position(|&byte| byte == b',')?;
    let seconds: u64 = number(pair[..comma].trim_ascii())?;
    let nanoseconds: u64 = number(pair[comma + 1..].trim_ascii())?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "pos:\t12\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n";

    fn parsed(kind: &str, rest: &str) -> Fdinfo {
        parse(format!("{HEAD}{rest}").as_bytes(), kind, false)
    }

    #[test]
    fn every_descriptor_has_a_position_and_flags() {
        let info = parsed("file", "");
        assert_eq!((info.position, info.flags, info.inode), (12, 0o2_000_002, Some(1038)));
        assert_eq!(info.detail, None);
        assert_eq!(parse(b"", "eventfd", false), Fdinfo::default());
    }

    #[test]
    fn special_descriptors_are_decoded() {
        let detail = |kind, rest| parsed(kind, rest).detail.expect("a detail");
        let text = "eventfd-count:               1f\neventfd-id: 1\neventfd-semaphore: 1\n";
        assert_eq!(detail("eventfd", text), Detail::Eventfd { count: 31, semaphore: true });
        let text =
            "clockid: 1\nticks: 2\nsettime flags: 01\nit_value: (0, 500)\nit_interval: (2, 0)\n";
        let timer = Detail::Timerfd {
            clock: "CLOCK_MONOTONIC".to_owned(),
            ticks: 2,
            settime_flags: vec!["TFD_TIMER_ABSTIME".to_owned()],
            value_ns: 500,
            interval_ns: 2_000_000_000,
        };
        assert_eq!(detail("timerfd", text), timer);
        let signals = vec!["INT".to_owned(), "USR1".to_owned()];
        let text = "sigmask:\t0000000000000202\n";
        assert_eq!(detail("signalfd", text), Detail::Signalfd { signals });
        assert_eq!(detail("pidfd", "Pid:\t-1\nNSpid:\t-1\n"), Detail::Pidfd { pid: -1 });
        let text = "inotify wd:a ino:3c4a7 sdev:fe00000 mask:100 ignored_mask:0\n";
        let watch = InotifyWatch {
            wd: 10,
            inode: 0x3c4a7,
            device: 0xfe0_0000,
            mask: vec!["IN_CREATE".to_owned()],
        };
        let expected = Detail::Inotify { watches: vec![watch], truncated: false };
        assert_eq!(detail("inotify", text), expected);
    }

    #[test]
    fn watches_are_bounded() {
        let line = "tfd:        3 events:       19 data:                3  pos:0 ino:13 sdev:f\n";
        let Some(Detail::Epoll { watches, truncated }) = parsed("eventpoll", line).detail else {
            panic!("no epoll");
        };
        let events = ["EPOLLIN", "EPOLLERR", "EPOLLHUP"].map(str::to_owned).to_vec();
        assert_eq!((watches, truncated), (vec![EpollWatch { fd: 3, events }], false));
        let Some(Detail::Epoll { watches, truncated }) =
            parsed("eventpoll", &line.repeat(MOST_WATCHES + 1)).detail
        else {
            panic!("no epoll");
        };
        assert_eq!((watches.len(), truncated), (MOST_WATCHES, true));
    }
}
