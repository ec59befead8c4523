//! How `perf` asks: all hosts at once, and those that come back or join meanwhile when they do. It knows
//! nothing of what they tell.

use super::super::{hosts, read::pieces_over};
use super::rounds::Rounds;
use crate::connect::{Connection, READ_TIMEOUT, Target};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use kctl_blocklist::Selection;
use kctl_proto::{Piece, agent::v1 as agent};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Hosts are not looked for more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is asked, and where answers go.
pub(super) struct Asks<'a> {
    pub(super) connection: &'a Connection,
    pub(super) target: &'a Target,
    pub(super) request: agent::WatchCountersRequest,
    pub(super) rounds: &'a RefCell<Rounds>,
}

impl Asks<'_> {
    /// Asks until every host has told all that is wanted, or can't any more.
    pub(super) async fn run(&self, selection: Option<agent::Selection>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut calls = FuturesUnordered::new();
        calls.push(self.ask(selection.clone(), self.request.clone()));
        let every = self.interval().max(LOOK_EVERY);
        let mut pace = interval_at(begun + every, every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_fleet = matches!(self.target, Target::Controller(_));
        while !calls.is_empty()
            || is_fleet && self.rounds.borrow().waits() && self.rest(begun.elapsed()).is_some()
        {
            tokio::select! {
                Some(told) = calls.next() => told?,
                _ = pace.tick(), if is_fleet => {
                    let Some(request) = self.rest(begun.elapsed()) else { continue };
                    let back = self.back(selection.clone()).await?;
                    if !back.is_empty() {
                        calls.push(self.ask(Some((&Selection::Names(back)).into()), request));
                    }
                }
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        selection: Option<agent::Selection>,
        request: agent::WatchCountersRequest,
    ) -> anyhow::Result<()> {
        let wait = self.connection.wait(READ_TIMEOUT) + self.interval();
        let hear = |host: String, piece| {
            let mut rounds = self.rounds.borrow_mut();
            match piece {
                Piece::Part(agent::WatchCountersResponse { counters }) => {
                    rounds.part(host, counters.unwrap_or_default())
                }
                Piece::Error(error) => rounds.failed(host, error),
                Piece::End => rounds.ended(&host),
            }
        };
        pieces_over(self.connection, self.target, selection, &request, wait, hear).await
    }

    /// Those that are connected and tell nothing, though they may.
    async fn back(&self, selection: Option<agent::Selection>) -> anyhow::Result<BTreeSet<String>> {
        let known = hosts::rows_over(self.connection, self.target, selection).await?;
        let connected = known.into_iter().filter(|host| host.state == "connected");
        let mut rounds = self.rounds.borrow_mut();
        Ok(connected.map(|host| host.name).filter(|name| rounds.takes_in(name)).collect())
    }

    /// What is still wanted after some time; `None` for nothing.
    fn rest(&self, elapsed: Duration) -> Option<agent::WatchCountersRequest> {
        let mut request = self.request.clone();
        if request.count > 0 {
            let passed = elapsed.as_millis() / self.interval().as_millis().max(1);
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            request.count = request.count.checked_sub(passed).filter(|left| *left > 0)?;
        }
        Some(request)
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.request.interval_ms.into())
    }
}
