//! Which ports and sources are flooded, from what the program counted. It must not know the ring.
//!
//! A port that many connect to comes under suspicion again and again: whoever follows up what it began is
//! cleared after a second, until its next window, so that its packets are not looked at any longer.

use super::finding::{Finding, FloodLimits, Found, address, ticks, time};
use crate::Error;
use crate::filter::mapped::Mapped;
use crate::filter::pins::Pins;
use crate::sys::boottime_ns;
use agent_records::detect::{CLEARED, Handshakes, Head, Port, Source, SourceSet, WAYS};
use std::collections::HashMap;
use std::mem::{offset_of, size_of};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// As long as a follow-up may take, and a source goes on being judged after its last attempt.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Floods {
    ports: Mapped,
    sources: Mapped,
    told: HashMap<Who, Told>,
    /// Until when there may be somebody under suspicion.
    busy_until: Option<u32>,
}

/// A port or a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Port(u16),
    Source(IpAddr),
}

/// What is told of it.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: u32,
    syns: u64,
    progress: u64,
    /// It is flooded since.
    again: bool,
    sources: u64,
}

/// What is known of a port or a source at one moment.
#[derive(Debug, Clone, Copy)]
struct Seen {
    who: Who,
    port: u16,
    handshakes: Handshakes,
    sources: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nobody suspects it, or not any more.
    Nothing,
    /// It is too early, or too little.
    Unclear,
    Fine,
    Flood,
}

impl Floods {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            ports: Mapped::open(pins, "detect_ports", size_of::<Port>())?,
            sources: Mapped::open(pins, "detect_sources", size_of::<SourceSet>())?,
            told: HashMap::new(),
            // Whatever came while nobody looked.
            busy_until: None,
        })
    }

    /// What is to be told, and the bits of ports that are to be looked at on. It costs next to nothing
    /// where nobody is suspected.
    pub(super) fn look(
        &mut self,
        now: u32,
        limits: &FloodLimits,
        suspects: bool,
    ) -> (Vec<Finding>, u64) {
        let (window, grace) = (ticks(limits.window), ticks(GRACE));
        if suspects {
            self.busy_until = Some(now.wrapping_add(window).wrapping_add(2 * grace));
        }
        if self.busy_until.is_none_or(|until| since(now, until) > 0) && self.told.is_empty() {
            self.busy_until = None;
            return (Vec::new(), 0);
        }
        let (mut found, mut keep) = (Vec::new(), 0);
        for place in self.suspected() {
            let seen = self.seen(place);
            let limit = if let Who::Port(_) = seen.who { limits.port } else { limits.source };
            match verdict(&seen.handshakes, now, window, limit) {
                Verdict::Nothing => continue,
                Verdict::Unclear => keep |= 1 << (seen.port & 63),
                Verdict::Fine => self.clear(place),
                Verdict::Flood => {
                    keep |= 1 << (seen.port & 63);
                    found.extend(self.flooded(&seen, now));
                }
            }
        }
        found.extend(self.go_on(now, window));
        (found, keep)
    }

    /// Tells of a new flood at once, and notes that one goes on.
    fn flooded(&mut self, seen: &Seen, now: u32) -> Option<Finding> {
        let it = seen.handshakes;
        if let Some(told) = self.told.get_mut(&seen.who) {
            told.again = true;
            told.sources = told.sources.max(seen.sources);
            return None;
        }
        let (syns, progress) = (it.syns, it.progress);
        self.told.insert(seen.who, Told { at: now, syns, progress, again: false, sources: 0 });
        let fresh = (syns.wrapping_sub(it.base), progress.wrapping_sub(it.watch_progress));
        Some(finding(seen, fresh, seen.sources, since(now, it.since)))
    }

    /// Tells what came since, of floods that were told a window ago.
    fn go_on(&mut self, now: u32, window: u32) -> Vec<Finding> {
        if self.told.values().all(|told| since(now, told.at) < window) {
            return Vec::new();
        }
        let seen: Vec<_> = self.used().map(|place| self.seen(place)).collect();
        let mut found = Vec::new();
        for seen in seen {
            let Some(told) = self.told.get_mut(&seen.who) else { continue };
            if since(now, told.at) < window || !told.again {
                continue;
            }
            let Handshakes { syns, progress, .. } = seen.handshakes;
            // A source that lost its place begins anew.
            let more = (syns.checked_sub(told.syns), progress.checked_sub(told.progress));
            let (Some(more), Some(more_progress)) = more else { continue };
            let sources = told.sources.max(seen.sources);
            if more > 0 {
                found.push(finding(&seen, (more, more_progress), sources, since(now, told.at)));
            }
            *told = Told { at: now, syns, progress, again: false, sources: 0 };
        }
        self.told.retain(|_, told| since(now, told.at) < window);
        found
    }
}

fn finding(seen: &Seen, (syns, progress): (u64, u64), sources: u64, over: u32) -> Finding {
    let (src, sources) = match seen.who {
        Who::Port(_) => (None, sources),
        Who::Source(src) => (Some(src), 1),
    };
    let found = Found::Flood { src, port: seen.port, syns, progress, sources, over: time(over) };
    Finding { boot_ns: boottime_ns(), found }
}

fn verdict(it: &Handshakes, now: u32, window: u32, limit: u32) -> Verdict {
    let is_over = since(now, it.since) > window.saturating_add(2 * ticks(GRACE));
    if it.watched == 0 || it.watched == CLEARED || is_over {
        return Verdict::Nothing;
    }
    if since(now, it.watched) < ticks(GRACE) {
        return Verdict::Unclear;
    }
    let syns = it.syns.wrapping_sub(it.watch_syns);
    let without = syns.saturating_sub(it.progress.wrapping_sub(it.watch_progress));
    if without.saturating_mul(4) < syns {
        Verdict::Fine
    } else if without >= u64::from(limit / 2) {
        Verdict::Flood
    } else {
        Verdict::Unclear
    }
}

/// Ticks from one moment to a later one; 0 where the program's clock, which lags, was ahead.
fn since(now: u32, then: u32) -> u32 {
    u32::try_from(now.wrapping_sub(then).cast_signed()).unwrap_or(0)
}

/// Where something is counted: the word that its [`Handshakes`] begin at.
#[derive(Debug, Clone, Copy)]
enum Place {
    Port(usize),
    Source(usize),
}

const PORT_WORDS: usize = size_of::<Port>() / 8;
const SET_WORDS: usize = size_of::<SourceSet>() / 8;

impl Floods {
    /// Whatever is or was under suspicion in its last window.
    fn suspected(&self) -> Vec<Place> {
        let mut suspected: Vec<_> = self.used().collect();
        suspected.retain(|place| {
            let (map, word) = self.at(*place);
            let watched = word * 2 + offset_of!(Handshakes, watched) / 4;
            map.halves()[watched].load(Relaxed) != 0
        });
        suspected
    }

    /// Whatever was counted.
    fn used(&self) -> impl Iterator<Item = Place> + use<'_> {
        let ports =
            (0..self.ports.elements() as usize).map(|port| port * PORT_WORDS).filter(|word| {
                self.ports.words()[word + offset_of!(Handshakes, syns) / 8].load(Relaxed) != 0
            });
        let ways = (0..self.sources.elements() as usize)
            .flat_map(|set| (0..WAYS).map(move |way| (set, way)));
        let sources = ways.filter(|(set, way)| {
            let prints =
                set * SET_WORDS + offset_of!(SourceSet, head) / 8 + offset_of!(Head, prints) / 8;
            self.sources.words()[prints + way].load(Relaxed) != 0
        });
        let sources = sources.map(|(set, way)| {
            let first = set * size_of::<SourceSet>() + offset_of!(SourceSet, sources);
            (first + way * size_of::<Source>()) / 8
        });
        ports.map(Place::Port).chain(sources.map(Place::Source))
    }

    fn at(&self, place: Place) -> (&Mapped, usize) {
        match place {
            Place::Port(word) => (&self.ports, word + offset_of!(Port, handshakes) / 8),
            Place::Source(word) => (&self.sources, word + offset_of!(Source, handshakes) / 8),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are as many ports as numbers of them"
    )]
    fn seen(&self, place: Place) -> Seen {
        let (map, from) = self.at(place);
        let half = |at: usize| map.halves()[from * 2 + at / 4].load(Relaxed);
        let word = |at: usize| map.words()[from + at / 8].load(Relaxed);
        let handshakes = Handshakes {
            since: half(offset_of!(Handshakes, since)),
            watched: half(offset_of!(Handshakes, watched)),
            // First, so that no more was followed up than there were.
            progress: word(offset_of!(Handshakes, progress)),
            syns: word(offset_of!(Handshakes, syns)),
            base: word(offset_of!(Handshakes, base)),
            watch_syns: word(offset_of!(Handshakes, watch_syns)),
            watch_progress: word(offset_of!(Handshakes, watch_progress)),
        };
        match place {
            Place::Port(at) => {
                let word = |field: usize| map.words()[at + field / 8].load(Relaxed);
                let base = word(offset_of!(Port, base_sources));
                let sources = word(offset_of!(Port, sources)).saturating_sub(base);
                let port = (at / PORT_WORDS) as u16;
                Seen { who: Who::Port(port), port, handshakes, sources }
            }
            Place::Source(at) => {
                let word = |field: usize| map.words()[at + field / 8].load(Relaxed);
                let first = offset_of!(Source, address);
                let who = Who::Source(address([word(first), word(first + 8)]));
                let port = map.halves()[at * 2 + offset_of!(Source, port) / 4].load(Relaxed) as u16;
                Seen { who, port, handshakes, sources: 1 }
            }
        }
    }

    /// Ends the suspicion until the next window.
    fn clear(&self, place: Place) {
        let (map, from) = self.at(place);
        map.halves()[from * 2 + offset_of!(Handshakes, watched) / 4].store(CLEARED, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 600;

    fn handshakes(syns: u64, progress: u64) -> Handshakes {
        let (base, watch_syns, watch_progress) = (0, 500, 0);
        Handshakes { since: 100, watched: 110, syns, progress, base, watch_syns, watch_progress }
    }

    #[test]
    fn who_follows_up_is_fine_and_who_does_not_floods() {
        let verdict =
            |syns, progress, now| verdict(&handshakes(syns, progress), now, WINDOW, 1_000);
        assert_eq!(verdict(5_000, 0, 120), Verdict::Unclear, "too early");
        assert_eq!(verdict(5_000, 0, 200), Verdict::Flood);
        assert_eq!(verdict(5_000, 4_400, 200), Verdict::Fine);
        assert_eq!(verdict(5_000, 2_500, 200), Verdict::Flood, "half of them is enough");
        assert_eq!(verdict(900, 0, 200), Verdict::Unclear, "too few");
        assert_eq!(verdict(5_000, 0, 2_000), Verdict::Nothing, "long ago");
        let cleared = Handshakes { watched: CLEARED, ..handshakes(5_000, 0) };
        assert_eq!(super::verdict(&cleared, 200, WINDOW, 1_000), Verdict::Nothing);
        assert_eq!(verdict(5_000, 0, 105), Verdict::Unclear, "the program's clock may be ahead");
    }

    #[test]
    fn ticks_wrap() {
        assert_eq!(since(5, u32::MAX), 6);
        assert_eq!(since(5, 6), 0);
        assert_eq!(ticks(Duration::from_secs(10)), 597);
        assert!(time(ticks(Duration::from_secs(10))) >= Duration::from_secs(10));
    }
}
