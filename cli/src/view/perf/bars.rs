//! Histograms as bars.

use super::table::time;
use super::{CountersView, HistogramView};
use std::fmt::Write as _;

/// Characters of the longest bar.
const WIDTH: u64 = 40;
/// Eighths of a character, from none on.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// The histograms of one host's interval; empty when nothing was timed.
pub(crate) fn bars(host: &str, view: &CountersView) -> String {
    let block = view.block.as_ref();
    let all = [
        ("wait for a processor", view.run_queue.as_ref()),
        ("disk reads", block.map(|it| &it.reads)),
        ("disk writes", block.map(|it| &it.writes)),
        ("other disk requests", block.map(|it| &it.others)),
    ];
    let mut text = String::new();
    for (name, histogram) in all {
        if let Some(histogram) = histogram.filter(|it| it.count > 0) {
            // Writing to a string can't fail.
            let _ = write!(text, "\n{host}: {name}\n{}", drawn(histogram));
        }
    }
    text
}

fn drawn(histogram: &HistogramView) -> String {
    let most = histogram.buckets.iter().map(|it| it.count).max().unwrap_or(0).max(1);
    let mut text = String::new();
    let mut empty = 0;
    for bucket in &histogram.buckets {
        // A long gap is a gap.
        empty = if bucket.count == 0 { empty + 1 } else { 0 };
        if empty == 2 {
            text.push_str("  …\n");
        }
        if empty > 1 {
            continue;
        }
        let below = time(Some(bucket.below_ns));
        let _ = writeln!(text, "  < {below:<6} {:>9}  {}", bucket.count, bar(bucket.count, most));
    }
    // A line without a bar ends in no blank.
    text.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn bar(count: u64, most: u64) -> String {
    let eighths = u128::from(count) * u128::from(8 * WIDTH) / u128::from(most);
    // What is there is seen.
    let eighths = usize::try_from(eighths).unwrap_or(0).max(usize::from(count > 0));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::super::BucketView;
    use super::*;

    #[test]
    fn the_longest_bar_is_that_of_the_most() {
        let bucket = |from: u64, count| BucketView { from_ns: from, below_ns: 2 * from, count };
        let buckets = vec![
            bucket(1_024, 80),
            bucket(2_048, 0),
            bucket(4_096, 41),
            bucket(8_192, 0),
            bucket(16_384, 0),
            bucket(32_768, 1),
        ];
        let histogram = HistogramView { count: 122, p50_ns: None, p99_ns: None, buckets };
        let expected = [
            &format!("  < 2µs           80  {}", "█".repeat(40)),
            "  < 4µs            0",
            &format!("  < 8µs           41  {}▌", "█".repeat(20)),
            "  < 16µs           0",
            "  …",
            "  < 65µs           1  ▌",
        ];
        assert_eq!(drawn(&histogram).lines().collect::<Vec<_>>(), expected);
    }
}
