//! How fast links count: two readings of their counters.

use super::link::Statistics;
use std::time::Duration;

/// What a link counted in each second between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Bytes received.
    pub rx_bytes: f64,
    /// Bytes sent.
    pub tx_bytes: f64,
    /// Packets received.
    pub rx_packets: f64,
    /// Packets sent.
    pub tx_packets: f64,
    /// Packets received that were bad.
    pub rx_errors: f64,
    /// Packets that could not be sent.
    pub tx_errors: f64,
    /// Packets received that there was no room for.
    pub rx_dropped: f64,
    /// Packets that there was no room for to send.
    pub tx_dropped: f64,
}

/// The rates between two readings of one link; none when a counter was set back, as that of another
/// link or of a driver that began anew.
pub fn rates(before: &Statistics, after: &Statistics, elapsed: Duration) -> Option<Rates> {
    if elapsed.is_zero() {
        return None;
    }
    let rate = |counter: fn(&Statistics) -> u64| {
        // Exact to 2^53 a reading, and then to a part in 2^53.
        let more = grown(counter(before), counter(after))? as f64;
        Some(more / elapsed.as_secs_f64())
    };
    Some(Rates {
        rx_bytes: rate(|it| it.rx_bytes)?,
        tx_bytes: rate(|it| it.tx_bytes)?,
        rx_packets: rate(|it| it.rx_packets)?,
        tx_packets: rate(|it| it.tx_packets)?,
        rx_errors: rate(|it| it.rx_errors)?,
        tx_errors: rate(|it| it.tx_errors)?,
        rx_dropped: rate(|it| it.rx_dropped)?,
        tx_dropped: rate(|it| it.tx_dropped)?,
    })
}

/// By how much a counter grew. Some drivers count in 32 bits. One that went from the upper half of its
/// range to the lower wrapped; one that went down otherwise was set back.
fn grown(before: u64, after: u64) -> Option<u64> {
    if after >= before {
        return Some(after - before);
    }
    let wrapped = |range_bits: u32| {
        let range = u64::MAX >> (64 - range_bits);
        let half = range >> 1;
        (before <= range && before > half && after <= half)
            .then(|| after.wrapping_sub(before) & range)
    };
    wrapped(32).or_else(|| wrapped(64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_goes_on_and_one_that_is_set_back_has_no_rate() {
        let narrow = u64::from(u32::MAX);
        for (before, after, expected) in [
            (5, 5, Some(0)),
            (5, 12, Some(7)),
            (narrow - 9, 90, Some(100)),
            (narrow, narrow + 5, Some(5)),
            (u64::MAX - 9, 90, Some(100)),
            (1_000, 10, None),
            (narrow + 1_000, 10, None),
            (u64::MAX, u64::MAX - 1, None),
            (narrow, narrow - 1, None),
        ] {
            assert_eq!(grown(before, after), expected, "{before} {after}");
        }
    }

    #[test]
    fn a_rate_is_of_the_time_that_passed() {
        let before = Statistics { rx_bytes: 1_000, tx_packets: 7, ..Statistics::default() };
        let after = Statistics { rx_bytes: 4_000, tx_packets: 10, ..before };
        let of = |elapsed| rates(&before, &after, elapsed);
        let found = of(Duration::from_millis(1_500)).expect("rates");
        assert_eq!((found.rx_bytes, found.tx_packets, found.rx_dropped), (2_000.0, 2.0, 0.0));
        assert_eq!(of(Duration::ZERO), None);
        assert_eq!(rates(&after, &before, Duration::from_secs(1)), None);
    }
}
