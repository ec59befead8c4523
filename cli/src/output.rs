//! How data reaches standard output and remarks reach standard error. It knows formats and tables and
//! no command.

use crate::exit::usage;
use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

/// What `-o` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Plain comments: clap would print doc comments as a list in the help of every command.
    // For people; may change.
    Table,
    // With more columns.
    Wide,
    // One document.
    Json,
    // One object a line.
    Jsonl,
    // One document.
    Yaml,
    // One line an event.
    Csv,
}

impl Format {
    /// Whether a person reads it.
    pub(crate) fn for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Prints rows; `table` is only made when a person reads. `noun` is what there is none of.
pub(crate) fn rows<T: Serialize>(
    format: Format,
    noun: &str,
    rows: &[T],
    table: impl FnOnce() -> Table,
) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Wide if rows.is_empty() => {
            note(&format!("no {noun}"));
            Ok(())
        }
        Format::Table | Format::Wide => print(&table().to_string()),
        // In one write: a row alone is small, and there can be many.
        Format::Jsonl => print(&rows.iter().map(json_line).collect::<anyhow::Result<String>>()?),
        Format::Json | Format::Yaml | Format::Csv => serialized(format, &rows),
    }
}

/// Prints one object; `text` is for people.
pub(crate) fn object<T: Serialize>(
    format: Format,
    object: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Wide => print(&text()),
        Format::Jsonl => line(object),
        Format::Json | Format::Yaml | Format::Csv => serialized(format, object),
    }
}

/// Prints one object as a line of JSON.
pub(crate) fn line<T: Serialize>(object: &T) -> anyhow::Result<()> {
    print(&json_line(object)?)
}

fn json_line<T: Serialize>(object: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string(object).context("can't write JSON")? + "\n")
}

fn serialized<T: Serialize>(format: Format, value: &T) -> anyhow::Result<()> {
    let mut text = match format {
        Format::Yaml => serde_saphyr::to_string(value).context("can't write YAML")?,
        Format::Csv => return Err(usage("-o csv is for events and audit only")),
        _ => serde_json::to_string_pretty(value).context("can't write JSON")?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    print(&text)
}

/// Writes to standard output. A reader that went away (`| head`) has seen enough: no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    write(text.as_bytes())
}

/// The same for bytes from elsewhere: as they are, or for a terminal without what could steer it.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    match io::stdout().is_terminal() {
        true => print(&shown(bytes)),
        false => write(bytes),
    }
}

/// Bytes for a terminal: line feeds and tabs stay, other control characters and what is no UTF-8
/// become `\xNN`.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && !matches!(character, '\n' | '\t') {
                // Writing to a string can't fail.
                let _ = write!(text, "\\x{:02x}", u32::from(character));
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The next that is printed takes the place of what a terminal shows.
static IN_PLACE: AtomicBool = AtomicBool::new(false);

/// Makes the next that is printed take the place of what a terminal shows: the first part of it, for the
/// rest follows. Elsewhere it follows what was there.
pub(crate) fn in_place() {
    IN_PLACE.store(io::stdout().is_terminal(), Ordering::Relaxed);
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if IN_PLACE.swap(false, Ordering::Relaxed) {
        // To the corner, and all from there is blank. Who can't take it gets an error below.
        let _ = out.write_all(b"\x1b[H\x1b[J");
    }
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}

/// Text from elsewhere. A spreadsheet would take what begins with `=` for a formula: an apostrophe goes
/// before it. Control characters are escaped, so that a row is a line.
pub(crate) fn csv_cell(text: &str) -> String {
    let text = plain(text);
    let formula = text.starts_with(['=', '+', '@']) || text.starts_with('-') && text.len() > 1;
    let safe = if formula { format!("'{text}") } else { text.into_owned() };
    if safe.contains(['"', ',']) { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
}

/// Writes a line for people to standard error. When nobody can read it there is nobody to tell.
pub(crate) fn note(text: &str) {
    let lines: Vec<_> = text.lines().map(plain).collect();
    let _ = writeln!(io::stderr().lock(), "{}", lines.join("\n"));
}

/// Notes each warning.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        note(&format!("warning: {warning}"));
    }
}

/// Text from elsewhere without control characters, so that no host name or reason can write escape
/// sequences to an operator's terminal, nor be read there as another.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(unseen) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if unseen(c) {
            let _ = write!(clean, "{}", c.escape_default());
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

/// Control characters, and those that turn the direction of text, end lines or take no room.
fn unseen(c: char) -> bool {
    let formats = ['\u{ad}', '\u{61c}', '\u{180e}', '\u{2028}', '\u{2029}', '\u{feff}'];
    let ranges = ['\u{200b}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    c.is_control() || formats.contains(&c) || ranges.iter().any(|range| range.contains(&c))
}

/// Columns without borders.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// With these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        table.set_header(headings);
        Self(table)
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| plain(&cell).into_owned()));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.0.lines() {
            // The first column begins at the edge, and no line ends in blanks.
            writeln!(f, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
        }
        Ok(())
    }
}

/// `1 host`, `3 hosts`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = match noun {
        noun if noun.ends_with("prefix") => "es",
        "entry" => return format!("{number} {}", if number == 1 { "entry" } else { "entries" }),
        _ => "s",
    };
    format!("{number} {noun}{}", if number == 1 { "" } else { plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_neither_borders_nor_trailing_blanks() {
        let mut table = Table::new(&["HOST", "STATUS", "ERROR"]);
        table.row(["web-1".to_owned(), "applied".to_owned(), String::new()]);
        table.row(["a".to_owned(), "failed".to_owned(), "x\x1b[2J".to_owned()]);
        assert_eq!(
            table.to_string(),
            "HOST   STATUS   ERROR\nweb-1  applied\na      failed   x\\u{1b}[2J\n"
        );
    }

    #[test]
    fn what_a_process_calls_itself_is_seen_as_it_is() {
        for (text, seen) in [
            ("café 日本", "café 日本"),
            ("a\nb\x1b]0;x\x07", "a\\nb\\u{1b}]0;x\\u{7}"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("a\u{200b}b\u{9b}2J", "a\\u{200b}b\\u{9b}2J"),
        ] {
            assert_eq!(plain(text), seen);
        }
    }

    #[test]
    fn numbers_agree_with_nouns() {
        assert_eq!(count(1, "prefix"), "1 prefix");
        assert_eq!(count(2, "prefix"), "2 prefixes");
        assert_eq!(count(0, "entry"), "0 entries");
        assert_eq!(count(3, "host"), "3 hosts");
    }

    #[test]
    fn bytes_do_not_steer_a_terminal() {
        assert_eq!(shown(b"a\tb\n\x1b[31m\xff"), "a\tb\n\\x1b[31m\\xff");
        assert_eq!(shown("é\u{9b}".as_bytes()), "é\\x9b");
    }

    #[test]
    fn text_is_quoted_and_runs_in_no_spreadsheet() {
        for (given, cell) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "'=1+1"),
            ("@cmd,x", "\"'@cmd,x\""),
            ("-", "-"),
            ("-1+1", "'-1+1"),
            ("a\r\nb", "a\\r\\nb"),
        ] {
            assert_eq!(csv_cell(given), cell);
        }
    }
}
