//! The filter: loading, pinning, attaching, and its tables.
//!
//! [`Filter`] is the one owner of the kernel's maps; two of them on one bpffs folder would undo each
//! other's work. Its calls block for system calls, so an async caller runs them on a blocking thread.

pub(crate) mod bpf;
mod counts;
mod detect;
mod interface;
mod ledger;
mod link;
mod lookup;
mod mapped;
mod migrate;
mod pins;
mod program;
mod record;
mod rule;
mod rules;
mod services;
mod slots;
mod table;
mod tell;
mod uplinks;

pub use detect::{Detection, Finding, FloodLimits, Found, Limit};
pub use interface::Interface;
pub use rule::{
    Action, Count, Counters, Drift, Hit, Protocol, Rule, RuleKey, Service, Until, Verdicts,
};
pub use tell::{CYCLE, Sighted, Telling};

use crate::Error;
pub(crate) use bpf::fdinfo;
use counts::Counts;
use detect::Detector;
use link::Links;
use mapped::wait_for_programs;
use migrate::Old;
pub(crate) use pins::{Pin, Pins};
pub use program::Hook;
use program::Program;
pub(crate) use program::{LOAD_ATTEMPTS, interrupted};
use rules::Rules;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tell::Teller;
use uplinks::Uplinks;

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
    /// Native where the driver has it, generic otherwise, and tcx where XDP can't be had.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack, before everything else.
    Generic,
    /// Where the stack takes packets in, beside others' programs.
    Tcx,
}

/// How it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attached {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
    /// Where the stack takes packets in.
    Tcx,
}

impl Attached {
    /// `xdp-native`, `xdp-generic` or `tcx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
            Self::Tcx => "tcx",
        }
    }

    fn is_xdp(self) -> bool {
        self != Self::Tcx
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
    /// Why not as was asked for, or why at tcx where that is the last choice.
    pub reason: Option<String>,
}

/// The filter of one host.
pub struct Filter {
    pins: Pins,
    program: Program,
    links: Links,
    rules: Rules,
    uplinks: Uplinks,
    counts: Counts,
    teller: Teller,
    detector: Detector,
    /// Told to make room, and not taken yet.
    untaken: Vec<Telling>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("links", &self.links)
            .field("entries", &self.entries())
            .finish_non_exhaustive()
    }
}

impl Filter {
    /// Loads the program and adopts what is pinned: tables with all they hold, and links, which get
    /// this program atomically. Nothing passes in between that the pinned state would drop.
    pub fn open(config: &FilterConfig) -> Result<Self, Error> {
        let pins = Pins::open(&config.bpffs)?;
        let old = Old::find(&pins);
        let mut max_entries = config.max_entries;
        if let Some(old) = &old {
            max_entries = old.max_entries()?.unwrap_or(max_entries);
            old.share(&pins)?;
        }
        let mut program = Program::load(max_entries, &pins)?;
        let carried = old.as_ref().map(Old::carried).transpose()?.unwrap_or_default();
        let rules = Rules::open(&mut program, &pins, carried)?;
        let uplinks = Uplinks::open(&mut program, &pins)?;
        let mut counts = Counts::open(&mut program, &pins)?;
        let teller = Teller::open(&mut program, &pins)?;
        let detector = Detector::open(&mut program, &pins)?;
        if let Some(old) = old {
            link::adopt(&mut program, &pins, old.pins())?;
            // A run of the old program that began before that is over then.
            wait_for_programs();
            counts.carry(old.totals()?)?;
            old.end(&pins)?;
        }
        link::adopt(&mut program, &pins, &pins)?;
        let links = Links::new(pins.clone());
        let untaken = Vec::new();
        Ok(Self { pins, program, links, rules, uplinks, counts, teller, detector, untaken })
    }

    /// Filters an interface of this thread's network namespace; does nothing when it is filtered
    /// already.
    ///
    /// One that is filtered in another way than asked for gets the new program before it loses the old.
    /// Where what is asked for can't be had, it stays filtered as it is; [`Attachment::reason`] says why.
    ///
    /// `Busy` when somebody else's XDP program is there, and XDP alone was asked for: it stays.
    /// `Unsupported` on a kernel without tcx, and for XDP where packets have no Ethernet header.
    pub fn attach(&mut self, interface: &str, mode: Mode) -> Result<Attached, Error> {
        self.links.attach(&mut self.program, interface, mode)
    }

    /// The interfaces that are filtered right now. One that went away is forgotten, with its pin.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        self.links.attachments(&self.program)
    }

    /// The kernel's id of a hook's program, which is loaded if no interface needed it yet.
    pub fn program_id(&mut self, hook: Hook) -> Result<u32, Error> {
        self.program.ready(hook, &self.pins)?;
        self.program.id(hook).map(|id| id.expect("it is loaded"))
    }

    /// The rules in force, expired ones too until they are removed. It makes a list of them.
    pub fn rules(&self) -> HashMap<RuleKey, Rule> {
        self.rules.rules()
    }

    /// One of them.
    pub fn rule(&self, key: &RuleKey) -> Option<Rule> {
        self.rules.rule(key)
    }

    /// Those of them that let pass.
    pub fn passing(&self) -> HashMap<RuleKey, Rule> {
        self.rules.passing()
    }

    /// The ways to controllers that always pass.
    pub fn uplinks(&self) -> &BTreeSet<SocketAddr> {
        self.uplinks.all()
    }

    /// Takes note of interfaces that came, went or got another index, for the rules that name them. Of
    /// this thread's network namespace.
    pub fn see_interfaces(&mut self) -> Result<(), Error> {
        self.rules.see_interfaces()
    }

    /// Adds, changes (`Some`) and removes (`None`) rules: everything new is in force before anything
    /// old goes. The last change of a key counts.
    ///
    /// `Full`, with nothing changed, when the tables can't hold the new rules beside the old.
    /// `Invalid`, with nothing changed, for port 0, a name that no interface can have, or a rule that
    /// neither drops nor monitors.
    pub fn update(&mut self, changes: &[(RuleKey, Option<Rule>)]) -> Result<(), Error> {
        let rules = changes.iter().filter(|(_, rule)| rule.is_some()).count();
        if !self.rules.has_room(rules) {
            self.untaken.extend(self.teller.make_room(&mut self.rules)?);
        }
        self.rules.update(changes)
    }

    /// A descriptor that is readable when a first packet waits to be told, for [`Sighted`]. It stays good
    /// when the filter goes, and says nothing more then.
    pub fn ring_fd(&self) -> Result<OwnedFd, Error> {
        self.teller.ring_fd()
    }

    /// The first packet of each source and rule that waits in the ring. To be called whenever
    /// [`Filter::ring_fd`] is readable.
    ///
    /// What is returned counts as told, beyond the end of this process.
    pub fn tell(&mut self) -> Result<Vec<Telling>, Error> {
        let mut told = std::mem::take(&mut self.untaken);
        told.extend(self.teller.tell(&mut self.rules)?);
        Ok(told)
    }

    /// What [`Filter::tell`] tells, and for each source and rule what was counted since its last
    /// telling. To be called each [`CYCLE`]; it costs next to nothing where nothing was counted.
    ///
    /// Beyond 32 sources of a rule and cycle it tells one sum without a source.
    pub fn summarize(&mut self) -> Result<Vec<Telling>, Error> {
        let mut told = std::mem::take(&mut self.untaken);
        told.extend(self.teller.summarize(&mut self.rules, true)?);
        Ok(told)
    }

    /// How often the ring had no room for a first packet, since the maps were made. No packet is lost by
    /// that: the next sum has it, without its details.
    pub fn unsighted(&self) -> Result<u64, Error> {
        self.teller.lost()
    }

    /// Looks for this from now on; at first it goes on with what the pinned maps say.
    ///
    /// `Invalid`, with nothing changed, for what is out of its range.
    pub fn set_detection(&mut self, detection: &Detection) -> Result<(), Error> {
        self.detector.set(detection)
    }

    /// What is looked for.
    pub fn detection(&self) -> &Detection {
        self.detector.detection()
    }

    /// A descriptor that is readable when something was found, as [`Filter::ring_fd`] is for packets.
    pub fn alarm_fd(&self) -> Result<OwnedFd, Error> {
        self.detector.ring_fd()
    }

    /// What was found: whatever waits in the ring, and with `floods`, to be asked for each [`CYCLE`], what
    /// is flooded. It costs next to nothing where nothing is suspect.
    pub fn found(&mut self, floods: bool) -> Vec<Finding> {
        self.detector.found(floods)
    }

    /// How many findings had no room in the ring since the last call.
    pub fn unalarmed(&mut self) -> Result<u64, Error> {
        self.detector.lost()
    }

    /// Replaces the ways to controllers (source address and source port of TCP): additions first.
    pub fn set_uplinks(&mut self, uplinks: &BTreeSet<SocketAddr>) -> Result<(), Error> {
        self.uplinks.set(uplinks)
    }

    /// Compares the kernel's maps with [`Filter::rules`] and [`Filter::uplinks`] and mends them.
    pub fn verify(&mut self) -> Result<Drift, Error> {
        let uplinks = self.uplinks.verify()?;
        let rules = self.rules.verify()?;
        Ok(Drift {
            missing: uplinks.missing + rules.missing,
            foreign: uplinks.foreign + rules.foreign,
            changed: uplinks.changed + rules.changed,
        })
    }

    /// What the rules met; only those that met something.
    pub fn hits(&self) -> Result<Vec<Hit>, Error> {
        self.rules.hits()
    }

    /// What was decided, without looking at the rules.
    pub fn verdicts(&self) -> Result<Verdicts, Error> {
        self.counts.verdicts()
    }

    /// Everything that was counted.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.counts.counters(&self.rules.hits()?)
    }

    /// Rules in force that drop or monitor.
    pub fn entries(&self) -> u64 {
        self.rules.len() as u64 - self.rules.guards()
    }

    /// Rules in force that let pass.
    pub fn guards(&self) -> u64 {
        self.rules.guards()
    }

    /// Room for rules of both families together; that of the pinned maps where they were there
    /// before. The rules with ports of one prefix and protocol take one entry more, and one of several ports
    /// takes up to 30.
    pub fn max_entries(&self) -> u32 {
        self.rules.max_entries()
    }

    /// Kernel memory of the maps, bytes, with everything that is allocated in advance.
    pub fn memory_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for pin in self.pins.list()? {
            if let Pin::Map(_) = pin {
                bytes += table::memory_bytes(&self.pins, &pin)?;
            }
        }
        Ok(bytes)
    }
}

/// The folder below `bpffs` for pins of this layout, made when missing.
pub(crate) fn pin_folder(bpffs: &Path) -> Result<PathBuf, Error> {
    Ok(Pins::open(bpffs)?.folder().to_owned())
}

/// Whether this kernel has tcx, which came with Linux 6.6.
pub fn has_tcx() -> bool {
    // The loopback is always the first; whoever may not ask, may not attach either.
    let asked = bpf::programs_at_tcx(1);
    !asked.is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidInput)
}

/// Takes every link, map and pin of the filter below `bpffs` away, and those of the counters beside it,
/// with no agent running, and says what it removed: `link eth0`, `map records`.
pub fn detach(bpffs: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for pins in Pins::existing(bpffs)? {
        for pin in pins.list()? {
            match &pin {
                Pin::Link(hook, interface) => {
                    link::detach(&pins, &pin)?;
                    let kind = if *hook == Hook::Xdp { "" } else { "tcx " };
                    removed.push(format!("{kind}link {interface}"));
                }
                Pin::Counting(program, _) => {
                    pins.remove(&pin)?;
                    removed.push(format!("counting program {program}"));
                }
                Pin::Map(name) => {
                    pins.remove(&pin)?;
                    removed.push(format!("map {name}"));
                }
            }
        }
        pins.remove_folder()?;
    }
    // Whatever else is in it, or mounted on it, is not ours.
    let _ = std::fs::remove_dir(bpffs);
    Ok(removed)
}
