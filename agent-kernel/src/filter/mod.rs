//! The XDP filter: loading, pinning, attaching, and its tables.
//!
//! [`Filter`] is the one owner of the kernel's maps; two of them on one bpffs folder would undo each
//! other's work. Its calls block for system calls, so an async caller runs them on a blocking thread.

mod rule;

pub use rule::{Action, Count, Counters, Drift, Guard, Hit, Protocol, Rule, RuleKey, Until};

use crate::{Error, ErrorKind};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the filter keeps its pins, and how large its tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterConfig {
    /// Folder on a bpffs, made when missing: `/sys/fs/bpf/kctl`.
    pub bpffs: PathBuf,
    /// Room for rules of both families together. Maps that are pinned already keep theirs.
    pub max_entries: u32,
}

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Native where the driver has it, generic otherwise.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack, before everything else.
    Generic,
}

/// How it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attached {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl Attached {
    /// `xdp-native` or `xdp-generic`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
        }
    }
}

/// One interface that is filtered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its name when it was attached.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// How.
    pub mode: Attached,
}

/// The filter of one host.
#[derive(Debug)]
pub struct Filter {
    rules: HashMap<RuleKey, Rule>,
    guard: Guard,
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "filter", "not built in")
}

impl Filter {
    /// Loads the program and adopts what is pinned: tables with all they hold, and links, which get
    /// this program atomically. Nothing passes in between that the pinned state would drop.
    pub fn open(_config: &FilterConfig) -> Result<Self, Error> {
        Err(unsupported())
    }

    /// Filters an interface; does nothing when it is filtered already.
    ///
    /// `Busy` when somebody else's XDP program is there: it stays.
    pub fn attach(&mut self, _interface: &str, _mode: Mode) -> Result<Attached, Error> {
        Err(unsupported())
    }

    /// The interfaces that are filtered right now. One that went away is forgotten, with its pin.
    pub fn attachments(&self) -> Vec<Attachment> {
        Vec::new()
    }

    /// The rules in force.
    pub fn rules(&self) -> &HashMap<RuleKey, Rule> {
        &self.rules
    }

    /// The guard in force.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Adds, changes (`Some`) and removes (`None`) rules: everything new is in force before anything
    /// old goes. The last change of a key counts.
    ///
    /// `Full`, with nothing changed, when the tables can't hold the new rules beside the old.
    pub fn update(&mut self, _changes: &[(RuleKey, Option<Rule>)]) -> Result<(), Error> {
        Err(unsupported())
    }

    /// Replaces the guard: additions first.
    pub fn set_guard(&mut self, _guard: &Guard) -> Result<(), Error> {
        Err(unsupported())
    }

    /// Compares the kernel's maps with [`Filter::rules`] and [`Filter::guard`] and mends them.
    pub fn verify(&mut self) -> Result<Drift, Error> {
        Err(unsupported())
    }

    /// What the rules met; only those that met something.
    pub fn hits(&self) -> Result<Vec<Hit>, Error> {
        Err(unsupported())
    }

    /// Everything that was counted.
    pub fn counters(&self) -> Result<Counters, Error> {
        Err(unsupported())
    }

    /// Rules in force.
    pub fn entries(&self) -> u64 {
        self.rules.len() as u64
    }

    /// Room for rules; that of the pinned maps where they were there before.
    pub fn max_entries(&self) -> u32 {
        0
    }

    /// Kernel memory of the maps, bytes, with everything that is allocated in advance.
    pub fn memory_bytes(&self) -> u64 {
        0
    }
}

/// Takes every link, map and pin of the filter below `bpffs` away, with no agent running, and says
/// what it removed: `link eth0`, `map rules4`.
pub fn detach(_bpffs: &Path) -> Result<Vec<String>, Error> {
    Err(unsupported())
}
