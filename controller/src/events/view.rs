//! What one reader sees of the events: which hosts, which events, and up to where it has them. From the
//! places of what comes by it knows what it has already and what it will never have.

use super::{
    batch::{At, Places, Source, weight},
    interleave::Merged,
    lines::{Lines, OWN_HOST},
    link::now_unix_ns,
    outgoing::Outgoing,
};
use crate::registry::Registry;
use kctl_blocklist::Selection;
use kctl_events::Filter;
use kctl_proto::agent::v1::{Event, ExecEvent, HostEvent, LostEvent, Origin, event::Payload};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

/// Where a reader is in a host's events.
#[derive(Debug, Clone)]
struct Known {
    at: At,
    /// What is missing after it was lost because the reader was too slow.
    lagged: bool,
}

/// What one reader sees.
pub(crate) struct View {
    pub(super) registry: Registry,
    /// What the reader asks for, and what it may see.
    selections: [Selection; 2],
    pub(super) filter: Filter,
    /// Whether it may see the arguments of processes.
    pub(super) shows_arguments: bool,
    lines: Lines,
    known: BTreeMap<Arc<str>, Known>,
}

/// What is done with one segment.
struct Part {
    origin: Origin,
    selected: bool,
    /// Events up to this number are known.
    seen: u64,
    /// How many there are in all, and how many of them are accounted for.
    produced: u64,
    accounted: u64,
}

impl View {
    pub(crate) fn new(
        registry: Registry,
        selections: [Selection; 2],
        filter: Filter,
        shows_arguments: bool,
    ) -> Self {
        let (lines, known) = (Lines::new(), BTreeMap::new());
        Self { registry, selections, filter, shows_arguments, lines, known }
    }

    /// The reader has everything up to these places, if it is not further already.
    pub(super) fn reach(&mut self, places: &Places) {
        for (host, at) in places {
            let further = self.known.get(host).is_some_and(|known| {
                known.at.boot_id == at.boot_id && known.at.place.seq >= at.place.seq
            });
            if !further {
                self.known.insert(Arc::clone(host), Known { at: at.clone(), lagged: false });
            }
        }
    }

    /// Where the reader is with all hosts that it sees.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Arc<str>, &At)> {
        let places = self.known.iter().map(|(host, known)| (host, &known.at));
        places.filter(|(host, _)| self.is_selected(host))
    }

    /// The sources that the reader sees; `None` when it sees all.
    pub(super) fn selected_hosts(&self) -> Option<BTreeSet<Arc<str>>> {
        if self.selections.iter().all(|selection| *selection == Selection::All) {
            return None;
        }
        let [selection, scope] = &self.selections;
        let mut hosts = self.registry.hosts_of(selection);
        hosts.retain(|host| scope.matches(&host.name, &host.labels()));
        Some(hosts.into_iter().map(|host| host.name.into()).chain([OWN_HOST.into()]).collect())
    }

    fn is_selected(&self, host: &str) -> bool {
        let selected = |selection| self.registry.is_selected(selection, host);
        host == OWN_HOST || self.selections.iter().all(selected)
    }

    /// The event as the reader may see it, if it wants it so.
    pub(super) fn seen(
        &self,
        origin: &Origin,
        event: &Event,
        shows_arguments: bool,
    ) -> Option<Event> {
        let wants =
            |event: &Event| self.filter.matches(origin, event) && self.is_about_selected(event);
        if let Some(Payload::Exec(exec)) = &event.payload
            && !shows_arguments
        {
            // The filter must not tell what the reader may not see either.
            let exec = ExecEvent { argv: Vec::new(), ..exec.clone() };
            let event = Event { payload: Some(Payload::Exec(exec)), ..event.clone() };
            return wants(&event).then_some(event);
        }
        wants(event).then(|| event.clone())
    }

    /// A line of the controller about another host is nothing for this reader.
    fn is_about_selected(&self, event: &Event) -> bool {
        let name = match &event.payload {
            Some(Payload::Host(host)) => &host.name,
            Some(Payload::Lost(lost)) => &lost.name,
            _ => return true,
        };
        name.is_empty() || self.is_selected(name)
    }

    /// Takes what is new to the reader. What is missing before it was lost at `stage`.
    pub(super) fn take(
        &mut self,
        out: &mut Outgoing,
        merged: &Merged,
        stage: &str,
        times: &RangeInclusive<i64>,
    ) {
        let mut parts: Vec<Part> =
            merged.segments.iter().map(|segment| self.begin(out, segment, stage)).collect();
        let shows_arguments = self.shows_arguments;
        let before = out.len();
        for event in &merged.events {
            let part = &mut parts[event.origin as usize];
            if !part.selected || event.seq <= part.seen {
                continue;
            }
            let source = &merged.segments[event.origin as usize].source;
            if !times.contains(&event.time_unix_ns) || !self.is_about_selected(event) {
                part.accounted += weight(event);
            } else if let Some(event) = self.seen(&part.origin, event, shows_arguments) {
                part.accounted += weight(&event);
                out.push(source, event);
            }
        }
        let added = out.len() - before;
        if added > 0 {
            out.bytes += merged.bytes;
        }
        for (part, segment) in parts.iter().zip(&merged.segments) {
            out.filtered += part.produced.saturating_sub(part.accounted);
            let excess = part.accounted.saturating_sub(part.produced);
            if excess > 0 {
                out.lower_loss(added, &segment.source, excess);
            }
        }
    }

    fn begin(
        &mut self,
        out: &mut Outgoing,
        segment: &super::interleave::Segment,
        stage: &str,
    ) -> Part {
        let Source { host, boot_id } = &segment.source;
        let origin = segment.source.origin();
        if !self.is_selected(host) {
            return Part { origin, selected: false, seen: 0, produced: 0, accounted: 0 };
        }
        let (mut seen, mut from) = (0, segment.before.produced);
        let known = self.known.get(host).cloned();
        if let Some(Known { at, lagged }) = known {
            let stage = if lagged { "subscriber" } else { stage };
            if at.boot_id == *boot_id {
                let missing = segment.before.produced.saturating_sub(at.place.produced);
                self.lose(out, host, stage, missing);
                (seen, from) = (at.place.seq, from.max(at.place.produced));
                if at.place.seq >= segment.after.seq {
                    return Part { origin, selected: true, seen, produced: 0, accounted: 0 };
                }
            } else if lagged {
                self.lose(out, host, stage, from);
            }
        }
        let at = At { boot_id: Arc::clone(boot_id), place: segment.after };
        out.reach(host, at.clone());
        self.known.insert(Arc::clone(host), Known { at, lagged: false });
        let produced = segment.after.produced.saturating_sub(from);
        Part { origin, selected: true, seen, produced, accounted: 0 }
    }

    fn lose(&mut self, out: &mut Outgoing, host: &str, stage: &str, count: u64) {
        if count > 0 {
            let (stage, name) = (stage.to_owned(), host.to_owned());
            self.tell(out, Payload::Lost(LostEvent { stage, count, name, ..LostEvent::default() }));
        }
    }

    /// Tells a line to this reader alone.
    pub(super) fn tell(&mut self, out: &mut Outgoing, line: Payload) {
        let event = self.lines.event(line, now_unix_ns());
        out.push(self.lines.source(), event);
    }

    /// Tells what became of a host, if the reader sees it.
    pub(super) fn tell_host(&mut self, out: &mut Outgoing, line: HostEvent) {
        if self.is_selected(&line.name) {
            self.tell(out, Payload::Host(line));
        }
    }

    /// The reader was too slow: what is missing from here on is lost to it.
    pub(super) fn lag(&mut self) {
        self.known.values_mut().for_each(|known| known.lagged = true);
    }

    /// Everything up to these places has come by; what has not is lost.
    pub(super) fn settle(&mut self, out: &mut Outgoing, places: &Places) {
        for (host, at) in places {
            let known = self.known.get(host).filter(|known| known.lagged);
            if let Some(known) = known
                && self.is_selected(host)
            {
                let same = known.at.boot_id == at.boot_id;
                let from = if same { known.at.place.produced } else { 0 };
                self.lose(out, host, "subscriber", at.place.produced.saturating_sub(from));
                out.reach(host, at.clone());
            }
        }
        self.known.values_mut().for_each(|known| known.lagged = false);
        self.reach(places);
    }
}
