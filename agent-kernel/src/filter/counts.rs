//! Reading the counters that are not about one rule.

use super::table::{Pinned, Row, object};
use super::{Action, Count, Counters, Hit, Verdicts, pins::Pins, program::Program};
use crate::Error;
use agent_records::{MONITOR_SLOT, Talker, TalkerKey, Tally, verdict};
use aya::maps::{MapData, PerCpuArray};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

pub(super) struct Counts {
    verdicts: PerCpuArray<MapData, Tally>,
    protocols: PerCpuArray<MapData, Tally>,
    connections: Row<u64>,
    talkers: Pinned,
}

impl Counts {
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            verdicts: program.take("verdicts")?,
            protocols: program.take("protocols")?,
            connections: Row::open(program, pins, "connections")?,
            talkers: Pinned::open(pins, "talkers")?,
        })
    }

    /// Everything counted; `hits` tell the sources that have rules of their own.
    pub(super) fn verdicts(&self) -> Result<Verdicts, Error> {
        let verdict = |index| sum(&self.verdicts, "verdicts", index);
        Ok(Verdicts {
            passed: verdict(verdict::PASSED)?,
            dropped: verdict(verdict::DROPPED)?,
            monitored: verdict(verdict::MONITORED)?,
            guarded: verdict(verdict::GUARDED)?,
            malformed: verdict(verdict::MALFORMED)?,
        })
    }

    pub(super) fn counters(&self, hits: &[Hit]) -> Result<Counters, Error> {
        let mut protocols = Vec::new();
        for number in 0..=u8::MAX {
            let count = sum(&self.protocols, "protocols", number.into())?;
            if count.packets > 0 {
                protocols.push((number, count));
            }
        }
        let ports = (0..=u16::MAX).zip(self.connections.values()?);
        let mut connections: Vec<(u16, u64)> = ports.filter(|(_, count)| *count > 0).collect();
        connections.sort_by_key(|(port, count)| (Reverse(*count), *port));
        let Verdicts { passed, dropped, monitored, guarded, malformed } = self.verdicts()?;
        Ok(Counters {
            passed,
            dropped,
            monitored,
            guarded,
            malformed,
            protocols,
            connections,
            sources: self.sources(hits)?,
        })
    }

    fn sources(&self, hits: &[Hit]) -> Result<Vec<(IpAddr, Count)>, Error> {
        let mut sources = HashMap::<IpAddr, Count>::new();
        let wide = self.talkers.dump::<TalkerKey, Talker>()?.into_iter();
        let wide = wide.filter(|(key, _)| key.slot & MONITOR_SLOT == 0).map(|(key, talker)| {
            (IpAddr::from(Ipv6Addr::from(key.source)).to_canonical(), count(talker.tally))
        });
        let single = hits
            .iter()
            .filter(|hit| hit.action == Action::Drop)
            .filter(|hit| hit.key.prefix.prefix_len() == hit.key.prefix.max_prefix_len())
            .map(|hit| (hit.key.prefix.addr(), Count { packets: hit.packets, bytes: hit.bytes }));
        for (address, count) in wide.chain(single) {
            let source = sources.entry(address).or_default();
            source.packets += count.packets;
            source.bytes += count.bytes;
        }
        let mut sources: Vec<_> = sources.into_iter().collect();
        sources.sort_by_key(|(address, count)| (Reverse(*count), *address));
        Ok(sources)
    }
}

fn count(tally: Tally) -> Count {
    Count { packets: tally.packets, bytes: tally.bytes }
}

fn sum(map: &PerCpuArray<MapData, Tally>, name: &str, index: u32) -> Result<Count, Error> {
    let cpus = map.get(&index, 0).map_err(|error| Error::wrapped(object(name), error))?;
    Ok(cpus.iter().fold(Count::default(), |sum, tally| Count {
        packets: sum.packets + tally.packets,
        bytes: sum.bytes + tally.bytes,
    }))
}
