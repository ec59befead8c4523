//! Names of system calls. It must not know who made them.

use agent_records::counters::CALLS;
use std::fmt;
use syscalls::{x86, x86_64};

/// A table of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Abi {
    /// That of 64-bit programs.
    X86_64,
    /// That of 32-bit programs, and of `int 0x80` in any.
    Ia32,
}

impl Abi {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Ia32 => "ia32",
        }
    }
}

/// A system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// The table.
    pub abi: Abi,
    /// The place in it.
    pub number: u16,
}

impl Call {
    /// Its name; `None` for one that is newer than this program.
    pub fn name(self) -> Option<&'static str> {
        let number = usize::from(self.number);
        match self.abi {
            Abi::X86_64 => x86_64::Sysno::new(number).map(|call| call.name()),
            Abi::Ia32 => x86::Sysno::new(number).map(|call| call.name()),
        }
    }

    /// Those that have this name, in both tables.
    pub fn named(name: &str) -> impl Iterator<Item = Self> {
        Self::all().filter(move |call| call.name() == Some(name))
    }

    /// Every number that is counted by itself.
    pub fn all() -> impl Iterator<Item = Self> {
        let last = u16::try_from(CALLS).unwrap_or(u16::MAX);
        [Abi::X86_64, Abi::Ia32]
            .into_iter()
            .flat_map(move |abi| (0..last).map(move |number| Self { abi, number }))
    }
}

/// Its name, or `syscall_NUMBER`.
impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "syscall_{}", self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_have_names() {
        let name = |abi, number| Call { abi, number }.name();
        assert_eq!(name(Abi::X86_64, 0), Some("read"));
        assert_eq!(name(Abi::X86_64, 110), Some("getppid"));
        assert_eq!(name(Abi::Ia32, 64), Some("getppid"));
        assert_eq!(name(Abi::Ia32, 20), Some("getpid"));
        assert_eq!(name(Abi::X86_64, 511), None);
        assert_eq!(Call::named("openat").count(), 2);
        assert_eq!(Call::named("no_such_call").count(), 0);
    }
}
