//! Reading the counters that are not about one rule.

use super::ledger;
use super::table::{Pinned, Row, object};
use super::{Action, Count, Counters, Hit, Verdicts, pins::Pins, program::Program};
use crate::Error;
use agent_records::{MONITOR_SLOT, Talker, TalkerKey, Tally, Totals, verdict};
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

const TOTALS: &str = "totals";

pub(super) struct Counts {
    totals: PerCpuArray<MapData, Totals>,
    connections: Row<u64>,
    talkers: Pinned,
}

impl Counts {
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            totals: program.take(TOTALS)?,
            connections: Row::open(program, pins, "connections")?,
            talkers: Pinned::open(pins, "talkers")?,
        })
    }

    /// Takes over what the layout before counted; done again, it does no harm.
    pub(super) fn carry(&mut self, before: Totals) -> Result<(), Error> {
        let cpus = nr_cpus().map_err(|(file, error)| Error::io(file, error))?;
        let mut values = vec![Totals::ZERO; cpus];
        values[0] = before;
        let values = PerCpuValues::try_from(values);
        let values = values.map_err(|error| Error::io(object(TOTALS), error))?;
        let set = self.totals.set(Totals::BEFORE, values, 0);
        set.map_err(|error| Error::wrapped(object(TOTALS), error))
    }

    /// Those of all CPUs.
    fn totals(&self) -> Result<Totals, Error> {
        let mut sum = Totals::ZERO;
        for place in [Totals::NOW, Totals::BEFORE] {
            let cpus = self.totals.get(&place, 0);
            let cpus = cpus.map_err(|error| Error::wrapped(object(TOTALS), error))?;
            for cpu in cpus.iter() {
                add(&mut sum.verdicts, &cpu.verdicts);
                add(&mut sum.protocols, &cpu.protocols);
            }
        }
        Ok(sum)
    }

    /// What was decided.
    pub(super) fn verdicts(&self) -> Result<Verdicts, Error> {
        Ok(verdicts(&self.totals()?))
    }

    /// Everything counted; `hits` tell the sources that have rules of their own.
    pub(super) fn counters(&self, hits: &[Hit]) -> Result<Counters, Error> {
        let totals = self.totals()?;
        let protocols = (0..=u8::MAX).zip(totals.protocols.map(count));
        let protocols = protocols.filter(|(_, count)| count.packets > 0).collect();
        let ports = (0..=u16::MAX).zip(self.connections.values()?);
        let mut connections: Vec<(u16, u64)> = ports.filter(|(_, count)| *count > 0).collect();
        connections.sort_by_key(|(port, count)| (Reverse(*count), *port));
        let Verdicts { passed, dropped, monitored, guarded, malformed } = verdicts(&totals);
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

fn verdicts(totals: &Totals) -> Verdicts {
    let verdict = |index: usize| count(totals.verdicts[index]);
    Verdicts {
        passed: verdict(verdict::PASSED),
        dropped: verdict(verdict::DROPPED),
        monitored: verdict(verdict::MONITORED),
        guarded: verdict(verdict::GUARDED),
        malformed: verdict(verdict::MALFORMED),
    }
}

fn add(sums: &mut [Tally], more: &[Tally]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = ledger::sum(*sum, *more);
    }
}
