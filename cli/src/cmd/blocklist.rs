//! `blocklist`: what is blocked where and why, its export, its recovery from hosts.

use super::{completion::Names, feed, wants_controller};
use crate::{
    args::{Global, HostSelection, host_name},
    connect::{Connection, READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output::{self, count, note},
    time::{milliseconds, rfc3339},
    view::{
        change::{self, HostResultRow},
        entry::{EntryRow, hits_table, table},
    },
};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use kctl_blocklist::{EntryKey, FEED_SOURCE, FeedHead, now_unix_ms, parse_prefix};
use kctl_proto::{
    agent::v1 as agent,
    controller::v1::{
        ListBlocklistRequest, RecoverBlocklistRequest,
        blocklist_service_client::BlocklistServiceClient,
        list_blocklist_response::{Item, item::HostHits},
    },
};
use kctl_rpc::MAX_MESSAGE_BYTES;
use serde::Serialize;
use std::{collections::HashMap, fmt::Write as _};

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
    Recover(RecoverArgs),
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

#[derive(Debug, Args)]
struct RecoverArgs {
    /// Connected hosts whose entries are taken, all of the same store
    #[arg(long, value_name = "NAME[,NAME…]", required = true, value_delimiter = ',')]
    #[arg(value_parser = host_name, add = Names::Hosts.candidates())]
    from_host: Vec<String>,
}

/// Runs `blocklist`.
pub(crate) async fn run(global: &Global, args: BlocklistArgs) -> anyhow::Result<Exit> {
    match args.command {
        None => list(global, &args.list).await,
        Some(BlocklistCommand::List(args)) => list(global, &args).await,
        Some(BlocklistCommand::Import(args)) => feed::import(global, args).await,
        Some(BlocklistCommand::Feeds) => feed::feeds(global).await,
        Some(BlocklistCommand::Export(args)) => export(global, args).await,
        Some(BlocklistCommand::Recover(args)) => recover(global, args).await,
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

/// What is asked for, and whether hosts are asked for their numbers.
struct Query {
    selection: Option<agent::Selection>,
    prefix: Option<IpNet>,
    source: String,
    action: agent::Action,
    ask_hosts: bool,
}

/// Entries, and hosts that were asked and did not answer.
struct List {
    rows: Vec<EntryRow>,
    /// Entries of feeds of which there is nothing else to tell.
    feeds: Vec<(FeedHead, Vec<IpNet>)>,
    asked: bool,
    failed: usize,
}

/// So many entries of a feed are shown to people among the others.
const SHOWN: usize = 100;

impl List {
    /// With the feeds' entries as rows.
    fn whole(mut self) -> Self {
        let now = now_unix_ms();
        for (head, prefixes) in std::mem::take(&mut self.feeds) {
            self.rows.extend(prefixes.into_iter().map(|prefix| {
                let entry = Some(head.entry(prefix).to_proto(now));
                EntryRow::of_item(Item { entry, ..Item::default() }, self.asked, now)
            }));
        }
        self
    }

    /// As people can read it: large feeds are only named.
    fn in_short(mut self) -> Self {
        let large = |(_, prefixes): &(FeedHead, Vec<IpNet>)| prefixes.len() > SHOWN;
        for (head, prefixes) in self.feeds.iter().filter(|feed| large(feed)) {
            let (name, entries) = (&head.name, count(prefixes.len(), "entry"));
            note(&format!(
                "feed {name}: {entries} not shown; see \"kctl blocklist export --name {name}\""
            ));
        }
        self.feeds.retain(|feed| !large(feed));
        self.whole()
    }

    /// The entries are the controller's own, so silent hosts never make the whole read fail.
    fn exit(&self, strict: bool) -> Exit {
        if self.failed > 0 && strict { Exit::Partial } else { Exit::Done }
    }
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

impl Query {
    async fn run(self, global: &Global, target: &Target) -> anyhow::Result<List> {
        let connection = target.connect(global).await?;
        let asked = self.ask_hosts;
        let (items, feeds, failed) = match target {
            Target::Controller(_) => self.of_controller(&connection).await?,
            Target::Agent(_) => (self.of_agent(&connection).await?, Vec::new(), 0),
        };
        let now = now_unix_ms();
        let rows = items.into_iter().map(|item| EntryRow::of_item(item, asked, now)).collect();
        let feeds = feed::put_together(feeds, now)?;
        Ok(List { rows, feeds, asked, failed })
    }

    async fn of_controller(
        self,
        connection: &Connection,
    ) -> anyhow::Result<(Vec<Item>, Vec<agent::FeedEntries>, usize)> {
        let wait = connection.wait(READ_TIMEOUT);
        let request = ListBlocklistRequest {
            selection: self.selection,
            prefix: self.prefix.map_or_else(String::new, |prefix| prefix.to_string()),
            source: self.source,
            action: self.action.into(),
            ask_hosts: self.ask_hosts,
            timeout_ms: milliseconds(wait),
        };
        let mut client = BlocklistServiceClient::new(connection.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut stream = connection.call(wait, client.list_blocklist(request)).await?;
        let (mut items, mut feeds, mut failed) = (Vec::new(), Vec::new(), 0);
        while let Some(response) = connection.next(wait, &mut stream).await? {
            items.extend(response.items);
            feeds.extend(response.feeds);
            for error in response.errors {
                failed += 1;
                let why = error.error.unwrap_or_default().message;
                note(&format!("warning: numbers of host {:?} are missing: {why}", error.host));
            }
        }
        Ok((items, feeds, failed))
    }

    async fn of_agent(self, connection: &Connection) -> anyhow::Result<Vec<Item>> {
        let wait = connection.wait(READ_TIMEOUT);
        let host = super::hosts::local_status(connection).await?.name;
        let mut client = agent::blocklist_service_client::BlocklistServiceClient::new(
            connection.channel.clone(),
        )
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let call = client.list_blocklist(agent::ListBlocklistRequest { local_only: false });
        let mut stream = connection.call(wait, call).await?;
        let (mut entries, mut suspended, mut feeds) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(response) = connection.next(wait, &mut stream).await? {
            entries.extend(response.entries);
            feeds.extend(response.feeds);
            suspended.extend(response.suspended.into_iter().filter_map(|entry| entry.key));
        }
        let now = now_unix_ms();
        for (head, prefixes) in feed::put_together(feeds, now)? {
            entries.extend(prefixes.into_iter().map(|prefix| head.entry(prefix).to_proto(now)));
        }
        let mut hits = HashMap::new();
        if self.ask_hosts {
            let call = client.list_hits(agent::ListHitsRequest {});
            let mut stream = connection.call(wait, call).await?;
            while let Some(response) = connection.next(wait, &mut stream).await? {
                hits.extend(response.hits.into_iter().map(|hit| {
                    let ports = (hit.port, hit.port_last, hit.protocol);
                    let rule = (hit.prefix, ports, hit.interface, hit.action);
                    (rule, (hit.packets, hit.bytes))
                }));
            }
        }
        let item = |entry: agent::Entry| {
            let key = entry.key.clone().unwrap_or_default();
            let local = EntryKey::try_from(key.clone()).is_ok_and(|key| key.is_local());
            let is_suspended = suspended.contains(&key);
            let ports = (key.port, key.port_last, key.protocol);
            let rule = (key.prefix, ports, key.interface, key.action);
            Item {
                entry: Some(entry),
                host: if local { host.clone() } else { String::new() },
                hits: hits
                    .get(&rule)
                    .map(|&(packets, bytes)| HostHits { host: host.clone(), packets, bytes })
                    .into_iter()
                    .collect(),
                suspended_on: if is_suspended { vec![host.clone()] } else { Vec::new() },
            }
        };
        Ok(entries.into_iter().filter(|entry| self.wants(entry)).map(item).collect())
    }

    fn wants(&self, entry: &agent::Entry) -> bool {
        let Some(key) = &entry.key else { return false };
        let protects = key.action() == agent::Action::Protect;
        let overlaps = |prefix: &IpNet| {
            parse_prefix(&key.prefix)
                .is_ok_and(|other| prefix.contains(&other) || other.contains(prefix))
        };
        protects == (self.action == agent::Action::Protect)
            && key.source.starts_with(&self.source)
            && self.prefix.as_ref().is_none_or(overlaps)
    }
}

/// What `recover` took.
#[derive(Debug, Serialize)]
struct Recovered {
    store_id: String,
    revision: u64,
    entries: u64,
    warnings: Vec<String>,
    hosts: Vec<HostResultRow>,
}

async fn recover(global: &Global, args: RecoverArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    wants_controller(&target, "blocklist recover")?;
    if args.from_host.is_empty() {
        return Err(usage("blocklist recover: name at least one host"));
    }
    let connection = target.connect(global).await?;
    let wait = connection.wait(READ_TIMEOUT);
    let request =
        RecoverBlocklistRequest { from_hosts: args.from_host, timeout_ms: milliseconds(wait) };
    let mut client = BlocklistServiceClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let response = connection.call(wait, client.recover_blocklist(request)).await?;
    let recovered = Recovered {
        store_id: response.store_id,
        revision: response.revision,
        entries: response.entries,
        warnings: response.warnings,
        hosts: response.hosts.into_iter().map(HostResultRow::from).collect(),
    };
    output::object(format, &recovered, || change::table(&recovered.hosts).to_string())?;
    output::warn(&recovered.warnings);
    if format.for_people() {
        let entries = count(usize::try_from(recovered.entries).unwrap_or(usize::MAX), "entry");
        let (store, revision) = (&recovered.store_id, recovered.revision);
        note(&format!("recovered {entries} of store {store} (revision {revision})"));
    }
    Ok(change::exit(&recovered.hosts))
}
