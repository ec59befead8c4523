//! A tracer of what happens in the cgroup of one test.

use agent_kernel::trace::{Event, Missing, Records, Scope, Source, Traced, Tracer, TracerConfig};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "../cgroup/mod.rs"]
mod cgroup;

pub(crate) use cgroup::{Cgroup, hierarchy};

const DEADLINE: Duration = Duration::from_secs(60);

impl Cgroup {
    pub(crate) fn below(&self, name: impl AsRef<Path>) -> Self {
        Self::named(&self.path.join(name))
    }

    /// Its id, by stat(2).
    pub(crate) fn id(&self) -> u64 {
        std::fs::metadata(&self.folder).expect("the cgroup").ino()
    }

    /// Runs a program in it that must succeed: its pid, and what it says.
    pub(crate) fn says(&self, program: &str, args: &[&str]) -> (u32, String) {
        let mut command = self.command(program);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("sh");
        let mut said = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
        let status = child.wait().expect("it ends");
        assert!(status.success(), "{program} {args:?}: {status}");
        (child.id(), said)
    }
}

pub(crate) fn config(sources: &[Source], scope: Scope) -> TracerConfig {
    TracerConfig {
        sources: sources.iter().copied().collect(),
        scope,
        open_paths: Vec::new(),
        ring_bytes: 1 << 20,
        proc_root: "/proc".into(),
        sys_root: "/sys".into(),
        bpffs: None,
    }
}

/// A tracer of a test's cgroup.
pub(crate) struct World {
    pub(crate) cgroup: Cgroup,
    pub(crate) tracer: Tracer,
}

impl World {
    /// Of these sources, and of exec.
    pub(crate) fn new(sources: &[Source]) -> Self {
        let cgroup = Cgroup::new();
        let mut sources = sources.to_vec();
        sources.push(Source::Exec);
        let config = config(&sources, Scope::Cgroup(cgroup.path.clone()));
        Self { tracer: open(&config), cgroup }
    }

    /// Everything that was told up to now.
    pub(crate) async fn events(&mut self) -> Vec<Traced> {
        events(&mut self.tracer, &self.cgroup).await
    }
}

pub(crate) fn open(config: &TracerConfig) -> Tracer {
    let (tracer, missing) = Tracer::open(config).expect("root: the programs");
    assert_eq!(missing, Vec::<Missing>::new());
    tracer
}

/// Everything that a tracer told up to now: up to a program that is run in its scope for this.
pub(crate) async fn events(tracer: &mut Tracer, cgroup: &Cgroup) -> Vec<Traced> {
    let (last, status) = cgroup.run("true", &[]);
    assert!(status.success());
    let mut events = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = tokio::time::timeout(left, tracer.readable()).await;
        ready.unwrap_or_else(|_| panic!("waited in vain after {events:?}")).expect("readable");
        for traced in decoded(&tracer.drain()) {
            match &traced.event {
                Event::Exec(exec) if exec.process.pid == last => return events,
                _ => events.push(traced),
            }
        }
    }
}

pub(crate) fn decoded(records: &Records) -> Vec<Traced> {
    let events: Vec<_> =
        records.iter().map(|record| Traced::decode(record).expect("a record of ours")).collect();
    assert_eq!(events.len(), records.len());
    events
}

/// The one thing that a function finds among events.
pub(crate) fn one<'a, T: std::fmt::Debug>(
    events: &'a [Traced],
    find: impl Fn(&'a Event) -> Option<T>,
) -> T {
    let mut found: Vec<_> = events.iter().filter_map(|traced| find(&traced.event)).collect();
    assert_eq!(found.len(), 1, "{found:?} of {events:?}");
    found.remove(0)
}

/// Runs a program outside of every test's cgroup.
pub(crate) fn output(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect(program)
}

/// Nanoseconds since boot, by /proc/uptime: to 10 ms.
pub(crate) fn boot_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("the clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("an uptime")
}
