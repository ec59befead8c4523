//! `blocklist`: what is blocked where and why, its export, its recovery from hosts.

mod query;
mod recover;

use super::{completion::Names, feed};
use crate::{
    args::{Global, HostSelection},
    connect::Target,
    exit::Exit,
    output::{self, count},
    time::rfc3339,
    view::entry::{hits_table, table},
};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use kctl_blocklist::{FEED_SOURCE, now_unix_ms, parse_prefix};
use kctl_proto::agent::v1 as agent;
use query::Query;
use std::fmt::Write as _;

/// Arguments of `blocklist`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BlocklistArgs {
    #[command(subcommand)]
    command: Option<BlocklistCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum BlocklistCommand {
    /// Every entry (what "kctl blocklist" alone does)
    List(ListArgs),
    /// Replace a feed by a file: a plain list, CSV or JSON lines
    Import(feed::ImportArgs),
    /// Feeds, and how many entries each has
    Feeds,
    /// A file that "block --file" reads, with the rest of each entry as a comment
    Export(ExportArgs),
    /// Fill an empty store of the controller with what hosts still enforce
    Recover(recover::RecoverArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only entries that were hit, most first, with each host's numbers
    #[arg(long)]
    hits: bool,
    /// Exit with 3 when a host did not tell its numbers
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only entries that overlap this prefix
    #[arg(long, value_parser = |text: &str| parse_prefix(text))]
    prefix: Option<IpNet>,
    /// Only entries whose source starts with this: user:, user:admin, local:, auto:
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    #[command(flatten)]
    selection: HostSelection,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Only this feed, as "import" reads it
    #[arg(long, value_name = "FEED", value_parser = feed::feed_name, conflicts_with = "source")]
    #[arg(add = Names::Feeds.candidates())]
    name: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

impl FilterArgs {
    fn query(&self, target: &Target, ask_hosts: bool) -> anyhow::Result<Query> {
        Ok(Query {
            selection: self.selection.for_read(target)?,
            prefix: self.prefix,
            source: self.source.clone(),
            action: agent::Action::Unspecified,
            ask_hosts,
        })
    }
}

/// Runs `blocklist`.
pub(crate) async fn run(global: &Global, args: BlocklistArgs) -> anyhow::Result<Exit> {
    match args.command {
        None => list(global, &args.list).await,
        Some(BlocklistCommand::List(args)) => list(global, &args).await,
        Some(BlocklistCommand::Import(args)) => feed::import(global, args).await,
        Some(BlocklistCommand::Feeds) => feed::feeds(global).await,
        Some(BlocklistCommand::Export(args)) => export(global, args).await,
        Some(BlocklistCommand::Recover(args)) => recover::recover(global, args).await,
    }
}

/// Runs `protect list`.
pub(crate) async fn protected(global: &Global, selection: &HostSelection) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let query = Query {
        selection: selection.for_read(&target)?,
        prefix: None,
        source: String::new(),
        action: agent::Action::Protect,
        ask_hosts: true,
    };
    let list = query.run(global, &target).await?.whole();
    output::rows(format, "protected prefixes", &list.rows, || {
        table(&list.rows, format, now_unix_ms())
    })?;
    Ok(list.exit(false))
}

async fn list(global: &Global, args: &ListArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let mut list = args.filter.query(&target, true)?.run(global, &target).await?;
    if !args.hits {
        list = if format.for_people() { list.in_short() } else { list.whole() };
    }
    if args.hits {
        list.rows.retain(|row| row.packets.is_some_and(|packets| packets > 0));
        list.rows.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.prefix.cmp(&b.prefix)));
    } else {
        list.rows.iter_mut().for_each(|row| row.hits = None);
    }
    let noun = if args.hits { "entries were hit" } else { "entries" };
    output::rows(format, noun, &list.rows, || match args.hits {
        true => hits_table(&list.rows),
        false => table(&list.rows, format, now_unix_ms()),
    })?;
    Ok(list.exit(args.strict))
}

async fn export(global: &Global, args: ExportArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let mut query = args.filter.query(&target, !format.for_people())?;
    if let Some(name) = &args.name {
        query.source = format!("{FEED_SOURCE}{name}");
    }
    let mut list = query.run(global, &target).await?;
    if let Some(name) = &args.name {
        // Names can begin alike.
        list.feeds.retain(|(head, _)| head.name == *name);
        list.rows.retain(|row| row.source == format!("{FEED_SOURCE}{name}"));
        if list.feeds.is_empty() && list.rows.is_empty() {
            anyhow::bail!("feed {name:?}: no such feed; see \"kctl blocklist feeds\"");
        }
    }
    if !format.for_people() {
        let list = list.whole();
        output::rows(format, "entries", &list.rows, || table(&list.rows, format, 0))?;
        return Ok(list.exit(false));
    }
    let mut text = String::new();
    let made = rfc3339(now_unix_ms()).unwrap_or_default();
    let list = match &args.name {
        Some(name) => {
            let number = list.feeds.iter().map(|(_, prefixes)| prefixes.len()).sum();
            // Writing to a string can't fail.
            let _ = writeln!(text, "# kctl feed {name}, {}, {made}", count(number, "entry"));
            for prefix in list.feeds.iter().flat_map(|(_, prefixes)| prefixes) {
                let _ = writeln!(text, "{prefix}");
            }
            list
        }
        None => {
            let list = list.whole();
            let entries = count(list.rows.len(), "entry");
            let _ = writeln!(text, "# kctl blocklist, {entries}, {made}");
            for row in &list.rows {
                let _ = writeln!(text, "{}", row.export_line());
            }
            list
        }
    };
    output::print(&text)?;
    Ok(list.exit(false))
}
