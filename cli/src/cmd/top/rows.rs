//! The lists of `top` as rows of text: which there are, their columns, order and filter.

use super::{
    host::Host,
    state::{EventLine, Look, State},
};
use crate::{
    output::plain,
    view::{process, size},
};
use kctl_proto::agent::v1 as agent;
use std::cmp::Ordering;

/// What is on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Hosts,
    Processes,
    Interfaces,
    Sources,
    Events,
}

impl View {
    pub(super) const ALL: [Self; 5] =
        [Self::Hosts, Self::Processes, Self::Interfaces, Self::Sources, Self::Events];
    /// Of one host.
    pub(super) const TABS: [Self; 4] =
        [Self::Processes, Self::Interfaces, Self::Sources, Self::Events];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Processes => "processes",
            Self::Interfaces => "interfaces",
            Self::Sources => "dropped sources",
            Self::Events => "events",
        }
    }
}

/// A column.
pub(super) struct Column {
    pub(super) heading: &'static str,
    pub(super) width: u16,
    /// Aligned to the right, and the largest first.
    pub(super) is_number: bool,
}

const fn text(heading: &'static str, width: u16) -> Column {
    Column { heading, width, is_number: false }
}

const fn number(heading: &'static str, width: u16) -> Column {
    Column { heading, width, is_number: true }
}

/// Of a view; the first that fit are shown, and the last of these takes the rest of the width.
pub(super) fn columns(view: View) -> &'static [Column] {
    const HOSTS: &[Column] = &[
        text("HOST", 12),
        text("STATE", 12),
        number("CPU%", 5),
        number("MEM%", 5),
        number("IN/S", 6),
        number("OUT/S", 6),
        number("DROPS/S", 8),
        number("CALLS/S", 8),
        number("ALERTS", 7),
    ];
    const PROCESSES: &[Column] = &[
        number("PID", 7),
        text("USER", 10),
        number("CPU%", 6),
        number("RSS", 6),
        number("THREADS", 8),
        text("STATE", 6),
        text("COMMAND", 20),
    ];
    const INTERFACES: &[Column] = &[
        text("INTERFACE", 15),
        number("IN/S", 7),
        number("OUT/S", 7),
        number("PKTS IN/S", 10),
        number("PKTS OUT/S", 10),
        number("ERRORS/S", 9),
        number("DROPPED/S", 10),
    ];
    const SOURCES: &[Column] =
        &[text("SOURCE", 40), number("DROPPED PACKETS", 16), number("BYTES", 8)];
    const EVENTS: &[Column] = &[text("TIME", 8), text("TYPE", 9), text("WHAT", 20)];
    match view {
        View::Hosts => HOSTS,
        View::Processes => PROCESSES,
        View::Interfaces => INTERFACES,
        View::Sources => SOURCES,
        View::Events => EVENTS,
    }
}

/// One cell: what is shown, and what it is ordered by.
pub(super) struct Cell {
    pub(super) text: String,
    rank: Option<f64>,
}

impl Cell {
    fn text(text: &str) -> Self {
        Self { text: plain(text).into_owned(), rank: None }
    }

    /// What is not known is a dash, and comes last.
    fn number(value: Option<f64>, text: fn(f64) -> String) -> Self {
        let shown = value.map_or_else(|| "-".to_owned(), text);
        Self { text: shown, rank: value.or(Some(f64::NAN)) }
    }
}

/// One line of a list.
pub(super) struct Row {
    /// Who it is, for as long as the list is looked at.
    pub(super) key: String,
    pub(super) cells: Vec<Cell>,
    /// Something is wrong with it.
    pub(super) is_bad: bool,
}

/// The rows of what is looked at, as they come.
pub(super) fn of(state: &State) -> Vec<Row> {
    let host = state.focus().and_then(|name| state.hosts.get(name));
    match state.view {
        View::Hosts => state.hosts.iter().map(|(name, host)| of_host(name, host)).collect(),
        View::Processes => state.processes.iter().flatten().map(of_process).collect(),
        View::Interfaces => {
            host.and_then(|it| it.links.as_ref()).into_iter().flatten().map(of_link).collect()
        }
        View::Sources => {
            let stats = host.and_then(|it| it.stats.as_ref());
            stats.into_iter().flat_map(|it| &it.top_sources).map(of_source).collect()
        }
        View::Events => {
            let row = |(number, event): &(u64, EventLine)| {
                let [time, what] = &event.text;
                // By when they came, which within a second the time does not tell.
                let when = Cell { text: time.clone(), rank: Some(exact(*number)) };
                let cells = vec![when, Cell::text(event.kind), Cell::text(what)];
                Row { key: number.to_string(), cells, is_bad: event.kind == "lost" }
            };
            state.events.iter().map(row).collect()
        }
    }
}

fn of_host(name: &str, host: &Host) -> Row {
    let memory = host.memory().filter(|(_, total)| *total > 0);
    let percent = memory.map(|(used, total)| exact(used) / exact(total) * 100.0);
    let network = host.network();
    Row {
        key: name.to_owned(),
        cells: vec![
            Cell::text(name),
            Cell::text(host.word()),
            Cell::number(host.cpu(), tenths),
            Cell::number(percent, tenths),
            Cell::number(network.map(|it| it.0), bytes),
            Cell::number(network.map(|it| it.1), bytes),
            Cell::number(host.drops, short),
            Cell::number(host.syscalls, short),
            Cell::number(Some(exact(host.alerts as u64)), |it| match it {
                // Where there is none nothing catches the eye.
                0.0 => String::new(),
                some => whole(some),
            }),
        ],
        is_bad: !host.is_well(),
    }
}

fn of_process(it: &agent::Process) -> Row {
    let user = if it.user.is_empty() { it.uid.to_string() } else { it.user.clone() };
    let command = process::command(&it.comm, &it.args);
    Row {
        // A pid goes to another process one day.
        key: format!("{} {}", it.pid, it.start_unix_ms),
        cells: vec![
            Cell::number(Some(it.pid.into()), whole),
            Cell::text(&user),
            Cell::number(Some(it.cpu_percent), tenths),
            Cell::number(Some(exact(it.rss_bytes)), bytes),
            Cell::number(Some(it.threads.into()), whole),
            Cell::text(&it.state),
            // As wide as any terminal is.
            Cell::text(&command.chars().take(500).collect::<String>()),
        ],
        is_bad: false,
    }
}

fn of_link(it: &agent::LinkStats) -> Row {
    let rate = |of: fn(&agent::link_stats::Rates) -> f64| it.rates.as_ref().map(of);
    let cells = vec![
        Cell::text(&it.interface),
        Cell::number(rate(|it| it.rx_bytes), bytes),
        Cell::number(rate(|it| it.tx_bytes), bytes),
        Cell::number(rate(|it| it.rx_packets), short),
        Cell::number(rate(|it| it.tx_packets), short),
        Cell::number(rate(|it| it.rx_errors + it.tx_errors), short),
        Cell::number(rate(|it| it.rx_dropped + it.tx_dropped), short),
    ];
    Row {
        key: it.index.to_string(),
        cells,
        is_bad: rate(|it| it.rx_errors + it.tx_errors) > Some(0.0),
    }
}

fn of_source(it: &agent::stats::SourceCount) -> Row {
    let count = it.count.unwrap_or_default();
    let cells = vec![
        Cell::text(&it.src),
        Cell::number(Some(exact(count.packets)), whole),
        Cell::number(Some(exact(count.bytes)), bytes),
    ];
    Row { key: it.src.clone(), cells, is_bad: false }
}

/// Filters and orders.
pub(super) fn arranged(mut rows: Vec<Row>, look: &Look) -> Vec<Row> {
    let wanted = look.filter.to_lowercase();
    rows.retain(|row| {
        wanted.is_empty() || row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&wanted))
    });
    rows.sort_by(|a, b| {
        let (Some(a), Some(b)) = (a.cells.get(look.sort), b.cells.get(look.sort)) else {
            return Ordering::Equal;
        };
        // Unknown is last in either order.
        let unknown = |cell: &Cell| cell.rank.is_some_and(f64::is_nan);
        let order = match (a.rank, b.rank) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => a.text.cmp(&b.text),
        };
        let order = if look.descending { order.reverse() } else { order };
        unknown(a).cmp(&unknown(b)).then(if unknown(a) { Ordering::Equal } else { order })
    });
    rows
}

/// Near enough for a screen.
#[expect(clippy::cast_precision_loss, reason = "53 bits are more than a screen shows")]
fn exact(count: u64) -> f64 {
    count as f64
}

fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// `0`, `1.5`, `870`, `12.3k`, `4.5M`
pub(super) fn short(value: f64) -> String {
    match value {
        it if it < 0.05 => "0".to_owned(),
        it if it < 9.95 => tenths(it),
        it if it < 9_999.5 => whole(it),
        it if it < 999_950.0 => format!("{:.1}k", it / 1e3),
        it if it < 999_950_000.0 => format!("{:.1}M", it / 1e6),
        it => format!("{:.1}G", it / 1e9),
    }
}

/// As sizes are told.
pub(super) fn bytes(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest that fits")]
    #[expect(clippy::cast_sign_loss, reason = "and none is below 0")]
    size(value.max(0.0) as u64)
}
