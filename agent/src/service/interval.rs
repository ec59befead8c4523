//! How long a read watches before it answers.

use std::time::Duration;
use tonic::Status;

/// Whoever waits longer would take it for no answer.
const LONGEST_MS: u32 = 5_000;

/// Of a request's milliseconds.
pub(super) fn interval(ms: u32) -> Result<Duration, Status> {
    match ms {
        0..=LONGEST_MS => Ok(Duration::from_millis(ms.into())),
        _ => Err(Status::invalid_argument(format!(
            "interval {ms} ms: must be at most {LONGEST_MS} ms"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_limit() {
        assert!(interval(0).expect("none").is_zero());
        assert_eq!(interval(5_000).expect("longest").as_millis(), 5_000);
        assert_eq!(interval(5_001).expect_err("too long").code(), tonic::Code::InvalidArgument);
    }
}
