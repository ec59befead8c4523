//! What `ImportFeed` and `ListFeeds` do.

use super::{
    Answers, Api, CHANGE_WAIT,
    blocklist::{answers, forecast},
    peers, wait,
};
use crate::{
    audit::Audited,
    auth::Caller,
    change::{
        forecast::of_import,
        import::{Import, Imported, Incoming},
    },
    reachable::Reachable,
    registry::HostView,
    status::Error,
    store::Model,
};
use futures_util::{StreamExt as _, stream};
use kctl_blocklist::{Action, now_unix_ms};
use kctl_proto::controller::v1::{
    self as api, ChangeResponse, change_response::Message, import_feed_request::Part,
};
use std::{sync::Arc, time::Duration};
use tonic::{Response, Status, Streaming};

/// What is known of an import before it is done.
struct Checked {
    hosts: Vec<HostView>,
    refused: api::Refused,
    warnings: Vec<String>,
}

impl Api {
    /// Replaces a feed.
    pub(super) async fn import(
        &self,
        caller: &Caller,
        requests: Streaming<api::ImportFeedRequest>,
    ) -> Result<Response<Answers<ChangeResponse>>, Status> {
        let (incoming, header) = read(requests).await?;
        let limit = wait(header.timeout_ms, CHANGE_WAIT);
        let audited =
            Audited::of_user(caller, describe(&header), super::blocklist::hosts(&header.selection));
        // A million prefixes are not sorted in passing.
        let finished = tokio::task::spawn_blocking(move || incoming.finish(now_unix_ms()));
        let checked = match finished.await {
            Ok(finished) => finished.and_then(|import| {
                let checked = self.check(caller, &import)?;
                Ok((import, checked))
            }),
            Err(panicked) => return Err(Status::internal(panicked.to_string())),
        };
        let (import, checked) = match checked {
            Ok(checked) => checked,
            Err(error) if header.dry_run => return Err(error.into()),
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        if checked.refused.total > 0 {
            if !header.dry_run {
                let why = format!("{} prefixes are refused", checked.refused.total);
                audited.refused(&self.store, &Error::Precondition(why)).await;
            }
            return Ok(refused(checked.refused));
        }
        if header.dry_run {
            return Ok(self.foresee(import, checked, limit).await);
        }
        let selection = import.head.selection.clone();
        let (scope, registry) = (caller.scope.clone(), self.registry.clone());
        let decide = move |model: &Model| {
            // Who replaces a feed takes it from the hosts that it was for.
            if let Some(before) = model.desired.feed(&import.head.name) {
                scope.permit(&registry, &before.head().selection)?;
            }
            Ok(import.decide(model))
        };
        let committed = audited.write(&self.store, decide).await?;
        let accepted = accepted(committed.value, checked.warnings);
        Ok(answers(accepted, &committed, self.registry.hosts_of(&selection), limit))
    }

    fn check(&self, caller: &Caller, import: &Import) -> Result<Checked, Error> {
        let hosts = caller.scope.change(&self.registry, &import.head.selection)?;
        import.check(&hosts)?;
        let desired = self.store.desired();
        let reachable =
            Reachable::new(&hosts, &self.controller_addresses(), caller.address, &desired.borrow());
        let (refused, warnings) = (import.refused(&reachable), import.warnings(&hosts, &reachable));
        Ok(Checked { hosts, refused, warnings })
    }

    /// What an import would do.
    async fn foresee(
        &self,
        import: Import,
        checked: Checked,
        limit: Duration,
    ) -> Response<Answers<ChangeResponse>> {
        let Checked { hosts, warnings, .. } = checked;
        let drops = import.head.action == Action::Drop;
        let (revision, change, imported, mut forecasts) = {
            let desired = self.store.desired();
            let desired = desired.borrow();
            let (change, imported) = import.change(&desired);
            let forecasts = of_import(&hosts, &desired, change.as_ref());
            (desired.revision, change, imported, forecasts)
        };
        if let (true, Some(change)) = (drops, change) {
            let added = Arc::new(change.difference.added);
            let hit = hosts.into_iter().map(|host| (host, Arc::clone(&added))).collect();
            peers::add(&mut forecasts, hit, None, limit).await;
        }
        forecast(accepted(imported, warnings), revision, forecasts)
    }

    /// Every feed that is about a host of the caller's.
    pub(super) fn feeds(&self, caller: &Caller) -> api::ListFeedsResponse {
        let hosts = self.registry.hosts_of(caller.scope.selection());
        let concerns = |feed: &kctl_blocklist::Feed| {
            let concerns = |host: &HostView| feed.concerns(&host.name, &host.labels());
            caller.scope.is_all() || hosts.iter().any(concerns)
        };
        let desired = self.store.desired();
        let desired = desired.borrow();
        let now = now_unix_ms();
        let feed =
            |(feed, revision): &(kctl_blocklist::Feed, u64)| api::list_feeds_response::Feed {
                head: Some(feed.head().to_proto(now)),
                entries: feed.prefixes().len() as u64,
                revision: *revision,
            };
        api::ListFeedsResponse {
            feeds: desired
                .feeds_with_revisions()
                .filter(|(it, _)| concerns(it))
                .map(feed)
                .collect(),
        }
    }
}

/// Reads the whole stream before anything is changed.
async fn read(
    mut requests: Streaming<api::ImportFeedRequest>,
) -> Result<(Incoming, api::import_feed_request::Header), Status> {
    let first = requests.message().await?.and_then(|request| request.part);
    let Some(Part::Header(header)) = first else {
        return Err(Status::invalid_argument("the first message must be a header"));
    };
    let mut incoming = Incoming::new(header.clone())?;
    while let Some(request) = requests.message().await? {
        let Some(Part::Chunk(chunk)) = request.part else {
            return Err(Status::invalid_argument("every further message must be a chunk"));
        };
        incoming.add(&chunk)?;
    }
    Ok((incoming, header))
}

fn accepted(imported: Imported, warnings: Vec<String>) -> api::Accepted {
    api::Accepted { feed: Some(imported.into()), warnings, ..api::Accepted::default() }
}

fn refused(refused: api::Refused) -> Response<Answers<ChangeResponse>> {
    let message = ChangeResponse { message: Some(Message::Refused(refused)) };
    Response::new(stream::iter([Ok(message)]).boxed())
}

fn describe(header: &api::import_feed_request::Header) -> String {
    use kctl_proto::agent::v1::Action;
    let action = match header.action() {
        Action::Unspecified | Action::Drop => "",
        Action::Monitor => " to monitor",
        Action::Protect => " to protect",
    };
    let ttl = header.ttl_ms.map(|ttl| format!(" for {ttl} ms")).unwrap_or_default();
    let force = if header.force { " forced" } else { "" };
    let (name, entries) = (&header.name, header.entries);
    format!("import feed {name} of {entries} prefixes{action}{ttl}{force}")
}
