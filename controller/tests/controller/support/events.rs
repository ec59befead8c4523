//! Events of the agent without a kernel: a real ring, numbers and places by the rules that the real one
//! keeps to, and a clock that the test sets.

use super::agent::Agent;
use kctl_events::{Filter, Place, Read, Reader, Ring};
use kctl_proto::agent::v1::{
    self as pb, Cursor, Event, ExecEvent, LostEvent, Origin, Subscribe, WatchEventsRequest,
    WatchEventsResponse, event::Payload, events_service_server::EventsService, subscribe::Start,
    watch_events_request::Message,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

type Answer = mpsc::Sender<Result<WatchEventsResponse, Status>>;

/// What an agent tells, and how.
pub(crate) struct Teller {
    ring: Mutex<Ring<Vec<Event>>>,
    pub(crate) boot_id: String,
    /// How far its clock is before ours, nanoseconds.
    pub(crate) offset_ns: AtomicI64,
    /// Tells and answers nothing while it is.
    pub(crate) frozen: watch::Sender<bool>,
    /// Subscriptions as they came.
    pub(crate) subscribed: Mutex<Vec<Subscribe>>,
    pub(crate) open: AtomicU64,
}

pub(crate) fn now_unix_ns() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(since.as_nanos()).expect("before 2262")
}

pub(crate) fn exec(path: &str) -> Payload {
    let argv = vec![path.to_owned(), "secret".to_owned()];
    Payload::Exec(ExecEvent { path: path.to_owned(), argv, ..ExecEvent::default() })
}

pub(crate) fn drop_of(src: &str) -> Payload {
    Payload::Drop(pb::PacketEvent { src: src.to_owned(), packets: 1, ..Default::default() })
}

pub(crate) fn lost(count: u64) -> Payload {
    let stage = "kernel_ring".to_owned();
    Payload::Lost(LostEvent { stage, count, ..LostEvent::default() })
}

impl Teller {
    pub(crate) fn new(name: &str, ring_bytes: usize) -> Self {
        Self {
            ring: Mutex::new(Ring::new(ring_bytes, Place::default())),
            boot_id: format!("boot-of-{name}"),
            offset_ns: AtomicI64::new(0),
            frozen: watch::Sender::new(false),
            subscribed: Mutex::default(),
            open: AtomicU64::new(0),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring<Vec<Event>>> {
        self.ring.lock().expect("nobody panics with it")
    }

    /// The agent's clock.
    pub(crate) fn now_unix_ns(&self) -> i64 {
        now_unix_ns() + self.offset_ns.load(Ordering::Relaxed)
    }

    /// Makes events at these times of the agent's clock, together. Each takes a byte of the ring.
    pub(crate) fn tell_at(&self, events: Vec<(i64, Payload)>) {
        let events = events.into_iter().map(|(time, payload)| (time, Some(payload)));
        Self::push(&self.ring(), events.collect());
    }

    fn push(ring: &Ring<Vec<Event>>, events: Vec<(i64, Option<Payload>)>) {
        let mut seq = ring.end().seq;
        let mut produced = 0;
        let event = |(time_unix_ns, payload): (i64, Option<Payload>)| {
            seq += 1;
            produced += match &payload {
                Some(Payload::Lost(lost)) => lost.count,
                _ => 1,
            };
            Event { time_unix_ns, seq, payload, ..Event::default() }
        };
        let events: Vec<_> = events.into_iter().map(event).collect();
        let count = events.len() as u64;
        ring.push(count, produced, events.len(), 0, events);
    }

    /// Makes events now; one without a payload is of a kind that only a newer version has.
    pub(crate) fn tell(&self, payloads: impl IntoIterator<Item = impl Into<Option<Payload>>>) {
        // Nobody claims a later time meanwhile.
        let ring = self.ring();
        let now = self.now_unix_ns();
        Self::push(&ring, payloads.into_iter().map(|payload| (now, payload.into())).collect());
    }

    /// How many events it has made, lost ones included.
    pub(crate) fn produced(&self) -> u64 {
        self.ring().end().produced
    }

    fn reader(&self, subscribe: &Subscribe) -> Reader<Vec<Event>> {
        let ring = self.ring();
        let place = match &subscribe.start {
            Some(Start::After(cursor)) if cursor.boot_id == self.boot_id => {
                Place { seq: cursor.seq, produced: cursor.produced }
            }
            Some(Start::After(_)) => Place::default(),
            Some(Start::SinceUnixNs(0)) => ring.start(),
            Some(other) => panic!("nobody should ask for {other:?}"),
            None => ring.end(),
        };
        ring.reader(place)
    }

    /// Everything that is there for a reader.
    fn message(
        &self,
        reader: &mut Reader<Vec<Event>>,
        filter: &Filter,
        answered: u64,
    ) -> WatchEventsResponse {
        // Whatever is made after this moment is later than it.
        let now_unix_ns = {
            let _ring = self.ring();
            self.now_unix_ns()
        };
        let origin = Origin { host: "whatever it says".to_owned(), boot_id: self.boot_id.clone() };
        let (mut events, mut filtered) = (Vec::new(), 0);
        while events.len() < 500
            && let Some(read) = reader.try_next()
        {
            match read {
                Read::Entry { entry, after } => {
                    let new = entry.content.iter().filter(|event| event.seq > after.seq);
                    for event in new {
                        if filter.matches(&origin, event) {
                            events.push(event.clone());
                        } else {
                            filtered += 1;
                        }
                    }
                }
                Read::Lost { seq, count } => {
                    let stage = "agent_ring".to_owned();
                    let lost = Payload::Lost(LostEvent { stage, count, ..LostEvent::default() });
                    events.push(Event {
                        time_unix_ns: now_unix_ns,
                        seq,
                        payload: Some(lost),
                        ..Event::default()
                    });
                }
            }
        }
        let Place { seq, produced } = reader.place();
        let newest = events.iter().map(|event| event.time_unix_ns).max();
        // With nothing left it knows of everything up to now.
        let watermark_unix_ns =
            if reader.watermark().is_some() { now_unix_ns } else { newest.unwrap_or(0) };
        WatchEventsResponse {
            origins: vec![origin],
            events,
            watermark_unix_ns,
            cursor: Some(Cursor { boot_id: self.boot_id.clone(), seq, produced }),
            answered,
            now_unix_ns,
            filtered,
        }
    }

    async fn follow(
        &self,
        subscribe: Subscribe,
        mut requests: Streaming<WatchEventsRequest>,
        answers: Answer,
    ) -> Option<()> {
        let filter = Filter::new(subscribe.filter.clone()).expect("valid");
        let mut reader = self.reader(&subscribe);
        self.subscribed.lock().expect("whole").push(subscribe);
        let mut frozen = self.frozen.subscribe();
        let (mut answered, mut told) = (0, 0);
        loop {
            frozen.wait_for(|frozen| !frozen).await.ok()?;
            let before = reader.place();
            let message = self.message(&mut reader, &filter, answered);
            if reader.place() != before || answered > told {
                told = answered;
                answers.send(Ok(message)).await.ok()?;
                continue;
            }
            tokio::select! {
                goes_on = reader.changed() => goes_on.then_some(())?,
                _ = frozen.changed() => {}
                request = requests.message() => match request.ok()??.message? {
                    Message::Ask(number) => answered = number,
                    Message::Subscribe(_) => panic!("a second subscription"),
                },
            }
        }
    }
}

#[tonic::async_trait]
impl EventsService for Agent {
    type WatchEventsStream = ReceiverStream<Result<WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<Streaming<WatchEventsRequest>>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.message);
        let Some(Message::Subscribe(subscribe)) = first else { panic!("first {first:?}") };
        let (sender, receiver) = mpsc::channel(4);
        let teller = Arc::clone(&self.teller);
        tokio::spawn(async move {
            teller.open.fetch_add(1, Ordering::SeqCst);
            teller.follow(subscribe, requests, sender).await;
            teller.open.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
