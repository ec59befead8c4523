//! `events`: what happens on hosts, as it happens or as it was.

pub(super) mod feed;
mod sink;
mod tally;

use crate::{
    args::{Global, HostSelection},
    connect::Target,
    exit::{Exit, usage},
    output::{self, note},
    time::{parse_duration, parse_moment},
};
use clap::Args;
use feed::{Feed, Wish};
use kctl_events::{Filter, Kind};
use kctl_proto::agent::v1::EventFilter;
use sink::Sink;
use std::{future::pending, time::Duration};
use tally::Tally;
use tokio::signal::unix::{SignalKind, signal};

/// So many events of the past are shown when nothing says which.
const LAST: u64 = 100;

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what comes, through restarts of the other end, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Of the past: from then on, 10m ago or 2026-01-02T03:04:05Z
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse_moment)]
    since: Option<i64>,
    /// Of the past: up to then
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse_moment)]
    #[arg(conflicts_with = "follow")]
    until: Option<i64>,
    /// Of the past: the newest N of all hosts together; 100 when nothing else is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Only these types; host and lost always come
    #[arg(long = "type", value_name = "TYPE[,TYPE…]", value_delimiter = ',')]
    types: Vec<String>,
    /// Only those of which this is true: 'drop.packets > 10 && drop.dst_port in [22, 23]'
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Only from these addresses
    #[arg(long, value_name = "PREFIX[,PREFIX…]", value_delimiter = ',')]
    src: Vec<String>,
    /// Only to these addresses
    #[arg(long, value_name = "PREFIX[,PREFIX…]", value_delimiter = ',')]
    dst: Vec<String>,
    /// Only with one of these ports at either end
    #[arg(long, value_name = "PORT[,PORT…]", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Only by or about these processes
    #[arg(long, value_name = "PID[,PID…]", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    /// Only by or about processes of these names, at most 15 bytes
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',')]
    comm: Vec<String>,
    /// Only about files whose path begins so
    #[arg(long, value_name = "PATH[,PATH…]", value_delimiter = ',')]
    path: Vec<String>,
    /// End after so many events; host and lost count only when --type names them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    exit_after: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    time: Option<Duration>,
    /// Print the JSON schema of an event and end
    #[arg(long)]
    dump_schema: bool,
    #[command(flatten)]
    selection: HostSelection,
}

/// Runs `events`.
pub(crate) async fn run(global: &Global, args: EventsArgs) -> anyhow::Result<Exit> {
    if args.dump_schema {
        let schema = serde_json::to_string_pretty(&kctl_events::schema())?;
        output::print(&(schema + "\n"))?;
        return Ok(Exit::Done);
    }
    // Everything that can be wrong is told before anything connects.
    let format = global.format_with_csv()?;
    let (filter, kinds) = args.filter()?;
    let target = Target::of(global)?;
    let wish = args.wish(&target, filter)?;
    let follow = wish.follow;
    let interrupted = interrupted()?;
    let mut sink = Sink::new(format);
    let mut tally = Tally::new(args.exit_after, kinds);
    let work = async {
        let mut feed = Feed::new(global, &target, wish);
        let result = tokio::select! {
            biased;
            () = passed(args.time) => Ok(()),
            result = watch(&mut feed, follow, &mut sink, &mut tally) => result,
        };
        // However long its reader takes.
        sink.finish().await?;
        result
    };
    let result = tokio::select! {
        biased;
        () = interrupted => Ok(()),
        result = work => result,
    };
    if !sink.is_finished() {
        sink.finish_soon().await?;
    }
    // A reader that went away has seen enough, and has no use for a summary.
    if !sink.is_deserted() {
        note(&tally.summary());
    }
    result.map(|()| Exit::Done)
}

/// Shows what comes until there is enough or nothing more.
async fn watch(
    feed: &mut Feed<'_>,
    follow: bool,
    sink: &mut Sink,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    feed.open().await?;
    loop {
        let batch = tokio::select! {
            biased;
            batch = feed.next() => batch,
            // The connection has had its turn, and nothing came of it.
            () = idle(), if sink.is_waiting() => {
                sink.flush().await?;
                if sink.is_deserted() { return Ok(()) }
                continue;
            }
        };
        let why = match batch {
            Ok(Some(batch)) => {
                for (origin, event) in batch.events()? {
                    if !feed.wants(event) || !tally.is_new(origin, event) {
                        continue;
                    }
                    sink.push(origin, event)?;
                    let enough = tally.count(origin, event);
                    if sink.is_full() {
                        sink.flush().await?;
                    }
                    if enough || sink.is_deserted() {
                        return Ok(());
                    }
                }
                feed.passed(batch);
                continue;
            }
            Ok(None) if !follow => return Ok(()),
            Ok(None) => "the other end ended the stream".to_owned(),
            Err(why) if follow && feed::is_passing(&why) => format!("{why:#}"),
            Err(why) => return Err(why),
        };
        sink.remark(&format!("{why}; trying again"), feed.told(false, &why))?;
        sink.flush().await?;
        feed.reopen().await?;
        sink.remark("connected again", feed.told(true, ""))?;
    }
}

/// Done when every other task has had two turns.
async fn idle() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

/// Done when the user or the system says that it is enough.
fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Done after this time; never without.
async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => pending().await,
    }
}

impl EventsArgs {
    /// The filter, checked, and the types that were named.
    fn filter(&self) -> anyhow::Result<(EventFilter, Vec<Kind>)> {
        let named = |name: &String| name.trim().parse::<Kind>();
        let kinds: Vec<Kind> = self
            .types
            .iter()
            .map(named)
            .collect::<Result<_, _>>()
            .map_err(|why| usage(format!("--{why}")))?;
        if let Some(comm) = self.comm.iter().find(|comm| comm.len() > 15) {
            let why = "the kernel keeps 15 bytes of a name, so this never matches";
            return Err(usage(format!("--comm {comm:?}: {why}")));
        }
        if self.filter.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return Err(usage("--filter: is empty; leave it away for every event"));
        }
        let filter = EventFilter {
            types: kinds.iter().map(|kind| kind.to_proto().into()).collect(),
            expression: self.filter.clone().unwrap_or_default(),
            src: self.src.clone(),
            dst: self.dst.clone(),
            ports: self.port.iter().copied().map(u32::from).collect(),
            pids: self.pid.clone(),
            comms: self.comm.clone(),
            paths: self.path.clone(),
        };
        Filter::new(Some(filter.clone())).map_err(|why| usage(format!("{why}")))?;
        Ok((filter, kinds))
    }

    fn wish(&self, target: &Target, filter: EventFilter) -> anyhow::Result<Wish> {
        let past = self.since.is_some() || self.until.is_some() || self.last.is_some();
        let last = self.last.or((!past && !self.follow).then_some(LAST));
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since > until
        {
            return Err(usage("--until is before --since"));
        }
        let of_agent = matches!(target, Target::Agent(_));
        if of_agent && last.is_some() && (self.since.is_some() || self.until.is_some()) {
            return Err(usage("an agent takes --since and --until, or --last: not both"));
        }
        let selection = self.selection.for_read(target)?;
        let (since, until, follow) = (self.since, self.until, self.follow);
        Ok(Wish {
            selection,
            filter: (filter != EventFilter::default()).then_some(filter),
            since,
            until,
            last,
            follow,
        })
    }
}
