//! One feed: the events of all connected hosts that pass one filter, merged, in a ring that any number of
//! readers follow. Its task owns the links to the hosts and their order; it knows no reader.

use super::{
    batch::{At, Batch, Places},
    history::{History, Record},
    interleave::{Load, Merged},
    link::{Arrival, Asks, Begin, Link, Told, What, moment},
    merge::{Merge, Moment},
};
use crate::registry::{Registry, Session};
use kctl_events::{Ledger, Place, Reader, Ring};
use kctl_proto::agent::v1::{EventFilter, HostEvent, host_event::State};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::sleep_until,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::Status;

/// Events that went and wait for readers, bytes of memory: of the feed that the history keeps, and of the
/// others, of which there may be many.
const RING_BYTES: usize = 32 << 20;
const SMALL_RING_BYTES: usize = 8 << 20;
/// Events that came and wait for their turn, likewise.
const ROOM_BYTES: usize = 64 << 20;
const SMALL_ROOM_BYTES: usize = 8 << 20;
/// Messages of hosts that wait for the task.
const INBOX: usize = 256;
/// Messages that are taken in before what may go is looked at.
const AT_ONCE: usize = 64;
/// A host whose events can't be had is asked again after this, and after longer and longer.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Where a reader begins.
pub(crate) struct Joined {
    /// At the end of what went.
    pub(crate) reader: Reader<Merged>,
    /// The places of all hosts there.
    pub(crate) places: Places,
    /// Hosts that are not as they should be.
    pub(crate) troubles: Vec<HostEvent>,
}

/// Asks a feed for a place to begin.
pub(super) type Join = oneshot::Sender<Joined>;

/// A feed; it ends when the last clone is gone.
#[derive(Clone)]
pub(crate) struct Feed(pub(super) mpsc::Sender<Join>);

impl Feed {
    /// A place to begin; `None` when the controller stops.
    pub(crate) async fn join(&self) -> Option<Joined> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(sender).await.ok()?;
        receiver.await.ok()
    }
}

/// What a feed is about.
pub(super) struct Needs {
    /// For the agents; `None` means everything.
    pub(super) filter: Option<EventFilter>,
    /// Where to begin with hosts.
    pub(super) places: Places,
    /// With hosts that are not in `places`.
    pub(super) begin: Begin,
    /// Where everything goes that comes.
    pub(super) history: Option<History>,
}

/// What feeds have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) registry: Registry,
    /// The bound for order.
    pub(super) bound: Duration,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    pub(super) ledger: Arc<Ledger>,
}

/// A host that the feed follows, or would like to.
struct Follows {
    session: Arc<Session>,
    /// Its number in the merge; another one with each attempt.
    host: u64,
    link: Option<(Asks, DropGuard)>,
    open: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

struct Task {
    shared: Shared,
    needs: Needs,
    ring: Ring<Merged>,
    merge: Merge,
    follows: BTreeMap<Arc<str>, Follows>,
    names: BTreeMap<u64, Arc<str>>,
    numbers: u64,
    /// Hosts that were there before the feed: nobody needs to be told that they came.
    old: BTreeSet<Arc<str>>,
    /// What was received of each host, and what went.
    received: Places,
    went: Places,
    inbox: mpsc::Sender<Told>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// When the next host that could not be followed is tried again.
    retry_at: Option<Instant>,
}

/// Starts a feed, with a reader at its beginning.
pub(super) fn start(shared: Shared, needs: Needs) -> (Feed, Joined) {
    let (joins, queue) = mpsc::channel(16);
    let (inbox, told) = mpsc::channel(INBOX);
    let sessions = shared.registry.sessions_by_name();
    let (ring_bytes, room_bytes) = match needs.history {
        Some(_) => (RING_BYTES, ROOM_BYTES),
        None => (SMALL_RING_BYTES, SMALL_ROOM_BYTES),
    };
    let task = Task {
        ring: Ring::new(ring_bytes, Place::default()),
        merge: Merge::new(shared.bound, Instant::now()),
        follows: BTreeMap::new(),
        names: BTreeMap::new(),
        numbers: 0,
        old: sessions.into_iter().map(|(name, _)| name.into()).collect(),
        received: needs.places.clone(),
        went: needs.places.clone(),
        inbox,
        room: Arc::new(Semaphore::new(room_bytes)),
        room_bytes,
        retry_at: None,
        needs,
        shared: shared.clone(),
    };
    let joined = task.joined();
    let arrivals = shared.registry.arrivals();
    shared.tasks.spawn(task.run(queue, told, arrivals));
    (Feed(joins), joined)
}

impl Task {
    async fn run(
        mut self,
        mut joins: mpsc::Receiver<Join>,
        mut told: mpsc::Receiver<Told>,
        mut arrivals: watch::Receiver<u64>,
    ) {
        let cancel = self.shared.cancel.clone();
        self.follow_sessions();
        loop {
            let wake = self.advance();
            tokio::select! {
                () = cancel.cancelled() => return,
                join = joins.recv() => match join {
                    Some(join) => drop(join.send(self.joined())),
                    None => return,
                },
                Ok(()) = arrivals.changed() => self.follow_sessions(),
                Some(first) = told.recv() => {
                    self.told(first);
                    for _ in 1..AT_ONCE {
                        let Ok(next) = told.try_recv() else { break };
                        self.told(next);
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                    self.retry();
                }
            }
        }
    }

    fn joined(&self) -> Joined {
        let reader = self.ring.reader(self.ring.end());
        Joined { reader, places: self.went.clone(), troubles: self.merge.troubles() }
    }

    /// Lets go what may, asks whom must be asked, and says when to look again.
    fn advance(&mut self) -> Option<Instant> {
        let now = moment();
        self.release(now);
        let (questions, lines, mut wake) = self.merge.ask(now);
        for question in questions {
            let name = self.names.get(&question.host);
            let follows = name.and_then(|name| self.follows.get(name));
            if let Some((asks, _)) = follows.and_then(|follows| follows.link.as_ref()) {
                // One question is open at a time, so there is room; one that is not sent is not answered.
                let _ = asks.try_send(question.number);
            }
        }
        if !lines.is_empty() {
            lines.iter().for_each(|line| self.keep_line(line));
            self.release(now);
            wake = Some(now.at);
        }
        wake.into_iter().chain(self.retry_at).min()
    }

    fn release(&mut self, now: Moment) {
        while let Some(merged) = self.merge.release(now.at) {
            for segment in &merged.segments {
                let at = At { boot_id: Arc::clone(&segment.source.boot_id), place: segment.after };
                self.went.insert(Arc::clone(&segment.source.host), at);
            }
            // The ring counts messages: what each of them stands for, readers know by their places.
            self.ring.push(1, 1, merged.bytes, 0, merged);
        }
    }

    fn told(&mut self, Told { host, what }: Told) {
        // A link that was given up may still have said something: its successor will say it again.
        let Some(name) = self.names.get(&host).cloned() else { return };
        match what {
            What::Open => {
                if let Some(follows) = self.follows.get_mut(&name) {
                    (follows.open, follows.failures) = (true, 0);
                }
                if !self.old.remove(&name) {
                    self.tell(&name, State::Connected, "");
                }
            }
            What::Arrived(arrival) => self.arrived(host, name, *arrival),
            What::End(status) => self.ended(&name, &status),
        }
    }

    fn arrived(&mut self, host: u64, name: Arc<str>, arrival: Arrival) {
        let Arrival { batch, words, received, encoded, bytes, room } = arrival;
        self.shared.ledger.receive(&batch.events);
        let boot_id = Arc::clone(&batch.source.boot_id);
        self.received.insert(name, At { boot_id, place: batch.after });
        let record = self.needs.history.as_ref().and_then(|_| Record::of(&batch, encoded));
        let load = Load { bytes, room, ..Load::default() };
        let (lines, clock_off) = self.merge.arrived(host, batch, load, words, received);
        // Before anybody can see it: a reader who comes meanwhile finds it here or there.
        if let Some((history, record)) = self.needs.history.as_ref().zip(record) {
            history.keep(Record { clock_off, ..record });
        }
        lines.iter().for_each(|line| self.keep_line(line));
    }

    fn ended(&mut self, name: &Arc<str>, status: &Status) {
        let Some(follows) = self.follows.get_mut(name) else { return };
        let first = std::mem::take(&mut follows.open) || follows.failures == 0;
        let delay = RETRY.saturating_mul(1 << follows.failures.min(5)).min(LONGEST_RETRY);
        follows.failures += 1;
        let retry_at = Instant::now() + delay;
        (follows.link, follows.retry_at) = (None, Some(retry_at));
        self.retry_at = Some(self.retry_at.map_or(retry_at, |at| at.min(retry_at)));
        let host = follows.host;
        self.names.remove(&host);
        self.merge.leave(host);
        if first {
            tracing::debug!(host = %name, error = %status, "events: no longer told");
            self.tell(name, State::Disconnected, &format!("tells no events: {}", status.message()));
        }
    }

    /// Follows the hosts that are connected, and no others.
    fn follow_sessions(&mut self) {
        let sessions: BTreeMap<Arc<str>, Arc<Session>> = self
            .shared
            .registry
            .sessions_by_name()
            .into_iter()
            .map(|(name, session)| (name.into(), session))
            .collect();
        let is_same = |name: &Arc<str>, follows: &Follows| {
            sessions.get(name).is_some_and(|session| session.number == follows.session.number)
        };
        let gone: Vec<_> = self
            .follows
            .iter()
            .filter(|(name, follows)| !is_same(name, follows))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in gone {
            if let Some(follows) = self.follows.remove(&name) {
                self.names.remove(&follows.host);
                self.merge.leave(follows.host);
                if follows.open {
                    self.tell(&name, State::Disconnected, "");
                }
            }
            self.old.remove(&name);
        }
        for (name, session) in sessions {
            if !self.follows.contains_key(&name) {
                let follows = Follows {
                    session,
                    host: 0,
                    link: None,
                    open: false,
                    failures: 0,
                    retry_at: None,
                };
                self.follows.insert(Arc::clone(&name), follows);
                self.open(&name);
            }
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        let is_due = |follows: &Follows| follows.retry_at.is_some_and(|at| at <= now);
        let due = self.follows.iter().filter(|(_, follows)| is_due(follows));
        let due: Vec<_> = due.map(|(name, _)| Arc::clone(name)).collect();
        for name in due {
            self.open(&name);
        }
        self.retry_at = self.follows.values().filter_map(|follows| follows.retry_at).min();
    }

    fn open(&mut self, name: &Arc<str>) {
        self.numbers += 1;
        let host = self.numbers;
        let begin = match self.received.get(name) {
            Some(at) => Begin::After(at.cursor()),
            None => self.needs.begin.clone(),
        };
        let Some(follows) = self.follows.get_mut(name) else { return };
        let link = Link {
            host,
            name: Arc::clone(name),
            channel: follows.session.channel.clone(),
            filter: self.needs.filter.clone(),
            begin,
            is_kept: self.needs.history.is_some(),
            inbox: self.inbox.clone(),
            room: Arc::clone(&self.room),
            room_bytes: self.room_bytes,
        };
        let (running, asks) = link.start();
        let cancel = self.shared.cancel.child_token();
        let stopped = cancel.clone();
        self.shared
            .tasks
            .spawn(async move { stopped.run_until_cancelled(Box::pin(running)).await });
        (follows.host, follows.retry_at) = (host, None);
        follows.link = Some((asks, cancel.drop_guard()));
        self.names.insert(host, Arc::clone(name));
        self.merge.join(host, Arc::clone(name), Instant::now());
    }

    fn tell(&mut self, name: &str, state: State, reason: &str) {
        let line = self.merge.tell(name, state, reason, moment());
        self.keep_line(&line);
    }

    fn keep_line(&self, line: &Batch) {
        if let Some(history) = &self.needs.history {
            Record::of_line(line).into_iter().for_each(|record| history.keep(record));
        }
    }
}
