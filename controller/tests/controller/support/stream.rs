//! A reader of the controller's events that keeps a ledger.

use super::{Api, LIMIT};
use kctl_proto::{
    agent::v1::{
        Cursor, Event, EventFilter, EventType, HostEvent, LostEvent, event::Payload,
        host_event::State,
    },
    controller::v1::{
        HostCursor, WatchEventsRequest, WatchEventsResponse,
        events_service_client::EventsServiceClient,
    },
};
use std::collections::BTreeMap;
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// One event with who made it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) host: String,
    pub(crate) boot_id: String,
    pub(crate) event: Event,
}

/// What a reader has got.
pub(crate) struct Reader {
    messages: Streaming<WatchEventsResponse>,
    pub(crate) told: Vec<Told>,
    pub(crate) cursors: BTreeMap<String, Cursor>,
    pub(crate) filtered: u64,
    /// How many messages said `live`.
    pub(crate) live: usize,
}

pub(crate) fn follow() -> WatchEventsRequest {
    WatchEventsRequest { follow: true, ..WatchEventsRequest::default() }
}

pub(crate) fn types(types: &[EventType]) -> Option<EventFilter> {
    let types = types.iter().map(|kind| (*kind).into()).collect();
    Some(EventFilter { types, ..EventFilter::default() })
}

impl Api {
    /// Reads events; a reader that follows has got everything of the past.
    pub(crate) async fn watch(&self, request: WatchEventsRequest) -> Result<Reader, Status> {
        let mut client = EventsServiceClient::new(self.0.clone());
        let follows = request.follow;
        let messages = client.watch_events(request).await?.into_inner();
        let (told, cursors) = (Vec::new(), BTreeMap::new());
        let mut reader = Reader { messages, told, cursors, filtered: 0, live: 0 };
        if follows {
            reader.until("live", |reader| reader.live == 1).await;
        }
        Ok(reader)
    }

    /// Everything that is stored and wanted.
    pub(crate) async fn past(&self, request: WatchEventsRequest) -> Reader {
        let mut reader = self.watch(request).await.expect("reads");
        while reader.next().await {}
        assert_eq!(reader.live, 1);
        reader
    }
}

impl Reader {
    /// Takes the next message; `false` at the end.
    pub(crate) async fn next(&mut self) -> bool {
        let message = timeout(LIMIT, self.messages.message()).await.expect("in time");
        let Some(message) = message.expect("goes on") else { return false };
        for event in message.events {
            let origin = &message.origins[event.origin as usize];
            let (host, boot_id) = (origin.host.clone(), origin.boot_id.clone());
            self.told.push(Told { host, boot_id, event });
        }
        for HostCursor { host, cursor } in message.cursors {
            self.cursors.insert(host, cursor.expect("a place"));
        }
        self.filtered += message.filtered;
        self.live += usize::from(message.live);
        true
    }

    /// Reads until something is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let reads = async {
            while !wanted(self) {
                assert!(self.next().await, "{what}: ended before");
            }
        };
        if timeout(LIMIT, reads).await.is_err() {
            panic!("{what}: not in time; told {}", self.told.len());
        }
    }

    /// Reads until everything that a host made is here, filtered or lost.
    pub(crate) async fn until_produced(&mut self, host: &str, produced: u64) {
        let there = |reader: &Self| {
            reader.cursors.get(host).is_some_and(|cursor| cursor.produced >= produced)
        };
        self.until("produced", there).await;
    }

    /// Events of hosts, not of the controller.
    pub(crate) fn of_hosts(&self) -> impl Iterator<Item = &Told> {
        self.told.iter().filter(|told| told.host != "-")
    }

    /// The numbers that a host's events have.
    pub(crate) fn seqs(&self, host: &str) -> Vec<u64> {
        self.told.iter().filter(|told| told.host == host).map(|told| told.event.seq).collect()
    }

    /// What became of hosts.
    pub(crate) fn states(&self) -> Vec<(String, State)> {
        let state = |told: &Told| match &told.event.payload {
            Some(Payload::Host(host)) => Some((host.name.clone(), host.state())),
            _ => None,
        };
        self.told.iter().filter_map(state).collect()
    }

    /// The last word about a host.
    pub(crate) fn word(&self, name: &str, state: State) -> Option<&HostEvent> {
        self.told.iter().rev().find_map(|told| match &told.event.payload {
            Some(Payload::Host(host)) if host.name == name && host.state() == state => Some(host),
            _ => None,
        })
    }

    pub(crate) fn losses(&self) -> impl Iterator<Item = &LostEvent> {
        self.told.iter().filter_map(|told| match &told.event.payload {
            Some(Payload::Lost(lost)) => Some(lost),
            _ => None,
        })
    }

    /// How many were lost at a stage.
    pub(crate) fn lost(&self, stage: &str) -> u64 {
        self.losses().filter(|lost| lost.stage == stage).map(|lost| lost.count).sum()
    }

    /// Everything of hosts that this reader knows of: told, filtered and lost. The controller's own lines,
    /// which may be lost too, are none of theirs.
    pub(crate) fn ledger(&self) -> u64 {
        let of_hosts = self.losses().filter(|lost| lost.name != "-");
        let lost: u64 = of_hosts.map(|lost| lost.count).sum();
        let is_loss = |told: &&Told| matches!(told.event.payload, Some(Payload::Lost(_)));
        let events = self.of_hosts().filter(|told| !is_loss(told)).count() as u64;
        events + self.filtered + lost
    }

    /// Where it goes on.
    pub(crate) fn after(&self) -> Vec<HostCursor> {
        let cursor = |(host, cursor): (&String, &Cursor)| HostCursor {
            host: host.clone(),
            cursor: Some(cursor.clone()),
        };
        self.cursors.iter().map(cursor).collect()
    }
}
