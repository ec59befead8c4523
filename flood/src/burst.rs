//! A flood that goes on beside whatever a test does.

use crate::{Sender, TURNS};
use anyhow::{Context, Result};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What one run takes, about: it can't be ended before, and the kernel waits for some milliseconds between
/// two of them.
const BURST: Duration = Duration::from_millis(150);
/// Frames of the first run, and of any at most; and of any at least, which the other end has room for.
const FIRST: u64 = 1_024;
const MOST: u64 = 1 << 20;
const LEAST: u64 = 192;
/// How long it goes at full speed; then it rests as long as it sends, so that others get on.
const FULL: Duration = Duration::from_secs(3);

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// How often it was each frame's turn.
    pub turns: [u64; TURNS],
    /// Of all frames: how many the other end of the pair had no room for, as the kernel counts them.
    pub refused: u64,
}

impl Sent {
    /// All frames.
    pub fn frames(&self) -> u64 {
        self.turns.iter().sum()
    }
}

/// Sends from a thread of its own until it is ended or dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Sent>>>,
}

impl Flood {
    /// Begins to send by an interface of this thread's network namespace, by which nothing else should send
    /// in the same way.
    pub fn start(mut sender: Sender, interface: &str) -> Result<Self> {
        let ifindex = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("link {interface:?}"))?;
        let interface = interface.to_owned();
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, frames) = (Arc::clone(&stop), Arc::clone(&frames));
            move || {
                let take_turns = sender.turns() as u64;
                let mut send = |frames| sender.send(ifindex, frames);
                run(&mut send, take_turns, || refused(&interface), &stop, &frames)
            }
        });
        Ok(Self { stop, frames, thread: Some(thread) })
    }

    /// How many frames went out in the runs that have ended.
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    /// Ends it, and says what was sent.
    pub fn end(mut self) -> Result<Sent> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().context("it ends once")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends until it is told to stop: as much as the other end takes, which on a machine with much to do is no
/// more than it has room for.
fn run(
    send: &mut impl FnMut(u32) -> Result<u64>,
    take_turns: u64,
    refused: impl Fn() -> Result<u64>,
    stop: &AtomicBool,
    frames: &AtomicU64,
) -> Result<Sent> {
    let (mut turns, mut burst) = ([0; TURNS], FIRST);
    let before = refused()?;
    let (start, mut last) = (Instant::now(), before);
    while !stop.load(Relaxed) {
        let begin = Instant::now();
        let sent = send(u32::try_from(burst)?)?;
        // The first frame begins each run.
        for (turn, count) in (0..take_turns).zip(&mut turns) {
            *count += (sent + take_turns - 1 - turn) / take_turns;
        }
        frames.fetch_add(sent, Relaxed);
        let (took, now) = (begin.elapsed(), refused()?);
        burst = match (now > last, took < BURST / 2) {
            (true, _) => (burst / 4).max(LEAST),
            (false, true) => (burst * 2).min(MOST),
            (false, false) if took > BURST * 2 => (burst / 2).max(LEAST),
            (false, false) => burst,
        };
        last = now;
        if start.elapsed() > FULL {
            thread::sleep(took);
        }
    }
    Ok(Sent { turns, refused: last - before })
}

/// Frames that an interface of this thread's network namespace could not send (proc_pid_net(5)).
fn refused(interface: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let of = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        (name.trim() == interface).then(|| counts.split_whitespace().nth(11)?.parse().ok())?
    };
    text.lines().find_map(of).with_context(|| format!("link {interface:?}: not in {text}"))
}
