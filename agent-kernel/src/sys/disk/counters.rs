//! What a block device did, and how fast (the kernel's admin-guide/iostats.rst and block/stat.rst).

use super::SECTOR_BYTES;
use crate::error::{Error, named};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// One kind of operation since the device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations {
    /// Finished ones.
    pub count: u64,
    /// Requests that went along with another one.
    pub merged: u64,
    /// What they moved.
    pub bytes: u64,
    /// All their waits together, milliseconds.
    pub time_ms: u64,
}

/// What a device did since it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Reads.
    pub reads: Operations,
    /// Writes.
    pub writes: Operations,
    /// Discards; since Linux 4.18.
    pub discards: Option<Operations>,
    /// Flushes and their time in milliseconds; since Linux 5.5, and for whole disks alone.
    pub flushes: Option<(u64, u64)>,
    /// Operations that are not finished.
    pub in_flight: u64,
    /// Time with something in flight, milliseconds.
    pub io_time_ms: u64,
    /// The same, times the number in flight.
    pub weighted_time_ms: u64,
}

impl Counters {
    /// From the text of `stat`: 11, 15 or 17 numbers.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        Self::of(stat.split_ascii_whitespace())
    }

    fn of<'a>(words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let (mut numbers, mut count) = ([0; 17], 0);
        for (number, word) in numbers.iter_mut().zip(words) {
            *number = word.parse().ok()?;
            count += 1;
        }
        let numbers = &numbers[..count];
        let operations = |at: usize| {
            let numbers = numbers.get(at..at + 4)?;
            Some(Operations {
                count: numbers[0],
                merged: numbers[1],
                bytes: numbers[2].saturating_mul(SECTOR_BYTES),
                time_ms: numbers[3],
            })
        };
        let at = |at: usize| numbers.get(at).copied();
        Some(Self {
            reads: operations(0)?,
            writes: operations(4)?,
            in_flight: at(8)?,
            io_time_ms: at(9)?,
            weighted_time_ms: at(10)?,
            discards: operations(11),
            flushes: at(15).zip(at(16)),
        })
    }

    /// How fast it was since an earlier reading, as iostat(1) defines it.
    fn since(&self, before: &Self, elapsed: Duration) -> DiskRates {
        // A device that came back under the same name counts from 0 again.
        let grew = |value: fn(&Self) -> u64| value(self).saturating_sub(value(before));
        #[expect(clippy::cast_precision_loss, reason = "an interval's worth is far below 2^53")]
        let per = |amount: u64, of: f64| amount as f64 / of;
        let seconds = elapsed.as_secs_f64();
        let a_second = |value: fn(&Self) -> u64| per(grew(value), seconds);
        let wait = |time: u64, count: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a count of one interval")]
            (count > 0).then(|| per(time, count as f64))
        };
        let (reads, writes) = (grew(|it| it.reads.count), grew(|it| it.writes.count));
        DiskRates {
            reads_per_second: a_second(|it| it.reads.count),
            writes_per_second: a_second(|it| it.writes.count),
            read_bytes_per_second: a_second(|it| it.reads.bytes),
            write_bytes_per_second: a_second(|it| it.writes.bytes),
            read_wait_ms: wait(grew(|it| it.reads.time_ms), reads),
            write_wait_ms: wait(grew(|it| it.writes.time_ms), writes),
            queue_length: a_second(|it| it.weighted_time_ms) / 1e3,
            // The kernel counts in ticks: the last one may lie beyond the interval.
            utilisation_percent: (a_second(|it| it.io_time_ms) / 10.0).min(100.0),
        }
    }
}

/// How fast a device was in an interval, as in iostat(1) -x.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DiskRates {
    /// Finished reads a second.
    pub reads_per_second: f64,
    /// Finished writes a second.
    pub writes_per_second: f64,
    /// Bytes read a second.
    pub read_bytes_per_second: f64,
    /// Bytes written a second.
    pub write_bytes_per_second: f64,
    /// Mean wait of a read, with its time in the queue; `None` without reads.
    pub read_wait_ms: Option<f64>,
    /// Mean wait of a write, with its time in the queue; `None` without writes.
    pub write_wait_ms: Option<f64>,
    /// Mean number of operations in flight.
    pub queue_length: f64,
    /// Share of the time with something in flight, percent.
    pub utilisation_percent: f64,
}

/// What every device did up to a moment.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Instant,
    counters: HashMap<(u32, u32), Counters>,
}

/// Reads the counters of every block device, from `diskstats` below a procfs mount.
pub fn sample(root: &Path) -> Result<Sample, Error> {
    let path = root.join("diskstats");
    let failed = |error| Error::io(named("file", path.display()), error);
    let at = Instant::now();
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    // A line of another form is another device's.
    Ok(Sample { at, counters: text.lines().filter_map(line).collect() })
}

/// `254 0 vda 10 1 20 …`
fn line(line: &str) -> Option<((u32, u32), Counters)> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next()?;
    Some(((major, minor), Counters::of(words)?))
}

impl Sample {
    /// How fast a device was between two readings; `None` for one that was not there in both.
    pub fn rates(&self, before: &Self, major: u32, minor: u32) -> Option<DiskRates> {
        let now = self.counters.get(&(major, minor))?;
        let then = before.counters.get(&(major, minor))?;
        let elapsed = self.at.checked_duration_since(before.at).filter(|it| !it.is_zero())?;
        Some(now.since(then, elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_old_and_new_are_read() {
        let operations =
            |count, merged, bytes, time_ms| Operations { count, merged, bytes, time_ms };
        let old = Counters::parse(" 10 1 20 30 40 2 50 60 7 80 90\n").expect("counters");
        let expected = Counters {
            reads: operations(10, 1, 20 * 512, 30),
            writes: operations(40, 2, 50 * 512, 60),
            discards: None,
            flushes: None,
            in_flight: 7,
            io_time_ms: 80,
            weighted_time_ms: 90,
        };
        assert_eq!(old, expected);
        let new = "10 1 20 30 40 2 50 60 7 80 90 11 3 12 13 14 15\n";
        let discards = Some(operations(11, 3, 12 * 512, 13));
        let expected = Counters { discards, flushes: Some((14, 15)), ..expected };
        assert_eq!(Counters::parse(new), Some(expected));
        let parsed = line(" 254       3 vda3 10 1 20 30 40 2 50 60 7 80 90");
        assert_eq!(parsed, Some(((254, 3), old)));
        assert_eq!(line("254 3 vda3"), None);
        for bad in ["", "1 2 3", "1 2 3 4 5 6 7 8 9 10 x"] {
            assert_eq!(Counters::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates_are_those_of_iostat() {
        let before = Counters::parse("10 0 100 30 40 0 50 60 0 80 90").expect("counters");
        let after = Counters::parse("30 0 300 70 40 0 50 60 0 1080 1090").expect("counters");
        let rates = after.since(&before, Duration::from_secs(2));
        let expected = DiskRates {
            reads_per_second: 10.0,
            writes_per_second: 0.0,
            read_bytes_per_second: 51_200.0,
            write_bytes_per_second: 0.0,
            read_wait_ms: Some(2.0),
            write_wait_ms: None,
            queue_length: 0.5,
            utilisation_percent: 50.0,
        };
        assert_eq!(rates, expected);
        assert_eq!(before.since(&after, Duration::from_secs(1)), DiskRates::default());
    }
}
