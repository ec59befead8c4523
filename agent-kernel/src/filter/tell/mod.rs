//! Telling who meets the rules: first packets at once, later ones summed up, so that all that is told
//! adds up to the counters. It must not know what becomes of what it tells.
//!
//! Why it adds up: the program writes a sighting before it counts the packet. A sum is what a counter
//! holds beyond what is told of it, so it can't be too much as long as no packet of that count is told as
//! a first one later. So the counters are read, then the clock, then the ring; whatever is sighted later
//! than that and bears an earlier time is not told as a first one, but by a later sum.

mod sighted;
mod sources;
mod telling;

pub use sighted::Sighted;
pub(super) use telling::Names;
pub use telling::Telling;

use super::bpf;
use super::ledger::sum;
use super::mapped::{Mapped, wait_for_programs};
use super::record::{Owner, address};
use super::rules::Rules;
use super::table::{Row, Table, object};
use super::{Action, pins::Pins, program::Program};
use crate::Error;
use crate::sys::boottime_ns;
use agent_records::lookup::Lookup;
use agent_records::{
    Crowd, Cycle, MAX_SIGHTED, MAX_TALKERS, MONITOR_SLOT, QUIET_CYCLES, Sighting, Talker,
    TalkerKey, Tally,
};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use sources::{QUIET_NS, Sources, beyond, is_active};
use std::collections::{BTreeSet, HashMap};
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

/// How often to sum up: [`super::Filter::summarize`].
pub const CYCLE: Duration = Duration::from_secs(1);

/// A cycle lasts at least that long, however often it is asked for: longer than a packet takes.
const MIN_CYCLE_NS: u64 = 100_000_000;
/// Two clocks of one kernel, or of two CPUs, never differ by that much.
const CLOCK_SKEW_NS: u64 = 100_000;
/// Sightings taken from the ring at once; the ring holds fewer.
const MAX_DRAINED: usize = 8_192;
/// Cycles of looking at every counter after a sighting had no room, and at the start.
const SCANS: u32 = 2;
/// Cycles between two looks for who can be forgotten.
const SWEEP_CYCLES: u64 = 16;

pub(super) struct Teller {
    ring: RingBuf<MapData>,
    cycles: Row<Cycle>,
    /// Where the program looks for the number of the cycle.
    header: Mapped,
    talkers: Table<TalkerKey, Talker>,
    crowds: PerCpuArray<MapData, Crowd>,
    /// Slots that are or were active.
    slots: HashMap<u32, State>,
    sources: Sources,
    /// Number of the cycle in this process.
    cycle: u64,
    /// Number of the cycle in the kernel.
    epoch: u32,
    began_ns: u64,
    /// Until when everything may be part of a sum of an earlier process.
    settled_ns: u64,
    /// Sightings without room that are accounted for.
    lost: u64,
    /// Cycles that still look at every counter.
    scans: u32,
}

/// What is known of a slot.
struct State {
    told: Tally,
    /// When it was sighted last.
    cycle: u64,
    seen_ns: u64,
    /// Until when everything may be part of a sum.
    settled_ns: u64,
    /// The last cycle with more sources than are told one by one.
    crowded: Option<u64>,
}

impl State {
    /// Whether new sources are told in sums only.
    fn is_crowded(&self, cycle: u64) -> bool {
        self.crowded.is_some_and(|crowded| crowded + 1 >= cycle)
    }
}

impl Teller {
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let mut cycles: Row<Cycle> = Row::open(program, pins, "cycle")?;
        let crowds = program.take("crowds")?;
        let old = cycles.get(0)?;
        // To a new process everybody is news.
        let epoch = old.epoch.wrapping_add(QUIET_CYCLES);
        cycles.set(0, Cycle { epoch, ..old })?;
        let header = Mapped::open(pins, "lookup", size_of::<Lookup>())?;
        publish(&header, epoch);
        Ok(Self {
            ring: program.take("sightings")?,
            talkers: Table::open(program, pins, "talkers")?,
            lost: unsighted(&crowds)?,
            crowds,
            cycles,
            header,
            slots: HashMap::new(),
            sources: Sources::default(),
            cycle: 0,
            epoch,
            began_ns: boottime_ns(),
            settled_ns: old.settled_ns,
            scans: SCANS,
        })
    }

    pub(super) fn ring_fd(&self) -> Result<OwnedFd, Error> {
        self.ring.as_fd().try_clone_to_owned().map_err(|error| Error::io("map sightings", error))
    }

    /// How many sightings had no room.
    pub(super) fn lost(&self) -> Result<u64, Error> {
        unsighted(&self.crowds)
    }

    /// First packets that wait in the ring.
    pub(super) fn tell(&mut self, rules: &mut Rules) -> Result<Vec<Telling>, Error> {
        let mut told = Vec::new();
        let result = self.drain(rules, &mut told);
        self.whole(result).map(|()| told)
    }

    /// First packets, and sums of what was counted since; with `over` the cycle ends.
    pub(super) fn summarize(
        &mut self,
        rules: &mut Rules,
        over: bool,
    ) -> Result<Vec<Telling>, Error> {
        let mut told = Vec::new();
        let result = self.pass(rules, over, &mut told);
        self.whole(result).map(|()| told)
    }

    /// After a failure the kernel knows best what is told.
    fn whole(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if result.is_err() {
            self.slots.clear();
            self.sources = Sources::default();
            self.scans = SCANS;
        }
        result
    }

    fn drain(&mut self, rules: &mut Rules, out: &mut Vec<Telling>) -> Result<(), Error> {
        let mut sightings = Vec::new();
        // All are taken before what is told of them is written down: else an end in between would have
        // some told twice.
        while sightings.len() < MAX_DRAINED
            && let Some(item) = self.ring.next()
        {
            sightings.extend(bpf::record::<Sighting>(&item));
        }
        let mut names = Names::default();
        for sighting in sightings {
            let slot = sighting.slot & !MONITOR_SLOT;
            let Some(owner) = rules.owner(slot) else { continue };
            let cycle = self.cycle;
            let state = self.state(slot, rules);
            (state.cycle, state.seen_ns) = (cycle, sighting.boot_ns);
            let is_its = (sighting.slot & MONITOR_SLOT != 0) == (owner.action == Action::Monitor);
            let may = is_its && !state.is_crowded(cycle) && sighting.boot_ns > state.settled_ns;
            if self.sources.sighted(slot, &sighting, cycle, may) {
                let state = self.state(slot, rules);
                state.told = sum(state.told, Tally { packets: 1, bytes: sighting.bytes });
                rules.ledger().set_told(slot, state.told);
                out.push(Telling::first(owner, &sighting, &mut names));
            }
        }
        Ok(())
    }

    fn state(&mut self, slot: u32, rules: &mut Rules) -> &mut State {
        self.slots.entry(slot).or_insert_with(|| State {
            told: rules.ledger().told(slot),
            cycle: self.cycle,
            seen_ns: 0,
            settled_ns: self.settled_ns,
            crowded: None,
        })
    }

    fn pass(&mut self, rules: &mut Rules, over: bool, out: &mut Vec<Telling>) -> Result<(), Error> {
        self.drain(rules, out)?;
        self.look_for_lost()?;
        let cycle = self.cycle;
        let active = self.slots.iter().filter(|(_, state)| is_active(state.cycle, cycle));
        let slots: BTreeSet<u32> = active.map(|(slot, _)| *slot).collect();
        let is_over = over && boottime_ns().saturating_sub(self.began_ns) >= MIN_CYCLE_NS;
        let crowds = self.crowds(rules, &slots)?;
        let mut hits = rules.untold(self.scans > 0)?;
        if self.scans == 0 {
            hits.extend(rules.counted(&slots)?);
        }
        let now_ns = boottime_ns();
        // Before anything of it is told, so that whoever comes after this process knows.
        let settled_ns = now_ns + CLOCK_SKEW_NS;
        let epoch = if is_over { self.epoch.wrapping_add(1) } else { self.epoch };
        self.cycles.set(0, Cycle { settled_ns, epoch, zero: 0 })?;
        publish(&self.header, epoch);
        self.epoch = epoch;
        self.drain(rules, out)?;
        for (slot, counted) in hits {
            let Some(owner) = rules.owner(slot) else { continue };
            let state = self.state(slot, rules);
            let due = beyond(counted, state.told);
            if due.packets == 0 {
                continue;
            }
            state.told = sum(state.told, due);
            state.settled_ns = settled_ns;
            rules.ledger().set_told(slot, state.told);
            let sources = crowds.get(&slot).copied().unwrap_or(0);
            self.sum_up(slot, owner, due, sources, now_ns, out)?;
        }
        if is_over { self.end_cycle(rules, now_ns) } else { Ok(()) }
    }

    fn look_for_lost(&mut self) -> Result<(), Error> {
        let lost = self.lost()?;
        if lost != self.lost {
            self.lost = lost;
            self.scans = SCANS;
        }
        Ok(())
    }

    /// Sources of slots in this cycle, where they were counted.
    fn crowds(&self, rules: &mut Rules, slots: &BTreeSet<u32>) -> Result<HashMap<u32, u64>, Error> {
        let wide = |slot: &&u32| rules.owner(**slot).is_some_and(Owner::is_wide);
        let wide: BTreeSet<u32> = slots.iter().filter(wide).copied().collect();
        let paces = rules.ledger().paces(&wide)?.into_iter();
        let paces = paces.filter(|(_, pace)| pace.epoch == self.epoch);
        Ok(paces.map(|(slot, pace)| (slot, u64::from(pace.sources))).collect())
    }

    /// Tells what is due of one slot: by source, as far as that is known, unless there are too many.
    fn sum_up(
        &mut self,
        slot: u32,
        owner: Owner,
        due: Tally,
        sources: u64,
        now_ns: u64,
        out: &mut Vec<Telling>,
    ) -> Result<(), Error> {
        if !owner.is_wide() {
            let src = Some(owner.key.prefix.network());
            out.push(Telling::sum(owner, src, due, now_ns));
            return Ok(());
        }
        if sources > u64::from(MAX_SIGHTED) {
            if let Some(state) = self.slots.get_mut(&slot) {
                state.crowded = Some(self.cycle);
            }
            self.sources.told_together(slot);
            // Beyond that, one that lost its place in the kernel's table may have been counted again.
            let sources = sources.min(due.packets).min(u64::from(MAX_TALKERS) / 2);
            out.push(Telling { sources, ..Telling::sum(owner, None, due, now_ns) });
            return Ok(());
        }
        let mut left = due;
        let kind = if owner.action == Action::Monitor { MONITOR_SLOT } else { 0 };
        let is_v4 = owner.key.prefix.network().is_ipv4();
        for source in self.sources.active(slot, self.cycle) {
            let Some(talker) = self.talkers.get(&TalkerKey { slot: slot | kind, source })? else {
                continue;
            };
            let its = self.sources.tell(slot, source, talker.tally, left);
            if its.packets > 0 {
                left = beyond(left, its);
                out.push(Telling::sum(owner, address(source, is_v4), its, now_ns));
            }
        }
        if left.packets > 0 {
            out.push(Telling::sum(owner, None, left, now_ns));
        } else if let Some(last) = out.last_mut() {
            // A source's packets and bytes are not counted in one step.
            last.bytes += left.bytes;
        }
        Ok(())
    }

    fn end_cycle(&mut self, rules: &mut Rules, now_ns: u64) -> Result<(), Error> {
        for slot in rules.end_cycle()? {
            self.forget(slot);
        }
        if self.cycle.is_multiple_of(SWEEP_CYCLES) {
            let cycle = self.cycle;
            self.sources.sweep(now_ns, cycle);
            self.slots.retain(|_, it| {
                is_active(it.cycle, cycle) || now_ns.saturating_sub(it.seen_ns) < QUIET_NS
            });
        }
        if self.sources.is_full() {
            self.sources.make_room(self.cycle);
        }
        self.cycle += 1;
        self.began_ns = now_ns;
        self.scans = self.scans.saturating_sub(1);
        Ok(())
    }

    /// Slots are needed at once that rules no longer have: they are told to the end now.
    pub(super) fn make_room(&mut self, rules: &mut Rules) -> Result<Vec<Telling>, Error> {
        wait_for_programs();
        let told = self.summarize(rules, false)?;
        for slot in rules.release_all()? {
            self.forget(slot);
        }
        Ok(told)
    }

    /// The slot gets another owner.
    fn forget(&mut self, slot: u32) {
        self.sources.forget(slot);
        self.slots.remove(&slot);
    }
}

/// Says to the program which cycle it is.
fn publish(header: &Mapped, epoch: u32) {
    header.words()[offset_of!(Lookup, epoch) / 8].store(epoch.into(), Release);
}

fn unsighted(crowds: &PerCpuArray<MapData, Crowd>) -> Result<u64, Error> {
    let cpus = crowds.get(&0, 0).map_err(|error| Error::wrapped(object("crowds"), error))?;
    Ok(cpus.iter().map(|crowd| crowd.unsighted).sum())
}
