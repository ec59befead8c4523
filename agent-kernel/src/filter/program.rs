//! The eBPF object: loading it over pinned maps. It must not know what they hold.

use super::lookup;
use super::pins::{Pin, Pins};
use crate::error::{Error, ErrorKind};
use agent_records::RING_BYTES;
use aya::maps::MapInfo;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/kctl.bpf.o");
const PROGRAM: &str = "kctl_filter";
/// As many as libbpf makes.
pub(crate) const LOAD_ATTEMPTS: u32 = 5;

/// The loaded program and its maps.
#[derive(Debug)]
pub(super) struct Program {
    ebpf: Ebpf,
    /// Whether no map of rules was pinned before.
    pub(super) fresh: bool,
}

impl Program {
    /// Loads the program; makes and pins what maps are missing.
    pub(super) fn load(max_entries: u32, pins: &Pins) -> Result<Self, Error> {
        if max_entries == 0 {
            return Err(Error::new(ErrorKind::Invalid, "max_entries", "must be at least 1"));
        }
        let pinned = |map: &str| MapInfo::from_pin(pins.path(&Pin::Map(map.to_owned()))).ok();
        let fresh = ["records", "hits"].iter().all(|map| pinned(map).is_none());
        let slots = pinned("hits").map_or(max_entries.saturating_mul(2), |hits| hits.max_entries());
        let tables = lookup::elements(max_entries);
        let wanted =
            [("records", max_entries), ("index", tables), ("filter4", tables), ("filter6", tables)];
        let by_slot = ["hits", "paces", "told", "retired", "ranges"].map(|map| (map, slots));
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins.folder());
        for (map, max_entries) in
            wanted.into_iter().chain(by_slot).chain([("sightings", RING_BYTES)])
        {
            // A pinned map keeps its size, and aya must know it.
            let max_entries = pinned(map).map_or(max_entries, |info| info.max_entries());
            loader.map_max_entries(map, max_entries);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped("filter", error))?;
        let mut attempts = 1;
        while let Err(error) = xdp(&mut ebpf).load() {
            if attempts == LOAD_ATTEMPTS || !interrupted(&error) {
                return Err(refused(error));
            }
            attempts += 1;
        }
        Ok(Self { ebpf, fresh })
    }

    pub(super) fn xdp(&mut self) -> &mut Xdp {
        xdp(&mut self.ebpf)
    }

    /// Takes a map of the object; each once.
    pub(super) fn take<M>(&mut self, name: &str) -> Result<M, Error>
    where
        M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.take_map(name).expect("the object has this map, and it is taken once");
        M::try_from(map).map_err(|error| Error::wrapped(format!("map {name}"), error))
    }

    pub(super) fn id(&mut self) -> Result<u32, Error> {
        let info = self.xdp().info().map_err(|error| Error::wrapped("filter", error))?;
        Ok(info.id())
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

fn xdp(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(PROGRAM)
        .expect("the object has this program")
        .try_into()
        .expect("it is an XDP program")
}
