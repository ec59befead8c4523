//! An agent that is killed in the midst of its start: while it takes over what the layout before left, and
//! while it attaches. strace(1) kills it before a system call of our choice. Of the calls that change what is
//! pinned or attached, the first and the last of each kind are tried, and others as long as there is time.

use crate::attach::{at_tcx, mode_of_kt0};
use crate::layouts::leave_v2;
use crate::support::{BLOCKED, DROP, FREE, World, answers, command, end, json, key, storm, within};
use agent_kernel::filter::{Attached, Drift, Filter, FilterConfig, Hook, Mode, detach};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Tell the child what it is.
const FOLDER: &str = "KCTL_TEST_KILLED_BPFFS";
const MODE: &str = "KCTL_TEST_KILLED_MODE";
/// For how long more calls than the first and the last of each kind are tried.
const BUDGET: Duration = Duration::from_secs(2);
/// Rules that the filters of these tests have room for.
const MAX_ENTRIES: u32 = 100;

/// A system call of a start.
#[derive(Debug, Clone)]
struct Call {
    /// Its name.
    name: String,
    /// What it does: its name, or the command of bpf(2).
    kind: String,
    /// It is so manieth of its name.
    number: usize,
}

fn open(bpffs: &Path, mode: Mode) -> Filter {
    let config = FilterConfig { bpffs: bpffs.to_owned(), max_entries: MAX_ENTRIES };
    let mut filter = Filter::open(&config).expect("opened");
    filter.attach("kt0", mode).expect("attached");
    filter
}

#[test]
#[ignore = "the process that the others kill"]
fn agent() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mode = if std::env::var_os(MODE).is_some() { Mode::Tcx } else { Mode::Native };
    drop(open(Path::new(&folder), mode));
}

/// Starts an agent, which is killed before a call where one is given; whether it was, and its calls that change
/// something. A machine with much to do interrupts the verifier, so that calls have other numbers: then it may
/// not come to the one that is meant.
fn start(world: &World, mode: Mode, kill: Option<&Call>) -> (bool, Vec<Call>) {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-e", "trace=bpf,rename,unlink,rmdir"]);
    if let Some(Call { name, number, .. }) = kill {
        strace.args(["-e", &format!("inject={name}:signal=KILL:when={number}")]);
    }
    strace.arg("-o").arg(log.path()).arg(std::env::current_exe().expect("this program"));
    strace.args(["killed::agent", "--exact", "--ignored", "--test-threads=1"]);
    strace.env(FOLDER, world.bpffs());
    if mode == Mode::Tcx {
        strace.env(MODE, "tcx");
    }
    let output = strace.output().expect("strace");
    let text = std::fs::read_to_string(log.path()).expect("its log");
    let said = String::from_utf8_lossy(&output.stdout);
    let killed = output.status.signal() == Some(9);
    assert!(output.status.success() || kill.is_some() && killed, "{said}");
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let call = |line: &str| {
        let (name, rest) = line.split_once(' ')?.1.trim_start().split_once('(')?;
        let number = numbers.entry(name.to_owned()).or_default();
        *number += 1;
        let number = *number;
        let kind = if name == "bpf" { rest.split(',').next()? } else { name };
        // Loaders try what a kernel has by calls that must fail.
        let done = !rest.contains(" = -1 ");
        done.then(|| Call { name: name.to_owned(), kind: kind.to_owned(), number })
    };
    let changes = |call: &Call| match call.kind.strip_prefix("BPF_") {
        Some(it) => ["OBJ_PIN", "LINK_CREATE", "LINK_UPDATE", "LINK_DETACH"].contains(&it),
        None => true,
    };
    (killed, text.lines().filter_map(call).filter(changes).collect())
}

/// The calls to be tried; how many of them in any case.
fn chosen(calls: Vec<Call>) -> (Vec<Call>, usize) {
    let of = |call: &Call| calls.iter().filter(|it| it.kind == call.kind).count();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let is_end = |call: &Call| {
        let count = seen.entry(call.kind.clone()).or_default();
        *count += 1;
        *count == 1 || *count == of(call)
    };
    let (mut ends, mut others): (Vec<_>, Vec<_>) = calls.iter().cloned().partition(is_end);
    others.shuffle(&mut StdRng::seed_from_u64(1));
    let count = ends.len();
    ends.append(&mut others);
    (ends, count)
}

/// Everything pinned.
fn pinned(world: &World) -> Vec<String> {
    let find = command(&format!("find {} -mindepth 1 -printf %P\\n", world.bpffs().display()));
    let mut found: Vec<_> =
        String::from_utf8_lossy(&find.stdout).lines().map(str::to_owned).collect();
    found.sort();
    found
}

/// Kills starts in a world that was made ready, as often as there are calls and time; `meanwhile` does what it
/// is given.
fn at_every_call(ready: impl Fn(&World), mode: Mode, meanwhile: impl Fn(&mut dyn FnMut())) {
    let world = || {
        let world = World::new();
        world.veth();
        ready(&world);
        world
    };
    let (calls, whole) = {
        let world = world();
        let (_, calls) = start(&world, mode, None);
        (calls, pinned(&world))
    };
    let (calls, at_least) = chosen(calls);
    let (begin, mut lived) = (Instant::now(), 0);
    for (tried, call) in calls.iter().enumerate() {
        if tried >= at_least && begin.elapsed() > BUDGET {
            break;
        }
        let world = world();
        let before = json("ip -j -d link show dev kt0")[0]["xdp"]["prog"]["id"].as_u64();
        let before: Vec<u64> =
            before.into_iter().chain(at_tcx("kt0").into_iter().map(u64::from)).collect();
        let mut filter = None;
        meanwhile(&mut || {
            lived += usize::from(!start(&world, mode, Some(call)).0);
            filter = Some(open(&world.bpffs(), mode));
        });
        let mut filter = filter.expect("it was opened");
        assert_eq!(pinned(&world), whole, "{call:?}");
        assert_eq!(filter.verify().expect("verified"), Drift::default(), "{call:?}");
        let attachments = filter.attachments().expect("listed");
        let modes: Vec<_> = attachments.iter().map(|it| it.mode).collect();
        let (attached, hook) = match mode {
            Mode::Tcx => (Attached::Tcx, Hook::Tcx),
            _ => (Attached::Native, Hook::Xdp),
        };
        assert_eq!(modes, [attached], "{call:?}");
        let program = filter.program_id(hook).expect("loaded");
        let (xdp, tcx) = (mode_of_kt0() != 0, at_tcx("kt0"));
        let expected = if hook == Hook::Tcx { (false, vec![program]) } else { (true, vec![]) };
        assert_eq!((xdp, tcx), expected, "{call:?}");
        for id in before {
            within("the program before is gone", || {
                !command(&format!("bpftool prog show id {id}")).status.success()
            });
        }
        drop(filter);
        detach(&world.bpffs()).expect("detached");
        assert!(!world.bpffs().exists() && mode_of_kt0() == 0 && at_tcx("kt0").is_empty());
    }
    assert!(lived * 2 < at_least, "{lived} starts were not killed");
}

/// Under a flood of a source that is blocked and one that is not.
fn flooded(work: &mut dyn FnMut()) {
    let storm = storm([BLOCKED, FREE]);
    work();
    end(storm);
}

#[test]
fn a_takeover_that_is_killed_lets_nothing_pass_and_the_next_start_ends_it() {
    at_every_call(leave_v2, Mode::Native, flooded);
}

#[test]
fn a_change_to_tcx_that_is_killed_lets_nothing_pass() {
    // At XDP, and its agent gone.
    let filtered = |world: &World| {
        let mut filter = open(&world.bpffs(), Mode::Native);
        filter.update(&[(key("10.9.0.2"), DROP), (key("fd09::2"), DROP)]).expect("room");
        assert!(!answers("10.9.0.2") && !answers("fd09::2"));
    };
    at_every_call(filtered, Mode::Tcx, flooded);
}

#[test]
fn a_first_attach_that_is_killed_is_made_by_the_next_start() {
    at_every_call(|_| {}, Mode::Native, |work| work());
}
