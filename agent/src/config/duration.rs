//! Times as people write them.

use std::time::Duration;

/// `10s`, `5m`, `1h`, also zero; `None` for what is no such time.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let parsed = text.parse::<jiff::Span>().and_then(|span| span.to_duration(relative));
    parsed.and_then(Duration::try_from).ok()
}
