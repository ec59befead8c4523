//! What keys do to the state of `top`.

use super::{rows::View, state::State};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// So many characters of a filter.
const LONGEST: usize = 64;

/// What becomes of the program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    On,
    /// What the terminal shows may be anything: draw all of it anew.
    Anew,
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
    ("Ctrl-L", "draw all of it anew"),
    ("q Ctrl-C", "end"),
    ("-", "not told, or not counted on that host"),
];

/// Does what an event of the terminal means.
pub(super) fn hear(state: &mut State, event: &Event) -> Next {
    state.change();
    match event {
        Event::Resize(..) => Next::Anew,
        Event::Key(key) if key.kind != KeyEventKind::Release => press(state, *key),
        _ => Next::On,
    }
}

fn press(state: &mut State, key: KeyEvent) -> Next {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Next::End;
    }
    if control && key.code == KeyCode::Char('l') {
        return Next::Anew;
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

#[cfg(test)]
mod tests {
    use super::{super::state::tests::fleet, *};

    fn press(state: &mut State, code: KeyCode) -> Next {
        hear(state, &Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn write(state: &mut State, text: &str) {
        for letter in text.chars() {
            assert_eq!(press(state, KeyCode::Char(letter)), Next::On);
        }
    }

    #[test]
    fn a_filter_is_typed_kept_and_dropped_and_its_letters_are_no_keys() {
        let mut state = fleet();
        write(&mut state, "/qs?w");
        press(&mut state, KeyCode::Backspace);
        assert_eq!((state.look().filter.as_str(), state.typing, state.help), ("qs?", true, false));
        press(&mut state, KeyCode::Enter);
        assert!(!state.typing && state.rows().is_empty());
        write(&mut state, "jk");
        press(&mut state, KeyCode::Enter);
        assert_eq!((press(&mut state, KeyCode::Esc), state.rows().len()), (Next::On, 3));
        write(&mut state, &"/".repeat(2 * LONGEST));
        assert_eq!(state.look().filter.len(), LONGEST);
    }

    #[test]
    fn one_goes_into_a_host_and_back_and_out() {
        let mut state = fleet();
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::Enter);
        assert_eq!((state.focus(), state.view), (Some("web-2"), View::Processes));
        press(&mut state, KeyCode::BackTab);
        assert_eq!(state.view, View::Events);
        press(&mut state, KeyCode::Tab);
        write(&mut state, "3");
        assert_eq!(state.view, View::Sources);
        assert_eq!(press(&mut state, KeyCode::Esc), Next::On);
        let rows = state.rows();
        state.settle(&rows);
        assert_eq!((state.view, state.look().at), (View::Hosts, 1));
        press(&mut state, KeyCode::Tab);
        assert_eq!(press(&mut state, KeyCode::Left), Next::On);
        write(&mut state, "3s r");
        assert!(state.paused && state.look().descending && state.look().sort == 1);
        write(&mut state, "?");
        assert_eq!((press(&mut state, KeyCode::Esc), state.help), (Next::On, false));
        assert_eq!(press(&mut state, KeyCode::Esc), Next::End);
        assert_eq!(press(&mut state, KeyCode::Char('q')), Next::End);
        let end = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        state.typing = true;
        assert_eq!(hear(&mut state, &Event::Resize(1, 1)), Next::Anew);
        assert_eq!(hear(&mut state, &Event::Key(end)), Next::End);
    }
}
