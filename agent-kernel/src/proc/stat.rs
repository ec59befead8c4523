//! `/proc/PID/stat`, as in proc_pid_stat(5).

/// Set in the flags of a kernel thread (`PF_KTHREAD` of the kernel's linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What one process's line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    /// As the process named itself: any bytes but NUL.
    pub(super) comm: Vec<u8>,
    pub(super) state: char,
    pub(super) kernel_thread: bool,
    /// In user and kernel mode, clock ticks.
    pub(super) cpu_ticks: u64,
    pub(super) threads: u32,
    /// Clock ticks after boot.
    pub(super) start_ticks: u64,
    pub(super) vsz_bytes: u64,
    pub(super) rss_pages: u64,
}

impl Stat {
    /// `None` for what is no such line.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|&byte| byte == b'(')?;
        // A name may hold parentheses; what follows it does not.
        let close = line.iter().rposition(|&byte| byte == b')')?;
        let pid = number(line[..open].trim_ascii())?;
        let comm = line.get(open + 1..close)?.to_vec();
        // Numbered as in the manual, where the state is field 3.
        let mut at = 3;
        let mut fields = line[close + 1..].trim_ascii().split(|&byte| byte == b' ');
        let mut field = |number: usize| {
            let skipped = number - at;
            at = number + 1;
            fields.nth(skipped)
        };
        let state = char::from(*field(3)?.first()?);
        let ppid = number(field(4)?)?;
        let flags: u64 = number(field(9)?)?;
        let (user, system): (u64, u64) = (number(field(14)?)?, number(field(15)?)?);
        Some(Self {
            pid,
            ppid,
            comm,
            state,
            kernel_thread: flags & KERNEL_THREAD != 0,
            cpu_ticks: user.saturating_add(system),
            threads: number(field(20)?)?,
            start_ticks: number(field(22)?)?,
            vsz_bytes: number(field(23)?)?,
            // The kernel prints a count that may be below zero for a moment.
            rss_pages: number::<i64>(field(24)?)?.try_into().unwrap_or(0),
        })
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "S 1 7 7 0 -1 4194560 900 0 3 0 11 22 0 0 20 0 4 0 5000 8192000 250 \
                        18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0";

    #[test]
    fn every_field_is_read_from_its_place() {
        let stat = Stat::parse(format!("7 (sshd) {REST}\n").as_bytes()).expect("a line");
        let expected = Stat {
            pid: 7,
            ppid: 1,
            comm: b"sshd".to_vec(),
            state: 'S',
            kernel_thread: false,
            cpu_ticks: 33,
            threads: 4,
            start_ticks: 5000,
            vsz_bytes: 8_192_000,
            rss_pages: 250,
        };
        assert_eq!(stat, expected);
    }

    #[test]
    fn a_name_of_odd_bytes_ends_at_the_last_parenthesis() {
        for name in [&b"a b) S 1 (c"[..], b")(", b"", b"new\nline", b"\xff\xfe"] {
            let line = [b"7 (", name, b") ", REST.as_bytes()].concat();
            let stat = Stat::parse(&line).expect("a line");
            assert_eq!((stat.comm.as_slice(), stat.ppid), (name, 1));
        }
    }

    #[test]
    fn kernel_threads_and_negative_counts_are_told() {
        let line = "2 (kthreadd) I 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 -3 0\n";
        let stat = Stat::parse(line.as_bytes()).expect("a line");
        assert!(stat.kernel_thread);
        assert_eq!((stat.state, stat.rss_pages), ('I', 0));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in ["", "7", "7 (a", "7 a) S 1", ")(", "x (a) S 1 2", "7 (a) S 1 2 3"] {
            assert_eq!(Stat::parse(line.as_bytes()), None, "{line:?}");
        }
    }
}
