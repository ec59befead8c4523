//! What keys do to the state of `top`.

use super::state::{State, View};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// So many characters of a filter.
const LONGEST: usize = 64;

/// What becomes of the program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    On,
    End,
}

/// Every key, for the help.
pub(super) const KEYS: [(&str, &str); 12] = [
    ("↑ ↓ PgUp PgDn Home End", "move; also j and k"),
    ("Enter", "show the host"),
    ("Tab 1 2 3 4", "its processes, interfaces, dropped sources, events"),
    ("Esc", "back; without a filter"),
    ("/", "only lines with this text; Enter keeps it, Esc drops it"),
    ("s S", "order by the next column, or the one before"),
    ("r", "the other way round"),
    ("Space", "pause, and go on"),
    ("?", "this help"),
    ("q Ctrl-C", "end"),
    ("", ""),
    ("-", "not told, or not counted on that host"),
];

/// Does what an event of the terminal means.
pub(super) fn hear(state: &mut State, event: &Event) -> Next {
    state.change();
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => press(state, *key),
        _ => Next::On,
    }
}

fn press(state: &mut State, key: KeyEvent) -> Next {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Next::End;
    }
    if state.help {
        state.help = false;
        return if key.code == KeyCode::Char('q') { Next::End } else { Next::On };
    }
    if state.typing {
        typed(state, key.code, control);
        return Next::On;
    }
    let page = isize::try_from(state.page.max(1)).unwrap_or(isize::MAX);
    match key.code {
        KeyCode::Char('q') => return Next::End,
        KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => {
            if !state.look().filter.is_empty() {
                state.look_mut().filter.clear();
            } else if !state.leave() && key.code == KeyCode::Esc {
                return Next::End;
            }
        }
        KeyCode::Up | KeyCode::Char('k') => state.step(-1),
        KeyCode::Down | KeyCode::Char('j') => state.step(1),
        KeyCode::PageUp => state.step(-page),
        KeyCode::PageDown => state.step(page),
        KeyCode::Home => state.step(isize::MIN),
        KeyCode::End => state.step(isize::MAX),
        KeyCode::Enter | KeyCode::Right => state.enter(),
        KeyCode::Tab => turn(state, 1),
        KeyCode::BackTab => turn(state, View::TABS.len() - 1),
        KeyCode::Char(digit @ '1'..='4') if state.focus().is_some() => {
            state.view = View::TABS[usize::from(digit as u8 - b'1')];
        }
        KeyCode::Char('/') => state.typing = true,
        KeyCode::Char('s') => state.sort_by(true),
        KeyCode::Char('S') => state.sort_by(false),
        KeyCode::Char('r') => {
            let look = state.look_mut();
            look.descending = !look.descending;
        }
        KeyCode::Char(' ') => state.paused = !state.paused,
        KeyCode::Char('?' | 'h') => state.help = true,
        _ => {}
    }
    Next::On
}

fn turn(state: &mut State, by: usize) {
    let at = View::TABS.iter().position(|tab| *tab == state.view);
    if let Some(at) = at {
        state.view = View::TABS[(at + by) % View::TABS.len()];
    }
}

fn typed(state: &mut State, key: KeyCode, control: bool) {
    let filter = &mut state.look_mut().filter;
    match key {
        KeyCode::Enter => state.typing = false,
        KeyCode::Esc => {
            filter.clear();
            state.typing = false;
        }
        KeyCode::Backspace => {
            filter.pop();
        }
        KeyCode::Char('u') if control => filter.clear(),
        KeyCode::Char(letter) if !control && filter.chars().count() < LONGEST => {
            filter.push(letter);
        }
        _ => {}
    }
}
