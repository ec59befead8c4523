//! Waiting for a condition with a deadline: the only place that sleeps, and only between two looks.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Pause between two looks: short against every deadline, long against the cost of a look.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds and tells how long that took; an error names `what` when the
/// deadline passes first. An error of the condition ends the wait at once.
pub fn until(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > within {
            bail!("{what}: not so within {} ms", within.as_millis());
        }
        thread::sleep(PAUSE);
    }
}
