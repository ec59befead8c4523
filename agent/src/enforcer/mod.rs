//! The one owner of what this host enforces: the kernel's filter, the set of entries, and their copy
//! on disk. It runs on a thread of its own, since all of them block; others hand it closures.

mod apply;
mod describe;
mod detect;
mod local;
mod network;
mod refused;
mod tell;

pub(crate) use apply::{Apply, FeedEdit};
pub(crate) use local::{Block, Unblock};
pub(crate) use network::Network;
pub(crate) use refused::{Refused, RefusedKind};
pub(crate) use tell::service_to_proto;

use crate::config::Config;
use crate::set::{self, Change, Set};
use crate::store::{Boot, Store};
use agent_kernel::filter::{Attached, Filter, FilterConfig, Rule, RuleKey};
use agent_kernel::sys;
use detect::Allowance;
use ipnet::IpNet;
use kctl_proto::agent::v1 as pb;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use tokio::sync::{mpsc, oneshot, watch};

type Job = Box<dyn FnOnce(&mut Enforcement) + Send>;

/// The way to the enforcer's thread.
#[derive(Debug, Clone)]
pub(crate) struct Enforcer {
    jobs: mpsc::Sender<Job>,
    status: watch::Receiver<pb::HostStatus>,
}

impl Enforcer {
    /// Opens the filter and the store, puts into force what was stored, and starts the thread. It ends
    /// when the last handle is gone; the kernel goes on filtering.
    pub(crate) fn start(config: &Config) -> anyhow::Result<(Self, std::thread::JoinHandle<()>)> {
        let mut enforcement = Enforcement::open(config)?;
        let status = enforcement.status.subscribe();
        let (jobs, mut queue) = mpsc::channel::<Job>(64);
        let thread = std::thread::Builder::new().name("enforcer".to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut enforcement);
                if queue.is_empty() {
                    enforcement.publish();
                }
            }
        })?;
        Ok((Self { jobs, status }, thread))
    }

    /// Runs `job` on the thread, after what was handed in before.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Enforcement) -> R + Send + 'static,
    ) -> Result<R, Refused> {
        let ended = || Refused::new(RefusedKind::Internal, "the agent is stopping");
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |enforcement| drop(answer.send(job(enforcement))));
        self.jobs.send(job).await.map_err(|_| ended())?;
        result.await.map_err(|_| ended())
    }

    /// The host's status, as it is and as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<pb::HostStatus> {
        self.status.clone()
    }
}

/// What the thread owns.
#[derive(Debug)]
pub(crate) struct Enforcement {
    config: Config,
    boot: Boot,
    filter: Result<Filter, pb::Missing>,
    /// Of the maps, which never grow.
    memory_bytes: u64,
    set: Set,
    store: Store,
    /// Which state of which store the set is; without digest, see [`Enforcement::state`].
    held: pb::StoreState,
    /// The kernel's maps were there and the stored set was not: they stay until the controller has
    /// told the whole set.
    orphaned: bool,
    /// The maps agree with the set, as far as the last look tells.
    trusted: bool,
    /// The last save failed, and why.
    unsaved: Option<String>,
    /// Chosen interfaces: how each is filtered, or why not.
    interfaces: BTreeMap<String, Interface>,
    network: Network,
    /// What of the default guard is in force; `None` before the first look at the network.
    guarded: Option<BTreeSet<IpNet>>,
    /// Where the controller is; empty until it was resolved for the first time.
    uplinks: BTreeSet<SocketAddr>,
    /// Why the connected controller's store is not taken.
    refusal: String,
    kernel: String,
    /// Sources of events that this kernel does not allow.
    sources_missing: Vec<pb::Missing>,
    /// Network settings that were put back, for the status.
    rolled_back: VecDeque<pb::RolledBack>,
    /// How many sources detection may block.
    allowance: Allowance,
    /// Entries that detection made since the agent's start, or found from before it.
    auto_made: u64,
    /// What fires now.
    alerts: Vec<pb::AlertEvent>,
    status: watch::Sender<pb::HostStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    ifindex: u32,
    attached: Result<Attached, String>,
    /// Why it is attached so, where another way would come first.
    reason: Option<String>,
}

impl Enforcement {
    fn open(config: &Config) -> anyhow::Result<Self> {
        let boot = Boot { id: sys::boot_id(&config.proc_root)?, now_ns: sys::boottime_ns };
        let (store, stored) = Store::open(&config.state_dir, boot.clone())?;
        let filter = open_filter(config);
        let orphaned = stored.is_new && filter.as_ref().is_ok_and(|it| !it.rules().is_empty());
        let mut this = Self {
            config: config.clone(),
            boot,
            memory_bytes: filter.as_ref().map_or(0, |it| it.memory_bytes().unwrap_or(0)),
            filter,
            set: stored.set,
            store,
            held: stored.state,
            orphaned,
            trusted: true,
            unsaved: None,
            interfaces: BTreeMap::new(),
            network: Network::default(),
            guarded: None,
            uplinks: BTreeSet::new(),
            refusal: String::new(),
            kernel: sys::kernel_release()?,
            sources_missing: Vec::new(),
            rolled_back: VecDeque::new(),
            allowance: Allowance::new(config.detect.max_blocks_per_second),
            auto_made: 0,
            alerts: Vec::new(),
            status: watch::Sender::new(pb::HostStatus::default()),
        };
        if let Some(aside) = stored.set_aside {
            tracing::warn!(path = %aside.display(), "started without the stored blocklist");
        }
        if this.orphaned {
            tracing::warn!(
                "no stored blocklist; the pinned rules stay until the controller's come"
            );
        } else {
            this.converge();
        }
        this.auto_made = this.set.auto() as u64;
        this.set_detection();
        this.publish();
        Ok(this)
    }

    /// Makes the kernel's rules follow from the set, whatever they were.
    fn converge(&mut self) {
        let Ok(filter) = &mut self.filter else { return };
        let mut changes = Vec::new();
        set::diff(&filter.rules(), &self.set.rules(), &mut changes);
        // What the host needs by default is not known yet: what is pinned stays until it is.
        changes.retain(|(key, rule)| !key.guards || rule.is_some());
        let result = filter.update(&changes);
        self.trusted = result.is_ok();
        if let Err(error) = result {
            tracing::error!(%error, "the stored blocklist can't be put into force");
        }
    }

    /// What a regular look finds: drift of the maps, interfaces that came or went, entries that are
    /// over, a save that failed.
    pub(crate) fn tick(&mut self) {
        let over = self.set.over((self.boot.now_ns)());
        if !over.is_empty()
            && let Err(error) = self.make(over, None)
        {
            tracing::warn!(%error, "local entries that are over can't be removed");
        }
        if self.unsaved.is_some() {
            let changes = self.set.everything();
            self.save(&changes);
        }
        self.attach();
        self.mend();
    }

    fn mend(&mut self) {
        let Ok(filter) = &mut self.filter else { return };
        match filter.verify() {
            Ok(drift) => {
                self.trusted = true;
                if !drift.is_empty() {
                    tracing::warn!(
                        missing = drift.missing,
                        foreign = drift.foreign,
                        changed = drift.changed,
                        "the kernel maps were changed by somebody else; mended"
                    );
                }
            }
            Err(error) => {
                self.trusted = false;
                tracing::error!(%error, "the kernel maps can't be verified");
            }
        }
    }

    /// Puts changes into force, then on disk, then into memory; when the first fails, nothing changed.
    fn make(
        &mut self,
        changes: Vec<Change>,
        state: Option<pb::StoreState>,
    ) -> Result<(), agent_kernel::Error> {
        let mut staged = self.set.stage(&changes);
        // The first set that the controller tells ends the time of rules that nobody knows.
        let adopts = self.orphaned && state.is_some();
        if let Ok(filter) = &mut self.filter {
            if adopts {
                let mut wanted = self.set.rules();
                let defaults = self.guarded.iter().flatten();
                wanted.extend(defaults.map(|it| (set::guard(*it), Rule::PASS)));
                wanted.extend(staged.iter().filter_map(|(key, rule)| Some((*key, (*rule)?))));
                staged.clear();
                set::diff(&filter.rules(), &wanted, &mut staged);
            }
            // What the host needs by default stays, whoever lists it too.
            let needed = |key: &RuleKey| {
                let defaults = self.guarded.iter().flatten();
                key.guards && key.service.is_none() && defaults.clone().any(|it| *it == key.prefix)
            };
            staged.retain(|(key, rule)| rule.is_some() || !needed(key));
            filter.update(&staged)?;
        }
        self.orphaned &= !adopts;
        if let Some(state) = state {
            self.held = state;
        }
        self.save(&changes);
        self.set.commit(changes);
        if adopts {
            // What nobody guards any more goes, now that it is known.
            self.guarded = None;
            self.set_guard();
        }
        Ok(())
    }

    fn save(&mut self, changes: &[Change]) {
        self.unsaved = self.store.save(changes, &self.held).err().map(|error| error.to_string());
        if let Some(why) = &self.unsaved {
            tracing::error!(why, "the blocklist can't be saved; it is in force, and tried again");
        }
    }

    /// What the host holds. An empty digest says that the kernel's maps can't be trusted to hold it.
    pub(crate) fn state(&self) -> pb::StoreState {
        let digest = if self.trusted { self.set.digest().to_bytes().to_vec() } else { Vec::new() };
        pb::StoreState { digest, ..self.held.clone() }
    }

    /// Why entries are not enforced on every chosen interface; `None` when they are.
    pub(crate) fn not_enforced(&self) -> Option<pb::Error> {
        let message = match &self.filter {
            Err(missing) => format!("filter: {}; {}", missing.why, missing.remedy),
            Ok(_) if self.interfaces.is_empty() => {
                "filter: no interface to filter is there; name one with --interface".to_owned()
            }
            Ok(_) => self.interfaces.iter().find_map(|(name, it)| {
                let error = it.attached.as_ref().err()?;
                Some(format!("interface {name:?} is not filtered: {error}"))
            })?,
        };
        Some(pb::Error { code: "FAILED_PRECONDITION".to_owned(), message })
    }

    /// The filter, for reading its counters.
    pub(crate) fn filter(&self) -> Result<&Filter, Refused> {
        self.filter.as_ref().map_err(|missing| {
            let message = format!("filter: {}; {}", missing.why, missing.remedy);
            Refused::new(RefusedKind::Precondition, message)
        })
    }

    pub(crate) fn set(&self) -> &Set {
        &self.set
    }

    fn publish(&mut self) {
        let status = self.describe();
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    /// Ends the filter: nothing is enforced until the agent starts again.
    pub(crate) fn detach(&mut self) -> Result<Vec<String>, Refused> {
        self.filter = Err(pb::Missing {
            what: "filter".to_owned(),
            why: "it was detached".to_owned(),
            remedy: "restart the agent to filter again".to_owned(),
        });
        self.interfaces.clear();
        Ok(agent_kernel::filter::detach(&self.config.bpffs)?)
    }
}

fn open_filter(config: &Config) -> Result<Filter, pb::Missing> {
    let missing = |why: String, remedy: &str| pb::Missing {
        what: "filter".to_owned(),
        why,
        remedy: remedy.to_owned(),
    };
    if config.mode.kernel().is_none() {
        return Err(missing("it is off".to_owned(), "start the agent without --mode off"));
    }
    let wanted = FilterConfig { bpffs: config.bpffs.clone(), max_entries: config.max_entries };
    let filter = Filter::open(&wanted).map_err(|error| {
        tracing::error!(%error, remedy = error.remedy(), "this host does not filter");
        let remedy = error.remedy().unwrap_or("see the agent's log; run kctl-agent check");
        missing(error.to_string(), remedy)
    })?;
    if filter.max_entries() != config.max_entries {
        tracing::warn!(
            asked = config.max_entries,
            has = filter.max_entries(),
            "the pinned maps keep their size until kctl-agent detach"
        );
    }
    Ok(filter)
}
