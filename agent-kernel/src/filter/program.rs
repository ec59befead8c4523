//! The eBPF object: loading it over pinned maps. It must not know what they hold.

use super::pins::{Pin, Pins};
use super::{ledger, lookup};
use crate::error::{Error, ErrorKind};
use agent_records::RING_BYTES;
use agent_records::detect::ALARM_BYTES;
use aya::maps::MapInfo;
use aya::programs::{self, ProgramError};
use aya::{Ebpf, EbpfLoader};
use std::os::fd::{AsFd as _, BorrowedFd};

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/kctl.bpf.o");
/// More than the five that libbpf makes: on a machine with too much to do all of those were interrupted.
pub(crate) const LOAD_ATTEMPTS: u32 = 20;

/// Where a packet meets the filter; each has a program of its own over the same maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// XDP, before the stack.
    Xdp,
    /// tcx ingress, where the stack takes a packet in, of an interface with Ethernet headers.
    Tcx,
    /// The same of an interface whose packets have none: tun, WireGuard, a tunnel.
    TcxIp,
}

impl Hook {
    pub(super) const ALL: [Self; 3] = [Self::Xdp, Self::Tcx, Self::TcxIp];

    fn program(self) -> &'static str {
        match self {
            Self::Xdp => "kctl_filter",
            Self::Tcx => "kctl_tcx",
            Self::TcxIp => "kctl_tcx_ip",
        }
    }
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub(super) struct Program {
    /// With the XDP program; its maps are taken.
    ebpf: Ebpf,
    /// The others, loaded when they are needed for the first time.
    others: Vec<(Hook, Ebpf)>,
    max_entries: u32,
    /// Whether no map of rules was pinned before.
    pub(super) fresh: bool,
}

impl Program {
    /// Loads the XDP program; makes and pins what maps are missing.
    pub(super) fn load(max_entries: u32, pins: &Pins) -> Result<Self, Error> {
        if max_entries == 0 {
            return Err(Error::new(ErrorKind::Invalid, "max_entries", "must be at least 1"));
        }
        let fresh = ["records", "hits"].iter().all(|map| pinned(pins, map).is_none());
        let ebpf = load(max_entries, pins, Hook::Xdp)?;
        Ok(Self { ebpf, others: Vec::new(), max_entries, fresh })
    }

    /// Loads a hook's program, unless it is loaded.
    pub(super) fn ready(&mut self, hook: Hook, pins: &Pins) -> Result<(), Error> {
        if self.loaded(hook).is_none() {
            self.others.push((hook, load(self.max_entries, pins, hook)?));
        }
        Ok(())
    }

    fn loaded(&self, hook: Hook) -> Option<&programs::Program> {
        let other = || self.others.iter().find(|(it, _)| *it == hook).map(|(_, ebpf)| ebpf);
        let ebpf = if hook == Hook::Xdp { Some(&self.ebpf) } else { other() };
        ebpf.and_then(|ebpf| ebpf.program(hook.program()))
    }

    /// Takes a map of the object; each once.
    pub(super) fn take<M>(&mut self, name: &str) -> Result<M, Error>
    where
        M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.take_map(name).expect("the object has this map, and it is taken once");
        M::try_from(map).map_err(|error| Error::wrapped(format!("map {name}"), error))
    }

    /// The kernel's id of a hook's program; `None` where it is not loaded.
    pub(super) fn id(&self, hook: Hook) -> Result<Option<u32>, Error> {
        let Some(program) = self.loaded(hook) else { return Ok(None) };
        let info = program.info().map_err(|error| Error::wrapped("filter", error))?;
        Ok(Some(info.id()))
    }

    /// The descriptor of a hook's program, which is loaded now if it was not.
    pub(super) fn fd(&mut self, hook: Hook, pins: &Pins) -> Result<BorrowedFd<'_>, Error> {
        self.ready(hook, pins)?;
        let program = self.loaded(hook).expect("it has just been loaded");
        let fd = program.fd().map_err(|error| Error::wrapped("filter", error))?;
        Ok(fd.as_fd())
    }
}

fn pinned(pins: &Pins, map: &str) -> Option<MapInfo> {
    MapInfo::from_pin(pins.path(&Pin::Map(map.to_owned()))).ok()
}

fn load(max_entries: u32, pins: &Pins, hook: Hook) -> Result<Ebpf, Error> {
    let records = lookup::records(max_entries);
    let slots = pinned(pins, "hits").map_or(ledger::slots(max_entries), |it| it.max_entries());
    let tables = lookup::elements(max_entries);
    let wanted = [
        ("records", records),
        ("homes4", lookup::lines4(max_entries)),
        ("homes6", lookup::lines6(max_entries)),
        ("index", tables),
        ("filter4", tables),
        ("filter6", tables),
    ];
    let by_slot = ["hits", "paces", "told"].map(|map| (map, slots));
    // Two actions of as many rules with ports; and those of several ports, which take two entries each.
    let retired = max_entries.saturating_mul(2).saturating_add(128);
    let by_rule = [("retired", retired), ("ranges", max_entries.saturating_add(64))];
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins.folder());
    for (map, max_entries) in wanted
        .into_iter()
        .chain(by_slot)
        .chain(by_rule)
        .chain([("sightings", RING_BYTES), ("alarms", ALARM_BYTES)])
    {
        // A pinned map keeps its size, and aya must know it.
        let max_entries = pinned(pins, map).map_or(max_entries, |info| info.max_entries());
        loader.map_max_entries(map, max_entries);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped("filter", error))?;
    let program = ebpf.program_mut(hook.program()).expect("the object has this program");
    let mut attempts = 1;
    while let Err(error) = verify(program) {
        if attempts == LOAD_ATTEMPTS || !interrupted(&error) {
            return Err(refused(error));
        }
        attempts += 1;
    }
    Ok(ebpf)
}

fn verify(program: &mut programs::Program) -> Result<(), ProgramError> {
    match program {
        programs::Program::Xdp(program) => program.load(),
        programs::Program::SchedClassifier(program) => program.load(),
        _ => unreachable!("the object has no others"),
    }
}

/// Whether a signal came while the kernel verified the program: it gives up then with EAGAIN.
pub(crate) fn interrupted(error: &ProgramError) -> bool {
    const EAGAIN: i32 = nix::errno::Errno::EAGAIN as i32;
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(EAGAIN))
}

/// The verifier's log is in the error's source; it is far too long for a message.
fn refused(error: ProgramError) -> Error {
    let error = Error::wrapped("filter", error);
    if error.kind() == ErrorKind::NoPermission {
        return error;
    }
    let release = crate::sys::kernel_release().unwrap_or_default();
    let why = format!("kernel {release} refuses the program: {}", error.why());
    error.because(ErrorKind::Unsupported, why).with_remedy("use Linux 6.1 or newer")
}
