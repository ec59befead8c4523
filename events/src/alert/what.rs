//! What can be too high, and from where on it is unless somebody says otherwise.

/// A value that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum What {
    /// System calls.
    Syscalls,
    /// Page faults.
    Faults,
    /// Times that a thread left its processor.
    Switches,
    /// Time in which processors are busy.
    Cpu,
    /// Memory that can't be had without swapping.
    Memory,
    /// Time in which some task waits for memory.
    MemoryPressure,
    /// Room of a file system.
    Disk,
    /// Room of the table of connections.
    Conntrack,
    /// Changes of a link's carrier.
    Link,
}

/// How many there are.
pub const COUNT: usize = 9;

/// From where on a value is too high.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// It fires from here on.
    pub at: f64,
    /// It is over only below this, which is at most the same.
    pub clear_below: f64,
}

/// Name, unit, default, whether that is of one processor, and the part of a threshold below which it is
/// over.
type Row = (What, &'static str, &'static str, f64, bool, f64);

/// In the order of the numbers. A rate is one at which the kernel's part of it takes a few percent of a
/// processor and more: what a busy host makes all day is no alert.
const TABLE: [Row; COUNT] = [
    (What::Syscalls, "syscalls", "/s", 100_000.0, true, 0.8),
    (What::Faults, "faults", "/s", 50_000.0, true, 0.8),
    (What::Switches, "switches", "/s", 20_000.0, true, 0.8),
    (What::Cpu, "cpu", "%", 95.0, false, 0.9),
    (What::Memory, "memory", "%", 95.0, false, 0.95),
    (What::MemoryPressure, "memory-pressure", "%", 20.0, false, 0.5),
    (What::Disk, "disk", "%", 90.0, false, 0.95),
    (What::Conntrack, "conntrack", "%", 80.0, false, 0.9),
    (What::Link, "link", "changes", 6.0, false, 0.5),
];

impl What {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.into_iter().map(|(what, ..)| what)
    }

    fn row(self) -> Row {
        TABLE[self as usize]
    }

    /// As configurations and events call it.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Of the value.
    pub fn unit(self) -> &'static str {
        self.row().2
    }

    /// Whether it is counted, and so comes from the counters.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Syscalls | Self::Faults | Self::Switches)
    }

    /// Whether it is a sum over a window: then nothing else has to last.
    pub fn is_of_a_window(self) -> bool {
        self == Self::Link
    }

    /// What it is on a host of so many processors.
    pub fn default_at(self, processors: u32) -> f64 {
        let (_, _, _, at, is_of_one, _) = self.row();
        if is_of_one { at * f64::from(processors) } else { at }
    }

    /// With the clearing level that follows.
    pub fn threshold(self, at: f64) -> Threshold {
        Threshold { at, clear_below: at * self.row().5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_at_its_place() {
        for (at, what) in What::all().enumerate() {
            assert_eq!(what as usize, at);
            let Threshold { at, clear_below } = what.threshold(what.default_at(2));
            assert!(0.0 < clear_below && clear_below < at, "{what:?}");
            assert!(what.unit() != "%" || at <= 100.0, "{what:?}");
        }
    }
}
