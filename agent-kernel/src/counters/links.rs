//! The programs on their tracepoints. With pins they stay there while no agent runs, and the next one takes
//! them over. It must not know what they count.

use super::source::Probe;
use crate::error::{Error, named};
use crate::filter::{Pin, Pins};
use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{RawTracePoint, loaded_links, loaded_programs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kernel lets go of a link a moment after its last holder did, and is waited for so long.
const END: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The links of one agent.
#[derive(Debug)]
pub(super) struct Links {
    pins: Option<Pins>,
    /// Of the programs: two of one version do the same.
    version: String,
    /// Where each is pinned. This process holds them as well: whoever takes the pins away while it runs does
    /// not end its counts.
    held: Vec<(Option<PathBuf>, FdLink)>,
}

impl Links {
    /// Pinned where there are pins; else they end with this value.
    pub(super) fn new(pins: Option<Pins>, version: String) -> Self {
        Self { pins, version, held: Vec::new() }
    }

    /// Takes over what an agent before left at work; whether that does what ours would, in these maps.
    pub(super) fn adopt(&mut self, probe: &Probe, maps: [u32; 2]) -> bool {
        let Some(path) = self.path(probe) else { return false };
        let Ok(link) = PinnedLink::from_pin(&path) else { return false };
        let link = FdLink::from(link);
        let adopts = counts_in(&link, maps);
        if adopts {
            self.held.push((Some(path), link));
        }
        adopts
    }

    /// Puts a program that is loaded onto its tracepoint, in place of another version of it.
    pub(super) fn attach(
        &mut self,
        program: &mut RawTracePoint,
        probe: &Probe,
    ) -> Result<(), Error> {
        let object = || named("program", probe.program);
        if let Some(pins) = &self.pins {
            for pin in pins.list()? {
                // Both at once would count everything twice.
                if matches!(&pin, Pin::Counting(name, _) if name == probe.program) {
                    end(pins, &pin)?;
                }
            }
        }
        let attached = program.attach(probe.tracepoint).and_then(|id| program.take_link(id));
        let mut link = FdLink::from(attached.map_err(|error| Error::wrapped(object(), error))?);
        let path = self.path(probe);
        if let Some(path) = &path {
            let pinned = link.pin(path).map_err(|error| Error::wrapped(object(), error))?;
            link = pinned.into();
        }
        self.held.push((path, link));
        Ok(())
    }

    fn path(&self, probe: &Probe) -> Option<PathBuf> {
        let pin = Pin::Counting(probe.program.to_owned(), self.version.clone());
        self.pins.as_ref().map(|pins| pins.path(&pin))
    }

    /// Those that are pinned.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.held.iter().filter_map(|(path, _)| path.as_deref())
    }
}

/// Ends what agents before left at work below `bpffs`, without those that are kept.
pub(super) fn end_others(bpffs: &Path, kept: &[&Path]) -> Result<(), Error> {
    for pins in Pins::existing(bpffs)? {
        for pin in pins.list()? {
            if matches!(pin, Pin::Counting(..)) && !kept.contains(&pins.path(&pin).as_path()) {
                end(&pins, &pin)?;
            }
        }
    }
    Ok(())
}

fn end(pins: &Pins, pin: &Pin) -> Result<(), Error> {
    let id = PinnedLink::from_pin(pins.path(pin)).ok().and_then(|link| {
        let info = FdLink::from(link).info().ok()?;
        Some(info.id())
    });
    pins.remove(pin)?;
    let is_there = || loaded_links().flatten().any(|link| Some(link.id()) == id);
    let deadline = Instant::now() + END;
    while is_there() && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Whether the program of a link counts in these maps: the counters, and the table of processes, which not
/// every program has.
fn counts_in(link: &FdLink, maps: [u32; 2]) -> bool {
    let Ok(link) = link.info() else { return false };
    let program = loaded_programs().flatten().find(|program| program.id() == link.program_id());
    let Some(Ok(Some(used))) = program.map(|program| program.map_ids()) else { return false };
    let is_foreign = |id: &u32| {
        let is_one = |info: MapInfo| matches!(info.name(), b"counters" | b"processes");
        !maps.contains(id) && MapInfo::from_id(*id).is_ok_and(is_one)
    };
    used.contains(&maps[0]) && !used.iter().any(is_foreign)
}
