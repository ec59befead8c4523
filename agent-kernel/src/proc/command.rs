//! `/proc/PID/cmdline`, as in proc_pid_cmdline(5).

/// Longer command lines are cut: some hold a whole configuration, and hundreds go into one message.
pub(super) const LONGEST_COMMAND: usize = 4 << 10;

/// The arguments of `cmdline`. A process that wrote its own title there leaves NULs behind it.
pub(super) fn split(cmdline: &[u8]) -> Vec<Vec<u8>> {
    let Some(last) = cmdline.iter().rposition(|&byte| byte != 0) else { return Vec::new() };
    cmdline[..=last].split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

/// The file name of the program, without its folder.
pub(super) fn program(args: &[Vec<u8>]) -> &[u8] {
    let first = args.first().map(Vec::as_slice).unwrap_or_default();
    first.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_split() {
        assert_eq!(split(b"sh\0-c\0\0x\0"), [&b"sh"[..], b"-c", b"", b"x"]);
        assert_eq!(split(b"nginx: worker\0\0\0\0"), [b"nginx: worker"]);
        assert!(split(b"").is_empty() && split(b"\0\0").is_empty());
        assert_eq!(program(&split(b"/usr/bin/web\0a/b\0")), b"web");
        assert_eq!(program(&[]), b"");
    }
}
