//! When events of many hosts may go: once no live host can still have an earlier one, and when the bound
//! is over at the latest. It knows hosts by number and by their words about time; it does no I/O and
//! reads no clock.

use super::{
    batch::Batch,
    interleave::{Interleave, Load, Merged},
    lines::Lines,
    questions::{Question, Questions},
};
use kctl_proto::agent::v1::{HostEvent, event::Payload, host_event::State};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// A host whose clock is off is asked so often.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// A host whose answer was not enough rests so long at least.
const SHORTEST_REST: Duration = Duration::from_millis(1);
/// Events of one [`Merged`].
const MOST_EVENTS: usize = 1_024;
/// The source of the controller's own lines; hosts have higher numbers.
const OWN: u64 = 0;

/// Now, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) unix_ns: i64,
}

/// What a host says of time beside its events.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Words {
    /// Everything up to this moment of its clock is here; 0 when it claims nothing.
    pub(super) watermark_unix_ns: i64,
    /// The highest question that it has answered.
    pub(super) answered: u64,
    /// Its clock; 0 when it does not say.
    pub(super) now_unix_ns: i64,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u64,
    moment: Moment,
}

#[derive(Debug)]
struct Host {
    name: Arc<str>,
    /// The number of the last question.
    questions: u64,
    asked: Option<Asked>,
    rests_until: Instant,
    watermark: i64,
    /// Others wait for it: it has answered, does not lag, and its clock is right.
    waited_for: bool,
    lags: bool,
    /// How far its clock is before ours, when that is too far.
    clock_off_ns: Option<i64>,
}

/// Events of many hosts on their way into one order.
#[derive(Debug)]
pub(super) struct Merge {
    bound: Duration,
    hosts: BTreeMap<u64, Host>,
    interleave: Interleave,
    lines: Lines,
    /// Of the hosts that others wait for.
    watermarks: BTreeSet<(i64, u64)>,
    /// The hosts that nobody waits for, because they are new or their clock is off.
    apart: BTreeSet<u64>,
    /// When the events that wait go at the latest, and their latest time.
    deadlines: VecDeque<(Instant, i64)>,
    questions: Questions,
    /// The latest time of what waits.
    newest: i64,
}

impl Merge {
    pub(super) fn new(bound: Duration, now: Instant) -> Self {
        Self {
            bound,
            hosts: BTreeMap::new(),
            interleave: Interleave::new(),
            lines: Lines::new(),
            watermarks: BTreeSet::new(),
            apart: BTreeSet::new(),
            deadlines: VecDeque::new(),
            questions: Questions::new(now),
            newest: i64::MIN,
        }
    }

    /// A host begins to tell, under a number above 0 that no host had before.
    pub(super) fn join(&mut self, number: u64, name: Arc<str>, now: Instant) {
        let host = Host {
            name,
            questions: 0,
            asked: None,
            rests_until: now,
            watermark: i64::MIN,
            waited_for: false,
            lags: false,
            clock_off_ns: None,
        };
        self.hosts.insert(number, host);
        self.apart.insert(number);
    }

    /// A host tells no more; what it told still goes in order.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(host) = self.hosts.remove(&number) {
            self.watermarks.remove(&(host.watermark, number));
            self.apart.remove(&number);
        }
    }

    /// Tells what became of a host, in the order of events.
    pub(super) fn tell(&mut self, name: &str, state: State, reason: &str, now: Moment) -> Batch {
        let reason = reason.to_owned();
        self.tell_line(HostEvent { reason, ..line(name, state) }, now)
    }

    fn tell_line(&mut self, line: HostEvent, now: Moment) -> Batch {
        let batch = self.lines.batch(Payload::Host(line), now.unix_ns);
        self.queue(OWN, batch.clone(), Load::default(), now);
        batch
    }

    /// The hosts that a reader who comes now must know about.
    pub(super) fn troubles(&self) -> Vec<HostEvent> {
        let trouble = |host: &Host| match host.clock_off_ns {
            Some(offset) => Some(clock_off(&host.name, offset)),
            None => host.lags.then(|| line(&host.name, State::Lags)),
        };
        self.hosts.values().filter_map(trouble).collect()
    }

    /// Takes in what a host told. Returns the lines that this made, and whether the batch's times say
    /// nothing about order.
    pub(super) fn arrived(
        &mut self,
        number: u64,
        batch: Batch,
        mut load: Load,
        words: Words,
        now: Moment,
    ) -> (Vec<Batch>, bool) {
        let mut lines = Vec::new();
        let Some(host) = self.hosts.get_mut(&number) else { return (lines, false) };
        let asked = host.asked.take_if(|asked| asked.number <= words.answered);
        if asked.is_some() && std::mem::take(&mut host.lags) {
            let name = Arc::clone(&host.name);
            lines.push(self.tell(&name, State::CaughtUp, "", now));
        }
        lines.extend(self.judge_clock(number, asked, words.now_unix_ns, now));
        self.note_watermark(number, asked.is_some(), words.watermark_unix_ns, now.at);
        // Times that can't have been yet would make everything after them late.
        let latest = now.unix_ns.saturating_add(nanos(self.bound));
        let ahead = batch.events.iter().any(|event| event.time_unix_ns > latest);
        let off = self.hosts.get(&number).is_some_and(|host| host.clock_off_ns.is_some());
        (load.clock_off, load.at_once) = (off || ahead, off || ahead);
        self.queue(number, batch, load, now);
        (lines, off || ahead)
    }

    fn queue(&mut self, source: u64, batch: Batch, load: Load, now: Moment) {
        let newest = batch.events.iter().map(|event| event.time_unix_ns).max();
        if let Some(newest) = newest.filter(|_| !load.at_once) {
            self.deadlines.push_back((now.at + self.bound, newest));
            self.newest = self.newest.max(newest);
        }
        // An answer without events, most often.
        if newest.is_some() || batch.before != batch.after {
            self.interleave.push(source, batch, load);
        }
    }

    fn note_watermark(&mut self, number: u64, answered: bool, told: i64, now: Instant) {
        let Some(host) = self.hosts.get_mut(&number) else { return };
        let before = host.watermark;
        host.watermark = before.max(told);
        if host.waited_for {
            self.watermarks.remove(&(before, number));
        }
        host.waited_for |= answered && host.clock_off_ns.is_none();
        if host.waited_for {
            self.watermarks.insert((host.watermark, number));
            self.apart.remove(&number);
        }
        if answered {
            // Its clock is behind that of others: before this it can't say what they wait for.
            let missing = u64::try_from(self.newest.saturating_sub(host.watermark)).unwrap_or(0);
            let rest = match host.clock_off_ns {
                Some(_) => CLOCK_CHECK,
                None if missing == 0 => Duration::ZERO,
                None => Duration::from_nanos(missing).clamp(SHORTEST_REST, self.bound),
            };
            host.rests_until = now + rest;
        }
    }

    /// Compares a host's clock with ours. A word that was long on its way only proves that a clock is
    /// ahead; that it is behind, or right again, only a quick answer proves.
    fn judge_clock(
        &mut self,
        number: u64,
        asked: Option<Asked>,
        told: i64,
        now: Moment,
    ) -> Option<Batch> {
        let bound = nanos(self.bound);
        let host = self.hosts.get_mut(&number).filter(|_| told != 0)?;
        let ahead = told.saturating_sub(now.unix_ns);
        let behind = asked.map_or(0, |asked| asked.moment.unix_ns.saturating_sub(told));
        let quick = asked.is_some_and(|asked| now.at.duration_since(asked.moment.at) <= self.bound);
        let off = match host.clock_off_ns {
            _ if ahead > bound => Some(ahead),
            _ if behind > bound => Some(-behind),
            Some(offset) if !quick => Some(offset),
            _ => None,
        };
        if host.clock_off_ns.is_some() == off.is_some() {
            host.clock_off_ns = off;
            return None;
        }
        host.clock_off_ns = off;
        if std::mem::take(&mut host.waited_for) {
            self.watermarks.remove(&(host.watermark, number));
        }
        self.apart.insert(number);
        // What it claimed by its clock before says nothing about the clock now.
        host.watermark = i64::MIN;
        let line = match off {
            Some(offset) => clock_off(&host.name, offset),
            None => line(&host.name, State::ClockRight),
        };
        Some(self.tell_line(line, now))
    }

    /// Takes out what may go now; again until there is nothing.
    pub(super) fn release(&mut self, now: Instant) -> Option<Merged> {
        let mut forced = i64::MIN;
        while let Some((_, newest)) = self.deadlines.front().filter(|(by, _)| *by <= now) {
            forced = forced.max(*newest);
            self.deadlines.pop_front();
        }
        // Nobody waits for itself.
        let mut lowest = self.watermarks.iter();
        let (first, second) = (lowest.next(), lowest.next());
        let all = first.map_or(i64::MAX, |(time, _)| *time);
        let but_first = second.map_or(i64::MAX, |(time, _)| *time);
        let merged = self.interleave.release(MOST_EVENTS, |source, time| {
            let is_first = first.is_some_and(|(_, host)| *host == source);
            time <= forced || time <= if is_first { but_first } else { all }
        });
        if self.interleave.is_empty() {
            self.deadlines.clear();
            self.newest = i64::MIN;
        } else if forced > i64::MIN && merged.is_some() {
            // What is left of it goes next time.
            self.deadlines.push_front((now, forced));
        }
        merged
    }

    /// Whom to ask now; the lines about those who did not answer; when to look again at the latest.
    pub(super) fn ask(&mut self, now: Moment) -> (Vec<Question>, Vec<Batch>, Option<Instant>) {
        let lines = self.notice_silence(now);
        let behind = self.watermarks.range(..(self.newest, 0)).map(|(_, number)| *number);
        let mut wake = self.deadlines.front().map(|(deadline, _)| *deadline);
        let mut asked = Vec::new();
        for number in behind.chain(self.apart.iter().copied()) {
            let Some(host) = self.hosts.get_mut(&number) else { continue };
            if host.asked.is_some() {
                continue;
            }
            let not_before = host.rests_until.max(self.questions.next(now.at));
            if not_before > now.at {
                wake = Some(wake.map_or(not_before, |wake| wake.min(not_before)));
                continue;
            }
            host.questions += 1;
            let question = Question { host: number, number: host.questions };
            self.questions.asked(question, now.at, now.at + self.bound);
            host.asked = Some(Asked { number: host.questions, moment: now });
            asked.push(question);
        }
        let answer_by = self.questions.oldest().map(|(answer_by, _)| answer_by);
        (asked, lines, wake.into_iter().chain(answer_by).min())
    }

    fn notice_silence(&mut self, now: Moment) -> Vec<Batch> {
        let mut lines = Vec::new();
        while let Some((answer_by, question)) = self.questions.oldest() {
            let host = self.hosts.get_mut(&question.host);
            let is_open =
                |host: &&mut Host| host.asked.is_some_and(|asked| asked.number == question.number);
            let Some(host) = host.filter(is_open) else {
                self.questions.close_oldest();
                continue;
            };
            if answer_by > now.at {
                break;
            }
            self.questions.close_oldest();
            if std::mem::take(&mut host.waited_for) {
                self.watermarks.remove(&(host.watermark, question.host));
                self.apart.insert(question.host);
            }
            if !std::mem::replace(&mut host.lags, true) {
                let name = Arc::clone(&host.name);
                let reason =
                    format!("no answer within {} ms; nobody waits for it", self.bound.as_millis());
                lines.push(self.tell(&name, State::Lags, &reason, now));
            }
        }
        lines
    }
}

fn line(name: &str, state: State) -> HostEvent {
    HostEvent { name: name.to_owned(), state: state.into(), ..HostEvent::default() }
}

fn clock_off(name: &str, offset_ns: i64) -> HostEvent {
    HostEvent { clock_offset_ms: Some(offset_ns / 1_000_000), ..line(name, State::ClockOff) }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::batch::Source;
    use kctl_events::Place;
    use kctl_proto::agent::v1::Event;

    const MS: i64 = 1_000_000;

    /// Three hosts that have answered once, at a moment of the test's own.
    struct Fleet {
        merge: Merge,
        now: Moment,
        seqs: [u64; 4],
    }

    impl Fleet {
        fn new() -> Self {
            let now = Moment { at: Instant::now(), unix_ns: 1_000_000 * MS };
            let merge = Merge::new(Duration::from_millis(250), now.at);
            let mut fleet = Self { merge, now, seqs: [0; 4] };
            for host in 1..=3 {
                fleet.merge.join(host, Self::name(host), now.at);
            }
            let asked = fleet.ask().0;
            assert_eq!(asked, [(1, 1), (2, 1), (3, 1)]);
            asked.into_iter().for_each(|(host, number)| fleet.answer(host, number, 0));
            fleet
        }

        fn name(host: u64) -> Arc<str> {
            ["-", "a", "b", "c"][usize::try_from(host).expect("small")].into()
        }

        fn later(&mut self, ms: u64) {
            self.now.at += Duration::from_millis(ms);
            self.now.unix_ns += ms.cast_signed() * MS;
        }

        /// Questions, and states of hosts that are told with them.
        fn ask(&mut self) -> (Vec<(u64, u64)>, Vec<State>) {
            let (questions, lines, _) = self.merge.ask(self.now);
            let asked = questions.iter().map(|question| (question.host, question.number)).collect();
            (asked, lines.iter().map(state).collect())
        }

        fn hear(&mut self, host: u64, times_ms: &[i64], words: Words) -> Vec<State> {
            let seq = &mut self.seqs[usize::try_from(host).expect("small")];
            let at = |seq| Place { seq, produced: seq };
            let before = at(*seq);
            let event = |time: &i64| {
                *seq += 1;
                let time_unix_ns = self.now.unix_ns + time * MS;
                Event { time_unix_ns, seq: *seq, ..Event::default() }
            };
            let events = times_ms.iter().map(event).collect();
            let source = Source { host: Self::name(host), boot_id: "1".into() };
            let batch = Batch { source, before, after: at(*seq), events };
            let (lines, _) = self.merge.arrived(host, batch, Load::default(), words, self.now);
            lines.iter().map(state).collect()
        }

        /// Events at these times from now; the host claims everything up to the last.
        fn tell(&mut self, host: u64, times_ms: &[i64]) -> Vec<State> {
            let last = self.now.unix_ns + times_ms.last().expect("some") * MS;
            let words = Words { watermark_unix_ns: last, now_unix_ns: last, answered: 0 };
            self.hear(host, times_ms, words)
        }

        fn answer(&mut self, host: u64, number: u64, clock_ms: i64) {
            let now = self.now.unix_ns + clock_ms * MS;
            let words = Words { watermark_unix_ns: now, now_unix_ns: now, answered: number };
            self.hear(host, &[], words);
        }

        /// "a1 b1!": what goes, "!" when late, "?" when its clock is off; lines are left out.
        fn released(&mut self) -> String {
            let mut told = Vec::new();
            while let Some(merged) = self.merge.release(self.now.at) {
                for event in &merged.events {
                    let host = &merged.segments[event.origin as usize].source.host;
                    let late = if event.late { "!" } else { "" };
                    let off = if event.clock_off { "?" } else { "" };
                    told.push(format!("{host}{}{late}{off}", event.seq));
                }
            }
            told.retain(|one| !one.starts_with('-'));
            told.join(" ")
        }
    }

    fn state(line: &Batch) -> State {
        match &line.events[0].payload {
            Some(Payload::Host(host)) => host.state(),
            other => panic!("a line about a host: {other:?}"),
        }
    }

    #[test]
    fn an_event_goes_as_soon_as_all_have_answered_and_no_time_passes() {
        let mut fleet = Fleet::new();
        fleet.later(10);
        fleet.tell(1, &[-1]);
        assert_eq!(fleet.released(), "");
        assert_eq!(fleet.ask().0, [(2, 2), (3, 2)]);
        // No second question before the first is answered.
        assert_eq!(fleet.ask().0, []);
        fleet.answer(2, 2, 0);
        assert_eq!(fleet.released(), "");
        fleet.answer(3, 2, 0);
        assert_eq!(fleet.released(), "a1");
        assert_eq!(fleet.ask().0, []);
    }

    #[test]
    fn bursts_go_in_order_of_time() {
        let mut fleet = Fleet::new();
        fleet.later(100);
        fleet.tell(1, &[-50, -30, -10]);
        fleet.tell(2, &[-40, -20, -5]);
        assert_eq!(fleet.released(), "");
        fleet.tell(3, &[-45, -12]);
        // Up to what the one that told the least can still have before it.
        assert_eq!(fleet.released(), "a1 c1 b1 a2 b2 c2");
        assert_eq!(fleet.ask().0, [(3, 2), (1, 2)]);
        fleet.answer(3, 2, 0);
        assert_eq!(fleet.released(), "a3");
    }

    #[test]
    fn one_that_is_frozen_is_waited_for_once() {
        let mut fleet = Fleet::new();
        fleet.later(10);
        fleet.tell(1, &[-1]);
        fleet.ask();
        fleet.answer(2, 2, 0);
        fleet.later(249);
        assert_eq!((fleet.released().as_str(), fleet.ask().1), ("", vec![]));
        fleet.later(1);
        // The line has its place in the order too, and waits for the others.
        assert_eq!(fleet.ask(), (vec![(1, 2), (2, 3)], vec![State::Lags]));
        fleet.answer(2, 3, 0);
        fleet.answer(1, 2, 0);
        assert_eq!(fleet.released(), "a1");
        // Nobody waits for it, and it is not asked again.
        fleet.later(10);
        fleet.tell(1, &[0]);
        assert_eq!(fleet.ask(), (vec![(2, 4)], vec![]));
        fleet.answer(2, 4, 0);
        assert_eq!(fleet.released(), "a2");
        let now = fleet.now.unix_ns;
        let words = Words { watermark_unix_ns: now, now_unix_ns: now, answered: 2 };
        assert_eq!(fleet.hear(3, &[-100], words), [State::CaughtUp]);
        assert_eq!(fleet.released(), "c1!");
        fleet.later(10);
        fleet.tell(1, &[0]);
        assert_eq!(fleet.ask().0, [(2, 5), (3, 3)]);
    }

    #[test]
    fn a_clock_that_is_off_is_told_marked_and_waited_for_by_nobody() {
        let mut fleet = Fleet::new();
        fleet.later(10);
        assert_eq!(fleet.tell(2, &[60_000, 60_001]), [State::ClockOff]);
        assert_eq!(fleet.released(), "b1? b2?");
        fleet.tell(1, &[-1]);
        // The one that told is asked for the line's sake, and the one whose clock is off is asked now and
        // then until it is right.
        assert_eq!(fleet.ask().0, [(3, 2), (1, 2), (2, 2)]);
        fleet.answer(3, 2, 0);
        assert_eq!(fleet.released(), "a1");
        fleet.answer(1, 2, 0);
        fleet.answer(2, 2, 60_000);
        fleet.later(999);
        assert_eq!(fleet.ask().0, []);
        fleet.later(1);
        assert_eq!(fleet.ask().0, [(2, 3)]);
        let now = fleet.now.unix_ns;
        let words = Words { watermark_unix_ns: now, now_unix_ns: now, answered: 3 };
        assert_eq!(fleet.hear(2, &[0], words), [State::ClockRight]);
        assert_eq!(fleet.ask().0, [(1, 3), (3, 3)]);
        fleet.answer(1, 3, 0);
        fleet.answer(3, 3, 0);
        assert_eq!(fleet.released(), "b3");
    }

    #[test]
    fn a_clock_that_is_behind_is_only_told_by_an_answer() {
        let mut fleet = Fleet::new();
        fleet.later(10);
        fleet.tell(1, &[0]);
        fleet.ask();
        assert_eq!(fleet.tell(2, &[-60_000]), []);
        let told = fleet.now.unix_ns - 60_000 * MS;
        let words = Words { watermark_unix_ns: told, now_unix_ns: told, answered: 2 };
        assert_eq!(fleet.hear(2, &[-60_000], words), [State::ClockOff]);
        let troubles = fleet.merge.troubles();
        assert_eq!(troubles[0].clock_offset_ms, Some(-60_000));
        fleet.answer(3, 2, 0);
        // The first came before anything was known of the clock.
        assert_eq!(fleet.released(), "b1 b2? a1");
    }

    #[test]
    fn a_clock_a_little_behind_is_asked_when_it_can_know() {
        let mut fleet = Fleet::new();
        fleet.later(200);
        fleet.tell(1, &[0]);
        assert_eq!(fleet.ask().0.len(), 2);
        fleet.answer(2, 2, -100);
        fleet.answer(3, 2, 0);
        assert_eq!((fleet.released().as_str(), fleet.ask().0), ("", vec![]));
        fleet.later(99);
        assert_eq!(fleet.ask().0, []);
        fleet.later(1);
        assert_eq!(fleet.ask().0, [(2, 3)]);
        fleet.answer(2, 3, -100);
        assert_eq!(fleet.released(), "a1");
    }

    #[test]
    fn who_leaves_is_not_waited_for_and_what_it_told_goes() {
        let mut fleet = Fleet::new();
        fleet.later(10);
        fleet.tell(1, &[-2]);
        fleet.tell(3, &[-1]);
        fleet.merge.leave(1);
        fleet.merge.leave(2);
        assert_eq!(fleet.released(), "a1 c1");
    }

    #[test]
    fn many_hosts_are_asked_at_a_bounded_rate() {
        let now = Moment { at: Instant::now(), unix_ns: 0 };
        let mut merge = Merge::new(Duration::from_millis(250), now.at);
        (1..=5_000).for_each(|host| merge.join(host, "a".into(), now.at));
        let mut ask = |ms| {
            let at = now.at + Duration::from_millis(ms);
            merge.ask(Moment { at, ..now }).0.len()
        };
        assert_eq!(ask(0), 257);
        let asked: usize = (1..=100).map(ask).sum();
        assert!((950..=1_000).contains(&asked), "{asked} in 100 ms");
    }
}
