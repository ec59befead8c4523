//! Waiting for a condition with a deadline: the only place that sleeps, and only between two looks.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Pauses between two looks: as long as the look took, so that waiting leaves half of a processor to what is
/// waited for, but short against every deadline.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Waits until `condition` holds and tells how long that took; an error names `what` when the
/// deadline passes first. An error of the condition ends the wait at once.
pub fn until(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let look = Instant::now();
        if condition()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > within {
            bail!("{what}: not so within {} ms", within.as_millis());
        }
        thread::sleep(look.elapsed().clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}
