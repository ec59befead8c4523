//! What `top` knows and what its user looks at: hosts, the view, its order, filter and selection. It asks nobody, draws nothing, and is bounded by what hosts there are.

use super::{
    host::{Host, Kind, Told},
    rows::{self, Row, View},
};
use crate::view::host::HostRow;
use kctl_proto::agent::v1 as agent;
use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

/// One event of the host that is looked at.
pub(super) struct EventLine {
    pub(super) kind: &'static str,
    /// Its time, and what happened.
    pub(super) text: [String; 2],
}

/// How one view is looked at.
#[derive(Default, Clone)]
pub(super) struct Look {
    /// The column that says the order.
    pub(super) sort: usize,
    pub(super) descending: bool,
    /// Only rows with this text.
    pub(super) filter: String,
    /// The row that was chosen; it is followed where it goes. Without one it is the first.
    chosen: Option<String>,
    /// Where it was, for when it leaves.
    pub(super) at: usize,
}

/// Everything.
pub(super) struct State {
    /// Who is asked, and how often.
    pub(super) peer: String,
    pub(super) interval: Duration,
    pub(super) hosts: BTreeMap<String, Host>,
    focus: Option<String>,
    pub(super) view: View,
    looks: [Look; View::ALL.len()],
    pub(super) processes: Option<Vec<agent::Process>>,
    coming: Vec<agent::Process>,
    /// The newest first, each with a number of its own.
    pub(super) events: VecDeque<(u64, EventLine)>,
    seen: u64,
    /// What goes wrong with all hosts together.
    troubles: BTreeMap<Kind, String>,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// The filter is being typed.
    pub(super) typing: bool,
    /// Rows that the screen has room for.
    pub(super) page: usize,
    changed: bool,
}

impl State {
    /// Events that are kept.
    pub(super) const EVENTS: usize = 500;

    pub(super) fn new(peer: String, interval: Duration) -> Self {
        let mut looks: [Look; View::ALL.len()] = Default::default();
        // Processes by processor time, sources by packets, the newest event first.
        looks[1] = Look { sort: 2, descending: true, ..Look::default() };
        looks[3] = Look { sort: 1, descending: true, ..Look::default() };
        looks[4] = Look { descending: true, ..Look::default() };
        Self {
            peer,
            interval,
            hosts: BTreeMap::new(),
            focus: None,
            view: View::Hosts,
            looks,
            processes: None,
            coming: Vec::new(),
            events: VecDeque::new(),
            seen: 0,
            troubles: BTreeMap::new(),
            paused: false,
            help: false,
            typing: false,
            page: 1,
            changed: true,
        }
    }

    /// Whether there is something new to draw.
    pub(super) fn take_changed(&mut self) -> bool {
        mem::take(&mut self.changed)
    }

    /// Something is to be drawn.
    pub(super) fn change(&mut self) {
        self.changed = true;
    }

    // ---- what is told

    /// The hosts that there are.
    pub(super) fn hosts(&mut self, known: Vec<HostRow>) {
        if self.paused {
            return;
        }
        self.changed = true;
        let mut before = mem::take(&mut self.hosts);
        for row in known {
            let mut host = before.remove(&row.name).unwrap_or_default();
            let name = row.name.clone();
            host.known(row);
            self.hosts.insert(name, host);
        }
    }

    /// A round of questions begins: what came of the last one and was not ended is thrown away.
    pub(super) fn begin(&mut self, kind: Kind) {
        match kind {
            Kind::Links => self.hosts.values_mut().for_each(Host::begin),
            Kind::Processes => self.coming.clear(),
            _ => {}
        }
    }

    /// A host answered, or a part of its answer came.
    pub(super) fn told(&mut self, host: &str, told: Told) {
        let focus = self.focus.as_deref() == Some(host);
        let Some(host) = self.hosts.get_mut(host).filter(|_| !self.paused) else { return };
        self.changed = true;
        match told {
            Told::Processes(processes) if focus => self.coming.extend(processes),
            told => host.told(told),
        }
    }

    /// A host's answer is whole.
    pub(super) fn ended(&mut self, name: &str, kind: Kind) {
        let Some(host) = self.hosts.get_mut(name).filter(|_| !self.paused) else { return };
        self.changed = true;
        host.ended(kind);
        if kind == Kind::Processes && self.focus.as_deref() == Some(name) {
            self.processes = Some(mem::take(&mut self.coming));
        }
    }

    /// A host did not answer, or said no.
    pub(super) fn failed(&mut self, name: &str, kind: Kind, error: agent::Error) {
        let Some(host) = self.hosts.get_mut(name).filter(|_| !self.paused) else { return };
        self.changed = true;
        host.failed(kind, error);
        if kind == Kind::Processes && self.focus.as_deref() == Some(name) {
            self.processes = None;
        }
    }

    /// The host that is looked at told events, in order.
    pub(super) fn events(&mut self, host: &str, lines: Vec<EventLine>) {
        if self.paused || self.focus.as_deref() != Some(host) {
            return;
        }
        self.changed = true;
        for line in lines {
            self.seen += 1;
            self.events.push_front((self.seen, line));
        }
        self.events.truncate(Self::EVENTS);
    }

    /// What goes wrong with a kind of questions as a whole, or nothing any more.
    pub(super) fn trouble(&mut self, kind: Kind, why: Option<String>) {
        self.changed = true;
        match why {
            Some(why) => self.troubles.insert(kind, why),
            None => self.troubles.remove(&kind),
        };
    }

    /// What to tell of that, or of the host that is looked at or chosen, in a line.
    pub(super) fn remark(&self, rows: &[Row]) -> Option<String> {
        let of_host = || {
            let chosen = rows.get(self.look().at).map(|row| row.key.as_str());
            let name = self.focus().or(chosen)?;
            Some(format!("{name}: {}", self.hosts.get(name)?.why()?))
        };
        self.troubles.values().next().cloned().or_else(of_host)
    }

    // ---- what is looked at

    /// The host that is looked at.
    pub(super) fn focus(&self) -> Option<&str> {
        self.focus.as_deref()
    }

    pub(super) fn look(&self) -> &Look {
        &self.looks[self.view as usize]
    }

    pub(super) fn look_mut(&mut self) -> &mut Look {
        &mut self.looks[self.view as usize]
    }

    /// The rows of this view, filtered and in order.
    pub(super) fn rows(&self) -> Vec<Row> {
        rows::arranged(rows::of(self), self.look())
    }

    /// Brings the selection to where its row is now.
    pub(super) fn settle(&mut self, rows: &[Row]) {
        let look = self.look_mut();
        let chosen = look.chosen.as_ref();
        let place = chosen.map(|key| rows.iter().position(|row| row.key == *key));
        look.at = match place {
            None => 0,
            Some(Some(at)) => at,
            Some(None) => look.at.min(rows.len().saturating_sub(1)),
        };
    }

    /// Chooses another row, so many further down, or up.
    pub(super) fn step(&mut self, by: isize) {
        let rows = self.rows();
        self.settle(&rows);
        let last = rows.len().saturating_sub(1);
        let look = self.look_mut();
        look.at = look.at.saturating_add_signed(by).min(last);
        // At the top nothing is followed: there one sees what comes to the top.
        look.chosen = rows.get(look.at).filter(|_| look.at > 0).map(|row| row.key.clone());
    }

    /// Orders by the column before or after.
    pub(super) fn sort_by(&mut self, forward: bool) {
        let columns = rows::columns(self.view);
        let look = self.look_mut();
        let step = if forward { 1 } else { columns.len() - 1 };
        look.sort = (look.sort + step) % columns.len();
        look.descending = columns[look.sort].is_number;
    }

    /// Shows the chosen host.
    pub(super) fn enter(&mut self) {
        let rows = self.rows();
        self.settle(&rows);
        if self.view != View::Hosts {
            return;
        }
        if let Some(row) = rows.get(self.look().at) {
            self.focus = Some(row.key.clone());
            self.look_mut().chosen = Some(row.key.clone());
            self.view = View::Processes;
            self.clear();
        }
    }

    /// Back to the hosts; whether there was a way back.
    pub(super) fn leave(&mut self) -> bool {
        self.view = View::Hosts;
        let was = self.focus.take().is_some();
        self.clear();
        was
    }

    fn clear(&mut self) {
        (self.processes, self.coming) = (None, Vec::new());
        self.events.clear();
        self.troubles.retain(|kind, _| !matches!(kind, Kind::Processes | Kind::Events));
        for view in View::TABS {
            let look = &mut self.looks[view as usize];
            (look.chosen, look.at) = (None, 0);
            look.filter.clear();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Three hosts, one of which is gone; what they told is told by their names' digits.
    pub(in crate::cmd::top) fn fleet() -> State {
        let mut state = State::new("ctl:7443".to_owned(), Duration::from_secs(2));
        let status = |name: &str| agent::HostStatus { name: name.to_owned(), ..Default::default() };
        let names = ["web-1", "web-2", "web-3"];
        state.hosts(names.iter().map(|name| HostRow::from(status(name))).collect());
        for (name, idle) in [("web-1", 90.0), ("web-2", 20.0)] {
            state.told(name, Told::System(system(idle)));
            state.ended(name, Kind::System);
        }
        let message = "host \"web-3\" is not connected".to_owned();
        let error = agent::Error { code: "UNAVAILABLE".to_owned(), message };
        state.failed("web-3", Kind::System, error);
        state
    }

    fn system(idle_percent: f64) -> Box<agent::System> {
        Box::new(agent::System {
            cpu: Some(agent::system::Cpu { idle_percent, ..Default::default() }),
            memory: Some(agent::system::Memory {
                total_bytes: 4 << 30,
                available_bytes: 1 << 30,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    fn names(state: &State) -> Vec<String> {
        state.rows().into_iter().map(|row| row.key).collect()
    }

    #[test]
    fn the_chosen_row_is_followed_where_it_goes_and_the_first_is_not() {
        let mut state = fleet();
        (state.look_mut().sort, state.look_mut().descending) = (2, true);
        assert_eq!(names(&state), ["web-2", "web-1", "web-3"]);
        state.step(1);
        state.told("web-1", Told::System(system(1.0)));
        let rows = state.rows();
        state.settle(&rows);
        assert_eq!((state.look().at, rows[0].key.as_str()), (0, "web-1"));
        // At the top what is there is meant, whoever it is.
        state.step(1);
        state.step(-1);
        state.told("web-1", Told::System(system(50.0)));
        let rows = state.rows();
        state.settle(&rows);
        assert_eq!((state.look().at, rows[0].key.as_str()), (0, "web-2"));
        // One that leaves gives its place to the next.
        state.step(isize::MAX);
        state.look_mut().filter = "web-1".to_owned();
        let rows = state.rows();
        state.settle(&rows);
        assert_eq!((state.look().at, rows.len()), (0, 1));
        state.step(isize::MIN);
        state.enter();
        assert_eq!(state.focus(), Some("web-1"));
        assert!(state.leave() && !state.leave());
    }

    #[test]
    fn what_is_not_known_is_last_in_either_order() {
        let mut state = fleet();
        state.look_mut().sort = 2;
        for (descending, order) in
            [(false, ["web-1", "web-2", "web-3"]), (true, ["web-2", "web-1", "web-3"])]
        {
            state.look_mut().descending = descending;
            assert_eq!(names(&state), order, "{descending}");
        }
        state.look_mut().filter = "DISCONN".to_owned();
        assert_eq!(names(&state), ["web-3"]);
    }

    #[test]
    fn a_pause_changes_nothing_and_events_are_bounded() {
        let mut state = fleet();
        let line = || EventLine { kind: "exec", text: ["12:34:56".to_owned(), "x".to_owned()] };
        state.enter();
        state.events("web-2", vec![line()]);
        assert!(state.events.is_empty());
        state.events("web-1", (0..State::EVENTS + 7).map(|_| line()).collect());
        assert_eq!((state.events.len(), state.events[0].0), (State::EVENTS, 507));
        state.paused = true;
        state.events("web-1", vec![line()]);
        state.told("web-1", Told::System(system(0.0)));
        state.hosts(Vec::new());
        assert_eq!((state.events[0].0, state.hosts.len()), (507, 3));
        assert!(state.hosts["web-1"].cpu() < Some(11.0));
    }

    #[test]
    fn a_host_that_fails_says_so_and_others_go_on() {
        let mut state = fleet();
        assert_eq!(state.hosts["web-3"].word(), "disconnected");
        let remark = |state: &State| state.remark(&state.rows());
        assert_eq!(remark(&state), None);
        state.step(isize::MAX);
        assert!(remark(&state).is_some_and(|it| it.contains("web-3: host \"web-3\" is not")));
        state.trouble(Kind::Hosts, Some("connection lost".to_owned()));
        assert_eq!(remark(&state).as_deref(), Some("connection lost"));
        state.trouble(Kind::Hosts, None);
        state.told("web-3", Told::System(system(50.0)));
        state.ended("web-3", Kind::System);
        assert_eq!((state.hosts["web-3"].word(), remark(&state)), ("local", None));
    }
}
