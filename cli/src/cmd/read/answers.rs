//! What hosts answer: put together a host at a time, and printed.

use crate::{
    output::{self, Format, note},
    view::{
        ErrorView,
        read::{HostRow, Record, table, without},
    },
};
use indicatif::{ProgressBar, ProgressStyle};
use kctl_proto::agent::v1 as agent;
use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, stderr},
    time::Duration,
};

/// What the hosts have told so far.
pub(super) struct Answers<T> {
    format: Format,
    bar: ProgressBar,
    begun: BTreeMap<String, Vec<T>>,
    rows: Vec<HostRow<T>>,
    pub(super) hosts: usize,
    pub(super) failed: usize,
    /// Of those that failed: who may have done what was asked.
    pub(super) uncertain: usize,
}

impl<T: Record> Answers<T> {
    pub(super) fn new(format: Format) -> Self {
        let bar = if stderr().is_terminal() { waiting() } else { ProgressBar::hidden() };
        let (begun, rows) = (BTreeMap::new(), Vec::new());
        Self { format, bar, begun, rows, hosts: 0, failed: 0, uncertain: 0 }
    }

    pub(super) fn part(&mut self, host: String, records: Vec<T>) {
        self.begun.entry(host).or_default().extend(records);
    }

    pub(super) fn end(&mut self, host: String) -> anyhow::Result<()> {
        let records = self.begun.remove(&host).unwrap_or_default();
        self.row(HostRow { host, result: Ok(records) })
    }

    pub(super) fn failed(&mut self, host: String, error: agent::Error) -> anyhow::Result<()> {
        // Half a list would pass for the whole.
        self.begun.remove(&host);
        self.failed += 1;
        let uncertain =
            matches!(error.code.as_str(), "DEADLINE_EXCEEDED" | "UNKNOWN" | "DATA_LOSS");
        self.uncertain += usize::from(uncertain);
        self.row(HostRow { host, result: Err(ErrorView::from(error)) })
    }

    /// Nothing comes any more.
    pub(super) fn cut_short(&mut self) -> anyhow::Result<()> {
        while let Some((host, _)) = self.begun.pop_first() {
            let message = format!("host {host:?}: the answer was cut short");
            self.failed(host, agent::Error { code: "DATA_LOSS".to_owned(), message })?;
        }
        Ok(())
    }

    fn row(&mut self, row: HostRow<T>) -> anyhow::Result<()> {
        self.hosts += 1;
        self.bar.set_message(format!("{} answered", output::count(self.hosts, "host")));
        if self.format == Format::Jsonl {
            // Printed as it comes, and not kept.
            return self.bar.suspend(|| output::line(&row));
        }
        self.rows.push(row);
        Ok(())
    }

    /// As they came; none of those that were printed already.
    pub(super) fn into_rows(self) -> Vec<HostRow<T>> {
        self.bar.finish_and_clear();
        self.rows
    }

    pub(super) fn print(mut self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        self.rows.sort_by(|a, b| a.host.cmp(&b.host));
        let wide = self.format == Format::Wide;
        let shown = |row: &HostRow<T>| row.result.as_ref().map_or(true, |list| !list.is_empty());
        match self.format {
            // Printed as they came.
            Format::Jsonl => return Ok(()),
            Format::Table | Format::Wide if !self.rows.is_empty() => {
                if self.rows.iter().any(shown) {
                    output::print(&table(&self.rows, wide).to_string())?;
                }
                if let Some(remark) = without(&self.rows) {
                    note(&remark);
                }
            }
            format => output::rows(format, "hosts", &self.rows, || table(&self.rows, wide))?,
        }
        Ok(())
    }
}

/// A progress line on standard error.
fn waiting() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let bar = ProgressBar::new_spinner()
        .with_style(style.expect("a template of ours is valid"))
        .with_message("waiting for hosts");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    #[derive(Debug, Serialize)]
    struct Number(u32);

    impl Record for Number {
        const NOUN: &'static str = "numbers";
        const COLUMNS: &'static [&'static str] = &["NUMBER"];
        const WIDE_COLUMNS: &'static [&'static str] = &["TWICE"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_string(), (2 * self.0).to_string()]
        }
    }

    fn told() -> Answers<Number> {
        let mut answers = Answers::new(Format::Json);
        for (host, numbers) in [("b", vec![1, 2]), ("a", vec![3]), ("b", vec![4]), ("c", vec![5])] {
            answers.part(host.to_owned(), numbers.into_iter().map(Number).collect());
        }
        let message = "gone".to_owned();
        let error = agent::Error { code: "UNAVAILABLE".to_owned(), message };
        answers.end("b".to_owned()).expect("no output yet");
        answers.failed("a".to_owned(), error).expect("no output yet");
        answers.cut_short().expect("no output yet");
        answers.rows.sort_by(|a, b| a.host.cmp(&b.host));
        answers
    }

    #[test]
    fn parts_of_a_host_come_together_and_a_broken_list_is_an_error() {
        let answers = told();
        let message = "host \"c\": the answer was cut short";
        let expected = serde_json::json!([
            {"host": "a", "error": {"code": "UNAVAILABLE", "message": "gone"}},
            {"host": "b", "numbers": [1, 2, 4]},
            {"host": "c", "error": {"code": "DATA_LOSS", "message": message}},
        ]);
        assert_eq!(serde_json::to_value(&answers.rows).expect("json"), expected);
        assert_eq!((answers.hosts, answers.failed), (3, 2));
    }

    #[test]
    fn a_table_names_the_host_in_every_line_and_has_errors_last() {
        let mut rows = told().rows;
        let lines = |rows: &[HostRow<Number>], wide| table(rows, wide).to_string();
        assert!(
            lines(&rows, false).starts_with("HOST  NUMBER  ERROR\na             gone\nb     1\n")
        );
        assert_eq!(without(&rows), None);
        rows.push(HostRow { host: "d".to_owned(), result: Ok(Vec::new()) });
        assert_eq!(without(&rows).as_deref(), Some("no numbers on d"));
        let many = |at: usize| HostRow::<Number> { host: format!("h{at}"), result: Ok(Vec::new()) };
        let many: Vec<_> = (0..12).map(many).collect();
        let remark = without(&many).expect("a remark");
        assert!(remark.starts_with("no numbers on h0, h1") && remark.ends_with("h9 and 2 more"));
        rows.pop();
        let failed: Vec<_> = rows.extract_if(.., |row| row.result.is_err()).collect();
        assert!(lines(&failed, true).starts_with("HOST  ERROR\na     gone\n"));
        assert_eq!(
            lines(&rows, true),
            "HOST  NUMBER  TWICE\nb     1       2\nb     2       4\nb     4       8\n"
        );
    }
}
