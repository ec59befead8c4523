//! A few facts of the host, read from procfs and system calls.

use crate::error::{Error, named};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// The host's name, as in hostname(1).
pub fn hostname() -> Result<String, Error> {
    let uname = nix::sys::utsname::uname().map_err(|error| Error::io("hostname", error.into()))?;
    Ok(uname.nodename().to_string_lossy().into_owned())
}

/// The kernel's release, as in uname -r.
pub fn kernel_release() -> Result<String, Error> {
    let uname = nix::sys::utsname::uname().map_err(|error| Error::io("kernel", error.into()))?;
    Ok(uname.release().to_string_lossy().into_owned())
}

/// The kernel's id of this boot, `sys/kernel/random/boot_id` below `proc_root` (random(4)).
pub fn boot_id(proc_root: &Path) -> Result<String, Error> {
    let path = proc_root.join("sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::io(named("file", path.display()), error))?;
    Ok(text.trim().to_owned())
}

/// Nanoseconds since boot on CLOCK_BOOTTIME, the filter's clock.
pub fn boottime_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000
        + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// The name servers of a resolv.conf(5); none when there is no such file.
pub fn resolvers(path: &Path) -> Result<BTreeSet<IpAddr>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(parse_resolvers(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(Error::io(named("file", path.display()), error)),
    }
}

fn parse_resolvers(text: &str) -> BTreeSet<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        // "fe80::1%eth0" names the interface too.
        .filter_map(|address| address.split('%').next())
        .filter_map(|address| address.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_resolv_conf_says() {
        let text = "# nameserver 9.9.9.9\nsearch a.example\nnameserver 10.0.0.53\n\
                    nameserver\tfe80::1%eth0 # near\nnameservers 1.1.1.1\nnameserver nonsense\n";
        let expected: BTreeSet<IpAddr> =
            ["10.0.0.53".parse().expect("valid"), "fe80::1".parse().expect("valid")].into();
        assert_eq!(parse_resolvers(text), expected);
        let none = resolvers(Path::new("/nonexistent/resolv.conf")).expect("no file is no error");
        assert!(none.is_empty());
    }

    #[test]
    fn the_boot_clock_moves_and_the_boot_has_an_id() {
        let before = boottime_ns();
        assert!(before > 0 && boottime_ns() >= before);
        assert_eq!(boot_id(Path::new("/proc")).expect("procfs is there").len(), 36);
    }
}
