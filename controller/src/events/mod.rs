//! Events of the fleet: a feed from every connected host, merged by time, kept for a while, and told to
//! any number of readers.
//!
//! What comes from a host goes to the history first and then, once no live host can have an earlier
//! event, into a ring that readers follow at their own pace. It knows hosts by their sessions, and
//! nothing of what happens on them.

mod batch;
mod feed;
mod history;
mod interleave;
mod lines;
mod link;
mod merge;
mod outgoing;
mod past;
mod questions;
mod view;
mod watch;

pub(crate) use batch::At;
pub(crate) use history::{History, Limits, SMALLEST_BYTES};
pub(crate) use view::View;
pub(crate) use watch::Watch;

use crate::{registry::Registry, status::Error};
use batch::{Places, Source};
use feed::{Feed, Join, Joined, Needs, Shared};
use history::{Flushed, Wanted, mask};
use kctl_events::{Kind, Kinds, Ledger};
use kctl_proto::agent::v1::{Event, EventFilter};
use link::Begin;
use past::{Newest, Past, newest};
use prost::Message as _;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use watch::{Live, Told, everything, later};

/// An event that came waits at most this long for others that should go before it.
pub(crate) const BOUND: Duration = Duration::from_millis(250);
/// Feeds beside that of the history: each is a stream to every host, which has room for 256.
const MOST_FEEDS: usize = 32;
/// The newest events that one reader may ask for: they are in memory at once.
const MOST_NEWEST: u64 = 100_000;

/// The history, and what is kept in it.
pub(crate) struct Kept {
    pub(crate) history: History,
    pub(crate) kinds: Kinds,
    /// How far it goes for each source.
    pub(crate) places: Places,
}

/// What a reader asks for.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// As it was given, for the agents.
    pub(crate) filter: Option<EventFilter>,
    pub(crate) since_unix_ns: Option<i64>,
    pub(crate) until_unix_ns: Option<i64>,
    pub(crate) last: Option<u64>,
    pub(crate) follow: bool,
    /// What the reader has of each host; not empty when it was here before.
    pub(crate) after: Places,
}

/// The events of the fleet. Its clones share them.
#[derive(Clone)]
pub(crate) struct Events {
    history: Option<History>,
    kinds: Kinds,
    /// The feed that the history keeps.
    base: Option<Feed>,
    orders: mpsc::Sender<Order>,
    ledger: Arc<Ledger>,
}

/// Asks for a feed with a filter, with a reader of it; from these places on when there are any.
struct Order {
    filter: Option<EventFilter>,
    places: Places,
    reply: oneshot::Sender<Result<(Feed, Joined), Error>>,
}

impl Events {
    /// Follows all hosts as long as the controller runs if there is a history, and else only those and
    /// that which somebody reads.
    pub(crate) fn start(
        registry: Registry,
        kept: Option<Kept>,
        bound: Duration,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let ledger = Arc::new(Ledger::new(&["controller", "history", "subscriber"]));
        let (tasks_of_feeds, of_feeds) = (tasks.clone(), Arc::clone(&ledger));
        let shared = Shared { registry, bound, tasks: tasks_of_feeds, cancel, ledger: of_feeds };
        let (orders, queue) = mpsc::channel(16);
        let (history, kinds, base) = match kept {
            None => (None, Kinds::default(), None),
            Some(Kept { history, kinds, places }) => {
                let types = kinds.iter().map(|kind| kind.to_proto().into()).collect();
                let filter = EventFilter { types, ..EventFilter::default() };
                let needs = Needs {
                    filter: (kinds != Kinds::all()).then_some(filter),
                    places,
                    begin: Begin::Held,
                    history: Some(history.clone()),
                };
                (Some(history), kinds, Some(feed::start(shared.clone(), needs).0))
            }
        };
        tasks.spawn(Feeds { shared, feeds: Vec::new() }.run(queue));
        Self { history, kinds, base, orders, ledger }
    }

    /// What came from hosts, and what became of it.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A reader. INVALID_ARGUMENT for what does not go together, FAILED_PRECONDITION for the past
    /// without a history.
    pub(crate) async fn watch(&self, request: Request, view: View) -> Result<Watch, Error> {
        check(&request)?;
        let wants_past = request.since_unix_ns.is_some()
            || request.until_unix_ns.is_some()
            || request.last.is_some()
            || !(request.follow || request.after.is_empty());
        if wants_past && self.history.is_none() {
            return Err(Error::Precondition(
                "history: switched off; start the controller with --history-bytes above 0, or only \
                 follow what comes"
                    .to_owned(),
            ));
        }
        let mut watch = Watch {
            past: Some(Told::Nothing),
            times: request.since_unix_ns.unwrap_or(i64::MIN)
                ..=request.until_unix_ns.unwrap_or(i64::MAX),
            rounds: 0,
            reached: request.after.clone(),
            troubles: Vec::new(),
            live: None,
            view,
            ledger: Arc::clone(&self.ledger),
        };
        let base = self.base.as_ref().filter(|_| self.kinds.covers(watch.view.filter.kinds()));
        let shares = request.follow && base.is_some();
        // The live reader first: what comes while the past is read waits for it in the ring.
        if shares && let Some(base) = base {
            let joined = base.join().await.ok_or_else(stopping)?;
            watch.follow(base.clone(), joined, true, request.after.is_empty());
        }
        let resumes = !request.after.is_empty() && (shares || !request.follow);
        if let Some(history) = self.history.as_ref().filter(|_| wants_past || resumes) {
            let Flushed { places, row } = history.flush().await?;
            self.past(history, &mut watch, &request, row).await?;
            watch.reached.extend(later(&watch.reached, places));
        }
        if request.follow && !shares {
            let places = if wants_past { watch.reached.clone() } else { request.after };
            let (feed, joined) = self.feed(request.filter, places).await?;
            watch.follow(feed, joined, false, false);
        }
        Ok(watch)
    }

    /// Prepares what is told of the past.
    async fn past(
        &self,
        history: &History,
        watch: &mut Watch,
        request: &Request,
        row: i64,
    ) -> Result<(), Error> {
        let view = &watch.view;
        let wanted = Wanted {
            since_unix_ns: request.since_unix_ns.unwrap_or(i64::MIN),
            until_unix_ns: request.until_unix_ns.unwrap_or(i64::MAX),
            hosts: view.selected_hosts(),
            ..everything(mask(view.filter.kinds()))
        };
        if let Some(last) = request.last {
            let most = usize::try_from(last).unwrap_or(usize::MAX);
            let shows_arguments = view.shows_arguments;
            let seen = |source: &Source, event: &Event| {
                let in_time = watch.times.contains(&event.time_unix_ns);
                in_time.then(|| view.seen(&source.origin(), event, shows_arguments)).flatten()
            };
            let Newest { events, places } = newest(history, wanted, most, seen).await?;
            watch.past = Some(Told::Newest(events.into_iter()));
            watch.reached = places;
            return Ok(());
        }
        let starts = match request.after.is_empty() {
            true => None,
            false => {
                let mut starts = history.starts(request.after.clone()).await?;
                // Without a place in them the controller's own lines of all runs would be news.
                if !request.after.contains_key(lines::OWN_HOST) {
                    starts.insert(lines::OWN_HOST.into(), i64::MAX);
                }
                Some(starts)
            }
        };
        watch.view.reach(&request.after);
        watch.past = Some(Told::Rows(Past::new(history.clone(), wanted, row, starts)));
        Ok(())
    }

    async fn feed(
        &self,
        filter: Option<EventFilter>,
        places: Places,
    ) -> Result<(Feed, Joined), Error> {
        let (reply, answer) = oneshot::channel();
        let order = Order { filter, places, reply };
        self.orders.send(order).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

fn check(request: &Request) -> Result<(), Error> {
    let past = request.since_unix_ns.or(request.until_unix_ns).is_some() || request.last.is_some();
    let wrong = if request.follow && request.until_unix_ns.is_some() {
        "until: not with follow, which has no end"
    } else if past && !request.after.is_empty() {
        "after: not with since, until or last: it says where to begin already"
    } else if request.last.is_some_and(|last| last > MOST_NEWEST) {
        "last: at most 100000; use since for more"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(wrong.to_owned()))
}

fn stopping() -> Error {
    Error::Stopping
}

/// The owner of the feeds that readers need beside that of the history.
struct Feeds {
    shared: Shared,
    /// Each ends with its last reader. By filter, those that others may share.
    feeds: Vec<(Option<Vec<u8>>, mpsc::WeakSender<Join>)>,
}

impl Feeds {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let cancel = self.shared.cancel.clone();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                order = orders.recv() => match order {
                    None => return,
                    Some(Order { filter, places, reply }) => {
                        let _ = reply.send(self.feed(filter, places).await);
                    }
                },
            }
        }
    }

    async fn feed(
        &mut self,
        filter: Option<EventFilter>,
        places: Places,
    ) -> Result<(Feed, Joined), Error> {
        // Whoever begins at places of its own shares with nobody.
        let key = places.is_empty().then(|| filter.clone().unwrap_or_default().encode_to_vec());
        self.feeds.retain(|(_, feed)| feed.upgrade().is_some());
        let shared = self.feeds.iter().find(|(other, _)| key.is_some() && *other == key);
        if let Some(feed) = shared.and_then(|(_, feed)| feed.upgrade()).map(Feed)
            && let Some(joined) = feed.join().await
        {
            return Ok((feed, joined));
        }
        if self.feeds.len() >= MOST_FEEDS {
            return Err(Error::Exhausted(format!(
                "events: {MOST_FEEDS} filters are followed already that the history does not cover; end \
                 one, or widen --history-types"
            )));
        }
        let needs = Needs { filter, places, begin: Begin::Now, history: None };
        let (feed, joined) = feed::start(self.shared.clone(), needs);
        self.feeds.push((key, feed.0.downgrade()));
        Ok((feed, joined))
    }
}

/// The kinds that can be kept: what is about the stream itself always is.
pub(crate) fn kept_kinds(kinds: impl Iterator<Item = Kind>) -> Kinds {
    kinds.chain(Kind::all().filter(|kind| kind.is_about_the_stream())).collect()
}

impl Watch {
    /// Goes on with what comes on a feed, which goes to the history when it is `shares`. With `from_here` the reader has everything before.
    fn follow(&mut self, feed: Feed, joined: Joined, shares: bool, from_here: bool) {
        let Joined { reader, places, troubles } = joined;
        if from_here {
            self.reached = places;
        }
        (self.live, self.troubles) =
            (Some(Live { feed, reader, is_kept: shares, lag: None }), troubles);
    }
}
