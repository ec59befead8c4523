//! What processes do, told by eBPF programs on the kernel's tracepoints.
//!
//! It owns the programs, their ring, and what a record means. It knows neither events on the wire nor
//! who reads them.

mod btf;
mod calls;
mod cgroups;
mod decode;
mod event;
mod left_out;
mod pages;
mod programs;
mod ring;
mod source;
pub mod tcp;
mod tracefs;

pub use cgroups::{Cgroup, CgroupPaths};
pub use event::{
    Bpf, Cred, Credentials, Event, Exec, Exit, Module, Oom, Open, Process, Ptrace, PtraceRequest,
    ResidentPages, Signal, Traced, Undelivered, VictimMemory,
};
pub use pages::page_bytes;
pub use ring::{KernelRing, Records, RingBytes};
pub use source::{Missing, Source, Sources};
pub use tracefs::mount_tracefs;

use left_out::LeftOut;

pub(crate) use btf::Btf;
pub(crate) use cgroups::Mount;
pub(crate) use programs::verified;

use crate::error::Error;
use aya::Ebpf;
use std::path::PathBuf;
use std::sync::Arc;

/// Which processes are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of this kernel.
    Host,
    /// Those in this cgroup of version 2, or below; the path is below the root of the hierarchy. Of two
    /// processes that something is about, one in it is enough.
    Cgroup(PathBuf),
}

/// What to trace.
#[derive(Debug, Clone)]
pub struct TracerConfig {
    /// What is told.
    pub sources: Sources,
    /// Of whom.
    pub scope: Scope,
    /// Only opened files whose paths, as the process names them, begin with any of these; none means all.
    /// At most 1,024 of at most 256 bytes.
    pub open_paths: Vec<Vec<u8>>,
    /// Size of the ring, a power of two from 16 KiB to 1 GiB, bytes.
    pub ring_bytes: u32,
    /// Where procfs is.
    pub proc_root: PathBuf,
    /// Where sysfs is.
    pub sys_root: PathBuf,
    /// The filter's folder on a bpffs, for a ring that outlives its reader: what waits in it when one dies
    /// is told by the next. `None` for one beside it.
    pub bpffs: Option<PathBuf>,
}

/// The programs at work. Dropping it takes everything off.
#[derive(Debug)]
pub struct Tracer {
    ring: KernelRing,
    cgroups: Arc<CgroupPaths>,
    left_out: LeftOut,
    /// Holds the programs and their links.
    programs: Ebpf,
}

impl Tracer {
    /// Puts the programs at work; what this kernel or our privileges don't allow is told, and the rest
    /// works. An error only where nothing can. Within a tokio runtime that has a timer.
    pub fn open(config: &TracerConfig) -> Result<(Self, Vec<Missing>), Error> {
        let mount = Mount::find(&config.proc_root)?;
        let loaded = programs::load(config, mount.as_ref())?;
        let cgroups = Arc::new(CgroupPaths::new(mount, loaded.came));
        let left_out = LeftOut::new(config);
        let tracer = Self { ring: loaded.ring, cgroups, left_out, programs: loaded.ebpf };
        Ok((tracer, loaded.missing))
    }

    /// Waits until there is something to drain: at once after silence, else up to 4 ms so that more
    /// comes together. May be given up at any time.
    pub async fn readable(&mut self) -> Result<(), Error> {
        self.ring.readable().await
    }

    /// The next records, in the order that they were made in; none when there are none.
    pub fn drain(&mut self) -> Records {
        self.ring.drain()
    }

    /// How many records found no room since the last call, or were not made because the kernel left their
    /// program out.
    pub fn lost(&mut self) -> u64 {
        self.ring.lost() + self.left_out.since(&self.programs)
    }

    /// Names of the cgroups that records are about.
    pub fn cgroups(&self) -> Arc<CgroupPaths> {
        self.cgroups.clone()
    }
}

/// The type of a BPF program as bpftool-prog(8) calls it; `None` for one that is newer than this.
pub fn bpf_type(number: u32) -> Option<&'static str> {
    const NAMES: [&str; 33] = [
        "unspec",
        "socket_filter",
        "kprobe",
        "sched_cls",
        "sched_act",
        "tracepoint",
        "xdp",
        "perf_event",
        "cgroup_skb",
        "cgroup_sock",
        "lwt_in",
        "lwt_out",
        "lwt_xmit",
        "sock_ops",
        "sk_skb",
        "cgroup_device",
        "sk_msg",
        "raw_tracepoint",
        "cgroup_sock_addr",
        "lwt_seg6local",
        "lirc_mode2",
        "sk_reuseport",
        "flow_dissector",
        "cgroup_sysctl",
        "raw_tracepoint_writable",
        "cgroup_sockopt",
        "tracing",
        "struct_ops",
        "ext",
        "lsm",
        "sk_lookup",
        "syscall",
        "netfilter",
    ];
    NAMES.get(usize::try_from(number).ok()?).copied()
}
