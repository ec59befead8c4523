//! One reader from its request to its end: first the past, then what comes. Nothing waits for it, and it
//! holds one message at a time.

use super::{
    batch::{Places, Source},
    feed::Feed,
    history::Wanted,
    interleave::Merged,
    outgoing::Outgoing,
    past::Past,
    view::View,
};
use kctl_events::{Read, Reader};
use kctl_proto::{
    agent::v1::{Event, HostEvent, host_event::State},
    controller::v1::WatchEventsResponse,
};
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
    /// It was too slow: the end of the ring when that was seen, and the places of all hosts there.
    pub(super) lag: Option<(u64, Places)>,
}

/// One reader.
pub(crate) struct Watch {
    pub(super) view: View,
    pub(super) past: Option<Told>,
    pub(super) times: RangeInclusive<i64>,
    /// How far the past goes.
    pub(super) reached: Places,
    /// Hosts that a reader who stays must know about.
    pub(super) troubles: Vec<HostEvent>,
    /// `None` when the reader does not stay.
    pub(super) live: Option<Live>,
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
            Ok(message) => message.map(|out| Ok(out.into_response())),
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
                    Some((source, event)) => out.push(&source, event),
                }
                if out.is_full() {
                    break false;
                }
            },
            Some(Told::Nothing) | None => true,
        };
        if ended {
            self.past = None;
            self.begin_live(&mut out);
        }
        Ok(out)
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
        let stops = || Status::unavailable("events: the controller stops; connect again");
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

/// Everything, of everybody.
pub(super) fn everything(kinds: i64) -> Wanted {
    Wanted { kinds, since_unix_ns: i64::MIN, until_unix_ns: i64::MAX, hosts: None }
}
