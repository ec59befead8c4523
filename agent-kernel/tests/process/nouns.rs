//! What one process has, against `/proc` read by the test and what the test made.

use crate::support::{Children, PROC, run, within};
use agent_kernel::ErrorKind;
use agent_kernel::proc::pid::{self, Detail, Fd};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Runs its program already, and sleeps: until then its memory and counters change.
fn sleeper(children: &mut Children, command: &mut Command) -> u32 {
    let pid = children.start(command);
    within("it sleeps", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n")
            && fs::read_to_string(format!("/proc/{pid}/wchan"))
                .is_ok_and(|place| place.contains("nanosleep"))
    });
    pid
}

fn fds() -> BTreeMap<i32, Fd> {
    let fds = pid::fds(Path::new(PROC), std::process::id()).expect("descriptors");
    // Other tests of this process open and close theirs.
    fds.map(|fd| fd.map(|fd| (i32::try_from(fd.fd).expect("a number"), fd)).expect("a descriptor"))
        .collect()
}

fn told(fd: &impl AsRawFd) -> Fd {
    fds().remove(&fd.as_raw_fd()).expect("it is open")
}

#[test]
fn maps_are_those_of_proc() {
    let mut children = Children::default();
    let pid = sleeper(&mut children, Command::new("sleep").arg("1000"));
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    for usage in [false, true] {
        let maps = pid::maps(Path::new(PROC), pid, usage).expect("maps");
        let maps: Vec<_> = maps.collect::<Result<_, _>>().expect("maps");
        let lines: Vec<_> = maps
            .iter()
            .map(|map| {
                let sharing = if map.shared { "s" } else { "p" };
                let head = format!(
                    "{:08x}-{:08x} {}{sharing} {:08x} {} {}",
                    map.start, map.end, map.permissions, map.offset, map.device, map.inode
                );
                let path = String::from_utf8_lossy(&map.path).into_owned();
                (head, path)
            })
            .collect();
        let expected: Vec<_> = text
            .lines()
            .map(|line| {
                let words: Vec<_> = line.splitn(6, ' ').collect();
                (words[..5].join(" "), words.get(5).map_or("", |it| it.trim()).to_owned())
            })
            .collect();
        assert_eq!(lines, expected);
        let resident: u64 = maps.iter().filter_map(|map| map.usage).map(|it| it.rss_bytes).sum();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("rollup");
        let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("Rss");
        let kib: u64 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
        assert_eq!(resident, if usage { kib * 1_024 } else { 0 });
    }
}

#[test]
fn descriptors_of_another_are_those_that_ls_shows() {
    let mut children = Children::default();
    let pid = sleeper(&mut children, Command::new("sleep").arg("1000"));
    let fds = pid::fds(Path::new(PROC), pid).expect("descriptors");
    let ours: Vec<_> = fds
        .map(|fd| fd.map(|fd| format!("{} -> {}", fd.fd, String::from_utf8_lossy(&fd.target))))
        .collect::<Result<_, _>>()
        .expect("descriptors");
    let ls = run(&format!("ls -lv /proc/{pid}/fd"));
    let theirs: Vec<_> = ls
        .lines()
        .filter_map(|line| {
            let (head, target) = line.split_once(" -> ")?;
            Some(format!("{} -> {target}", head.split_whitespace().next_back()?))
        })
        .collect();
    assert!(theirs.len() >= 3, "{ls}");
    assert_eq!(ours, theirs);
}

#[test]
fn special_descriptors_are_what_the_test_made() {
    let event = EventFd::from_value(31).expect("an eventfd");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(&event, EpollEvent::new(events, 1)).expect("watched");
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC).expect("a timer");
    let every = Expiration::IntervalDelayed(
        Duration::from_secs(1_000).into(),
        Duration::from_millis(2_500).into(),
    );
    timer.set(every, TimerSetTimeFlags::empty()).expect("armed");
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGUSR1);
    mask.add(Signal::SIGTERM);
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).expect("a signalfd");
    let folder = tempfile::tempdir().expect("a folder");
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("an inotify");
    let watched = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY;
    inotify.add_watch(folder.path(), watched).expect("watched");

    let detail = |fd: Fd| (fd.kind, fd.detail.expect("a detail"));
    let counted = Detail::Eventfd { count: 31, semaphore: false };
    assert_eq!(detail(told(&event)), ("eventfd".to_owned(), counted));
    let epoll_fd = fds().into_values().filter(|fd| fd.kind == "eventpoll").find_map(|fd| {
        let Some(Detail::Epoll { watches, .. }) = fd.detail else { return None };
        watches.into_iter().find(|it| it.fd.to_string() == event.as_fd().as_raw_fd().to_string())
    });
    let events = epoll_fd.expect("the watch").events;
    // The kernel adds what nobody can leave out.
    assert_eq!(events, ["EPOLLIN", "EPOLLERR", "EPOLLHUP", "EPOLLET"]);
    let Detail::Timerfd { clock, ticks: 0, value_ns, interval_ns: 2_500_000_000, .. } =
        told(&timer.as_fd()).detail.expect("a timer")
    else {
        panic!("another timer");
    };
    assert_eq!(clock, "CLOCK_MONOTONIC");
    assert!((900_000_000_000..=1_000_000_000_000).contains(&value_ns), "{value_ns}");
    let signals = told(&signals).detail.expect("signals");
    let names = vec!["USR1".to_owned(), "TERM".to_owned()];
    assert_eq!(signals, Detail::Signalfd { signals: names });
    let Detail::Inotify { watches, truncated: false } =
        told(&inotify.as_fd()).detail.expect("watches")
    else {
        panic!("no inotify");
    };
    let inode = std::os::unix::fs::MetadataExt::ino(&folder.path().metadata().expect("metadata"));
    assert_eq!(
        (watches[0].inode, watches[0].mask.join("|")),
        (inode, "IN_MODIFY|IN_CREATE".into())
    );
}

#[test]
fn files_have_types_flags_and_positions() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a\nb \u{1b}[31m");
    let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).expect("a file");
    file.write_all(b"hello").expect("written");
    let told_file = told(&file);
    assert_eq!((told_file.kind.as_str(), told_file.position), ("file", 5));
    for flag in ["O_WRONLY", "O_APPEND", "O_CLOEXEC"] {
        assert!(told_file.flags.iter().any(|it| it == flag), "{flag}: {told_file:?}");
    }
    assert_eq!(told_file.target, path.as_os_str().as_encoded_bytes());
    let dir = fs::File::open(folder.path()).expect("a folder");
    assert_eq!(told(&dir).kind, "dir");
    let null = fs::File::open("/dev/null").expect("a device");
    assert_eq!(told(&null).kind, "char");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    assert_eq!(told(&reader).kind, "pipe");
    let memory: OwnedFd =
        nix::sys::memfd::memfd_create(c"x y", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .expect("memory");
    let memory = told(&memory);
    assert_eq!(
        (memory.kind.as_str(), memory.target.as_slice()),
        ("memfd", &b"/memfd:x y (deleted)"[..])
    );
    let me = rustix::process::getpid();
    let held = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).expect("me");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert_eq!(told(&held).detail, Some(Detail::Pidfd { pid: own }));
    let namespace = told(&fs::File::open("/proc/self/ns/net").expect("a namespace"));
    let inodes = pid::namespaces(Path::new(PROC), std::process::id()).expect("namespaces");
    let net = inodes.iter().find(|it| it.kind == "net").expect("net");
    assert_eq!((namespace.kind.as_str(), namespace.inode), ("net", Some(net.inode)));
}

#[test]
fn sockets_have_their_addresses() {
    let socket = |fd: Fd| match fd.detail {
        Some(Detail::Socket(socket)) => socket,
        other => panic!("no socket: {other:?}"),
    };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).expect("loopback");
        let server = listener.local_addr().expect("bound");
        let client = TcpStream::connect(server).expect("connected");
        let protocol = if server.is_ipv4() { "tcp" } else { "tcp6" };
        let listens = socket(told(&listener));
        assert_eq!((listens.protocol, listens.state), (protocol, "LISTEN"));
        assert_eq!((listens.local, listens.remote), (Some(server), None));
        let connected = socket(told(&client));
        assert_eq!((connected.protocol, connected.state), (protocol, "ESTAB"));
        assert_eq!(connected.local, client.local_addr().ok());
        assert_eq!(connected.remote, Some(server));
    }
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let told_udp = socket(told(&udp));
    assert_eq!((told_udp.protocol, told_udp.local), ("udp", udp.local_addr().ok()));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a b");
    let unix = UnixListener::bind(&path).expect("a socket");
    let told_unix = socket(told(&unix));
    assert_eq!((told_unix.protocol, told_unix.state), ("unix", "LISTEN"));
    assert_eq!(told_unix.path, path.as_os_str().as_encoded_bytes());
}

#[test]
fn the_rest_is_as_proc_tells() {
    let mut children = Children::default();
    let mut command = Command::new("prlimit");
    command.args(["--nofile=100:200", "--cpu=unlimited", "sleep", "1000"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("ODD", "a=b\n\u{1b}").env("EMPTY", "");
    let pid = sleeper(&mut children, &mut command);
    let root = Path::new(PROC);
    let environment = pid::environment(root, pid).expect("an environment");
    let mut variables: Vec<_> = environment
        .variables
        .iter()
        .map(|it| (it.name.as_slice(), it.value.as_deref().expect("a value")))
        .collect();
    variables.sort_unstable();
    let expected: [(&[u8], &[u8]); 3] =
        [(b"EMPTY", b""), (b"ODD", b"a=b\n\x1b"), (b"PATH", b"/usr/bin:/bin")];
    assert_eq!(variables, expected);
    let limits = pid::limits(root, pid).expect("limits");
    let limit = |name: &str| limits.iter().find(|it| it.name == name).expect(name);
    assert_eq!((limit("open_files").soft, limit("open_files").hard), (Some(100), Some(200)));
    assert_eq!(limit("open_files").unit.as_deref(), Some("files"));
    assert_eq!((limit("cpu_time").soft, limit("cpu_time").hard), (None, None));
    assert_eq!(limit("realtime_priority").unit, None);

    let io = pid::io(root, pid).expect("counters");
    let text = fs::read_to_string(format!("/proc/{pid}/io")).expect("counters");
    let line = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        value.trim_start_matches(": ").parse::<u64>().expect("a number")
    };
    // The kernel names them once more in `cancelled_write_bytes`.
    assert_eq!((io.rchar_bytes, io.wchar_bytes), (line("rchar"), line("wchar")));
    assert_eq!(
        (io.syscr, io.syscw, io.read_bytes),
        (line("syscr"), line("syscw"), line("read_bytes"))
    );

    let cgroups = pid::cgroups(root, pid).expect("cgroups");
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
    let lines: Vec<_> = cgroups
        .iter()
        .map(|it| {
            let names: Vec<_> =
                it.controllers.iter().map(|it| String::from_utf8_lossy(it)).collect();
            format!("{}:{}:{}", it.hierarchy, names.join(","), String::from_utf8_lossy(&it.path))
        })
        .collect();
    assert_eq!(lines, text.lines().collect::<Vec<_>>());

    let namespaces = pid::namespaces(root, pid).expect("namespaces");
    assert!(namespaces.len() >= 7, "{namespaces:?}");
    for namespace in &namespaces {
        let link = fs::read_link(format!("/proc/{pid}/ns/{}", namespace.kind)).expect("a link");
        let link = link.to_string_lossy().into_owned();
        assert!(link.ends_with(&format!(":[{}]", namespace.inode)), "{link}");
    }
}

#[test]
fn who_is_gone_is_not_found_and_a_zombie_has_nothing() {
    let root = Path::new(PROC);
    let mut children = Children::default();
    let zombie = children.start(&mut Command::new("true"));
    within("it is a zombie", || {
        fs::read_to_string(format!("/proc/{zombie}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
    for pid in [zombie, 2] {
        let status = pid::status(root, pid).expect("a status");
        assert_eq!((status.memory, status.exe, status.args.len()), (None, None, 0), "{pid}");
        assert_eq!(status.kernel_thread, pid == 2);
        assert!(pid::environment(root, pid).expect("an environment").variables.is_empty());
        assert_eq!(pid::maps(root, pid, true).expect("maps").count(), 0);
        assert_eq!(pid::fds(root, pid).expect("descriptors").count(), 0);
        assert!(!pid::limits(root, pid).expect("limits").is_empty());
        assert!(!pid::cgroups(root, pid).expect("cgroups").is_empty());
        pid::namespaces(root, pid).expect("namespaces");
    }
    // One that is not reaped yet has ended all the same.
    let mut child = Command::new("sleep").arg("1000").spawn().expect("starts");
    let unread = pid::maps(root, child.id(), false).expect("maps");
    child.kill().expect("killed");
    within("it is a zombie", || {
        pid::status(root, child.id()).is_ok_and(|status| status.state == 'Z')
    });
    let unread: Result<Vec<_>, _> = unread.collect();
    child.wait().expect("reaped");
    assert_eq!(unread.expect_err("it has ended").kind(), ErrorKind::NotFound);
    let mut maps = {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("starts");
        let maps = pid::maps(root, child.id(), false).expect("maps");
        let fds = pid::fds(root, child.id()).expect("descriptors");
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let fds: Result<Vec<_>, _> = fds.collect();
        assert_eq!(fds.expect_err("it is gone").kind(), ErrorKind::NotFound);
        maps
    };
    // What is read of it so far may be told; the end is an error.
    let error = maps.find_map(Result::err).expect("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = pid::status(root, 4_194_305).expect_err("beyond the last id");
    assert_eq!(error.to_string(), "process \"4194305\": no such process");
}

#[test]
fn a_storm_of_processes_is_told_or_gone() {
    let root = Path::new(PROC);
    let (mut told, mut gone) = (0, 0);
    let mut count = |outcome: Result<usize, agent_kernel::Error>| match outcome {
        Ok(_) => told += 1,
        Err(error) if error.kind() == ErrorKind::NotFound => gone += 1,
        Err(error) => panic!("{error}"),
    };
    for _ in 0..400 {
        // It ends while it is read, and somebody else reaps it.
        let mut child = Command::new("true").spawn().expect("starts");
        let pid = child.id();
        let reaper = std::thread::spawn(move || child.wait());
        let collected = |fds: pid::Fds| fds.collect::<Result<Vec<_>, _>>().map(|all| all.len());
        count(pid::fds(root, pid).and_then(collected));
        let collected = |maps: pid::Maps| maps.collect::<Result<Vec<_>, _>>().map(|all| all.len());
        count(pid::maps(root, pid, true).and_then(collected));
        count(pid::status(root, pid).map(|status| status.args.len()));
        count(pid::environment(root, pid).map(|it| it.variables.len()));
        count(pid::limits(root, pid).map(|it| it.len()));
        count(pid::io(root, pid).map(|_| 0));
        count(pid::cgroups(root, pid).map(|it| it.len()));
        count(pid::namespaces(root, pid).map(|it| it.len()));
        reaper.join().expect("no panic").expect("reaped");
    }
    assert!(told > 0 && gone > 0, "{told} {gone}");
}
