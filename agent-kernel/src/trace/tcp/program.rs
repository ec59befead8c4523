//! The programs: loading and attaching them. It must not know what their records say.

use super::btf::Btf;
use super::cgroup::Cgroup;
use super::{KernelRing, RingBytes, TcpConfig};
use crate::error::{Error, ErrorKind, named};
use agent_records::tcp::{MEMBERS, kind, member};
use aya::programs::{CgroupAttachMode, ProgramError, SockOps, TracePoint};
use aya::{Ebpf, EbpfLoader};
use std::ops::RangeInclusive;
use std::path::Path;

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/tcp.bpf.o");
/// As many as libbpf makes.
const LOAD_ATTEMPTS: u32 = 5;
/// Where aya looks for tracepoints.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// Ends first: what has begun must end.
const CONNECT_CALLS: [(&str, &str); 2] =
    [("tcp_connect_exit", "sys_exit_connect"), ("tcp_connect_enter", "sys_enter_connect")];
const ACCEPT_CALLS: [(&str, &str); 2] =
    [("tcp_accept_exit", "sys_exit_accept4"), ("tcp_accept_exit", "sys_exit_accept")];

/// Something that can't be told on this kernel, and why.
#[derive(Debug)]
pub struct Missing {
    /// What of an event: `process of accepted TCP connections`.
    pub what: &'static str,
    /// Why.
    pub error: Error,
}

/// The loaded and attached programs and their maps.
#[derive(Debug)]
pub(super) struct Program {
    ebpf: Ebpf,
}

impl Program {
    pub(super) fn load(config: &TcpConfig, ring: RingBytes) -> Result<(Self, Vec<Missing>), Error> {
        let cgroup = config.scope.cgroup()?;
        let (offsets, mut missing) = offsets(&Btf::of_kernel()?);
        let has = |members: RangeInclusive<usize>| {
            offsets[members].iter().all(|&offset| offset != member::NOWHERE)
        };
        let wants_accept = config.accept || config.close;
        let mut calls = vec![];
        if config.connect && has(member::DESCRIPTOR) {
            calls.push(("connections that fail at once", CONNECT_CALLS));
        }
        if wants_accept && has(member::DESCRIPTOR) && has(member::OWNER) {
            calls.push(("process of accepted TCP connections", ACCEPT_CALLS));
        }
        calls.retain(|(what, calls)| match known(calls) {
            Ok(()) => true,
            Err(error) => {
                missing.push(Missing { what, error });
                false
            }
        });
        let wanted = [
            (kind::CONNECT, config.connect),
            (kind::ACCEPT, config.accept),
            (kind::CLOSE, config.close),
        ]
        .into_iter()
        .fold(0, |bits, (kind, is_wanted)| bits | u64::from(is_wanted) << kind);
        let accept_is_seen = u64::from(calls.iter().any(|(_, calls)| *calls == ACCEPT_CALLS));

        let mut loader = EbpfLoader::new();
        ring.set(&mut loader);
        loader
            .override_global("OFFSETS", &offsets, true)
            .override_global("WANTED", &wanted, true)
            .override_global("ACCEPT_IS_SEEN", &accept_is_seen, true)
            .override_global("SCOPE_ID", &cgroup.id, true)
            .override_global("SCOPE_LEVEL", &cgroup.level, true);
        let ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped("TCP programs", error))?;
        let mut program = Self { ebpf };
        // Those that a connection is waited for with go first.
        for (what, calls) in calls {
            if let Err(error) = program.attach_calls(&calls) {
                missing.push(Missing { what, error });
            }
        }
        program.attach(&cgroup)?;
        Ok((program, missing))
    }

    pub(super) fn ring(&mut self) -> Result<KernelRing, Error> {
        KernelRing::take(&mut self.ebpf)
    }

    /// Takes a map of the object; each once.
    pub(super) fn take<M>(&mut self, name: &str) -> Result<M, Error>
    where
        M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.take_map(name).expect("the object has this map, and it is taken once");
        M::try_from(map).map_err(|error| Error::wrapped(format!("map {name}"), error))
    }

    fn attach(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        let program: &mut SockOps = self
            .ebpf
            .program_mut("tcp_connection")
            .expect("the object has this program")
            .try_into()
            .expect("it is for a cgroup's sockets");
        patiently(|| program.load()).map_err(refused)?;
        // As a link it runs beside all others that let it.
        program.attach(&cgroup.folder, CgroupAttachMode::Single).map(|_| ()).map_err(|error| {
            let object = named("cgroup", cgroup.path.display());
            let error = Error::wrapped(object, error);
            // The right to attach was there when the program was loaded.
            if error.kind() == ErrorKind::NoPermission {
                let why = "a sock_ops program is attached that shares it with no other";
                return error.because(ErrorKind::Busy, why).with_remedy(
                    "find it with `bpftool cgroup tree`, and have it attached with allow_multi",
                );
            }
            error
        })
    }

    fn attach_calls(&mut self, calls: &[(&str, &str)]) -> Result<(), Error> {
        for (name, tracepoint) in calls {
            let program: &mut TracePoint = self
                .ebpf
                .program_mut(name)
                .expect("the object has this program")
                .try_into()
                .expect("it is for a tracepoint");
            if program.fd().is_err() {
                patiently(|| program.load()).map_err(refused)?;
            }
            program
                .attach("syscalls", tracepoint)
                .map_err(|error| Error::wrapped(named("tracepoint", tracepoint), error))?;
        }
        Ok(())
    }
}

/// Whether this kernel has these tracepoints, and tells their numbers.
fn known(calls: &[(&str, &str)]) -> Result<(), Error> {
    // aya takes the first that is there.
    let tracefs = TRACEFS.iter().map(Path::new).find(|path| path.join("events").is_dir());
    let tracefs = tracefs.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, named("folder", TRACEFS[0]), "tracefs is not mounted")
            .with_remedy(format!("mount -t tracefs nodev {}", TRACEFS[0]))
    })?;
    for (_, tracepoint) in calls {
        let file = tracefs.join("events/syscalls").join(tracepoint).join("id");
        std::fs::metadata(&file)
            .map_err(|error| Error::io(named("file", file.display()), error))?;
    }
    Ok(())
}

/// The place of each of [`MEMBERS`], and what can't be told where there is none.
fn offsets(btf: &Btf) -> ([u32; member::COUNT], Vec<Missing>) {
    let mut missing = Vec::new();
    let mut offsets = [member::NOWHERE; member::COUNT];
    for (index, (offset, (of, name))) in offsets.iter_mut().zip(MEMBERS).enumerate() {
        match btf.offset(of, name) {
            Some(place) => *offset = place,
            None => missing.push(Missing {
                what: needs(index),
                error: Error::new(
                    ErrorKind::Unsupported,
                    format!("struct {of}"),
                    format!("this kernel's has no member {name} that can be read"),
                ),
            }),
        }
    }
    (offsets, missing)
}

/// What can't be told without a member.
fn needs(index: usize) -> &'static str {
    match index {
        index if member::OWNER.contains(&index) => "process of TCP connections",
        index if member::DESCRIPTOR.contains(&index) => "process of accepted TCP connections",
        member::SOCK_ERR => "TCP connections that failed",
        member::SOCK_FLAGS => "bytes received of TCP connections",
        _ => "bytes sent of TCP connections",
    }
}

/// Tries again when a signal came while the kernel verified the program: it gives up then with EAGAIN.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const EAGAIN: i32 = nix::errno::Errno::EAGAIN as i32;
    let interrupted = |error: &ProgramError| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.raw_os_error() == Some(EAGAIN))
    };
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(error) if interrupted(&error) => {}
            result => return result,
        }
    }
    load()
}

fn refused(error: ProgramError) -> Error {
    let error = Error::wrapped("TCP programs", error);
    if error.kind() == ErrorKind::NoPermission {
        return error;
    }
    let release = crate::sys::kernel_release().unwrap_or_default();
    let why = format!("kernel {release} refuses them: {}", error.why());
    error.because(ErrorKind::Unsupported, why).with_remedy("use Linux 6.1 or newer")
}
