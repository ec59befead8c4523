//! Processes against ps(1), and against /proc read by the test. Only processes that the
//! test started are looked at: the machine has others. Apart from the other kernel tests, because the
//! end of many children is a signal, and the kernel gives up to verify a program when one comes.

use agent_kernel::proc::{Order, Process, Query, processes};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PROC: &str = "/proc";

/// Processes of the test, killed at its end.
#[derive(Default)]
struct Children(Vec<Child>);

impl Children {
    fn start(&mut self, command: &mut Command) -> u32 {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts");
        let pid = child.id();
        self.0.push(child);
        pid
    }

    fn pids(&self) -> BTreeSet<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn listed(query: Query) -> BTreeMap<u32, Process> {
    let all = processes(Path::new(PROC), query).expect("a listing");
    all.map(|process| process.map(|process| (process.pid, process)).expect("a process")).collect()
}

/// One line of ps for each process: its columns, split at blanks.
fn ps(pids: &BTreeSet<u32>, columns: &str) -> BTreeMap<u32, Vec<String>> {
    let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let text = run(&format!("ps -ww -o pid=,{columns} -p {pids}"));
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let pid = words.next().expect("a pid").parse().expect("a number");
            (pid, words.collect())
        })
        .collect()
}

/// Waits for a condition.
fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Runs a command of words without blanks that must succeed; what it said.
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set")
}

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
        std::fs::copy("/bin/sleep", &path).expect("copied");
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
