//! What the controller is told of hosts' detections.

use crate::args::Options;
use anyhow::bail;
use serde::Deserialize;

/// `[detect]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetectFile {
    escalate: Option<bool>,
    max_blocks: Option<u32>,
    max_blocks_per_second: Option<u32>,
}

/// What is made of what hosts' detections block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Escalation {
    /// Entries at a time.
    pub(crate) max_blocks: usize,
    /// New entries a second.
    pub(crate) max_blocks_per_second: u32,
}

/// Checked, and absent unless it is on.
pub(super) fn escalation(
    options: &Options,
    file: &DetectFile,
) -> anyhow::Result<Option<Escalation>> {
    let max_blocks = options.detect_max_blocks.or(file.max_blocks).unwrap_or(1_000);
    if !(1..=100_000).contains(&max_blocks) {
        bail!("detect-max-blocks {max_blocks}: must be 1 to 100000");
    }
    let rate = options.detect_max_blocks_per_second.or(file.max_blocks_per_second).unwrap_or(10);
    if !(1..=1_000).contains(&rate) {
        bail!("detect-max-blocks-per-second {rate}: must be 1 to 1000");
    }
    let max_blocks = usize::try_from(max_blocks).unwrap_or(usize::MAX);
    let escalates = options.detect_escalate.or(file.escalate).unwrap_or(false);
    Ok(escalates.then_some(Escalation { max_blocks, max_blocks_per_second: rate }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_block_is_raised_within_limits_or_not_at_all() {
        let merge = |text: &str| {
            let file = toml::from_str(text).expect("valid");
            escalation(&Options::default(), &file).map_err(|error| error.to_string())
        };
        let usual = Escalation { max_blocks: 1_000, max_blocks_per_second: 10 };
        assert_eq!((merge(""), merge("escalate = true")), (Ok(None), Ok(Some(usual))));
        let told = merge("escalate = true\nmax_blocks = 7\nmax_blocks_per_second = 3");
        assert_eq!(told, Ok(Some(Escalation { max_blocks: 7, max_blocks_per_second: 3 })));
        for text in ["max_blocks = 0", "max_blocks_per_second = 1001"] {
            let named = text.split_once(' ').expect("two words").0.replace('_', "-");
            assert!(merge(text).is_err_and(|error| error.contains(&named)), "{text}");
        }
    }
}
