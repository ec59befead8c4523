//! A flood that goes on beside whatever a test does.

use crate::{Sender, Sources};
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
/// Frames of the first run, and of any at least and at most.
const FRAMES: (f64, f64) = (1_024.0, 1_048_576.0);
/// How long it goes at full speed; then it rests as long as it sends, so that others get on.
const FULL: Duration = Duration::from_secs(3);

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames of the first and of the second source, where two take turns.
    pub turns: [u64; 2],
    /// Of all frames: how many the other end of the pair had no room for, as the kernel counts them.
    pub refused: u64,
}

impl Sent {
    /// All frames.
    pub fn frames(&self) -> u64 {
        self.turns[0] + self.turns[1]
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
    pub fn start(sender: Sender, interface: &str, sources: Sources) -> Result<Self> {
        let ifindex = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("link {interface:?}"))?;
        let interface = interface.to_owned();
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, frames) = (Arc::clone(&stop), Arc::clone(&frames));
            move || {
                let before = refused(&interface)?;
                let turns = send(sender, ifindex, &sources, &stop, &frames)?;
                Ok(Sent { turns, refused: refused(&interface)? - before })
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

/// Sends until it is told to stop; frames of the first and the second of two sources.
fn send(
    mut sender: Sender,
    ifindex: u32,
    sources: &Sources,
    stop: &AtomicBool,
    frames: &AtomicU64,
) -> Result<[u64; 2]> {
    let (mut turns, mut burst) = ([0; 2], FRAMES.0);
    let start = Instant::now();
    while !stop.load(Relaxed) {
        let begin = Instant::now();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in bounds")]
        let sent = sender.send(ifindex, sources, burst as u32)?;
        // The first source begins each run.
        turns[0] += sent.div_ceil(2);
        turns[1] += sent / 2;
        frames.fetch_add(sent, Relaxed);
        let took = begin.elapsed();
        let longer = BURST.as_secs_f64() / took.as_secs_f64();
        burst = (burst * longer.min(8.0)).clamp(FRAMES.0, FRAMES.1);
        if start.elapsed() > FULL {
            thread::sleep(took);
        }
    }
    Ok(turns)
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
