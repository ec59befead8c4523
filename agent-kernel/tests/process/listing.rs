//! Listings against ps(1).

use crate::support::{Children, PROC, listed, now, ps, within};
use agent_kernel::proc::{Order, Process, Query, cpu_sample, processes};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn many_sleepers_are_those_that_ps_shows() {
    let mut children = Children::default();
    for number in 0..300 {
        let user = if number % 2 == 0 { 0 } else { 65_534 };
        children.start(Command::new("sleep").arg(format!("{}", 1_000 + number)).uid(user));
    }
    let pids = children.pids();
    let asleep = |process: &Process| process.comm == b"sleep" && process.state == 'S';
    within("all sleep", || {
        let ours = listed(Query::default());
        pids.iter().all(|pid| ours.get(pid).is_some_and(asleep))
    });
    let ours = listed(Query::default());
    let now_ms = i64::try_from(now().as_millis()).expect("this age");
    let columns = "ppid=,uid=,user:32=,state=,nlwp=,rss=,vsz=,etimes=,cgroup:512=,args=";
    let theirs = ps(&pids, columns);
    assert_eq!(theirs.len(), pids.len());
    for (pid, row) in theirs {
        let process = &ours[&pid];
        let args: Vec<_> =
            process.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let cgroup = process.cgroup.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let known = [
            process.ppid.to_string(),
            process.uid.to_string(),
            process.user.as_deref().unwrap_or_default().to_owned(),
            process.state.to_string(),
            process.threads.to_string(),
            (process.rss_bytes / 1_024).to_string(),
            (process.vsz_bytes / 1_024).to_string(),
        ];
        assert_eq!(row[..7], known, "{process:?}");
        // ps rounds the moment of boot by itself.
        let told: i64 = row[7].parse().expect("seconds");
        let age = (now_ms - process.start_unix_ms) / 1_000;
        assert!((age - told).abs() <= 2, "{process:?}: {told}");
        assert!(row[8].contains(&*cgroup), "{row:?}: {cgroup}");
        assert_eq!(row[row.len() - args.len()..], args);
    }
    // The limit, the order and the filters.
    let name = Query { name: "sleep".into(), user: "65534".into(), ..Query::default() };
    let nobodys: BTreeSet<_> = listed(name).into_keys().filter(|pid| pids.contains(pid)).collect();
    assert_eq!(nobodys.len(), 150);
    let query = Query { order: Order::Start, limit: Some(5), ..Query::default() };
    let youngest: Vec<_> = processes(Path::new(PROC), query)
        .expect("a listing")
        .map(|process| process.expect("a process").start_unix_ms)
        .collect();
    assert_eq!(youngest.len(), 5);
    assert!(youngest.is_sorted_by(|a, b| a >= b), "{youngest:?}");
}

#[test]
fn names_of_odd_bytes_survive() {
    let mut children = Children::default();
    let folder = tempfile::tempdir().expect("a folder");
    let names: [&[u8]; 5] = [b"a b", b"x) S 1 (y", b"new\nline", b"\xff\xfe(\x01", b"tail\\"];
    let mut expected = BTreeMap::new();
    for name in names {
        let path = folder.path().join(OsStr::from_bytes(name));
        // A copy may be "busy": other tests start processes while it is open for writing.
        std::os::unix::fs::symlink("/bin/sleep", &path).expect("a link");
        let argument = OsStr::from_bytes(b"1000");
        let pid = children.start(Command::new(&path).arg0(OsStr::from_bytes(name)).arg(argument));
        expected.insert(pid, name.to_vec());
    }
    let mut seen = BTreeMap::new();
    within("all run under their names", || {
        let ours = listed(Query::default());
        seen = expected.keys().filter_map(|pid| Some((*pid, ours.get(pid)?.clone()))).collect();
        seen.len() == names.len() && seen.iter().all(|(pid, process)| process.comm == expected[pid])
    });
    for (pid, process) in seen {
        assert_eq!(process.args, [expected[&pid].as_slice(), b"1000"]);
        assert_eq!(process.ppid, std::process::id());
    }
}

#[test]
fn zombies_and_kernel_threads_are_told() {
    let mut children = Children::default();
    let pid = children.start(&mut Command::new("true"));
    within("it is a zombie", || listed(Query::default()).get(&pid).is_some_and(|p| p.state == 'Z'));
    let ours = listed(Query::default());
    assert_eq!((ours[&pid].comm.as_slice(), ours[&pid].rss_bytes), (&b"true"[..], 0));
    assert!(ours[&pid].args.is_empty() && !ours[&pid].kernel_thread);
    assert_eq!(ps(&[pid].into(), "state=")[&pid], ["Z"]);
    let kthreadd = &ours[&2];
    assert!(kthreadd.kernel_thread && kthreadd.args.is_empty());
    assert_eq!((kthreadd.comm.as_slice(), kthreadd.ppid), (&b"kthreadd"[..], 0));
}

#[test]
fn a_busy_process_uses_a_processor() {
    let mut children = Children::default();
    let pid = children.start(Command::new("sh").args(["-c", "while :; do :; done"]));
    within("it used time", || {
        let ours = listed(Query { order: Order::Cpu, ..Query::default() });
        let percent = ours.get(&pid).map(|process| process.cpu_percent);
        percent.is_some_and(|percent| percent > 5.0 && percent <= 110.0)
    });
}

#[test]
fn a_storm_of_processes_is_no_error() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(Command::new("true").status().expect("starts").success());
            }
        });
        let outcomes: Vec<_> = (0..100)
            .map(|round| {
                let order = if round % 2 == 0 { Order::Pid } else { Order::Rss };
                let all = processes(Path::new(PROC), Query { order, ..Query::default() });
                all.and_then(|all| all.collect::<Result<Vec<_>, _>>()).map(|all| all.len())
            })
            .collect();
        // Else a failure would leave the threads running, and the test waiting for them.
        stop.store(true, Ordering::Relaxed);
        for count in outcomes {
            assert!(count.expect("no error") > 1);
        }
    });
}

#[test]
fn a_share_of_an_interval_is_that_of_the_interval() {
    let mut children = Children::default();
    let busy = children.start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let gone = children.start(Command::new("sleep").arg("1000"));
    // One that was busy for long and rests now.
    let rests = children.start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let used = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let fields: Vec<_> = stat.split_whitespace().collect();
        fields[13].parse::<u64>().expect("ticks")
    };
    within("both used time", || used(busy) >= 20 && used(rests) >= 20);
    let signal = |pid: u32, signal| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("signalled");
    };
    signal(rests, nix::sys::signal::Signal::SIGSTOP);
    within("it rests", || listed(Query::default()).get(&rests).is_some_and(|it| it.state == 'T'));
    let sample = cpu_sample(Path::new(PROC)).expect("a sample");
    let before = used(busy);
    signal(gone, nix::sys::signal::Signal::SIGKILL);
    let new = children.start(Command::new("sh").args(["-c", "while :; do :; done"]));
    within("time passes", || used(busy) >= before + 20 && used(new) >= 10);
    let query = || Query { order: Order::Cpu, since: Some(sample.clone()), ..Query::default() };
    let ours = listed(query());
    for pid in [busy, new] {
        let percent = ours[&pid].cpu_percent;
        assert!(percent > 5.0 && percent <= 110.0, "{:?}", ours[&pid]);
    }
    assert!(ours[&rests].cpu_percent < 1e-9, "{:?}", ours[&rests]);
    // Over its life it was busier than that.
    let life = listed(Query::default());
    assert!(life[&rests].cpu_percent > 1.0, "{:?}", life[&rests]);
    assert!(ours.get(&gone).is_none_or(|it| it.state == 'Z'));
    // The busiest come first, by the share of the interval.
    let first: Vec<_> = processes(Path::new(PROC), query())
        .expect("a listing")
        .map(|process| process.expect("a process").cpu_percent)
        .collect();
    assert!(first.is_sorted_by(|a, b| a >= b), "{first:?}");
}
