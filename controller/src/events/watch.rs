//! One reader from its request to its end: first the past, then what comes. Nothing waits for it, and it
//! holds one message at a time.

use super::{
    batch::{At, Places, Source, memory_bytes},
    feed::Feed,
    history::Wanted,
    interleave::Merged,
    outgoing::Outgoing,
    past::Past,
    view::View,
};
use crate::status::Error;
use kctl_events::{Ledger, Read, Reader};
use kctl_proto::{
    agent::v1::{Event, HostEvent, host_event::State},
    controller::v1::WatchEventsResponse,
};
use prost::Message as _;
use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
    vec,
};
use tokio::time::sleep_until;
use tonic::Status;

/// Places that go on without an event are told this late.
const PLACES: Duration = Duration::from_secs(1);

/// Rounds of reading what was written while the past was read.
const MOST_ROUNDS: u32 = 8;

/// What a reader is told of the past.
pub(super) enum Told {
    Rows(Past),
    Newest(vec::IntoIter<(Source, Event)>),
    Nothing,
}

/// Where a reader is in what comes.
pub(super) struct Live {
    pub(super) feed: Feed,
    pub(super) reader: Reader<Merged>,
    /// What comes on it goes to the history first.
    pub(super) is_kept: bool,
    /// It was too slow: the end of the ring when that was seen, and the places of all hosts there.
    pub(super) lag: Option<(u64, Places)>,
}

/// One reader.
pub(crate) struct Watch {
    pub(super) view: View,
    pub(super) past: Option<Told>,
    pub(super) times: RangeInclusive<i64>,
    pub(super) rounds: u32,
    /// How far the past goes.
    pub(super) reached: Places,
    /// Hosts that a reader who stays must know about.
    pub(super) troubles: Vec<HostEvent>,
    /// `None` when the reader does not stay.
    pub(super) live: Option<Live>,
    pub(super) ledger: Arc<Ledger>,
}

impl Watch {
    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<WatchEventsResponse, Status>> {
        let message = if self.past.is_some() {
            self.next_of_past().await.map(Some)
        } else if self.live.is_some() {
            self.next_of_live().await.map(Some)
        } else {
            Ok(None)
        };
        match message {
            Ok(message) => message.map(|out| {
                let response = out.into_response();
                self.ledger.deliver(&response.events, response.filtered);
                Ok(response)
            }),
            Err(status) => {
                // An error is the last that a reader hears.
                (self.past, self.live) = (None, None);
                Some(Err(status))
            }
        }
    }

    async fn next_of_past(&mut self) -> Result<Outgoing, Status> {
        let mut out = Outgoing::default();
        let ended = match self.past.as_mut() {
            Some(Told::Rows(past)) => loop {
                match past.next().await? {
                    None => break true,
                    Some(merged) => self.view.take(&mut out, &merged, "history", &self.times),
                }
                if out.is_full() {
                    break false;
                }
            },
            Some(Told::Newest(events)) => loop {
                match events.next() {
                    None => break true,
                    Some((source, event)) => {
                        out.bytes += memory_bytes(1, event.encoded_len());
                        out.push(&source, event);
                    }
                }
                if out.is_full() {
                    break false;
                }
            },
            Some(Told::Nothing) | None => true,
        };
        if ended && !self.catches_up().await? {
            self.past = None;
            self.begin_live(&mut out);
        }
        Ok(out)
    }

    /// Reading a long past takes time, in which more is written than the ring holds. So the reader reads
    /// that too, from then on with a new place in the ring, and again as long as that gets less.
    async fn catches_up(&mut self) -> Result<bool, Status> {
        let (Some(Told::Rows(past)), Some(live)) = (self.past.as_mut(), self.live.as_mut()) else {
            return Ok(false);
        };
        if !live.is_kept || self.rounds >= MOST_ROUNDS {
            return Ok(false);
        }
        self.rounds += 1;
        let joined = live.feed.join().await.ok_or_else(stops)?;
        let Some(places) = past.catch_up().await? else { return Ok(false) };
        live.reader = joined.reader;
        self.reached.extend(later(&self.reached, places));
        Ok(true)
    }

    /// The last message of the past says where the reader is with every host.
    fn begin_live(&mut self, out: &mut Outgoing) {
        out.live = true;
        self.view.reach(&self.reached);
        let places: Vec<_> =
            self.view.places().map(|(host, at)| (Arc::clone(host), at.clone())).collect();
        places.into_iter().for_each(|(host, at)| out.reach(&host, at));
        if self.live.is_none() {
            return;
        }
        for line in std::mem::take(&mut self.troubles) {
            self.view.tell_host(out, line);
        }
        for host in self.view.registry.hosts() {
            if host.session.is_none() {
                let (state, reason) = (State::Disconnected.into(), host.not_connected());
                let line = HostEvent { name: host.name, state, reason, ..HostEvent::default() };
                self.view.tell_host(out, line);
            }
        }
    }

    async fn next_of_live(&mut self) -> Result<Outgoing, Status> {
        let mut out = Outgoing::default();
        let mut tell_at = None;
        while let Some(live) = self.live.as_mut() {
            while !out.is_full() {
                match live.reader.try_next() {
                    None => break,
                    Some(Read::Entry { entry, .. }) => {
                        self.view.take(
                            &mut out,
                            &entry.content,
                            "controller",
                            &(i64::MIN..=i64::MAX),
                        );
                    }
                    Some(Read::Lost { .. }) => {
                        let joined = live.feed.join().await.ok_or_else(stops)?;
                        live.lag = Some((joined.reader.place().seq, joined.places));
                        self.view.lag();
                    }
                }
                if let Some((_, places)) =
                    live.lag.take_if(|(end, _)| live.reader.place().seq >= *end)
                {
                    self.view.settle(&mut out, &places);
                }
            }
            if out.has_events() {
                break;
            }
            if !out.is_empty() {
                let tell_at = *tell_at.get_or_insert_with(|| Instant::now() + PLACES);
                tokio::select! {
                    goes_on = live.reader.changed() => if !goes_on { return Err(stops()) },
                    () = sleep_until(tell_at.into()) => break,
                }
            } else if !live.reader.changed().await {
                return Err(stops());
            }
        }
        Ok(out)
    }
}

fn stops() -> Status {
    Error::Stopping.into()
}

/// The places of `to` that are not before those of `from`.
pub(super) fn later(from: &Places, to: Places) -> Places {
    let is_later = |(host, at): &(Arc<str>, At)| {
        let known = from.get(host);
        known.is_none_or(|known| known.boot_id != at.boot_id || known.place.seq < at.place.seq)
    };
    to.into_iter().filter(is_later).collect()
}

/// Everything, of everybody.
pub(super) fn everything(kinds: i64) -> Wanted {
    Wanted { kinds, since_unix_ns: i64::MIN, until_unix_ns: i64::MAX, hosts: None }
}
