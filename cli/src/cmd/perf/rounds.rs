//! Intervals of many hosts, put side by side and printed as they come. It asks nobody.

use crate::{
    exit::Exit,
    output::{self, Format, note},
    view::{
        ErrorView,
        perf::{CountersView, ProcessLine, SyscallLine, bars},
        read::{HostRow, table},
    },
};
use kctl_proto::agent::v1 as agent;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{IsTerminal as _, stdout},
};

/// What lines are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Hosts,
    Syscalls,
    Processes,
}

type Row = HostRow<CountersView>;

/// What was told and not printed yet.
pub(super) struct Rounds {
    format: Format,
    shown: Shown,
    /// With bars under the table.
    draws: bool,
    /// Those that may tell more.
    live: BTreeSet<String>,
    /// All that ever told anything.
    hosts: BTreeSet<String>,
    waiting: BTreeMap<String, VecDeque<CountersView>>,
    failed: BTreeMap<String, ErrorView>,
    /// For one document.
    rows: Vec<Row>,
    evicted: BTreeSet<String>,
    /// Anybody has told anything.
    told: bool,
}

impl Rounds {
    /// Of these hosts.
    pub(super) fn new(format: Format, shown: Shown, hosts: Vec<String>) -> Self {
        Self {
            format,
            shown,
            draws: shown == Shown::Hosts && (stdout().is_terminal() || format == Format::Wide),
            live: hosts.into_iter().collect(),
            hosts: BTreeSet::new(),
            waiting: BTreeMap::new(),
            failed: BTreeMap::new(),
            rows: Vec::new(),
            evicted: BTreeSet::new(),
            told: false,
        }
    }

    /// One interval of a host.
    pub(super) fn part(&mut self, host: String, told: agent::Counters) -> anyhow::Result<()> {
        let (syscalls, processes) = (self.shown == Shown::Syscalls, self.shown == Shown::Processes);
        let view = CountersView::new(told, syscalls, processes);
        if let Some(evicted) = view.evicted()
            && self.evicted.insert(host.clone())
        {
            note(&format!(
                "warning: host {host:?}: {evicted} processes had to leave its table of processes; give \
                 the agent a larger --counted-processes"
            ));
        }
        self.hosts.insert(host.clone());
        self.told = true;
        self.failed.remove(&host);
        self.live.insert(host.clone());
        if !self.format.for_people() {
            return self.tell(HostRow { host, result: Ok(vec![view]) });
        }
        // Who waits for nobody shows that another one is late.
        let is_late = self.waiting.get(&host).is_some_and(|waiting| !waiting.is_empty());
        if is_late {
            self.print()?;
        }
        self.waiting.entry(host).or_default().push_back(view);
        self.print_if_whole()
    }

    /// A host tells nothing more, unless it comes back.
    pub(super) fn failed(&mut self, host: String, error: agent::Error) -> anyhow::Result<()> {
        self.hosts.insert(host.clone());
        self.live.remove(&host);
        let error = ErrorView::from(error);
        let before = self.failed.insert(host.clone(), error.clone());
        let is_new = before.as_ref() != Some(&error);
        match self.format.for_people() {
            false if is_new => self.tell(HostRow { host, result: Err(error) }),
            // Nobody is left whose next interval would show it.
            true if is_new && self.told && self.live.is_empty() => self.print(),
            _ => self.print_if_whole(),
        }
    }

    /// A host has told everything.
    pub(super) fn ended(&mut self, host: &str) -> anyhow::Result<()> {
        self.live.remove(host);
        self.print_if_whole()
    }

    /// Whether a host that is there is to be asked: it tells nothing, and has not said that it can't. It is
    /// waited for then.
    pub(super) fn takes_in(&mut self, host: &str) -> bool {
        let may = self.failed.get(host).is_none_or(ErrorView::may_pass);
        may && self.live.insert(host.to_owned())
    }

    /// Whether a host that went away is waited for: one that may come back, once any has told something.
    pub(super) fn waits(&self) -> bool {
        self.told && self.failed.values().any(ErrorView::may_pass)
    }

    /// Prints the rest; the exit code.
    pub(super) fn finish(mut self, strict: bool) -> anyhow::Result<Exit> {
        if self.format.for_people() {
            let left = |rounds: &Self| rounds.waiting.values().any(|waiting| !waiting.is_empty());
            // Nobody told anything: then that is the table.
            if left(&self) || (!self.failed.is_empty() && !self.told) {
                self.print()?;
            }
            if self.hosts.is_empty() {
                note("no hosts");
            }
        } else if self.format != Format::Jsonl {
            // As they came, which of one host is in order.
            self.rows.sort_by(|a, b| a.host.cmp(&b.host));
            output::rows(self.format, "hosts", &self.rows, || table(&self.rows, false))?;
        }
        Ok(Exit::of_read(self.hosts.len(), self.failed.len(), strict))
    }

    fn tell(&mut self, row: Row) -> anyhow::Result<()> {
        match self.format {
            Format::Jsonl => output::line(&row),
            _ => {
                self.rows.push(row);
                Ok(())
            }
        }
    }

    fn print_if_whole(&mut self) -> anyhow::Result<()> {
        let has = |host: &String| self.waiting.get(host).is_some_and(|it| !it.is_empty());
        match self.waiting.values().any(|waiting| !waiting.is_empty()) && self.live.iter().all(has)
        {
            true => self.print(),
            false => Ok(()),
        }
    }

    /// The next interval of each host that has one, and why others have none.
    fn print(&mut self) -> anyhow::Result<()> {
        let next = self.waiting.iter_mut().filter_map(|(host, waiting)| {
            let result = Ok(vec![waiting.pop_front()?]);
            Some(HostRow { host: host.clone(), result })
        });
        let mut rows: Vec<Row> = next.collect();
        let failed = self.failed.iter().filter(|(host, _)| rows.iter().all(|it| it.host != **host));
        let failed: Vec<Row> = failed
            .map(|(host, error)| HostRow { host: host.clone(), result: Err(error.clone()) })
            .collect();
        rows.extend(failed);
        rows.sort_by(|a, b| a.host.cmp(&b.host));
        let mut text = String::new();
        if let Some(view) = rows.iter().find_map(|row| row.result.as_ref().ok()?.first()) {
            text.push_str(&view.time);
            text.push('\n');
        }
        let wide = self.format == Format::Wide;
        text.push_str(&match self.shown {
            Shown::Hosts => table(&rows, wide).to_string(),
            Shown::Syscalls => table(&SyscallLine::rows(&rows), wide).to_string(),
            Shown::Processes => table(&ProcessLine::rows(&rows), wide).to_string(),
        });
        for row in rows.iter().filter(|_| self.draws) {
            let views = row.result.iter().flatten();
            views.for_each(|view| text.push_str(&bars(&output::plain(&row.host), view)));
        }
        text.push('\n');
        output::print(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> agent::Error {
        agent::Error { code: code.to_owned(), message: "why".to_owned() }
    }

    #[test]
    fn a_host_that_went_away_is_waited_for_and_one_that_can_not_tell_is_not() {
        let names = ["a", "b"].map(str::to_owned);
        let mut rounds = Rounds::new(Format::Json, Shown::Hosts, names.to_vec());
        rounds.failed("a".to_owned(), error("UNAVAILABLE")).expect("no output yet");
        assert!(!rounds.waits(), "nobody has told anything");
        assert!(!rounds.takes_in("b"), "it is asked already");
        rounds.part("b".to_owned(), agent::Counters::default()).expect("no output yet");
        assert!(rounds.waits());
        assert!(rounds.takes_in("a") && !rounds.takes_in("a"));
        rounds.failed("a".to_owned(), error("UNAVAILABLE")).expect("no output yet");
        assert_eq!(rounds.rows.len(), 2, "the same again is nothing new");
        assert!(rounds.takes_in("a"));
        rounds.part("a".to_owned(), agent::Counters::default()).expect("no output yet");
        assert!(!rounds.waits() && rounds.failed.is_empty());
        rounds.failed("a".to_owned(), error("FAILED_PRECONDITION")).expect("no output yet");
        assert!(!rounds.waits() && !rounds.takes_in("a"));
        assert!(rounds.takes_in("c"), "it joined meanwhile");
    }
}
