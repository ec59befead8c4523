//! One reader of the host's events: its place, its filter, and its questions for watermarks.

use crate::events::{Content, Events, now_unix_ns, weight};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kctl_events::{Filter, Place, Read, Reader};
use kctl_proto::agent::v1 as pb;
use kctl_proto::agent::v1::event::Payload;
use kctl_proto::agent::v1::subscribe::Start;
use kctl_proto::agent::v1::watch_events_request::Message;
use kctl_rpc::Role;
use prost::Message as _;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

/// Events of one message, at most.
const MOST_EVENTS: usize = 1_000;
/// A message is full with the event that passes this, bytes.
const MOST_BYTES: usize = 256 << 10;
/// A reader hears that often how far it came past events that it did not want.
const PROGRESS: Duration = Duration::from_secs(1);

/// A reader.
pub(super) struct Subscription {
    events: Events,
    filter: Filter,
    role: Role,
    /// Gone once the other end has said that it asks no more.
    requests: Option<Streaming<pb::WatchEventsRequest>>,
    reader: Reader<Content>,
    /// Events of the entry that is being read, and what they stand for.
    pending: VecDeque<pb::Event>,
    /// After the last event that was looked at.
    place: Place,
    /// What may be claimed once `pending` is empty, and what may be claimed already.
    claims: i64,
    claimed: i64,
    /// Events before this are not wanted.
    since_unix_ns: i64,
    /// The last event, without `follow`.
    last_seq: Option<u64>,
    /// The highest question that nothing was done about yet, 0 for none; the one that the sources are
    /// asked for; the one that they have answered, with what they claim.
    asked: u64,
    flushing: Option<(u64, BoxFuture<'static, i64>)>,
    answer: Option<(u64, i64)>,
    /// Left out since the last message.
    filtered: u64,
    told_at: Instant,
    begun: bool,
    ended: bool,
}

impl Subscription {
    /// At the place where the reader wants to begin.
    pub(super) async fn start(
        events: Events,
        filter: Filter,
        start: Option<Start>,
        follow: bool,
    ) -> Result<Self, Status> {
        // What has happened already must be there to be found.
        let mut since_unix_ns = i64::MIN;
        if !follow || start.is_some() {
            events.flush().await;
        }
        let end = events.end();
        let place = match start {
            None => end,
            Some(Start::After(cursor)) => after(&events, &cursor),
            Some(Start::SinceUnixNs(since)) => {
                since_unix_ns = since;
                events.start()
            }
            Some(Start::Last(count)) => {
                let (events, filter) = (events.clone(), filter.clone());
                let found = tokio::task::spawn_blocking(move || newest(&events, &filter, count));
                found.await.map_err(|panicked| Status::internal(panicked.to_string()))?
            }
        };
        Ok(Self {
            reader: events.reader(place),
            events,
            filter,
            role: Role::Viewer,
            requests: None,
            pending: VecDeque::new(),
            place,
            claims: 0,
            claimed: 0,
            since_unix_ns,
            last_seq: (!follow).then_some(end.seq),
            asked: 0,
            flushing: None,
            answer: None,
            filtered: 0,
            told_at: Instant::now(),
            begun: false,
            ended: false,
        })
    }

    /// With the other end's questions, for a person of this role.
    pub(super) fn with_requests(
        self,
        requests: Streaming<pb::WatchEventsRequest>,
        role: Role,
    ) -> Self {
        Self { requests: Some(requests), role, ..self }
    }

    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<pb::WatchEventsResponse>, Status> {
        if self.ended {
            return Ok(None);
        }
        if !std::mem::replace(&mut self.begun, true) {
            // Where the reader begins, so that it can come back there before anything has happened.
            return Ok(Some(self.message(Vec::new())));
        }
        loop {
            if self.last_seq.is_some_and(|last| self.place.seq >= last) {
                self.ended = true;
                return Ok(Some(self.message(Vec::new())));
            }
            let ready = !self.pending.is_empty() || self.reader.is_behind();
            tokio::select! {
                request = request(&mut self.requests) => self.take(request?)?,
                answer = flushed(&mut self.flushing) => self.answer = Some(answer),
                () = std::future::ready(()), if ready || self.answer.is_some() => {
                    let events = self.gather();
                    if !events.is_empty() || self.can_answer() {
                        return Ok(Some(self.message(events)));
                    }
                }
                alive = self.reader.changed(), if !ready => if !alive {
                    return Ok(None);
                },
                () = sleep_until(self.told_at + PROGRESS), if self.filtered > 0 => {
                    return Ok(Some(self.message(Vec::new())));
                }
            }
            self.flush();
        }
    }

    /// Takes a question, or its end.
    fn take(&mut self, request: Option<pb::WatchEventsRequest>) -> Result<(), Status> {
        match request.map(|request| request.message) {
            None => self.requests = None,
            Some(Some(Message::Ask(number))) => self.asked = self.asked.max(number),
            Some(Some(Message::Subscribe(_))) => {
                return Err(Status::invalid_argument("subscribed already"));
            }
            // Of another version.
            Some(None) => {}
        }
        Ok(())
    }

    /// Begins to answer the highest question, unless one is being answered.
    fn flush(&mut self) {
        if self.flushing.is_none() && self.answer.is_none() && self.asked > 0 {
            let events = self.events.clone();
            let flush = async move { events.flush().await };
            self.flushing = Some((std::mem::take(&mut self.asked), flush.boxed()));
        }
    }

    /// Whether the reader has everything that was there when it asked.
    fn can_answer(&self) -> bool {
        self.answer.is_some_and(|(_, watermark)| self.claimed >= watermark)
    }

    /// The next wanted events.
    fn gather(&mut self) -> Vec<pb::Event> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < MOST_EVENTS && bytes < MOST_BYTES {
            let Some(mut event) = self.pending.pop_front() else {
                self.claimed = self.claimed.max(self.claims);
                if !self.read() {
                    break;
                }
                continue;
            };
            if self.last_seq.is_some_and(|last| event.seq > last) {
                self.pending.clear();
                break;
            }
            self.place.seq = event.seq;
            self.place.produced += weight(&event);
            let wanted = event.time_unix_ns >= self.since_unix_ns
                && self.filter.matches(self.events.origin(), &event);
            if !wanted {
                self.filtered += 1;
                continue;
            }
            if let (Role::Viewer, Some(Payload::Exec(exec))) = (self.role, &mut event.payload) {
                exec.argv.clear();
            }
            bytes += event.encoded_len();
            events.push(event);
        }
        if let (true, Some(watermark)) = (self.pending.is_empty(), self.reader.watermark()) {
            self.claimed = self.claimed.max(watermark);
        }
        events
    }

    /// Makes what is next in the ring pending; `false` when there is nothing.
    fn read(&mut self) -> bool {
        match self.reader.try_next() {
            None => return false,
            Some(Read::Lost { seq, count }) => {
                let stage = "agent_ring".to_owned();
                let lost = pb::LostEvent { stage, count, ..pb::LostEvent::default() };
                self.pending.push_back(pb::Event {
                    time_unix_ns: now_unix_ns(),
                    seq,
                    payload: Some(Payload::Lost(lost)),
                    ..pb::Event::default()
                });
            }
            Some(Read::Entry { entry, after }) => {
                let events = entry.content.events(entry.before.seq + 1).into_iter();
                self.pending.extend(events.skip_while(|event| event.seq <= after.seq));
                self.claims = entry.watermark;
            }
        }
        true
    }

    fn message(&mut self, events: Vec<pb::Event>) -> pb::WatchEventsResponse {
        self.told_at = Instant::now();
        self.events.ledger().deliver(&events, self.filtered);
        let answer = if self.can_answer() { self.answer.take() } else { None };
        let origin = self.events.origin();
        pb::WatchEventsResponse {
            origins: vec![origin.clone()],
            events,
            watermark_unix_ns: self.claimed,
            cursor: Some(pb::Cursor {
                boot_id: origin.boot_id.clone(),
                seq: self.place.seq,
                produced: self.place.produced,
            }),
            answered: answer.map_or(0, |(number, _)| number),
            now_unix_ns: now_unix_ns(),
            filtered: std::mem::take(&mut self.filtered),
        }
    }
}

/// The place of a cursor; the first that there is when it counts in another boot, or in none that this
/// host remembers.
fn after(events: &Events, cursor: &pb::Cursor) -> Place {
    let place = Place { seq: cursor.seq, produced: cursor.produced };
    let known = cursor.boot_id == events.origin().boot_id && place.seq <= events.end().seq;
    if known { place } else { events.start() }
}

/// The place before the newest `count` wanted events.
fn newest(events: &Events, filter: &Filter, count: u64) -> Place {
    let mut entries = Vec::new();
    let mut reader = events.reader(events.start());
    while let Some(read) = reader.try_next() {
        match read {
            Read::Entry { entry, .. } => entries.push(entry),
            // The ring went on under us: what is gone is not among the newest.
            Read::Lost { .. } => entries.clear(),
        }
    }
    let (mut left, mut place) = (count, reader.place());
    for entry in entries.into_iter().rev() {
        let mut after = entry.after;
        for event in entry.content.events(entry.before.seq + 1).into_iter().rev() {
            if left == 0 {
                return place;
            }
            left -= u64::from(filter.matches(events.origin(), &event));
            after = Place { seq: event.seq - 1, produced: after.produced - weight(&event) };
            place = after;
        }
    }
    place
}

/// Never ends once there is nobody to ask.
async fn request(
    requests: &mut Option<Streaming<pb::WatchEventsRequest>>,
) -> Result<Option<pb::WatchEventsRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

/// Never ends while there is nothing to answer.
async fn flushed(flushing: &mut Option<(u64, BoxFuture<'static, i64>)>) -> (u64, i64) {
    let Some((number, flush)) = flushing else { return std::future::pending().await };
    let answer = (*number, flush.await);
    *flushing = None;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Journal;

    /// Events of a host with a ring of so many bytes.
    fn events(bytes: usize) -> (tempfile::TempDir, Events) {
        let folder = tempfile::tempdir().expect("temp dir");
        let journal = Journal::open(folder.path(), "boot", bytes).expect("opens");
        (folder, Events::new(journal, "web-1".to_owned()))
    }

    /// A drop of so many packets.
    fn tell(events: &Events, packets: u64) {
        events.tell(Payload::Drop(pb::PacketEvent { packets, ..pb::PacketEvent::default() }));
    }

    async fn start(events: &Events, start: Option<Start>, follow: bool) -> Subscription {
        begun(Subscription::start(events.clone(), Filter::default(), start, follow).await).await
    }

    /// Past the message that tells where it begins.
    async fn begun(started: Result<Subscription, Status>) -> Subscription {
        let mut reader = started.expect("subscribed");
        let place = reader.place.seq;
        let message = reader.next().await.expect("no error").expect("a message");
        assert_eq!((message.events.len(), message.cursor.expect("a place").seq), (0, place));
        reader
    }

    /// What a reader gets to its end: numbers, and for lost events how many.
    async fn all(mut subscription: Subscription) -> Vec<(u64, Option<u64>)> {
        let mut all = Vec::new();
        while let Some(message) = subscription.next().await.expect("no error") {
            all.extend(message.events.iter().map(|event| match &event.payload {
                Some(Payload::Lost(lost)) => (event.seq, Some(lost.count)),
                _ => (event.seq, None),
            }));
        }
        all
    }

    fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, Option<u64>)> {
        range.map(|seq| (seq, None)).collect()
    }

    #[tokio::test]
    async fn a_reader_begins_where_it_wants_to() {
        let (_folder, events) = events(1 << 20);
        for packets in 1..=2_500 {
            tell(&events, packets);
        }
        assert_eq!(all(start(&events, None, false).await).await, []);
        assert_eq!(
            all(start(&events, Some(Start::Last(3)), false).await).await,
            numbers(2_498..=2_500)
        );
        let last = Some(Start::Last(9_999));
        assert_eq!(all(start(&events, last, false).await).await, numbers(1..=2_500));
        let after = |boot_id: &str, seq| {
            let cursor = pb::Cursor { boot_id: boot_id.to_owned(), seq, produced: seq };
            Some(Start::After(cursor))
        };
        assert_eq!(
            all(start(&events, after("boot", 2_000), false).await).await,
            numbers(2_001..=2_500)
        );
        for elsewhere in [after("another", 2_000), after("boot", 9_999)] {
            assert_eq!(all(start(&events, elsewhere, false).await).await, numbers(1..=2_500));
        }
        let now = now_unix_ns();
        tell(&events, 1);
        let since = Some(Start::SinceUnixNs(now));
        assert_eq!(all(start(&events, since, false).await).await, numbers(2_501..=2_501));
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_told_to_the_last_one() {
        let (_folder, events) = events(10_000);
        let mut reader = start(&events, None, true).await;
        for packets in 1..=100 {
            tell(&events, packets);
        }
        // Who lost these knows nothing of them.
        let lost = pb::LostEvent { count: 900, ..pb::LostEvent::default() };
        events.tell(Payload::Lost(lost));
        for packets in 1..=100 {
            tell(&events, packets);
        }
        let message = reader.next().await.expect("no error").expect("a message");
        let first = message.events.first().expect("an event");
        let Some(Payload::Lost(lost)) = &first.payload else { panic!("{first:?}") };
        assert_eq!(lost.stage, "agent_ring");
        assert_eq!(lost.count + message.events.len() as u64 - 1, 1_100);
        let cursor = message.cursor.expect("a place");
        assert_eq!((cursor.seq, cursor.produced), (201, 1_100));
        assert_eq!(first.seq + message.events.len() as u64 - 1, 201);
    }

    #[tokio::test]
    async fn what_is_not_wanted_does_not_travel_but_is_counted() {
        let (_folder, events) = events(1 << 20);
        let types = vec![pb::EventType::Monitor.into()];
        let filter = Filter::new(Some(pb::EventFilter { types, ..pb::EventFilter::default() }));
        let started = Subscription::start(events.clone(), filter.expect("valid"), None, true);
        let mut reader = begun(started.await).await;
        tell(&events, 1);
        tell(&events, 2);
        tokio::time::pause();
        // With nothing to tell, it tells how far it came.
        let message = reader.next().await.expect("no error").expect("a message");
        assert_eq!((message.events.len(), message.filtered), (0, 2));
        assert_eq!(message.cursor.expect("a place").seq, 2);
        let payload = Payload::Monitor(pb::PacketEvent::default());
        events.tell(payload);
        let message = reader.next().await.expect("no error").expect("a message");
        assert_eq!((message.events.len(), message.filtered), (1, 0));
        assert!(message.watermark_unix_ns > 0);
    }

    #[tokio::test]
    async fn arguments_are_not_for_viewers() {
        let (_folder, events) = events(1 << 20);
        for role in [Role::Viewer, Role::Operator] {
            let mut reader = start(&events, None, true).await;
            reader.role = role;
            let argv = vec!["secret".to_owned()];
            events.tell(Payload::Exec(pb::ExecEvent { argv, ..pb::ExecEvent::default() }));
            let message = reader.next().await.expect("no error").expect("a message");
            let Some(Payload::Exec(exec)) = &message.events[0].payload else { panic!() };
            assert_eq!(exec.argv.is_empty(), role == Role::Viewer);
        }
    }

    #[tokio::test]
    async fn a_question_is_answered_once_everything_before_it_is_told() {
        let (_folder, events) = events(1 << 20);
        let mut reader = start(&events, None, true).await;
        tell(&events, 1);
        reader.asked = 7;
        reader.flush();
        let (mut seen, mut answered) = (0, 0);
        let before = now_unix_ns();
        while answered == 0 {
            let message = reader.next().await.expect("no error").expect("a message");
            seen += message.events.len();
            answered = message.answered;
            assert!(answered == 0 || message.watermark_unix_ns >= before);
        }
        assert_eq!((seen, answered), (1, 7));
    }
}
