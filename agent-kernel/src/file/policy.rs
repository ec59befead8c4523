//! Which files are dangerous to read, which hold secrets, which can be set, and which never. All of it
//! is about paths after every symbolic link, as the kernel has them.

use super::path::{Place, Roots, invalid};
use crate::error::{Error, ErrorKind, named};
use glob::{MatchOptions, Pattern};
use std::sync::LazyLock;

/// A `*` is a part of one name; `**` is any folders.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// What waits for ever, is used up or wakes hardware when it is read.
const DANGEROUS: &[&str] = &[
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/vmcore",
    "/proc/**/mem",
    "/proc/sysrq-trigger",
    "/proc/acpi/event",
    "/proc/bus/pci/**",
    "/sys/power/wakeup_count",
    "/sys/devices/**/config",
    "/sys/devices/**/resource[0-9]*",
    "/sys/devices/**/rom",
    "/sys/devices/**/vpd",
];

/// What holds secrets beside all that the kernel shows to root alone: environments, addresses that
/// undo address space randomization, keys.
const SECRET: &[&str] = &[
    "/proc/**/environ",
    "/proc/**/maps",
    "/proc/**/smaps",
    "/proc/**/smaps_rollup",
    "/proc/**/numa_maps",
    "/proc/**/auxv",
    "/proc/**/stack",
    "/proc/**/syscall",
    "/proc/**/pagemap",
    "/proc/kallsyms",
    "/proc/keys",
    "/proc/modules",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/timer_list",
    "/proc/sys/net/ipv4/tcp_fastopen_key",
    "/proc/sys/net/ipv6/conf/*/stable_secret",
    "/sys/module/*/sections/*",
    "/sys/kernel/notes",
];

/// The arguments of processes.
const ARGUMENTS: &[&str] = &["/proc/[0-9]*/cmdline", "/proc/[0-9]*/task/*/cmdline"];

/// What nobody sets through kctl, whatever the configuration: what runs a program as root, what can't
/// be set back before a reboot, what stops the host, what belongs to a process, and keys.
const NEVER: &[&str] = &[
    "/proc/[0-9]*/**",
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/core_pipe_limit",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/usermodehelper/*",
    "/proc/sys/kernel/modules_disabled",
    "/proc/sys/kernel/kexec_load_disabled",
    "/proc/sys/kernel/kexec_load_limit_*",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/kernel/yama/*",
    "/proc/sys/kernel/random/*",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/tainted",
    "/proc/sys/kernel/firmware_config/*",
    "/proc/sys/fs/binfmt_misc/**",
    "/proc/sys/net/core/bpf_*",
    "/proc/sys/net/ipv4/tcp_fastopen_key",
    "/proc/sys/net/ipv6/conf/*/stable_secret",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/debug/**",
    "/sys/kernel/tracing/**",
    "/sys/kernel/security/**",
    "/sys/kernel/livepatch/**",
    "/sys/kernel/reboot/*",
    "/sys/power/**",
    "/sys/firmware/**",
    "/sys/fs/**",
    "/sys/**/bind",
    "/sys/**/unbind",
    "/sys/**/new_id",
    "/sys/**/remove_id",
    "/sys/**/driver_override",
    "/sys/**/drivers_probe",
    "/sys/**/remove",
    "/sys/**/delete",
    "/sys/**/reset",
    "/sys/**/uevent",
];

/// What can be set where nobody said otherwise: common tunables that can be set back.
pub const DEFAULT_WRITABLE: &[&str] = &[
    "vm.admin_reserve_kbytes",
    "vm.dirty_*",
    "vm.max_map_count",
    "vm.min_free_kbytes",
    "vm.nr_hugepages",
    "vm.overcommit_*",
    "vm.page-cluster",
    "vm.swappiness",
    "vm.vfs_cache_pressure",
    "vm.watermark_*",
    "vm.zone_reclaim_mode",
    "net.core.busy_*",
    "net.core.default_qdisc",
    "net.core.netdev_budget*",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_*",
    "net.core.rps_sock_flow_entries",
    "net.core.somaxconn",
    "net.core.wmem_*",
    "net.ipv4.conf.*.accept_redirects",
    "net.ipv4.conf.*.accept_source_route",
    "net.ipv4.conf.*.arp_*",
    "net.ipv4.conf.*.forwarding",
    "net.ipv4.conf.*.log_martians",
    "net.ipv4.conf.*.rp_filter",
    "net.ipv4.conf.*.secure_redirects",
    "net.ipv4.conf.*.send_redirects",
    "net.ipv4.icmp_*",
    "net.ipv4.ip_default_ttl",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.neigh.*.*",
    "net.ipv4.tcp_*",
    "net.ipv4.udp_*",
    "net.ipv6.bindv6only",
    "net.ipv6.conf.*.accept_ra*",
    "net.ipv6.conf.*.accept_redirects",
    "net.ipv6.conf.*.accept_source_route",
    "net.ipv6.conf.*.forwarding",
    "net.ipv6.neigh.*.*",
    "net.netfilter.nf_conntrack_*",
    "kernel.hung_task_*",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.nmi_watchdog",
    "kernel.numa_balancing*",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.perf_event_max_sample_rate",
    "kernel.pid_max",
    "kernel.printk",
    "kernel.sched_*",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.softlockup_panic",
    "kernel.threads-max",
    "kernel.watchdog*",
    "fs.aio-max-nr",
    "fs.file-max",
    "fs.inotify.*",
    "fs.lease-break-time",
    "fs.mqueue.*",
    "fs.nr_open",
    "fs.pipe-*",
    "/sys/block/*/queue/add_random",
    "/sys/block/*/queue/iostats",
    "/sys/block/*/queue/max_sectors_kb",
    "/sys/block/*/queue/nomerges",
    "/sys/block/*/queue/nr_requests",
    "/sys/block/*/queue/read_ahead_kb",
    "/sys/block/*/queue/rq_affinity",
    "/sys/block/*/queue/scheduler",
    "/sys/block/*/queue/wbt_lat_usec",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_min_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_setspeed",
    "/sys/kernel/mm/transparent_hugepage/defrag",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

static DANGEROUS_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| compiled(DANGEROUS));
static ARGUMENTS_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| compiled(ARGUMENTS));
static SECRET_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| compiled(SECRET));
static NEVER_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| compiled(NEVER));

fn compiled(patterns: &[&str]) -> Vec<Pattern> {
    let patterns = patterns.iter().map(|it| Pattern::new(it).expect("a pattern of ours is valid"));
    patterns.collect()
}

fn any(patterns: &[Pattern], path: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches_with(path, OPTIONS))
}

/// Finds what may be read. What must not be is refused by its name already, be it there or not.
pub(super) fn readable(roots: &Roots, path: &str) -> Result<Place, Error> {
    let refused = || {
        let why = "reading it may block for ever or harm the host; it is always refused";
        Err(invalid(path, why))
    };
    if any(&DANGEROUS_PATTERNS, &plain(path)) {
        return refused();
    }
    let place = Place::find(roots, path)?;
    if any(&DANGEROUS_PATTERNS, &place.resolved) {
        return refused();
    }
    Ok(place)
}

/// A path without empty names.
fn plain(path: &str) -> String {
    path.split('/').filter(|name| !name.is_empty()).flat_map(|name| ["/", name]).collect()
}

/// What a file holds that is not for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Nothing of that kind.
    Nothing,
    /// The arguments of a process.
    Arguments,
    /// What is for admins alone.
    Secrets,
}

/// What it holds.
pub(super) fn holds(place: &Place) -> Holds {
    if place.is_private() || any(&SECRET_PATTERNS, &place.resolved) {
        Holds::Secrets
    } else if any(&ARGUMENTS_PATTERNS, &place.resolved) {
        Holds::Arguments
    } else {
        Holds::Nothing
    }
}

/// What can be set on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writable {
    patterns: Vec<Pattern>,
}

impl Writable {
    /// Of patterns like `vm.dirty_*` (sysctl(8)) or `/sys/block/*/queue/scheduler`, in which a `*` is a
    /// part of one name (glob(7)). Invalid: one that is none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let patterns = patterns.into_iter().map(|given| {
            let invalid = |why: &str| Error::new(ErrorKind::Invalid, named("pattern", given), why);
            let path = match given.starts_with('/') {
                true => given.to_owned(),
                false => sysctl_path(given),
            };
            if !path.starts_with("/proc/") && !path.starts_with("/sys/") {
                return Err(invalid("must be a sysctl key or begin with /proc/ or /sys/"));
            }
            if path.contains("**") {
                return Err(invalid("\"**\" is refused; name the folders"));
            }
            Pattern::new(&path).map_err(|error| invalid(error.msg))
        });
        Ok(Self { patterns: patterns.collect::<Result<_, _>>()? })
    }

    /// Whether a path is on the list, whatever is never set.
    fn lists(&self, path: &str) -> bool {
        any(&self.patterns, path)
    }

    /// Finds what may be set. What never is, is refused by its name already.
    pub(super) fn find(&self, roots: &Roots, path: &str) -> Result<Place, Error> {
        let never =
            || Err(invalid(path, "it is never set through kctl, whatever the configuration"));
        let plain = plain(path);
        if any(&NEVER_PATTERNS, &plain) || any(&DANGEROUS_PATTERNS, &plain) {
            return never();
        }
        let place = Place::find(roots, path)?;
        if !place.can_be_set() || any(&NEVER_PATTERNS, &place.resolved) {
            return never();
        }
        if !self.lists(&place.resolved) {
            self.check(&plain)?;
        }
        Ok(place)
    }

    /// Refuses a path that is not on the list.
    pub(crate) fn check(&self, path: &str) -> Result<(), Error> {
        if self.lists(path) {
            return Ok(());
        }
        let why = "it is not among what this agent may set; add it to --writable on the host, see \
                   docs/sysctl.md";
        Err(invalid(path, why))
    }
}

/// The path of a key as sysctl(8) writes it: dots between names, and slashes for dots in them; or the
/// other way round where the first of both is a slash.
pub(super) fn sysctl_path(key: &str) -> String {
    let dots = key.find(['.', '/']).is_none_or(|first| key[first..].starts_with('.'));
    let swapped = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let key: String = if dots { key.chars().map(swapped).collect() } else { key.to_owned() };
    format!("/proc/sys/{key}")
}

#[cfg(test)]
mod tests {
    use super::super::path::Roots;
    use super::*;

    fn roots() -> Roots {
        Roots { proc: "/proc".into(), sys: "/sys".into() }
    }

    #[test]
    fn dangers_and_secrets_are_told_by_the_resolved_path() {
        for path in ["/proc/self/mem", "/proc/thread-self/mem", "/proc/kcore", "//proc//kmsg"] {
            let error = readable(&roots(), path).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("always refused"), "{error}");
        }
        let holds = |path: &str| holds(&readable(&roots(), path).expect(path));
        for path in
            ["/proc/self/environ", "/proc/thread-self/maps", "/proc/kallsyms", "/proc/self/io"]
        {
            assert_eq!(holds(path), Holds::Secrets, "{path}");
        }
        for path in
            ["/proc/version", "/proc/self/status", "/proc/sys/vm/swappiness", "/proc/net/dev"]
        {
            assert_eq!(holds(path), Holds::Nothing, "{path}");
        }
        assert_eq!(holds("/proc/self/cmdline"), Holds::Arguments);
        assert_eq!(holds("/proc/thread-self/cmdline"), Holds::Arguments);
        assert_eq!(holds("/proc/cmdline"), Holds::Nothing);
    }

    #[test]
    fn what_can_be_set_is_listed_and_some_is_never() {
        let listed = Writable::new(DEFAULT_WRITABLE.iter().copied()).expect("valid");
        let find = |list: &Writable, path: &str| list.find(&roots(), path).map(drop);
        assert!(find(&listed, "/proc/sys/vm/swappiness").is_ok());
        assert!(find(&listed, "/proc/sys/net/ipv4/ip_forward").is_ok());
        assert!(listed.lists("/sys/block/vda/queue/scheduler"));
        let error = find(&listed, "/proc/sys/kernel/hostname").expect_err("not listed");
        assert!(error.to_string().contains("--writable"), "{error}");
        let all = Writable::new(["/proc/*", "/proc/*/*", "/proc/sys/*/*", "/proc/sys/*/*/*"]);
        let all = all.expect("valid");
        assert!(find(&all, "/proc/sys/kernel/hostname").is_ok());
        for path in [
            "/proc/sys/kernel/core_pattern",
            "/proc/sys//kernel/core_pattern",
            "/proc/sysrq-trigger",
            "/proc/self/oom_score_adj",
        ] {
            let error = find(&all, path).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("never set"), "{error}");
        }
        for pattern in ["/etc/*", "/proc/**", "vm.[", "/procfs/x"] {
            assert!(Writable::new([pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn keys_have_dots_or_slashes() {
        for (key, path) in [
            ("vm.swappiness", "/proc/sys/vm/swappiness"),
            ("net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/7.rp_filter", "/proc/sys/net/ipv4/conf/eth0.7/rp_filter"),
            ("net/ipv4/conf/eth0.7/rp_filter", "/proc/sys/net/ipv4/conf/eth0.7/rp_filter"),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
    }

    #[test]
    fn every_default_can_be_set_somewhere() {
        for pattern in DEFAULT_WRITABLE {
            let path =
                if pattern.starts_with('/') { (*pattern).to_owned() } else { sysctl_path(pattern) };
            assert!(!any(&NEVER_PATTERNS, &path), "{pattern}");
        }
    }
}
