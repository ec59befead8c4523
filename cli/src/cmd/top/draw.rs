//! The screen of `top`, drawn from its state: a line on top, a list, what is wrong, and the keys. It fits
//! into whatever room there is.

use super::{
    host::Host,
    input::KEYS,
    rows::{Column, Row, View, bytes, columns, short},
    state::State,
};
use crate::{
    output::{count, plain},
    view::size,
};
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Row as TableRow, Table, TableState},
};

/// How things look.
struct Look {
    coloured: bool,
}

impl Look {
    fn colour(&self, colour: Color) -> Style {
        if self.coloured { Style::new().fg(colour) } else { Style::new() }
    }

    fn bad(&self) -> Style {
        self.colour(Color::Red)
    }

    fn heading(&self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn chosen(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// Draws everything.
pub(super) fn all(frame: &mut Frame, state: &mut State, coloured: bool) {
    let look = Look { coloured };
    let rows = state.rows();
    state.settle(&rows);
    // What there is no room for is left out, the least important first.
    let room = frame.area().height;
    let tabs = u16::from(room >= 4 && state.focus().is_some());
    let heights = [1, tabs, 0, u16::from(room >= 6), u16::from(room >= 5)];
    let list_height = room.saturating_sub(heights.iter().sum());
    let parts = heights.map(Constraint::Length);
    let [top, tab, list, remark, footer] =
        Layout::vertical([parts[0], parts[1], Constraint::Length(list_height), parts[3], parts[4]])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(title(state, &look)), top);
    frame.render_widget(Paragraph::new(tab_line(state, &look)), tab);
    state.page = usize::from(list.height.saturating_sub(1)).max(1);
    draw_list(frame, list, state, &rows, &look);
    let wrong = state.remark(&rows).map(|why| plain(&why).into_owned());
    frame.render_widget(Paragraph::new(wrong.unwrap_or_default()).style(look.bad()), remark);
    frame.render_widget(Paragraph::new(keys(state, &look)), footer);
    if state.help {
        help(frame, &look);
    }
}

/// Who is looked at, and how they are.
fn title(state: &State, look: &Look) -> Line<'static> {
    let mut spans = match state.focus() {
        Some(name) => {
            let name = plain(name).into_owned();
            let host = state.hosts.get(state.focus().unwrap_or_default());
            let about = host.map_or_else(|| " is gone".to_owned(), of_host);
            vec![Span::styled(name, look.heading()), Span::raw(about)]
        }
        None => {
            let well = state.hosts.values().filter(|host| host.is_well()).count();
            let known = count(state.hosts.len(), "host");
            let away = state.hosts.len() - well;
            let away = if away > 0 { format!(", {away} not answering") } else { String::new() };
            let every = state.interval;
            vec![
                Span::styled("kctl top", look.heading()),
                Span::raw(format!("  {}  {known}{away}  every {every:?}", plain(&state.peer))),
            ]
        }
    };
    if state.paused {
        spans.insert(0, Span::styled("PAUSED", look.chosen()));
        spans.insert(1, Span::raw(" "));
    }
    Line::from(spans)
}

fn of_host(host: &Host) -> String {
    let mut text = format!("  {}", host.word());
    if let Some(cpu) = host.cpu() {
        text.push_str(&format!("  cpu {cpu:.1}%"));
    }
    if let Some((used, total)) = host.memory() {
        text.push_str(&format!("  mem {}/{}", size(used), size(total)));
    }
    if let Some((rx, tx)) = host.network() {
        text.push_str(&format!("  in {}/s  out {}/s", bytes(rx), bytes(tx)));
    }
    for (what, rate) in [("drops", host.drops), ("calls", host.syscalls)] {
        if let Some(rate) = rate {
            text.push_str(&format!("  {what} {}/s", short(rate)));
        }
    }
    text
}

fn tab_line(state: &State, look: &Look) -> Line<'static> {
    let tabs = (1..).zip(View::TABS).flat_map(|(number, tab)| {
        let style = if tab == state.view { look.chosen() } else { Style::new() };
        [Span::styled(format!(" {number} {} ", tab.name()), style), Span::raw(" ")]
    });
    Line::from(tabs.collect::<Vec<_>>())
}

fn draw_list(frame: &mut Frame, area: Rect, state: &State, rows: &[Row], look: &Look) {
    let shown = fitting(columns(state.view), area.width);
    let order = state.look();
    let headings = shown.iter().enumerate().map(|(at, column)| {
        let mark = match (at == order.sort, order.descending) {
            (false, _) => "",
            (true, true) => "▼",
            (true, false) => "▲",
        };
        aligned(format!("{}{mark}", column.heading), column)
    });
    let header = TableRow::new(headings.collect::<Vec<_>>()).style(look.heading());
    let lines = rows.iter().map(|row| {
        let cells = shown.iter().zip(&row.cells);
        let cells = cells.map(|(column, cell)| aligned(cell.text.clone(), column));
        let style = if row.is_bad { look.bad() } else { Style::new() };
        TableRow::new(cells.collect::<Vec<_>>()).style(style)
    });
    let widths =
        shown.iter().enumerate().map(|(at, column)| match at == widest(state.view, shown) {
            true => Constraint::Min(column.width),
            false => Constraint::Length(column.width),
        });
    let table = Table::new(lines.collect::<Vec<_>>(), widths.collect::<Vec<_>>())
        .header(header)
        .column_spacing(1)
        .row_highlight_style(look.chosen());
    let selected = (!rows.is_empty()).then_some(order.at);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
    if rows.is_empty() && area.height > 1 {
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new(empty(state)), below);
    }
}

/// Why there is no line.
fn empty(state: &State) -> String {
    let told = match state.view {
        View::Hosts | View::Events => true,
        View::Processes => state.processes.is_some(),
        View::Interfaces | View::Sources => {
            let host = state.focus().and_then(|name| state.hosts.get(name));
            host.is_some_and(|it| it.links.is_some() && it.stats.is_some())
        }
    };
    match (told, state.look().filter.as_str()) {
        (_, filter) if !filter.is_empty() => format!("nothing with {:?}", plain(filter)),
        (true, _) => format!("no {} yet", state.view.name()),
        (false, _) if state.paused => "paused".to_owned(),
        (false, _) => "waiting for the host".to_owned(),
    }
}

/// The column that takes the room that is left: what people read.
fn widest(view: View, shown: &[Column]) -> usize {
    match view {
        View::Hosts | View::Interfaces | View::Sources => 0,
        View::Processes | View::Events => shown.len().saturating_sub(1),
    }
}

/// As many as there is room for, at least one.
fn fitting(columns: &'static [Column], width: u16) -> &'static [Column] {
    let mut room = 0;
    let fits = columns.iter().take_while(|column| {
        room += column.width + 1;
        room <= width + 1
    });
    &columns[..fits.count().max(1)]
}

fn aligned(text: String, column: &Column) -> Line<'static> {
    let alignment = if column.is_number { Alignment::Right } else { Alignment::Left };
    Line::from(text).alignment(alignment)
}

/// The filter while it is typed, else the keys.
fn keys(state: &State, look: &Look) -> Line<'static> {
    let filter = plain(&state.look().filter).into_owned();
    if state.typing {
        return Line::from(vec![
            Span::styled("/", look.heading()),
            Span::raw(format!("{filter}_")),
        ]);
    }
    let mut keys = match state.view {
        View::Hosts => vec![("Enter", "show")],
        _ => vec![("Esc", "back"), ("Tab", "next")],
    };
    let pause = if state.paused { "go on" } else { "pause" };
    keys.extend([("/", "filter"), ("s", "sort"), ("r", "reverse"), ("Space", pause)]);
    keys.extend([("?", "help"), ("q", "quit")]);
    let mut spans = Vec::new();
    if !filter.is_empty() {
        spans.push(Span::styled(format!("/{filter}"), look.chosen()));
        spans.push(Span::raw("  "));
    }
    for (key, what) in keys {
        spans.push(Span::styled(key, look.heading()));
        spans.push(Span::raw(format!(" {what}  ")));
    }
    Line::from(spans)
}

fn help(frame: &mut Frame, look: &Look) {
    let lines = KEYS.map(|(key, what)| {
        Line::from(vec![Span::styled(format!(" {key:<24}"), look.heading()), Span::raw(what)])
    });
    let area = frame.area();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let width = 80.min(area.width);
    let [middle] = Layout::vertical([Constraint::Length(height)]).areas(area);
    let middle = Rect { width, ..middle };
    frame.render_widget(Clear, middle);
    let block = Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(lines.to_vec()).block(block), middle);
}

#[cfg(test)]
mod tests {
    use super::{super::state::EventLine, super::state::tests::fleet, *};
    use ratatui::{Terminal, backend::TestBackend};

    fn drawn(state: &mut State, width: u16, height: u16, coloured: bool) -> TestBackend {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| all(frame, state, coloured)).expect("drawn");
        terminal.backend().clone()
    }

    fn text(state: &mut State, width: u16, height: u16) -> String {
        drawn(state, width, height, false).to_string()
    }

    #[test]
    fn everything_fits_into_80_by_24() {
        let mut state = fleet();
        let text = text(&mut state, 80, 24);
        for word in ["kctl top  ctl:7443  3 hosts, 1 not", "HOST▲", "ALERTS", "q quit"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let lines: Vec<_> = text.lines().collect();
        let of = |name: &str| lines.iter().find(|line| line.contains(name)).expect(name);
        assert!(of("web-2").contains("local         80.0  75.0"), "{text}");
        assert!(of("web-3").contains("disconnected     -     -"), "{text}");
    }

    #[test]
    fn alerts_that_fire_are_counted_and_none_are_not_shown() {
        let mut state = fleet();
        let last = |state: &mut State| {
            let text = text(state, 80, 24);
            let line = text.lines().find(|it| it.contains("web-2")).unwrap_or_default();
            line.trim_matches(['"', ' ']).split_whitespace().last().map(str::to_owned)
        };
        assert_eq!(last(&mut state).as_deref(), Some("-"));
        let alerts = vec![Default::default(); 3];
        let name = "web-2".to_owned();
        let status = kctl_proto::agent::v1::HostStatus { name, alerts, ..Default::default() };
        state.hosts(vec![status.into()]);
        assert_eq!(last(&mut state).as_deref(), Some("3"));
    }

    #[test]
    fn no_size_is_too_small() {
        let sizes = [1, 2, 3, 4, 5, 7, 12, 20, 40, 79];
        for (width, height) in sizes.iter().flat_map(|width| sizes.map(|height| (*width, height))) {
            let mut state = fleet();
            for view in View::ALL {
                text(&mut state, width, height);
                if view == View::Hosts {
                    state.enter();
                }
                state.view = view;
                state.typing = !state.typing;
                state.help = !state.help;
            }
        }
        assert!(text(&mut fleet(), 20, 6).contains("web-1"));
    }

    #[test]
    fn a_host_is_shown_in_tabs_and_its_text_steers_no_terminal() {
        let mut state = fleet();
        state.enter();
        assert!(text(&mut state, 80, 24).contains("waiting for the host"));
        let args = vec!["a\x1b[2J\u{202e}".to_owned()];
        let process = kctl_proto::agent::v1::Process { pid: 7, args, ..Default::default() };
        state.processes = Some(vec![process]);
        let shown = text(&mut state, 80, 24);
        assert!(shown.contains("web-1  local  cpu 10.0%  mem 3.0G/4.0G"), "{shown}");
        assert!(shown.contains("a\\u{1b}[2J\\u{202e}"), "{shown}");
        state.view = View::Events;
        assert!(text(&mut state, 80, 24).contains("no events yet"));
        let text_of = ["12:34:56".to_owned(), "7 3 events".to_owned()];
        state.events("web-1", vec![EventLine { kind: "lost", text: text_of }]);
        assert!(text(&mut state, 80, 24).contains("12:34:56 lost      7 3 events"));
        state.look_mut().filter = "none".to_owned();
        assert!(text(&mut state, 80, 24).contains("nothing with \"none\""));
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let coloured = |wanted| {
            let drawn = drawn(&mut fleet(), 80, 24, wanted);
            drawn.buffer().content().iter().any(|cell| cell.fg != Color::Reset)
        };
        assert!(coloured(true) && !coloured(false));
    }

    #[test]
    fn help_names_every_key_and_a_pause_is_told() {
        let mut state = fleet();
        (state.help, state.paused) = (true, true);
        let text = text(&mut state, 80, 24);
        for word in ["PgDn", "order by", "Ctrl-C", "go on"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
