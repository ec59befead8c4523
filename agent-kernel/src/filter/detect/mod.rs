//! Detection: what the program is to look for, and what it found. It must not know what follows from
//! that.
//!
//! Scans and connection rates the program itself finds and tells at once. Whether a port is flooded is
//! decided here, from what the program counted, because that takes some time of looking.

mod finding;
mod floods;

pub use finding::{Detection, Finding, FloodLimits, Found, Limit};

use super::lookup::seed;
use super::mapped::Mapped;
use super::table::Row;
use super::tell::Names;
use super::{bpf, pins::Pins, program::Program};
use crate::Error;
use agent_records::detect::{Alarm, Settings, TICK_SHIFT};
use agent_records::lookup::Lookup;
use aya::maps::{MapData, RingBuf};
use finding::ticks;
use floods::Floods;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Alarms taken from the ring at once; the ring holds fewer.
const MAX_DRAINED: usize = 1_024;

pub(super) struct Detector {
    settings: Mapped,
    /// Where the program looks first.
    header: Mapped,
    ring: RingBuf<MapData>,
    unalarmed: Row<u64>,
    floods: Floods,
    /// Alarms without room that are told.
    lost: u64,
    detection: Detection,
}

impl Detector {
    /// Goes on with what is pinned, settings included.
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let settings = Mapped::open(pins, "detect", size_of::<Settings>())?;
        let unalarmed: Row<u64> = Row::open(program, pins, "unalarmed")?;
        let opened = Self {
            ring: program.take("alarms")?,
            lost: unalarmed.get(0)?,
            unalarmed,
            floods: Floods::open(pins)?,
            header: Mapped::open(pins, "lookup", size_of::<Lookup>())?,
            settings,
            detection: Detection::default(),
        };
        if opened.word(offset_of!(Settings, seed.last)).load(Relaxed) == 0 {
            let seed = seed()?;
            let [a, b, c] = seed.factors;
            let words = [seed.start, a, b, c, seed.last];
            for (place, word) in (offset_of!(Settings, seed)..).step_by(8).zip(words) {
                opened.word(place).store(word, Relaxed);
            }
        }
        Ok(opened)
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        &self.settings.words()[place / 8]
    }

    fn told(&self, place: usize) -> &AtomicU64 {
        &self.header.words()[place / 8]
    }

    /// Looks for this from now on. What is counted already counts.
    pub(super) fn set(&mut self, detection: &Detection) -> Result<(), Error> {
        detection.check()?;
        let limit = |limit: Option<Limit>| limit.map_or((0, 0), |it| (it.count, ticks(it.window)));
        let flood = detection.flood;
        let half = |limit: Option<u32>| limit.map_or(0, |limit| limit.div_ceil(2));
        let (scan, connections) = (limit(detection.scan), limit(detection.connections));
        let halves = self.settings.halves();
        let set = |place: usize, value: u32| halves[place / 4].store(value, Relaxed);
        set(offset_of!(Settings, scan_ports), scan.0);
        set(offset_of!(Settings, scan_window), scan.1);
        set(offset_of!(Settings, connections), connections.0);
        set(offset_of!(Settings, connections_window), connections.1);
        set(offset_of!(Settings, flood_port), half(flood.map(|it| it.port)));
        set(offset_of!(Settings, flood_source), half(flood.map(|it| it.source)));
        set(offset_of!(Settings, flood_window), flood.map_or(0, |it| ticks(it.window)));
        let on = detection.scan.is_some() || detection.connections.is_some() || flood.is_some();
        self.told(offset_of!(Lookup, detects)).store(on.into(), Relaxed);
        if flood.is_none() {
            self.told(offset_of!(Lookup, suspects)).store(0, Relaxed);
        }
        self.detection = *detection;
        Ok(())
    }

    pub(super) fn detection(&self) -> &Detection {
        &self.detection
    }

    pub(super) fn ring_fd(&self) -> Result<OwnedFd, Error> {
        self.ring.as_fd().try_clone_to_owned().map_err(|error| Error::io("map alarms", error))
    }

    /// What waits in the ring, and with `floods` what is flooded.
    pub(super) fn found(&mut self, floods: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut names = Names::default();
        while found.len() < MAX_DRAINED
            && let Some(item) = self.ring.next()
        {
            found.extend(
                bpf::record::<Alarm>(&item).and_then(|alarm| Finding::new(&alarm, &mut names)),
            );
        }
        if let (true, Some(limits)) = (floods, self.detection.flood) {
            let suspects = &self.header.words()[offset_of!(Lookup, suspects) / 8];
            let seen = suspects.load(Relaxed);
            let (more, keep) = self.floods.look(now(), &limits, seen != 0);
            // A port that came under suspicion meanwhile is so again with its next attempt.
            if seen & !keep != 0 {
                suspects.fetch_and(!(seen & !keep), Relaxed);
            }
            found.extend(more);
        }
        found
    }

    /// How many alarms had no room since the last call.
    pub(super) fn lost(&mut self) -> Result<u64, Error> {
        let lost = self.unalarmed.get(0)?;
        Ok(lost - std::mem::replace(&mut self.lost, lost))
    }
}

/// The program's clock.
#[expect(clippy::cast_possible_truncation, reason = "ticks wrap, and are compared so")]
fn now() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let now_ns = seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0);
    (now_ns >> TICK_SHIFT) as u32
}
