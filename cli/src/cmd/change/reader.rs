//! Who watches while hosts answer: a progress bar, or a line a host.

use crate::{
    output::{self, Format, count},
    view::change::{ChangeLine, ForecastLine, ForecastRow, HostResultRow, Recorded},
};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

/// Who watches while hosts answer.
pub(super) struct Reader {
    jsonl: bool,
    bar: ProgressBar,
}

impl Reader {
    pub(super) fn new(format: Format, prefixes: usize) -> Self {
        // Drawing takes longer than one prefix to three hosts does.
        let watched = format.for_people() && stderr().is_terminal() && prefixes > 1_000;
        let bar = ProgressBar::with_draw_target(
            None,
            if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if watched {
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.set_message(format!("sending {}", count(prefixes, "prefix")));
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { jsonl: format == Format::Jsonl, bar }
    }

    pub(super) fn recorded(&mut self, hosts: u32) {
        if self.bar.is_hidden() && !self.jsonl && stderr().is_terminal() && hosts > 100 {
            self.bar = ProgressBar::new(hosts.into());
        }
        self.bar.set_length(hosts.into());
        self.bar.set_style(style("{bar:30} {pos}/{len} hosts {elapsed}"));
    }

    pub(super) fn host(&self, recorded: &Recorded, host: &HostResultRow) -> anyhow::Result<()> {
        self.bar.inc(1);
        if !self.jsonl {
            return Ok(());
        }
        let (revision, prefixes) = (recorded.revision, recorded.prefixes.as_slice());
        output::line(&ChangeLine { revision, prefixes, feed: recorded.feed.as_ref(), host })
    }

    pub(super) fn forecast(
        &self,
        recorded: &Recorded,
        forecast: &ForecastRow,
    ) -> anyhow::Result<()> {
        let revision = recorded.revision;
        if self.jsonl { output::line(&ForecastLine { revision, forecast }) } else { Ok(()) }
    }
}

fn style(template: &str) -> indicatif::ProgressStyle {
    indicatif::ProgressStyle::with_template(template).expect("a template of ours is valid")
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
