//! `EventsService`: what happens on this host.

mod subscription;

use crate::access;
use crate::events::Events;
use futures_util::{Stream, StreamExt as _, stream};
use kctl_events::Filter;
use kctl_proto::agent::v1::watch_events_request::Message;
use kctl_proto::agent::v1::{self as pb, events_service_server::EventsService};
use std::pin::Pin;
use subscription::Subscription;
use tonic::{Request, Response, Status, Streaming};

/// Answers with this host's events.
#[derive(Debug)]
pub(super) struct EventStreams {
    events: Events,
}

impl EventStreams {
    pub(super) fn new(events: Events) -> Self {
        Self { events }
    }
}

#[tonic::async_trait]
impl EventsService for EventStreams {
    type WatchEventsStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchEventsResponse, Status>> + Send + 'static>>;

    async fn watch_events(
        &self,
        request: Request<Streaming<pb::WatchEventsRequest>>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let role = access::role(&request);
        let mut requests = request.into_inner();
        let subscribe = match requests.message().await?.and_then(|request| request.message) {
            Some(Message::Subscribe(subscribe)) => subscribe,
            _ => return Err(Status::invalid_argument("the first message must subscribe")),
        };
        let filter = Filter::new(subscribe.filter)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        access::filter(role, &filter)?;
        let subscription =
            Subscription::start(self.events.clone(), filter, subscribe.start, subscribe.follow);
        let subscription = subscription.await?.with_requests(requests, role);
        // An error is the last thing that is said.
        let responses = stream::unfold(Some(subscription), |subscription| async {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(subscription))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(responses.boxed()))
    }
}
