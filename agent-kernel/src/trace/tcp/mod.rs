//! TCP connections of both families: made from here, made to here, and ended.
//!
//! A connection is told of by its socket's own callbacks, from a `sock_ops` program on the scope's
//! cgroup. The tracepoint of a socket's state would see the same and older sockets too, but its programs
//! are left out when an interrupt finds them running, which on a busy host loses events that nobody
//! counts; a `sock_ops` program runs every time. It sits beside others' programs and replaces none.
//!
//! - A connection **made from here** is told when it is established or has failed, with the process that
//!   called connect(2). One that fails within the call, before there is a socket's state to watch (no
//!   route, no free port), is told at the end of the call.
//! - One **made to here** is told when accept(2) hands it to a process, and with that process: the task
//!   that runs when it is established is whoever the network interrupted. One that no process takes
//!   within [`ACCEPT_BOUND`], that ends before, or that is taken some other way (io_uring, 32-bit calls,
//!   the kernel itself) is told then, without one.
//! - One that **ended** is told when its socket is closed at last, which is after its last
//!   acknowledgement, with the process that had made or accepted it.
//!
//! Sockets that were connected before the programs were there are not told of. A connection belongs to
//! the cgroup that its socket was made in, which for an accepted one is that of the listening socket.
//!
//! It must not know events on the wire, nor who reads them.

mod calls;
mod event;
mod program;

pub use event::{Event, Records, What};
pub use program::Missing;

use super::Scope;
use super::ring::{KernelRing, RingPins};
use crate::error::Error;
use agent_records::tcp::Record;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// So long a connection waits for accept(2) before it is told of without a process.
pub const ACCEPT_BOUND: Duration = Duration::from_secs(5);
/// How often it is looked for those that wait too long.
const SWEEP: Duration = Duration::from_secs(1);

/// What is told of TCP connections.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// Whose connections.
    pub scope: Scope,
    /// Memory for events that have not been drained, bytes: a power of two from 16 KiB to 1 GiB.
    pub ring_bytes: u32,
    /// Connections made from here.
    pub connect: bool,
    /// Connections made to here.
    pub accept: bool,
    /// Connections that ended.
    pub close: bool,
    /// Where procfs is.
    pub proc_root: PathBuf,
    /// Where sysfs is.
    pub sys_root: PathBuf,
    /// The filter's folder on a bpffs, for a ring that outlives its reader: what waits in it when one dies
    /// is told by the next. `None` for one beside it.
    pub bpffs: Option<PathBuf>,
}

/// Watches TCP connections until it is dropped.
pub struct TcpTracer {
    ring: KernelRing,
    pending: HashMap<MapData, u64, Record>,
    untracked: Array<MapData, u64>,
    next_sweep: Instant,
    overdue: Vec<Record>,
    /// Holds the programs and their links.
    _programs: Ebpf,
}

impl fmt::Debug for TcpTracer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TcpTracer").field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl TcpTracer {
    /// Begins to watch, and says what can't be told on this kernel. Within a tokio runtime that has a
    /// timer.
    ///
    /// `NotFound` without the scope's cgroup or the hierarchy of version 2; `Busy` where somebody else's
    /// program on that cgroup shares it with none; `Unsupported` on a kernel that refuses the programs.
    pub fn open(config: &TcpConfig) -> Result<(Self, Vec<Missing>), Error> {
        let (mut ebpf, missing) = program::load(config)?;
        let pins = RingPins::new(config.bpffs.as_deref(), "tcp");
        let tracer = Self {
            ring: KernelRing::take(&mut ebpf, pins.as_ref())?,
            pending: take(&mut ebpf, "pending")?,
            untracked: take(&mut ebpf, "untracked")?,
            next_sweep: Instant::now() + SWEEP,
            overdue: Vec::new(),
            _programs: ebpf,
        };
        Ok((tracer, missing))
    }

    /// Waits until there is something to drain. May be given up at any time.
    pub async fn readable(&mut self) -> Result<(), Error> {
        while self.overdue.is_empty() {
            tokio::select! {
                readable = self.ring.readable() => return readable,
                () = tokio::time::sleep_until(self.next_sweep) => self.sweep()?,
            }
        }
        Ok(())
    }

    /// What happened since, at most 256 KiB and one record of it; nothing when there is nothing.
    pub fn drain(&mut self) -> Records {
        Records::new(std::mem::take(&mut self.overdue), self.ring.drain())
    }

    /// How many events found no room in the ring since the last call.
    pub fn lost(&mut self) -> u64 {
        self.ring.lost()
    }

    /// How many connections there was no room for to remember whose they are, ever: of these the end is
    /// told, and less of it.
    pub fn untracked(&self) -> Result<u64, Error> {
        self.untracked.get(&0, 0).map_err(|error| Error::wrapped("map untracked", error))
    }

    /// Takes those that waited too long for accept(2).
    fn sweep(&mut self) -> Result<(), Error> {
        self.next_sweep = Instant::now() + SWEEP;
        let now_ns = boot_ns()?;
        let bound_ns =
            now_ns.saturating_sub(ACCEPT_BOUND.as_nanos().try_into().unwrap_or(u64::MAX));
        // What changes meanwhile may be missed, and is found the next time.
        let cookies: Vec<u64> = self.pending.keys().filter_map(Result::ok).collect();
        for cookie in cookies {
            let Ok(record) = self.pending.get(&cookie, 0) else { continue };
            // Whoever removes it tells it.
            if record.boot_ns <= bound_ns && self.pending.remove(&cookie).is_ok() {
                self.overdue.push(Record { boot_ns: now_ns, ..record });
            }
        }
        Ok(())
    }
}

/// Takes a map of the object; each once.
fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, Error> {
    let map = ebpf.take_map(name).expect("the object has this map, and it is taken once");
    M::try_from(map).map_err(|error| Error::wrapped(format!("map {name}"), error))
}

/// CLOCK_BOOTTIME, nanoseconds.
fn boot_ns() -> Result<u64, Error> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_err(|error| Error::io("clock", error.into()))?;
    let (seconds, nanoseconds) = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
    Ok(seconds * 1_000_000_000 + nanoseconds)
}
