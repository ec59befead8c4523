//! Files below /proc and /sys against the real kernel: in a network namespace of its own, with
//! sysctl(8) as the oracle.

use agent_kernel::ErrorKind;
use agent_kernel::file::{DEFAULT_WRITABLE, Roots, Setting, Writable, matching, open, set, value};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

fn roots() -> Roots {
    Roots { proc: "/proc".into(), sys: "/sys".into() }
}

fn writable() -> Writable {
    Writable::new(DEFAULT_WRITABLE.iter().copied()).expect("valid")
}

fn sysctl(key: &str) -> String {
    let output = Command::new("sysctl").args(["-n", key]).output().expect("sysctl(8)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

fn setting(path: &str, value: &str) -> Setting {
    Setting { path: path.to_owned(), value: value.to_owned() }
}

#[test]
fn what_is_set_is_what_sysctl_sees() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: a network namespace");
    let path = "/proc/sys/net/ipv4/tcp_rmem";
    let before = sysctl("net.ipv4.tcp_rmem");
    let change = set(&roots(), &writable(), &setting(path, "4096 65536 1048576")).expect("set");
    assert_eq!(change.old, Some(before.into_bytes()));
    assert_eq!(change.new.as_deref(), Some(&b"4096\t65536\t1048576"[..]));
    assert_eq!(sysctl("net.ipv4.tcp_rmem"), "4096\t65536\t1048576");

    let port_range = "/proc/sys/net/ipv4/ip_local_port_range";
    for (path, wrong, why) in [
        (port_range, "1 2 three", "invalid argument"),
        (port_range, "30000 20000", "invalid argument"),
        (port_range, "1\n2", "must be one line"),
        ("/proc/sys/net/ipv4/none", "1", "no such file or directory"),
        ("/proc/sys/net/ipv4", "1", "not among what this agent may set"),
        ("/proc/sys/kernel/hostname", "odd", "not among what this agent may set"),
    ] {
        let error = set(&roots(), &writable(), &setting(path, wrong)).expect_err(wrong);
        assert!(error.to_string().contains(why), "{error}");
    }
    for path in matching(&roots(), "/proc/sys/net/ipv4/conf/*/rp_filter").expect("files") {
        let key = path["/proc/sys/".len()..].replace('/', ".");
        let value = value(&roots(), &path).expect("a value").value;
        assert_eq!(String::from_utf8(value).expect("text"), sysctl(&key));
    }
}

#[test]
fn file_systems_in_which_reading_has_effects_are_never_entered() {
    unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root: a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
    for (kind, folder, file) in [
        ("tracefs", "/sys/kernel/tracing", "trace_pipe"),
        ("tmpfs", "/sys/kernel/debug", "a"),
        ("tmpfs", "/proc/fs", "a"),
    ] {
        match mount(Some(kind), folder, Some(kind), MsFlags::empty(), none) {
            // The same file system is there already.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => panic!("{folder}: {error}"),
        }
        let path = format!("{folder}/{file}");
        if kind == "tmpfs" {
            std::fs::write(&path, "1").expect(&path);
        }
        let error = open(&roots(), &path).expect_err(&path);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("on another file system"), "{error}");
        let error = matching(&roots(), &format!("{folder}/*")).expect_err(&path);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[test]
fn the_manual_has_the_lists() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sysctl.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    let listed: Vec<_> = manual.lines().collect();
    for pattern in DEFAULT_WRITABLE {
        assert!(listed.contains(pattern), "docs/sysctl.md lacks {pattern}");
    }
    let start = listed.iter().position(|line| *line == DEFAULT_WRITABLE[0]).expect("the list");
    let end = listed[start..].iter().position(|line| *line == "```").expect("its end");
    assert_eq!(listed[start..start + end], *DEFAULT_WRITABLE);
}
