//! An event as a line for people, and as a row of CSV.

mod csv;
mod text;

pub(crate) use csv::{HEADINGS, row};
pub(crate) use text::alert;

use crate::output::plain;
use anstyle::{AnsiColor, Style};
use kctl_events::{Kind, view::EventView};
use std::fmt::Write as _;

/// `2026-01-02T03:04:05.678Z web-1 drop 10.0.0.5:41000 → 10.0.0.9:22 tcp …`
pub(crate) fn line(event: &EventView<'_>, wide: bool, coloured: bool) -> String {
    // Milliseconds are enough for people; `wide` shows what the host told.
    let time = match event.time.get(..23) {
        Some(short) if !wide => format!("{short}Z"),
        _ => event.time.clone(),
    };
    let mut body = format!("{:<7} {}", event.kind, text::of(event));
    for (set, word) in [(event.late, "late"), (event.clock_off, "clock off")] {
        if set {
            // Writing to a string can't fail.
            let _ = write!(body, " [{word}]");
        }
    }
    if wide {
        let _ = write!(body, " [{} {}]", event.boot_id, event.seq);
    }
    let (host, body) = (plain(event.host), plain(body.trim_end()));
    let style = style(event.kind.parse().ok()).filter(|_| coloured);
    match style {
        None => format!("{time} {host:<12} {body}\n"),
        Some(style) => {
            let dim = Style::new().dimmed();
            format!("{dim}{time}{dim:#} {host:<12} {style}{body}{style:#}\n")
        }
    }
}

/// `12:34:56` and what happened, for where host and type are told elsewhere.
pub(crate) fn brief(event: &EventView<'_>) -> [String; 2] {
    let time = event.time.get(11..19).unwrap_or_default().to_owned();
    [time, text::of(event).trim_end().to_owned()]
}

/// What is refused is red, what changes rights yellow, what is lost can't be missed.
fn style(kind: Option<Kind>) -> Option<Style> {
    let colour = |it: AnsiColor| Some(it.on_default());
    match kind? {
        Kind::Lost => Some(AnsiColor::Red.on_default().bold().invert()),
        Kind::Host => Some(AnsiColor::Cyan.on_default().bold()),
        Kind::Drop | Kind::Oom => colour(AnsiColor::Red),
        Kind::Monitor => colour(AnsiColor::Magenta),
        Kind::Cred | Kind::Ptrace | Kind::Module | Kind::Bpf => colour(AnsiColor::Yellow),
        Kind::Exec | Kind::Exit | Kind::Open | Kind::Signal => colour(AnsiColor::Green),
        Kind::Connect | Kind::Accept | Kind::Close => colour(AnsiColor::Blue),
        _ => Some(Style::new()),
    }
}
