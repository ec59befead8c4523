//! What `top` asks, again and again: one request of each kind at a time, all over one connection, and the
//! events of the host that is looked at over another. Answers go into the state as they come.

use super::super::{
    events::feed::{Feed, Wish, is_passing},
    hosts,
    read::{Ask, pieces_over},
    stats,
};
use super::{
    host::{Kind, Told},
    state::{EventLine, State},
};
use crate::{
    args::Global,
    connect::{Connection, Lost, Target},
    time::milliseconds,
    view::event::brief,
};
use kctl_events::view::EventView;
use kctl_proto::{
    Piece,
    agent::v1::{self as agent, selection::Hosts},
};
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, watch},
    time::{Interval, MissedTickBehavior},
};

/// How long a host is waited for beyond what it watches: one that is silent holds the others up so long.
const WAIT: Duration = Duration::from_secs(2);
/// The longest that hosts watch themselves.
const LONGEST: Duration = Duration::from_secs(5);
/// The first numbers are there soon.
const FIRST: Duration = Duration::from_millis(500);
/// So many processes, those with the most processor time.
const PROCESSES: u32 = 200;
/// So many events of the past.
const EVENTS: u64 = 100;

/// The connection that the kinds share; made again when it broke.
pub(super) struct Line<'a> {
    global: &'a Global,
    target: &'a Target,
    connection: Mutex<Option<Rc<Connection>>>,
}

impl<'a> Line<'a> {
    pub(super) fn new(global: &'a Global, target: &'a Target) -> Self {
        Self { global, target, connection: Mutex::new(None) }
    }

    pub(super) async fn connection(&self) -> anyhow::Result<Rc<Connection>> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let connection = Rc::new(self.target.connect(self.global).await?);
        *kept = Some(connection.clone());
        Ok(connection)
    }

    async fn broke(&self, connection: &Rc<Connection>) {
        let mut kept = self.connection.lock().await;
        if kept.as_ref().is_some_and(|it| Rc::ptr_eq(it, connection)) {
            *kept = None;
        }
    }
}

/// Everything that is asked.
pub(super) struct Feeds<'a> {
    pub(super) line: &'a Line<'a>,
    pub(super) selection: Option<agent::Selection>,
    pub(super) interval: Duration,
    pub(super) state: &'a RefCell<State>,
}

impl Feeds<'_> {
    /// Asks for ever.
    pub(super) async fn run(&self, focus: watch::Receiver<Option<String>>) {
        tokio::join!(
            self.hosts(),
            self.watched(Kind::System, |interval_ms| agent::GetSystemRequest { interval_ms }),
            self.watched(Kind::Links, |interval_ms| agent::ListLinkStatsRequest {
                interface: String::new(),
                interval_ms,
            }),
            self.watched(Kind::Counters, |interval_ms| agent::WatchCountersRequest {
                interval_ms,
                count: 1,
                ..agent::WatchCountersRequest::default()
            }),
            self.stats(),
            self.processes(focus.clone()),
            self.events(focus),
        );
    }

    async fn hosts(&self) {
        let mut pace = self.pace();
        loop {
            pace.tick().await;
            let asked = async {
                let connection = self.line.connection().await?;
                let selection = self.selection.clone();
                let known = hosts::rows_over(&connection, self.line.target, selection).await;
                let known = self.seen(&connection, known).await?;
                self.state.borrow_mut().hosts(known);
                Ok(())
            };
            let outcome = asked.await;
            self.settle(Kind::Hosts, outcome);
        }
    }

    /// What hosts answer after they watched themselves for an interval.
    async fn watched<A>(&self, kind: Kind, ask: impl Fn(u32) -> A)
    where
        A: Ask,
        Told: From<A::Part>,
    {
        let mut pace = self.pace();
        let mut watch = self.interval.min(FIRST);
        loop {
            pace.tick().await;
            let ask = ask(u32::try_from(watch.as_millis()).unwrap_or(u32::MAX));
            let outcome = self.round(kind, self.selection.clone(), &ask, watch).await;
            self.settle(kind, outcome);
            watch = self.interval.min(LONGEST);
        }
    }

    async fn round<A>(
        &self,
        kind: Kind,
        selection: Option<agent::Selection>,
        ask: &A,
        watch: Duration,
    ) -> anyhow::Result<()>
    where
        A: Ask,
        Told: From<A::Part>,
    {
        let connection = self.line.connection().await?;
        let hear = |host: String, piece| {
            let mut state = self.state.borrow_mut();
            match piece {
                Piece::Part(part) => state.told(&host, Told::from(part)),
                Piece::Error(error) => state.failed(&host, kind, error),
                Piece::End => state.ended(&host, kind),
            }
            Ok(())
        };
        self.state.borrow_mut().begin(kind);
        let wait = connection.wait(WAIT) + watch;
        let told = pieces_over(&connection, self.line.target, selection, ask, wait, hear).await;
        self.seen(&connection, told).await
    }

    async fn stats(&self) {
        let mut pace = self.pace();
        loop {
            pace.tick().await;
            let asked = async {
                let connection = self.line.connection().await?;
                let hear = |host: String, answer| {
                    let mut state = self.state.borrow_mut();
                    match answer {
                        Ok(stats) => {
                            state.told(&host, Told::Stats(Box::new(stats), Instant::now()));
                            state.ended(&host, Kind::Stats);
                        }
                        Err(error) => state.failed(&host, Kind::Stats, error),
                    }
                    Ok(())
                };
                let (target, selection) = (self.line.target, self.selection.clone());
                let wait = connection.wait(WAIT);
                let told = stats::answers_over(&connection, target, selection, 0, wait, hear).await;
                self.seen(&connection, told).await
            };
            let outcome = asked.await;
            self.settle(Kind::Stats, outcome);
        }
    }

    /// Of the host that is looked at.
    async fn processes(&self, mut focus: watch::Receiver<Option<String>>) {
        loop {
            let Some(host) = focus.borrow_and_update().clone() else {
                moved(&mut focus).await;
                continue;
            };
            let mut pace = self.pace();
            let mut watch = self.interval.min(FIRST);
            let asked = async {
                loop {
                    pace.tick().await;
                    let request = agent::ListProcessesRequest {
                        order: agent::ProcessOrder::Cpu.into(),
                        limit: PROCESSES,
                        interval_ms: u32::try_from(milliseconds(watch)).unwrap_or(u32::MAX),
                        without_cgroup: true,
                        ..agent::ListProcessesRequest::default()
                    };
                    let selection = self.only(&host);
                    let outcome = self.round(Kind::Processes, selection, &request, watch).await;
                    self.settle(Kind::Processes, outcome);
                    watch = self.interval.min(LONGEST);
                }
            };
            tokio::select! {
                () = moved(&mut focus) => {}
                () = asked => {}
            }
        }
    }

    /// Of the host that is looked at.
    async fn events(&self, mut focus: watch::Receiver<Option<String>>) {
        loop {
            let Some(host) = focus.borrow_and_update().clone() else {
                moved(&mut focus).await;
                continue;
            };
            tokio::select! {
                () = moved(&mut focus) => {}
                // It is told; another host, or the same again, is another try.
                why = self.follow(&host) => {
                    self.settle(Kind::Events, why);
                    moved(&mut focus).await;
                }
            }
        }
    }

    async fn follow(&self, host: &str) -> anyhow::Result<()> {
        let wish = Wish {
            selection: self.only(host),
            filter: None,
            since: None,
            until: None,
            last: Some(EVENTS),
            follow: true,
        };
        let mut feed = Feed::new(self.line.global, self.line.target, wish);
        let mut opened = feed.open().await;
        loop {
            match opened {
                Err(why) if is_passing(&why) => self.settle(Kind::Events, Err(why)),
                opened => opened?,
            }
            loop {
                match feed.next().await {
                    Ok(Some(batch)) => {
                        self.settle(Kind::Events, Ok(()));
                        let events = batch.events()?;
                        // Of a flood only what the screen can hold is made to text.
                        let skipped = events.len().saturating_sub(State::EVENTS);
                        let lines = events[skipped..].iter().map(|(origin, event)| {
                            let view = EventView::new(origin, event);
                            EventLine { kind: view.kind, text: brief(&view) }
                        });
                        self.state.borrow_mut().events(host, lines.collect());
                        feed.passed(batch);
                    }
                    Ok(None) => break,
                    Err(why) if is_passing(&why) => {
                        self.settle(Kind::Events, Err(why));
                        break;
                    }
                    Err(why) => return Err(why),
                }
            }
            opened = feed.reopen().await;
        }
    }

    /// One host of the fleet; an agent has only itself.
    fn only(&self, host: &str) -> Option<agent::Selection> {
        let names = agent::selection::Names { names: vec![host.to_owned()] };
        let fleet = matches!(self.line.target, Target::Controller(_));
        fleet.then_some(agent::Selection { hosts: Some(Hosts::Names(names)) })
    }

    fn pace(&self) -> Interval {
        let mut pace = tokio::time::interval(self.interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    }

    /// A connection that broke is not used again.
    async fn seen<T>(
        &self,
        connection: &Rc<Connection>,
        told: anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if told.as_ref().is_err_and(|why| why.is::<Lost>()) {
            self.line.broke(connection).await;
        }
        told
    }

    fn settle(&self, kind: Kind, outcome: anyhow::Result<()>) {
        let why = outcome.err().map(|why| format!("{why:#}"));
        self.state.borrow_mut().trouble(kind, why);
    }
}

/// Done when another host, or none, is looked at; never when nobody looks any more.
async fn moved(focus: &mut watch::Receiver<Option<String>>) {
    if focus.changed().await.is_err() {
        std::future::pending().await
    }
}

impl From<agent::GetSystemResponse> for Told {
    fn from(part: agent::GetSystemResponse) -> Self {
        Self::System(Box::new(part.system.unwrap_or_default()))
    }
}

impl From<agent::ListLinkStatsResponse> for Told {
    fn from(part: agent::ListLinkStatsResponse) -> Self {
        Self::Links(part.stats)
    }
}

impl From<agent::WatchCountersResponse> for Told {
    fn from(part: agent::WatchCountersResponse) -> Self {
        let syscalls = part.counters.and_then(|it| it.syscalls);
        Self::Syscalls(syscalls.map(|it| it.per_second))
    }
}

impl From<agent::ListProcessesResponse> for Told {
    fn from(part: agent::ListProcessesResponse) -> Self {
        Self::Processes(part.processes)
    }
}
