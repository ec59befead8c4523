//! Where events come from: the fleet or one agent, from which place on, and the way back after the
//! connection was lost. It shows nothing.

use crate::{
    args::Global,
    connect::{Away, Connection, Lost, READ_TIMEOUT, Target},
    time::now_unix_ns,
};
use anyhow::anyhow;
use kctl_proto::{
    agent::v1::{
        self as agent, Event, EventFilter, HostEvent, Origin, Selection, Subscribe, event::Payload,
        events_service_client::EventsServiceClient as AgentClient, host_event::State, subscribe,
        watch_events_request::Message,
    },
    controller::v1::{
        self as controller, HostCursor, events_service_client::EventsServiceClient as FleetClient,
    },
};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

/// The first wait before another attempt, and the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// What is asked for; times in nanoseconds since 1970.
pub(in crate::cmd) struct Wish {
    pub(in crate::cmd) selection: Option<Selection>,
    pub(in crate::cmd) filter: Option<EventFilter>,
    pub(in crate::cmd) since: Option<i64>,
    pub(in crate::cmd) until: Option<i64>,
    pub(in crate::cmd) last: Option<u64>,
    pub(in crate::cmd) follow: bool,
}

/// The stream of events, across connections.
pub(in crate::cmd) struct Feed<'a> {
    global: &'a Global,
    target: &'a Target,
    wish: Wish,
    stream: Option<Stream>,
    /// Up to where everything was shown, by host; an agent's own is under no name.
    places: BTreeMap<String, agent::Cursor>,
    backoff: Duration,
    /// Who kctl is in lines of its own: this run of it, and how many there were.
    run: Origin,
    remarks: u64,
}

struct Stream {
    connection: Connection,
    messages: Messages,
}

enum Messages {
    Fleet(Streaming<controller::WatchEventsResponse>),
    Agent(Streaming<agent::WatchEventsResponse>),
}

/// Events that came together.
pub(in crate::cmd) struct Batch {
    origins: Vec<Origin>,
    events: Vec<Event>,
    places: Vec<(String, agent::Cursor)>,
}

impl Batch {
    /// Each event with who made it.
    pub(in crate::cmd) fn events(&self) -> anyhow::Result<Vec<(&Origin, &Event)>> {
        let origin = |event: &Event| self.origins.get(usize::try_from(event.origin).ok()?);
        let pairs: Option<_> = self.events.iter().map(|it| Some((origin(it)?, it))).collect();
        pairs.ok_or_else(|| {
            anyhow!("an event came without its host; is the other end another version?")
        })
    }
}

/// Whether trying again may help: the other end is away, and did not refuse us.
pub(in crate::cmd) fn is_passing(why: &anyhow::Error) -> bool {
    why.is::<Lost>() || why.is::<Away>()
}

impl<'a> Feed<'a> {
    pub(in crate::cmd) fn new(global: &'a Global, target: &'a Target, wish: Wish) -> Self {
        let random = || RandomState::new().hash_one(std::process::id());
        let run = format!("{:016x}{:016x}", random(), random());
        let run = Origin { host: "-".to_owned(), boot_id: run };
        let (places, backoff) = (BTreeMap::new(), BACKOFF[0]);
        Self { global, target, wish, stream: None, places, backoff, run, remarks: 0 }
    }

    /// Connects and asks, from the place on where everything was shown.
    pub(in crate::cmd) async fn open(&mut self) -> anyhow::Result<()> {
        self.stream = None;
        let connection = self.target.connect(self.global).await?;
        let wait = connection.wait(READ_TIMEOUT);
        let channel = connection.channel.clone();
        let messages = match self.target {
            Target::Controller(_) => {
                let mut client = FleetClient::new(channel)
                    .max_decoding_message_size(kctl_rpc::MAX_MESSAGE_BYTES);
                let call = client.watch_events(self.of_fleet());
                Messages::Fleet(connection.stream(wait, call).await?)
            }
            Target::Agent(_) => {
                let message = Some(Message::Subscribe(self.of_agent()));
                let subscribe = tokio_stream::once(agent::WatchEventsRequest { message });
                // An end of our side would be taken for a farewell.
                let requests = subscribe.chain(tokio_stream::pending());
                let mut client = AgentClient::new(channel)
                    .max_decoding_message_size(kctl_rpc::MAX_MESSAGE_BYTES);
                let call = client.watch_events(requests);
                Messages::Agent(connection.stream(wait, call).await?)
            }
        };
        self.stream = Some(Stream { connection, messages });
        Ok(())
    }

    /// Connects again, as often as it takes, unless we are refused.
    pub(in crate::cmd) async fn reopen(&mut self) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(self.pause()).await;
            match self.open().await {
                Err(why) if is_passing(&why) => {}
                result => return result,
            }
        }
    }

    /// Half of the wait is by chance, so that not everybody comes back at once.
    fn pause(&mut self) -> Duration {
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF[1]);
        let chance = RandomState::new().hash_one(self.remarks) % 1_000;
        wait.mul_f64(0.5 + f64::from(u32::try_from(chance).unwrap_or_default()) / 2_000.0)
    }

    /// What comes next, `None` at the end. Cancel safe.
    pub(in crate::cmd) async fn next(&mut self) -> anyhow::Result<Option<Batch>> {
        let Some(Stream { connection, messages }) = &mut self.stream else { return Ok(None) };
        // A history is told at once; who follows waits for what happens.
        let limit = (!self.wish.follow).then(|| connection.wait(READ_TIMEOUT));
        let batch = match messages {
            Messages::Fleet(stream) => connection.next_of(limit, stream).await?.map(Batch::from),
            Messages::Agent(stream) => connection.next_of(limit, stream).await?.map(Batch::from),
        };
        if batch.is_some() {
            self.backoff = BACKOFF[0];
        }
        Ok(batch)
    }

    /// Everything of a batch was shown.
    pub(in crate::cmd) fn passed(&mut self, batch: Batch) {
        self.places.extend(batch.places);
    }

    /// Whether an event is in the time that was asked for; an agent knows no end.
    pub(super) fn wants(&self, event: &Event) -> bool {
        let about_stream = matches!(event.payload, Some(Payload::Lost(_) | Payload::Host(_)));
        about_stream || self.wish.until.is_none_or(|until| event.time_unix_ns <= until)
    }

    /// A line of kctl's own about its connection.
    pub(super) fn told(&mut self, connected: bool, why: &str) -> (&Origin, Event) {
        self.remarks += 1;
        let state = if connected { State::Connected } else { State::Disconnected };
        let host = HostEvent {
            name: self.run.host.clone(),
            state: state.into(),
            reason: why.to_owned(),
            ..HostEvent::default()
        };
        let payload = Some(Payload::Host(host));
        let event =
            Event { time_unix_ns: now_unix_ns(), seq: self.remarks, payload, ..Event::default() };
        (&self.run, event)
    }

    fn of_fleet(&self) -> controller::WatchEventsRequest {
        let Wish { selection, filter, since, until, last, follow } = &self.wish;
        let mut request = controller::WatchEventsRequest {
            selection: selection.clone(),
            filter: filter.clone(),
            follow: *follow,
            ..controller::WatchEventsRequest::default()
        };
        if self.places.is_empty() {
            (request.since_unix_ns, request.until_unix_ns, request.last) = (*since, *until, *last);
        } else {
            let places = self.places.iter();
            let cursor = |(host, cursor): (&String, &agent::Cursor)| HostCursor {
                host: host.clone(),
                cursor: Some(cursor.clone()),
            };
            request.after = places.map(cursor).collect();
        }
        request
    }

    fn of_agent(&self) -> Subscribe {
        let Wish { filter, since, until, last, follow, .. } = &self.wish;
        let start = match self.places.get("") {
            Some(cursor) => Some(subscribe::Start::After(cursor.clone())),
            None => since
                .map(subscribe::Start::SinceUnixNs)
                .or(last.map(subscribe::Start::Last))
                // Everything that it still holds.
                .or(until.map(|_| subscribe::Start::SinceUnixNs(1))),
        };
        Subscribe { filter: filter.clone(), start, follow: *follow }
    }
}

impl From<controller::WatchEventsResponse> for Batch {
    fn from(message: controller::WatchEventsResponse) -> Self {
        let place = |it: HostCursor| Some((it.host, it.cursor?));
        Self {
            origins: message.origins,
            events: message.events,
            places: message.cursors.into_iter().filter_map(place).collect(),
        }
    }
}

impl From<agent::WatchEventsResponse> for Batch {
    fn from(message: agent::WatchEventsResponse) -> Self {
        let place = message.cursor.map(|cursor| (String::new(), cursor));
        Self {
            origins: message.origins,
            events: message.events,
            places: place.into_iter().collect(),
        }
    }
}
