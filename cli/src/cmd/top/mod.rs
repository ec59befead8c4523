//! `top`: the hosts' kernels at a glance, again and again, on a terminal. It owns the terminal and gives it
//! back as it was, whatever ends it.

mod draw;
mod feeds;
mod host;
mod input;
mod rows;
mod state;

use super::hosts;
use crate::{
    args::{Global, HostSelection, env},
    connect::Target,
    exit::{Exit, usage},
    output::Format,
    time::parse_duration,
};
use anyhow::Context as _;
use clap::Args;
use crossterm::event::EventStream;
use feeds::{Feeds, Line};
use input::Next;
use ratatui::DefaultTerminal;
use state::State;
use std::{
    cell::RefCell,
    io::{IsTerminal as _, stdin, stdout},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::MissedTickBehavior,
};
use tokio_stream::StreamExt as _;

/// Between two drawings: a slow terminal gets what is there then, not all that was in between.
const FRAME: Duration = Duration::from_millis(100);

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often to ask the hosts, 500ms to 1m
    #[arg(long, value_name = "DURATION", value_parser = parse_interval, default_value = "2s")]
    interval: Duration,
    #[command(flatten)]
    selection: HostSelection,
}

/// Runs `top`.
pub(crate) async fn run(global: &Global, args: TopArgs) -> anyhow::Result<Exit> {
    if !stdin().is_terminal() || !stdout().is_terminal() || global.format()? != Format::Table {
        let why = "top draws on a terminal; for a script there is \"kctl perf -o jsonl\"";
        return Err(usage(why));
    }
    if env("TERM").is_some_and(|kind| kind == "dumb") {
        let why = "top moves about on a terminal, and TERM=dumb says that this one can't; there is \"kctl perf\"";
        return Err(usage(why));
    }
    let target = Target::of(global)?;
    let selection = args.selection.for_read(&target)?;
    let line = Line::new(global, &target);
    // Who is refused reads why on the screen that stays.
    let known = hosts::rows_over(&*line.connection().await?, &target, selection.clone()).await?;
    let peer = match &target {
        Target::Controller(context) => context.server.clone(),
        Target::Agent(path) => path.display().to_string(),
    };
    let state = RefCell::new(State::new(peer, args.interval));
    state.borrow_mut().hosts(known);
    let (focus, focused) = watch::channel(None);
    let feeds = Feeds { line: &line, selection, interval: args.interval, state: &state };
    let screen = Screen::open()?;
    tokio::select! {
        // Keys before answers, however many of those there are.
        biased;
        ended = show(screen, &state, &focus) => ended?,
        () = feeds.run(focused) => {}
    }
    Ok(Exit::Done)
}

/// Draws and listens to keys until the user or the system says that it is enough.
async fn show(
    mut screen: Screen,
    state: &RefCell<State>,
    focus: &watch::Sender<Option<String>>,
) -> anyhow::Result<()> {
    let mut keys = EventStream::new();
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            key = keys.next() => {
                // A terminal that is gone has no keys any more.
                let Some(event) = key else { return Ok(()) };
                let mut state = state.borrow_mut();
                match input::hear(&mut state, &event.context("can't read the terminal")?) {
                    Next::On => {}
                    Next::Anew => screen.blank()?,
                    Next::End => return Ok(()),
                }
                focus.send_if_modified(|now| {
                    let moved = now.as_deref() != state.focus();
                    *now = state.focus().map(str::to_owned);
                    moved
                });
            }
            _ = frames.tick() => {
                let mut state = state.borrow_mut();
                if state.take_changed() {
                    screen.terminal.draw(|frame| draw::all(frame, &mut state, screen.coloured))
                        .context("can't draw")?;
                }
            }
        }
    }
}

/// The terminal while it is ours. A panic gives it back before it says why.
struct Screen {
    terminal: DefaultTerminal,
    coloured: bool,
}

impl Screen {
    fn open() -> anyhow::Result<Self> {
        let choice = anstream::AutoStream::choice(&stdout());
        let coloured = choice != anstream::ColorChoice::Never;
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal, coloured }),
            Err(error) => {
                ratatui::restore();
                Err(anyhow::Error::new(error).context("can't draw on this terminal"))
            }
        }
    }
}

impl Screen {
    /// Forgets what was drawn. The size alone does not tell: a terminal that gets smaller and larger again
    /// between two drawings has lost what did not fit.
    fn blank(&mut self) -> anyhow::Result<()> {
        let size = self.terminal.size().context("can't tell the terminal's size")?;
        self.terminal.resize(size.into()).context("can't draw")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A panic has given it back already; once more would put the cursor before what was said.
        if !std::thread::panicking() {
            // One that is gone needs nothing.
            let _ = self.terminal.show_cursor();
            let _ = ratatui::try_restore();
        }
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        it if (Duration::from_millis(500)..=Duration::from_secs(60)).contains(&it) => Ok(it),
        _ => Err("must be 500ms to 1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{OpenptyResult, Winsize, openpty};
    use nix::sys::termios::tcgetattr;
    use std::{io::Read as _, process::Command};

    #[test]
    fn intervals_have_limits() {
        assert_eq!(parse_interval("1m"), Ok(Duration::from_secs(60)));
        for text in ["61s", "499ms", "x"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_says_why() {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        let before = tcgetattr(&master).expect("settings");
        let end = || slave.try_clone().expect("the terminal");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let name = "cmd::top::tests::panics_on_the_screen";
        command.args([name, "--exact", "--ignored", "--nocapture"]).env("RUST_BACKTRACE", "0");
        command.stdin(end()).stdout(end()).stderr(end());
        let mut child = command.spawn().expect("this program");
        drop((command, slave));
        let mut said = Vec::new();
        let mut shown = std::fs::File::from(master.try_clone().expect("the terminal"));
        // Nobody has it any more: EIO.
        let _ = shown.read_to_end(&mut said);
        assert!(!child.wait().expect("it ends").success());
        let said = String::from_utf8(said).expect("text");
        let at = |text: &str| said.rfind(text).unwrap_or_else(|| panic!("{text:?} in {said:?}"));
        // It entered the other screen, drew, left it, and only then said why; the cursor is there again.
        let places = ["\u{1b}[?1049h", "drawn", "\u{1b}[?1049l", "a bug"].map(at);
        assert!(places.is_sorted(), "{said:?}");
        assert!(at("\u{1b}[?25l") < at("\u{1b}[?25h"), "{said:?}");
        assert_eq!(tcgetattr(&master).expect("settings"), before);
    }

    /// Runs in the terminal of the test above.
    #[test]
    #[ignore = "what another test runs"]
    fn panics_on_the_screen() {
        let mut screen = Screen::open().expect("a terminal");
        let draw = |frame: &mut ratatui::Frame| frame.render_widget("drawn", frame.area());
        screen.terminal.draw(draw).expect("drawn");
        panic!("a bug");
    }
}
