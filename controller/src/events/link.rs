//! One host's events as they come in for one feed. It knows the agent's protocol and nothing of other
//! hosts or of readers.

use super::{
    batch::{At, Batch, Source, memory_bytes},
    merge::{Moment, Words},
};
use crate::auth::asked;
use kctl_proto::agent::v1::{
    Cursor, EventFilter, Subscribe, WatchEventsRequest, WatchEventsResponse,
    events_service_client::EventsServiceClient, subscribe::Start, watch_events_request::Message,
};
use kctl_rpc::{Channel, Role};
use prost::Message as _;
use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

/// The largest message of a host.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Questions that wait to be sent; one is open at a time.
const ASKS: usize = 4;

/// Where to begin with a host.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Begin {
    /// After a place.
    After(Cursor),
    /// With everything that it still holds.
    Held,
    /// With what comes.
    Now,
}

/// What came of a link, with the host's number.
pub(super) struct Told {
    pub(super) host: u64,
    pub(super) what: What,
}

pub(super) enum What {
    /// The host tells its events.
    Open,
    /// It told some.
    Arrived(Box<Arrival>),
    /// It tells no more.
    End(Status),
}

/// A message of a host.
pub(super) struct Arrival {
    pub(super) batch: Batch,
    pub(super) words: Words,
    pub(super) received: Moment,
    /// The events as the history keeps them; empty without one.
    pub(super) encoded: Vec<u8>,
    /// About what it takes in memory.
    pub(super) bytes: usize,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// What a link needs.
pub(super) struct Link {
    /// The number of the host in the merge.
    pub(super) host: u64,
    /// As its certificate says.
    pub(super) name: Arc<str>,
    pub(super) channel: Channel,
    pub(super) filter: Option<EventFilter>,
    pub(super) begin: Begin,
    /// Whether there is a history.
    pub(super) is_kept: bool,
    pub(super) inbox: mpsc::Sender<Told>,
    /// Bytes that may wait. Without room the host's own ring waits, and tells what it loses.
    pub(super) room: Arc<Semaphore>,
    /// Of `room` when nothing waits.
    pub(super) room_bytes: usize,
}

/// Takes questions, by their numbers, to the host.
pub(super) type Asks = mpsc::Sender<u64>;

impl Link {
    /// The link at work, and where its questions go.
    pub(super) fn start(self) -> (impl Future<Output = ()>, Asks) {
        let (asks, questions) = mpsc::channel(ASKS);
        let subscribe = Subscribe {
            filter: self.filter.clone(),
            follow: true,
            start: match &self.begin {
                Begin::After(cursor) => Some(Start::After(cursor.clone())),
                Begin::Held => Some(Start::SinceUnixNs(0)),
                Begin::Now => None,
            },
        };
        (self.run(subscribe, questions), asks)
    }

    async fn run(self, subscribe: Subscribe, questions: mpsc::Receiver<u64>) {
        let ended = self.follow(subscribe, questions).await;
        let status = ended.err().unwrap_or_else(|| Status::unavailable("the host ended it"));
        let _ = self.inbox.send(Told { host: self.host, what: What::End(status) }).await;
    }

    async fn follow(
        &self,
        subscribe: Subscribe,
        questions: mpsc::Receiver<u64>,
    ) -> Result<(), Status> {
        let client = EventsServiceClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        // Everything: what a reader may see of it is decided where it reads.
        let requests = tokio_stream::once(Message::Subscribe(subscribe))
            .chain(ReceiverStream::new(questions).map(Message::Ask))
            .map(|message| WatchEventsRequest { message: Some(message) });
        let requests = asked(requests, Role::Admin);
        // Boxed, so that what opens the stream takes no memory while it lasts.
        let mut messages = Box::pin(client.watch_events(requests)).await?.into_inner();
        let stopped = |_| Status::cancelled("nobody follows it");
        let tell = |what| self.inbox.send(Told { host: self.host, what });
        tell(What::Open).await.map_err(stopped)?;
        let mut at = match &self.begin {
            Begin::After(cursor) => Some(At::of(cursor)),
            Begin::Held | Begin::Now => None,
        };
        while let Some(message) = messages.message().await? {
            let arrival = self.arrival(message, &mut at).await?;
            tell(What::Arrived(Box::new(arrival))).await.map_err(stopped)?;
        }
        Ok(())
    }

    async fn arrival(
        &self,
        mut message: WatchEventsResponse,
        at: &mut Option<At>,
    ) -> Result<Arrival, Status> {
        let received = moment();
        let cursor = message.cursor.take();
        let cursor = cursor.ok_or_else(|| Status::internal("a message without a place"))?;
        let after = At::of(&cursor);
        let words = Words {
            watermark_unix_ns: message.watermark_unix_ns,
            answered: message.answered,
            now_unix_ns: message.now_unix_ns,
        };
        let mut kept = WatchEventsResponse { events: message.events, ..Default::default() };
        // What says from whom they are is known already.
        kept.events.iter_mut().for_each(|event| event.origin = 0);
        let (encoded, size) = match self.is_kept {
            true => (kept.encode_to_vec(), 0),
            false => (Vec::new(), kept.encoded_len()),
        };
        let events = kept.events;
        let before = match &*at {
            Some(at) if at.boot_id == after.boot_id && at.place.seq <= after.place.seq => at.place,
            _ => Batch::before(&events, message.filtered, after.place),
        };
        *at = Some(after.clone());
        let bytes = memory_bytes(events.len(), encoded.len().max(size));
        let wanted = u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(wanted).await.ok();
        let source = Source { host: Arc::clone(&self.name), boot_id: after.boot_id };
        let batch = Batch { source, before, after: after.place, events };
        Ok(Arrival { batch, words, received, encoded, bytes, room })
    }
}

/// Now, on both clocks.
pub(super) fn moment() -> Moment {
    Moment { at: Instant::now(), unix_ns: now_unix_ns() }
}

/// Nanoseconds since 1970.
pub(super) fn now_unix_ns() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
