//! `audit`: who changed what, and whether the log of it is whole.

use super::{completion::Names, wants_controller};
use crate::{
    args::Global,
    connect::{Connection, READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output::{self, Format, csv_cell, note, plain},
    time::{parse_moment, rfc3339},
    view::some,
};
use anyhow::bail;
use clap::Args;
use kctl_proto::controller::v1::{
    AuditLine, ListAuditRequest, VerifyAuditRequest, audit_service_client::AuditServiceClient,
};
use kctl_rpc::Channel;
use serde::Serialize;
use std::fmt::Write as _;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// From then on: 10m ago or 2026-01-02T03:04:05Z
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse_moment)]
    since: Option<i64>,
    /// Nothing after that
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse_moment, conflicts_with = "follow")]
    until: Option<i64>,
    /// Only what this user did; "host:NAME" for a host
    #[arg(long, value_name = "NAME", add = Names::Users.candidates())]
    user: Option<String>,
    /// Only the newest so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Look whether a line was changed, removed or added behind the controller's back, and tell the head
    /// of the log: note it elsewhere
    #[arg(long, conflicts_with_all = ["since", "until", "user", "last", "follow"])]
    verify: bool,
    /// A head that was noted: the log must still go through it
    #[arg(long, value_name = "COUNT:HASH", value_parser = parse_head, requires = "verify")]
    head: Option<Noted>,
}

/// A head as `--verify` prints it.
#[derive(Debug, Clone)]
struct Noted {
    number: u64,
    hash: Vec<u8>,
}

fn parse_head(text: &str) -> Result<Noted, String> {
    let wrong = || "must be as --verify prints it: 12:89ab…".to_owned();
    let (number, hash) = text.split_once(':').ok_or_else(wrong)?;
    let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    let byte = |at: usize| u8::from_str_radix(hash.get(at..at + 2)?, 16).ok();
    let hash =
        (0..hash.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>().ok_or_else(wrong)?;
    if hash.is_empty() { Err(wrong()) } else { Ok(Noted { number, hash }) }
}

/// Runs `audit`.
pub(crate) async fn run(global: &Global, args: AuditArgs) -> anyhow::Result<Exit> {
    let target = Target::of(global)?;
    wants_controller(&target, "audit")?;
    let format = global.format_with_csv()?;
    let whole = matches!(format, Format::Json | Format::Yaml);
    if args.follow && whole {
        return Err(usage("-f has no end, and that format is one document: use -o jsonl"));
    }
    let connection = target.connect(global).await?;
    if args.verify {
        return verify(global, &connection, args.head).await;
    }
    let ms = |ns: Option<i64>| ns.map(|ns| ns / 1_000_000);
    let request = ListAuditRequest {
        since_unix_ms: ms(args.since),
        until_unix_ms: ms(args.until),
        who: args.user.unwrap_or_default(),
        last: args.last.unwrap_or_default(),
        follow: args.follow,
    };
    let wait = connection.wait(READ_TIMEOUT);
    let call = async { client(&connection).list_audit(request).await };
    let mut pages = connection.call(wait, call).await?;
    if format == Format::Csv {
        output::print(HEADINGS)?;
    }
    let (mut all, mut none) = (Vec::new(), true);
    let limit = (!args.follow).then_some(wait);
    while let Some(page) = connection.next_of(limit, &mut pages).await? {
        let rows = page.lines.into_iter().map(LineRow::from);
        if whole {
            all.extend(rows);
            continue;
        }
        none = false;
        let mut text = String::new();
        for row in rows {
            match format {
                Format::Csv => text.push_str(&row.csv()),
                Format::Jsonl => text.push_str(&(serde_json::to_string(&row)? + "\n")),
                _ => text.push_str(&row.text(format == Format::Wide)),
            }
        }
        output::print(&text)?;
    }
    if whole {
        output::rows(format, "lines", &all, || output::Table::new(&[]))?;
    } else if none && format.for_people() {
        note("no lines");
    }
    Ok(Exit::Done)
}

fn client(connection: &Connection) -> AuditServiceClient<Channel> {
    AuditServiceClient::new(connection.channel.clone())
}

/// One line.
#[derive(Debug, Serialize)]
struct LineRow {
    number: u64,
    time: Option<String>,
    who: String,
    from: Option<String>,
    what: String,
    hosts: Option<String>,
    outcome: String,
    hash: String,
}

const HEADINGS: &str = "number,time,who,from,what,hosts,outcome,hash\r\n";

impl From<AuditLine> for LineRow {
    fn from(line: AuditLine) -> Self {
        Self {
            number: line.number,
            time: rfc3339(line.time_unix_ms),
            who: line.who,
            from: some(line.from),
            what: line.what,
            hosts: some(line.hosts),
            outcome: line.outcome,
            hash: hex(&line.hash),
        }
    }
}

impl LineRow {
    fn csv(&self) -> String {
        let empty = String::new();
        let of = |text: &Option<String>| csv_cell(text.as_ref().unwrap_or(&empty));
        let cells = [
            self.number.to_string(),
            of(&self.time),
            csv_cell(&self.who),
            of(&self.from),
            csv_cell(&self.what),
            of(&self.hosts),
            csv_cell(&self.outcome),
            self.hash.clone(),
        ];
        cells.join(",") + "\r\n"
    }

    /// `TIME  WHO from WHERE: WHAT on HOSTS: OUTCOME`
    fn text(&self, wide: bool) -> String {
        let mut text = String::new();
        if wide {
            let _ = write!(text, "{}  {:.16}  ", self.number, self.hash);
        }
        let part = |word: &str, part: &Option<String>| match part {
            Some(part) => format!(" {word} {part}"),
            None => String::new(),
        };
        let (time, from) = (self.time.as_deref().unwrap_or("-"), part("from", &self.from));
        let hosts = part("on", &self.hosts);
        let _ = write!(text, "{time}  {}{from}: {}{hosts}: {}", self.who, self.what, self.outcome);
        plain(&text).into_owned() + "\n"
    }
}

/// What `--verify` found.
#[derive(Debug, Serialize)]
struct Verified {
    lines: u64,
    /// "COUNT:HASH"
    head: String,
    whole: bool,
    problem: Option<String>,
}

async fn verify(
    global: &Global,
    connection: &Connection,
    noted: Option<Noted>,
) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let (number, hash) = noted.map(|noted| (noted.number, noted.hash)).unwrap_or_default();
    let call = async { client(connection).verify_audit(VerifyAuditRequest { number, hash }).await };
    let answer = connection.call(connection.wait(READ_TIMEOUT), call).await?;
    let head = format!("{}:{}", answer.count, hex(&answer.hash));
    let problem = some(answer.problem);
    let verified =
        Verified { lines: answer.count, head, whole: problem.is_none(), problem: problem.clone() };
    output::object(format, &verified, || match &verified.problem {
        None => {
            format!("the audit log is whole: {} lines\nhead {}\n", verified.lines, verified.head)
        }
        Some(_) => String::new(),
    })?;
    match problem {
        None => Ok(Exit::Done),
        Some(problem) => bail!("the audit log was tampered with: {problem}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
