//! Times and durations as people and scripts read and write them. It knows no clock of a host.

use jiff::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 as RFC 3339 in UTC with milliseconds: `2026-01-02T03:04:05.678Z`. `None`
/// for 0, which means unknown, and for what no calendar holds.
pub(crate) fn rfc3339(unix_ms: i64) -> Option<String> {
    let time = Timestamp::from_millisecond(unix_ms).ok().filter(|_| unix_ms != 0)?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// `3m ago`, `in 59m`, or nothing when unknown.
pub(crate) fn relative(unix_ms: i64, now_unix_ms: i64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let text = rough(Duration::from_millis(unix_ms.abs_diff(now_unix_ms)));
    if unix_ms > now_unix_ms { format!("in {text}") } else { format!("{text} ago") }
}

const UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// In the largest unit of which it holds two: `59m`, `90m`, `5d`.
pub(crate) fn rough(duration: Duration) -> String {
    // To the next second, or an hour just begun would be 59 minutes.
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).saturating_add(500);
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)];
    let (unit, size) = units.into_iter().find(|(_, size)| ms >= 2 * size).unwrap_or(("s", 1_000));
    format!("{}{unit}", ms / size)
}

/// In the largest unit that it is whole in: `90s`, `5m`, `1500ms`.
pub(crate) fn exact(ms: u64) -> String {
    let whole = UNITS.iter().rev().find(|(_, size)| ms >= *size && ms.is_multiple_of(*size));
    let (unit, size) = whole.unwrap_or(&UNITS[0]);
    format!("{}{unit}", ms / size)
}

/// Reads `90s`, `10m`, `1h30m`, `7d`; at least one millisecond, at most 36,500 days.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST_MS: u64 = 36_500 * 86_400_000;
    let form = || "must be a number with a unit: 500ms, 90s, 10m, 1h, 7d, 2w".to_owned();
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| form())?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let size = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters]).ok_or_else(form)?.1;
        rest = &rest[letters..];
        total = number
            .checked_mul(size)
            .and_then(|ms| total.checked_add(ms))
            .filter(|&ms| ms <= LONGEST_MS)
            .ok_or("must be at most 36500d")?;
    }
    match (text.is_empty(), total) {
        (true, _) => Err(form()),
        (false, 0) => Err("must be at least 1ms".to_owned()),
        (false, _) => Ok(Duration::from_millis(total)),
    }
}

/// A duration as the wire wants it.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 by this machine's clock.
pub(crate) fn now_unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Reads `10m`, which is ten minutes ago, or a time of RFC 3339, as nanoseconds since 1970.
pub(crate) fn parse_moment(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        let ns = i64::try_from(time.as_nanosecond()).ok().filter(|ns| *ns > 0);
        return ns.ok_or_else(|| "must be after 1970".to_owned());
    }
    match parse_duration(text) {
        Ok(ago) => Ok(now_unix_ns()
            .saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))
            .max(1)),
        Err(_) => {
            Err("must be a time such as 2026-01-02T03:04:05Z, or how long ago: 90s, 10m, 2d"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_durations_ago() {
        assert_eq!(parse_moment("2026-01-02T03:04:05.678Z"), Ok(1_767_323_045_678_000_000));
        assert_eq!(parse_moment("2026-01-02T04:04:05.678+01:00"), Ok(1_767_323_045_678_000_000));
        let since = parse_moment("10m").expect("a duration");
        let ago = now_unix_ns() - since;
        assert!((600_000_000_000..610_000_000_000).contains(&ago), "{ago}");
        assert_eq!(parse_moment("36500d"), Ok(1));
        for text in ["", "yesterday", "10", "-10m", "2026-01-02", "1969-01-02T03:04:05Z"] {
            assert!(parse_moment(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_exact_duration_reads_back() {
        for (ms, text) in [(0, "0ms"), (1_500, "1500ms"), (90_000, "90s"), (86_400_000, "1d")] {
            assert_eq!(exact(ms), text);
        }
    }

    #[test]
    fn durations_read_in_every_unit() {
        for (text, ms) in [
            ("1ms", 1),
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn malformed_durations_are_refused() {
        for text in ["", "0", "0s", "5", "1y", "h", "-1s", "1.5h", " 1s", "1 s", "36501d", "1é"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert!(parse_duration("99999999999999999999s").is_err());
        assert!(parse_duration("18446744073709551615w").is_err());
    }

    #[test]
    fn timestamps_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(1_767_323_045_678).as_deref(), Some("2026-01-02T03:04:05.678Z"));
        assert_eq!(rfc3339(1_767_323_045_000).as_deref(), Some("2026-01-02T03:04:05.000Z"));
        assert_eq!(rfc3339(0), None);
        assert_eq!(rfc3339(i64::MAX), None);
    }

    #[test]
    fn people_read_relative_times() {
        let now = 1_767_323_045_678;
        assert_eq!(relative(now - 180_000, now), "3m ago");
        assert_eq!(relative(now + 59 * 60_000 + 500, now), "in 59m");
        assert_eq!(relative(now - 1_500, now), "2s ago");
        assert_eq!(relative(now - 5 * 86_400_000, now), "5d ago");
        assert_eq!(relative(0, now), "");
    }
}
