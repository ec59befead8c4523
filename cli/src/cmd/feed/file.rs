//! Feeds as files: plain lists, CSV with a column, JSON lines. Read line by line; a file with a bad line
//! is refused as a whole.

use crate::{
    cmd::{input, prefixes::refusal},
    exit::usage,
    output::count,
};
use anyhow::Context as _;
use clap::ValueEnum;
use ipnet::IpNet;
use kctl_blocklist::parse_prefix;
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

/// How many bad lines are kept for the error.
const NAMED: usize = 20;
/// A longer line is no line of a list, bytes.
const LONGEST_LINE: usize = 64 << 10;
/// Where the prefix is when nobody says so, the best name first.
const NAMES: [&str; 8] =
    ["prefix", "cidr", "ip", "address", "network", "ip_address", "netblock", "dst_ip"];

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Told by the first line.
    Auto,
    // A prefix a line; # and ; begin comments.
    Plain,
    // Cells parted by commas or tabs.
    Csv,
    // An object a line.
    Jsonl,
}

/// What `--column` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Column {
    /// From 1 on.
    Number(usize),
    Name(String),
}

/// Reads `3` or `dst_ip`.
pub(crate) fn parse_column(text: &str) -> Result<Column, String> {
    match text.parse() {
        Ok(0) => Err("columns are counted from 1".to_owned()),
        Ok(number) => Ok(Column::Number(number)),
        Err(_) if text.is_empty() => Err("must be a number or a name".to_owned()),
        Err(_) => Ok(Column::Name(text.to_owned())),
    }
}

/// A prefix and the number of its line.
pub(crate) type Line = (IpNet, usize);

/// Reads a file, or standard input (`-`), on a thread of its own. `progress` is told of bytes read.
pub(crate) async fn read(
    file: &str,
    format: Format,
    column: Option<Column>,
    progress: impl Fn(u64) + Send + 'static,
) -> anyhow::Result<Vec<Line>> {
    let path = file.to_owned();
    let reader = Reader::new(format, column)?;
    tokio::task::spawn_blocking(move || {
        let name = input::name(&path);
        let failed = || format!("{name}: can't be read");
        if path == "-" {
            return reader.read(name, io::stdin().lock(), progress).with_context(failed)?;
        }
        let file = File::open(&path).with_context(failed)?;
        reader.read(name, BufReader::with_capacity(1 << 20, file), progress).with_context(failed)?
    })
    .await?
}

/// What is known of the file so far.
struct Reader {
    format: Format,
    column: Option<Column>,
    /// Where a CSV file has it, from 0 on, and what parts its cells; known after the first row.
    cell: Option<(usize, char)>,
    lines: Vec<Line>,
    bad: Vec<String>,
    bad_count: usize,
}

impl Reader {
    fn new(format: Format, column: Option<Column>) -> anyhow::Result<Self> {
        match (format, &column) {
            (Format::Plain, Some(_)) => Err(usage("--column is for csv and jsonl")),
            (Format::Jsonl, Some(Column::Number(_))) => {
                Err(usage("--column: objects of JSON have names, not numbers"))
            }
            _ => Ok(Self {
                format,
                column,
                cell: None,
                lines: Vec::new(),
                bad: Vec::new(),
                bad_count: 0,
            }),
        }
    }

    /// The lines, or the whole file's refusal.
    fn read(
        mut self,
        name: &str,
        mut from: impl BufRead,
        progress: impl Fn(u64),
    ) -> io::Result<anyhow::Result<Vec<Line>>> {
        let mut bytes = Vec::new();
        let mut total = 0;
        for number in 1.. {
            bytes.clear();
            let read =
                io::Read::take(&mut from, LONGEST_LINE as u64).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                break;
            }
            total += read as u64;
            if number % 4_096 == 0 {
                progress(total);
            }
            if read == LONGEST_LINE && bytes.last() != Some(&b'\n') {
                return Ok(Err(usage(format!(
                    "{name}: line {number} is longer than {LONGEST_LINE} bytes: this is no list; \
                     nothing was changed"
                ))));
            }
            let text = String::from_utf8_lossy(&bytes);
            let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { &*text };
            match self.line(text.trim()) {
                Ok(Some(prefix)) => self.lines.push((prefix, number)),
                Ok(None) => {}
                Err(why) => {
                    self.bad_count += 1;
                    if self.bad.len() < NAMED {
                        self.bad.push(format!("line {number}: {why}"));
                    }
                }
            }
        }
        if self.bad_count == 0 {
            return Ok(Ok(self.lines));
        }
        let what = format!("{name}: {}", count(self.bad_count, "bad line"));
        Ok(Err(usage(refusal(&what, &self.bad, self.bad_count))))
    }

    /// What one line says.
    fn line(&mut self, text: &str) -> Result<Option<IpNet>, String> {
        if text.is_empty() || text.starts_with(['#', ';']) {
            return Ok(None);
        }
        if self.format == Format::Auto {
            self.format = match text {
                _ if text.starts_with('{') => Format::Jsonl,
                _ if text.contains(',') || self.column.is_some() => Format::Csv,
                _ => Format::Plain,
            };
        }
        match self.format {
            Format::Jsonl => self.object(text),
            Format::Csv => self.row(text),
            Format::Plain | Format::Auto => {
                let text = text.split(['#', ';']).next().unwrap_or_default().trim();
                prefix(text).map(Some)
            }
        }
    }

    fn object(&self, text: &str) -> Result<Option<IpNet>, String> {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
        let found = match &self.column {
            Some(Column::Name(name)) => object.get(name),
            _ => NAMES.iter().find_map(|name| object.get(*name)),
        };
        match found {
            Some(serde_json::Value::String(text)) => prefix(text.trim()).map(Some),
            Some(other) => Err(format!("{other} is no text")),
            // Spamhaus ends its lists so.
            None if object.get("type").is_some_and(|kind| kind == "metadata") => Ok(None),
            None => Err(match &self.column {
                Some(Column::Name(name)) => format!("no field {name:?}"),
                _ => format!("no field {}; name it with --column", NAMES.join(", ")),
            }),
        }
    }

    fn row(&mut self, text: &str) -> Result<Option<IpNet>, String> {
        if let Some((at, parter)) = self.cell {
            let cells = cells(text, parter);
            let cell = cells.get(at).ok_or_else(|| format!("has no column {}", at + 1))?;
            return prefix(cell).map(Some);
        }
        let parter = if text.contains('\t') && !text.contains(',') { '\t' } else { ',' };
        let cells = cells(text, parter);
        let named = |name: &str| cells.iter().position(|cell| cell.eq_ignore_ascii_case(name));
        let (at, is_heading) = match &self.column {
            Some(Column::Number(number)) => {
                let cell = cells.get(number - 1);
                let cell = cell.ok_or_else(|| format!("has no column {number}"))?;
                (number - 1, is_heading(cell))
            }
            Some(Column::Name(name)) => {
                (named(name).ok_or_else(|| format!("no column is called {name:?}"))?, true)
            }
            None => match NAMES.iter().find_map(|name| named(name)) {
                Some(at) => (at, true),
                None => {
                    let first = cells.iter().position(|cell| prefix(cell).is_ok());
                    let none = "no cell is an address; say which column with --column";
                    (first.ok_or_else(|| none.to_owned())?, false)
                }
            },
        };
        self.cell = Some((at, parter));
        if is_heading { Ok(None) } else { prefix(&cells[at]).map(Some) }
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    parse_prefix(text).map_err(|error| error.to_string())
}

/// Whether a cell of the first row is a name, and not an address with a mistake in it.
fn is_heading(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_alphabetic()) && !cell.contains(':')
}

/// The cells of a row; one in quotes may hold what parts them (RFC 4180).
fn cells(row: &str, parter: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = row.chars().peekable();
    while let Some(c) = characters.next() {
        let cell = cells.last_mut().expect("never empty");
        match c {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' if quoted || cell.trim().is_empty() => quoted = !quoted,
            c if c == parter && !quoted => cells.push(String::new()),
            c => cell.push(c),
        }
    }
    cells.iter_mut().for_each(|cell| *cell = cell.trim().to_owned());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, column: Option<&str>, text: &str) -> anyhow::Result<Vec<String>> {
        let column = column.map(|text| parse_column(text).expect("valid"));
        let lines = Reader::new(format, column)?.read("f", text.as_bytes(), |_| {})??;
        Ok(lines.iter().map(|(prefix, line)| format!("{line}:{prefix}")).collect())
    }

    fn auto(text: &str) -> Vec<String> {
        read(Format::Auto, None, text).expect("valid")
    }

    #[test]
    fn plain_lists_have_comments_of_both_kinds() {
        let list = "\u{feff}; Spamhaus DROP\r\n1.10.16.9/20 ; SBL256894\r\n\n# more\n2001:db8::1# x\n 10.0.0.5 \n";
        assert_eq!(auto(list), ["2:1.10.16.0/20", "5:2001:db8::1/128", "6:10.0.0.5/32"]);
        assert_eq!(auto("# nothing\n"), [""; 0]);
    }

    #[test]
    fn a_column_is_found_by_name_number_or_look() {
        let feodo = "# abuse.ch\n\"first_seen_utc\",\"dst_ip\",\"port\"\n\"2021, May\",\"10.0.0.5\",\"80\"\n";
        assert_eq!(auto(feodo), ["3:10.0.0.5/32"]);
        assert_eq!(
            auto("scanner,10.0.0.5,1\nbot,10.0.0.6,2\n"),
            ["1:10.0.0.5/32", "2:10.0.0.6/32"]
        );
        let named = read(Format::Auto, Some("source"), "source\tasn\n::1\t5\n").expect("valid");
        assert_eq!(named, ["2:::1/128"]);
        let numbered = read(Format::Csv, Some("2"), "a,b\nx,10.0.0.5\n").expect("valid");
        assert_eq!(numbered, ["2:10.0.0.5/32"]);
        // A mistake in the first row is no heading.
        let error = read(Format::Csv, Some("1"), "10.0.0.5/33,x\n10.0.0.6,y\n").expect_err("bad");
        assert!(error.to_string().contains("line 1: \"10.0.0.5/33\""), "{error}");
    }

    #[test]
    fn json_lines_have_a_field() {
        let spamhaus =
            "{\"cidr\":\"1.10.16.0/20\",\"rir\":\"apnic\"}\n{\"type\":\"metadata\",\"size\":1}\n";
        assert_eq!(auto(spamhaus), ["1:1.10.16.0/20"]);
        let named = read(Format::Jsonl, Some("src"), "{\"ip\":\"10.0.0.1\",\"src\":\"::1\"}\n");
        assert_eq!(named.expect("valid"), ["1:::1/128"]);
        for bad in ["{\"x\":1}", "{\"ip\":5}", "{\"ip\"", "10.0.0.1"] {
            assert!(read(Format::Jsonl, None, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_lines_are_numbered_and_counted_and_nothing_is_taken() {
        let many: String = (0..1_000)
            .map(|i| {
                if i % 40 == 7 {
                    "10.0.0.5/33\n".to_owned()
                } else {
                    format!("10.0.{}.{}\n", i / 250, i % 250)
                }
            })
            .collect();
        let error = read(Format::Auto, None, &many).expect_err("bad").to_string();
        assert!(error.starts_with("f: 25 bad lines, nothing was changed\n  line 8: "), "{error}");
        assert_eq!(error.lines().count(), 22);
        assert!(error.ends_with("and 5 more"), "{error}");
        let endless = "x".repeat(LONGEST_LINE + 1);
        assert!(read(Format::Auto, None, &endless).is_err());
    }

    #[test]
    fn a_column_wants_columns() {
        assert!(read(Format::Plain, Some("ip"), "").is_err());
        assert!(read(Format::Jsonl, Some("1"), "").is_err());
        assert!(parse_column("0").is_err() && parse_column("").is_err());
    }
}
