//! `blocklist import`, `export --name` and `feeds`: entries that come from a file as a whole.

mod file;

use super::{
    change::{self, Request, Verb},
    completion::Names,
    input, wants_controller,
};
use crate::{
    args::{Global, HostSelection},
    connect::{READ_TIMEOUT, Target},
    exit::Exit,
    output::{self, count, plain},
    time::{milliseconds, parse_duration},
    view::{
        change::FeedView,
        feed::{FeedRow, table},
    },
};
use clap::{Args, ValueEnum, ValueHint};
use file::{Column, Format, Line, parse_column};
use indicatif::{ProgressBar, ProgressDrawTarget};
use ipnet::IpNet;
use kctl_blocklist::{
    FEED_NAME, FeedHead, now_unix_ms, pack, parse_prefix, unpack, valid_feed_name,
};
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        FeedDifference, ImportFeedRequest, ListFeedsRequest, Refused,
        blocklist_service_client::BlocklistServiceClient,
        import_feed_request::{Header, Part},
    },
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal as _, stderr},
    sync::Arc,
    time::Duration,
};

/// Prefixes in one message: 850 kilobytes at most.
const CHUNK: usize = 50_000;

/// Arguments of `blocklist import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The feed that the file replaces
    #[arg(long, value_name = "FEED", value_parser = feed_name, add = Names::Feeds.candidates())]
    name: String,
    /// Prefixes, one a line; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: String,
    /// What the file is: auto looks at its first line
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// Where the prefix is: a number, or a name of the first row or of a JSON field
    #[arg(long, value_name = "N|NAME", value_parser = parse_column)]
    column: Option<Column>,
    /// What packets of these sources meet
    #[arg(long, value_enum, default_value = "drop")]
    action: Action,
    /// End by itself after this time: 90s, 10m, 1h, 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Why, for whoever reads the blocklist
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Check and answer, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Import although it covers addresses that must stay reachable
    #[arg(long)]
    force: bool,
    /// Import although the file has no entries, which removes the feed, or no known host is selected
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    selection: HostSelection,
}

/// What `--action` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Drop,
    Monitor,
    // The never-block list.
    Protect,
}

/// A name of a feed.
pub(super) fn feed_name(text: &str) -> Result<String, String> {
    valid_feed_name(text).then(|| text.to_owned()).ok_or_else(|| FEED_NAME.to_owned())
}

/// An import on its way.
#[derive(Clone)]
pub(crate) struct Import {
    pub(super) header: Header,
    pub(super) lines: Arc<Vec<Line>>,
    /// What messages call the file.
    file: String,
}

impl Import {
    /// The messages of the request, made as they are sent.
    pub(super) fn messages(
        &self,
        timeout_ms: u64,
    ) -> impl Iterator<Item = ImportFeedRequest> + Send + 'static {
        let entries = self.lines.len() as u64;
        let header = Header { timeout_ms, entries, ..self.header.clone() };
        let lines = Arc::clone(&self.lines);
        let chunks = (0..lines.len()).step_by(CHUNK).map(move |from| {
            let lines = lines[from..].iter().take(CHUNK);
            Part::Chunk(pack(lines.map(|(prefix, _)| prefix)))
        });
        let parts = std::iter::once(Part::Header(header)).chain(chunks);
        parts.map(|part| ImportFeedRequest { part: Some(part) })
    }

    /// What the feed is now.
    pub(super) fn became(&self, difference: Option<FeedDifference>) -> FeedView {
        let FeedDifference { entries, added, removed } = difference.unwrap_or_default();
        FeedView { name: self.header.name.clone(), entries, added, removed }
    }

    /// The refused prefixes with their lines.
    pub(super) fn refused(&self, refused: &Refused) -> anyhow::Error {
        let total = usize::try_from(refused.total).unwrap_or(usize::MAX);
        let mut text = format!(
            "{}: {} refused, nothing was changed; with --force the feed is imported all the same, and \
             the never-block list still passes",
            self.file,
            count(total, "prefix")
        );
        for line in &refused.lines {
            let prefix = parse_prefix(&line.prefix).ok();
            let is_it = |line: &&Line| Some(line.0) == prefix;
            let number = self.lines.iter().find(is_it).map_or(0, |(_, number)| *number);
            // Writing to a string can't fail.
            let _ = write!(text, "\n  line {number}: {}", plain(&line.why));
        }
        let more = total.saturating_sub(refused.lines.len());
        if more > 0 {
            let _ = write!(text, "\n  and {more} more");
        }
        anyhow::anyhow!(text)
    }
}

/// Runs `blocklist import`.
pub(super) async fn import(global: &Global, args: ImportArgs) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    wants_controller(&target, "blocklist import")?;
    let selection = args.selection.for_change(&target)?;
    let bar = progress(global, &args.file)?;
    let read = file::read(&args.file, args.format, args.column, {
        let bar = bar.clone();
        move |bytes| bar.set_position(bytes)
    });
    let lines = read.await;
    bar.finish_and_clear();
    let action = match args.action {
        Action::Drop => agent::Action::Drop,
        Action::Monitor => agent::Action::Monitor,
        Action::Protect => agent::Action::Protect,
    };
    let header = Header {
        name: args.name,
        action: action.into(),
        ttl_ms: args.ttl.map(milliseconds),
        reason: args.reason,
        selection,
        force: args.force,
        dry_run: args.dry_run,
        allow_empty: args.allow_empty,
        timeout_ms: 0,
        entries: 0,
    };
    let file = input::name(&args.file).to_owned();
    let import = Import { header, lines: Arc::new(lines?), file };
    let verb = Verb { now: "import", past: "imported" };
    change::run(global, &target, Request::Import(import), &verb).await
}

/// A bar of the bytes read, where somebody watches.
fn progress(global: &Global, file: &str) -> anyhow::Result<ProgressBar> {
    let size = std::fs::metadata(file).map(|metadata| metadata.len()).ok();
    let watched = global.format()?.for_people() && stderr().is_terminal();
    let target = if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(size.filter(|&size| size > 0), target);
    let style = indicatif::ProgressStyle::with_template("reading {bar:30} {bytes}/{total_bytes}");
    bar.set_style(style.expect("a template of ours is valid"));
    Ok(bar)
}

/// Runs `blocklist feeds`.
pub(super) async fn feeds(global: &Global) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    wants_controller(&target, "blocklist feeds")?;
    let connection = target.connect(global).await?;
    let wait = connection.wait(READ_TIMEOUT);
    let mut client = BlocklistServiceClient::new(connection.channel.clone());
    let response = connection.call(wait, client.list_feeds(ListFeedsRequest {})).await?;
    let now = now_unix_ms();
    let rows: Vec<_> = response.feeds.into_iter().map(|feed| FeedRow::new(feed, now)).collect();
    output::rows(format, "feeds", &rows, || table(&rows, now))?;
    Ok(Exit::Done)
}

/// Heads and prefixes of feeds that came in parts.
pub(super) fn put_together(
    parts: Vec<agent::FeedEntries>,
    now_unix_ms: i64,
) -> anyhow::Result<Vec<(FeedHead, Vec<IpNet>)>> {
    let mut feeds: BTreeMap<String, (FeedHead, Vec<IpNet>)> = BTreeMap::new();
    for part in parts {
        let head = FeedHead::from_proto(part.head.unwrap_or_default(), now_unix_ms)?;
        let (_, prefixes) = feeds.entry(head.name.clone()).or_insert((head, Vec::new()));
        unpack(&part.prefixes.unwrap_or_default(), prefixes)?;
    }
    Ok(feeds.into_values().collect())
}
