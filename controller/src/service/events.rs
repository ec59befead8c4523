//! `kctl.controller.v1.EventsService`.

use super::{Answers, Api, read_selection};
use crate::{
    auth::Caller,
    events::{At, Request as Wanted, View},
    status::Error,
};
use futures_util::{StreamExt as _, stream};
use kctl_events::Filter;
use kctl_proto::controller::v1::{
    HostCursor, WatchEventsRequest, WatchEventsResponse, events_service_server::EventsService,
};
use std::{collections::BTreeMap, sync::Arc};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl EventsService for Api {
    type WatchEventsStream = Answers<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let selection = read_selection(request.selection.clone())?;
        caller.scope.read(&self.registry, &selection)?;
        let filter = Filter::new(request.filter.clone())
            .map_err(|error| Error::Invalid(format!("filter: {error}")))?;
        if filter.asks_for_arguments() && !caller.role.shows_arguments() {
            return Err(caller.role.refuses_arguments("filter: it asks for argv"));
        }
        let selections = [selection, caller.scope.selection().clone()];
        let shows_arguments = caller.role.shows_arguments();
        let view = View::new(self.registry.clone(), selections, filter, shows_arguments);
        let watch = self.events.watch(wanted(request)?, view).await?;
        let messages = stream::unfold(watch, async |mut watch| Some((watch.next().await?, watch)));
        Ok(Response::new(messages.boxed()))
    }
}

fn wanted(request: WatchEventsRequest) -> Result<Wanted, Error> {
    let after = request.after.into_iter().map(|HostCursor { host, cursor }| match cursor {
        Some(cursor) => Ok((Arc::from(host), At::of(&cursor))),
        None => Err(Error::Invalid(format!("after: host {host:?} without a place"))),
    });
    Ok(Wanted {
        filter: request.filter,
        since_unix_ns: request.since_unix_ns,
        until_unix_ns: request.until_unix_ns,
        last: request.last,
        follow: request.follow,
        after: after.collect::<Result<BTreeMap<_, _>, _>>()?,
    })
}
