//! A namespace and a cgroup of one test's own, and the events of it.

use super::actor::Actor;
use agent_kernel::trace::Scope;
use agent_kernel::trace::tcp::{Event, TcpConfig, TcpTracer, What};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing listens there: no test binds it, and it is below those that the kernel chooses.
const CLOSED_PORT: u16 = 9;
/// As long as anything that is waited for may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Namespaces of this thread, which must not leave it, and a cgroup that is removed at the end.
pub(crate) struct Test {
    pub(crate) cgroup: PathBuf,
    _not_send: PhantomData<*const ()>,
}

impl Test {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("this test needs root: namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
        // Whether it is there changes which tracepoints serve, so the test that wants it says so.
        for tracefs in ["/sys/kernel/tracing", "/sys/kernel/debug"] {
            let _ = umount2(tracefs, MntFlags::MNT_DETACH);
        }
        run("ip link set lo up");
        Self::of(fresh())
    }

    /// The same namespaces with another cgroup.
    pub(crate) fn beside(&self) -> Self {
        Self::of(fresh())
    }

    /// The same namespaces with a cgroup below this one's, to be dropped before it.
    pub(crate) fn below(&self) -> Self {
        Self::of(self.cgroup.join("below"))
    }

    fn of(cgroup: PathBuf) -> Self {
        std::fs::create_dir(&cgroup).expect("root: a cgroup");
        Self { cgroup, _not_send: PhantomData }
    }

    pub(crate) fn put_into_cgroup(&self, pid: u32) {
        std::fs::write(self.cgroup.join("cgroup.procs"), pid.to_string()).expect("moved");
    }

    /// Watches everything of this test, with a ring of so many bytes.
    pub(crate) fn watch(&self, ring_bytes: u32) -> Watch {
        self.watch_with(self.config(ring_bytes))
    }

    pub(crate) fn config(&self, ring_bytes: u32) -> TcpConfig {
        let below = self.cgroup.strip_prefix(unified()).expect("it is in the hierarchy");
        TcpConfig {
            scope: Scope::Cgroup(below.to_owned()),
            ring_bytes,
            connect: true,
            accept: true,
            close: true,
            proc_root: "/proc".into(),
            sys_root: "/sys".into(),
            bpffs: None,
        }
    }

    pub(crate) fn watch_with(&self, config: TcpConfig) -> Watch {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let opened = runtime.block_on(async { TcpTracer::open(&config) });
        let (tracer, missing) = opened.expect("root: the programs");
        assert!(missing.is_empty(), "{missing:?}");
        Watch { runtime, tracer, seen: Vec::new() }
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        // What is left in it is ours.
        if let Ok(pids) = std::fs::read_to_string(self.cgroup.join("cgroup.procs")) {
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let deadline = Instant::now() + LONG;
        while std::fs::remove_dir(&self.cgroup).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// A cgroup that is not there yet.
fn fresh() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    unified().join(format!("kctl-tcp-{}-{number}", std::process::id()))
}

/// The unified hierarchy, as this test reads the mounts.
fn unified() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.find(|words| words[2] == "cgroup2").expect("cgroup v2 is mounted");
    line[1].into()
}

/// A tracer and what it has told.
pub(crate) struct Watch {
    runtime: tokio::runtime::Runtime,
    pub(crate) tracer: TcpTracer,
    pub(crate) seen: Vec<Event>,
}

impl Watch {
    /// Everything up to the event that fits, with it.
    pub(crate) fn until(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(place) = self.seen.iter().position(&fits) {
                let rest = self.seen.split_off(place + 1);
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let readable = self
                .runtime
                .block_on(async { tokio::time::timeout(left, self.tracer.readable()).await });
            let Ok(readable) = readable else {
                panic!("waited in vain for {what}; there is {:#?}", self.seen)
            };
            readable.expect("readable");
            self.seen.extend(self.tracer.drain().events().flatten());
        }
    }

    /// Everything that was told by now: a connection that is refused is told after all that was before.
    pub(crate) fn all(&mut self, by: &mut Actor) -> Vec<Event> {
        assert_eq!(by.tell(&format!("connect 127.0.0.1 {CLOSED_PORT}")), "error 111");
        let mut events = self.until("the mark", |event| event.dst_port == CLOSED_PORT);
        events.pop();
        events
    }
}

/// What an event says of its process, compared with the actor itself.
pub(crate) fn is_of(event: &Event, actor: &Actor, test: &Test) {
    use std::os::unix::fs::MetadataExt;
    let process = event.process.as_ref().expect("its process is known");
    assert_eq!(process.pid, actor.pid());
    assert_eq!(process.ppid, Some(std::process::id()));
    assert_eq!(process.uid, Some(actor.uid));
    assert_eq!(process.comm, actor.comm());
    assert_eq!(process.cgroup, Some(test.cgroup.metadata().expect("it is there").ino()));
}

/// Where an event says that the connection was from and to.
pub(crate) fn ends(event: &Event) -> ((IpAddr, u16), (IpAddr, u16)) {
    ((event.src.expect("known"), event.src_port), (event.dst, event.dst_port))
}

pub(crate) fn is_close(event: &Event) -> bool {
    matches!(event.what, What::Close { .. })
}

/// The only one of these that fits.
pub(crate) fn one(events: &[Event], fits: impl Fn(&Event) -> bool) -> &Event {
    let found: Vec<_> = events.iter().filter(|event| fits(event)).collect();
    assert_eq!(found.len(), 1, "{events:#?}");
    found[0]
}

/// Runs a command of words without blanks that must succeed; what it said.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
