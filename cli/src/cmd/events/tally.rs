//! What was shown: how many events of how many hosts, what was lost and where, and what came twice.

use kctl_events::Kind;
use kctl_proto::agent::v1::{Event, LostEvent, Origin, event::Payload};
use std::collections::{BTreeMap, HashMap};

/// So many boots of a host are remembered.
const BOOTS: usize = 4;

/// What was shown.
pub(super) struct Tally {
    events: u64,
    /// Counted towards the end.
    towards: u64,
    enough: Option<u64>,
    /// Types that were asked for by name.
    named: Vec<Kind>,
    /// The last event of each boot, newest boot last.
    hosts: HashMap<String, Vec<(String, u64)>>,
    /// By stage, and by host where that is known.
    lost: BTreeMap<(String, Option<String>), u64>,
}

impl Tally {
    pub(super) fn new(enough: Option<u64>, named: Vec<Kind>) -> Self {
        let (hosts, lost) = (HashMap::new(), BTreeMap::new());
        Self { events: 0, towards: 0, enough, named, hosts, lost }
    }

    /// Whether it was not there before. Events of a host come in the order of their numbers, so what is
    /// not above the last one is a repeat. Lines of the controller's own are never repeated.
    pub(super) fn is_new(&mut self, origin: &Origin, event: &Event) -> bool {
        if is_nobody(origin) {
            return true;
        }
        if !self.hosts.contains_key(&origin.host) {
            self.hosts.insert(origin.host.clone(), Vec::new());
        }
        let Some(boots) = self.hosts.get_mut(&origin.host) else { return true };
        match boots.iter_mut().find(|(boot, _)| *boot == origin.boot_id) {
            Some((_, last)) if event.seq <= *last => false,
            Some((_, last)) => {
                *last = event.seq;
                true
            }
            None => {
                if boots.len() == BOOTS {
                    boots.remove(0);
                }
                boots.push((origin.boot_id.clone(), event.seq));
                true
            }
        }
    }

    /// Counts an event that was shown. Whether that is enough.
    pub(super) fn count(&mut self, origin: &Origin, event: &Event) -> bool {
        let kind = Kind::of(event);
        if let Some(Payload::Lost(lost)) = &event.payload {
            let sum = self.lost.entry(place(origin, lost)).or_default();
            *sum = sum.saturating_add(lost.count);
        } else if !is_nobody(origin) {
            self.events += 1;
        }
        let about_the_stream = kind.is_some_and(Kind::is_about_the_stream);
        if !about_the_stream || kind.is_some_and(|kind| self.named.contains(&kind)) {
            self.towards += 1;
        }
        self.enough.is_some_and(|enough| self.towards >= enough)
    }

    /// `12,345 events from 3 hosts, 1,200 lost (kernel_ring on web-2 1,000; subscriber 200)`
    pub(super) fn summary(&self) -> String {
        let hosts = u64::try_from(self.hosts.len()).unwrap_or(u64::MAX);
        let lost = self.lost.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let mut text = format!(
            "{} {} from {} {}, {} lost",
            grouped(self.events),
            if self.events == 1 { "event" } else { "events" },
            grouped(hosts),
            if hosts == 1 { "host" } else { "hosts" },
            grouped(lost),
        );
        let places = self.lost.iter().map(|((stage, host), count)| {
            let host = host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
            format!("{stage}{host} {}", grouped(*count))
        });
        let places = places.collect::<Vec<_>>().join("; ");
        if !places.is_empty() {
            text += &format!(" ({places})");
        }
        text
    }
}

/// The controller or kctl.
fn is_nobody(origin: &Origin) -> bool {
    origin.host == "-"
}

fn place(origin: &Origin, lost: &LostEvent) -> (String, Option<String>) {
    let host = if lost.name.is_empty() { &origin.host } else { &lost.name };
    (lost.stage.clone(), (host != "-").then(|| host.clone()))
}

/// `12,345`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, boot: &str) -> Origin {
        Origin { host: host.to_owned(), boot_id: boot.to_owned() }
    }

    fn event(seq: u64, payload: Payload) -> Event {
        Event { seq, payload: Some(payload), ..Event::default() }
    }

    fn lost(stage: &str, count: u64, name: &str) -> Payload {
        let (stage, name) = (stage.to_owned(), name.to_owned());
        Payload::Lost(LostEvent { stage, count, name, ..LostEvent::default() })
    }

    #[test]
    fn what_was_lost_is_told_with_its_place() {
        let mut tally = Tally::new(None, Vec::new());
        for (origin, event) in [
            (origin("web-1", "a"), event(1, Payload::Drop(Default::default()))),
            (origin("web-2", "b"), event(1, lost("kernel_ring", 1_000, ""))),
            (origin("-", "c"), event(1, lost("subscriber", 200, ""))),
            (origin("-", "c"), event(2, lost("controller", 7, "web-1"))),
            (origin("-", "c"), event(3, Payload::Host(Default::default()))),
        ] {
            assert!(tally.is_new(&origin, &event));
            assert!(!tally.count(&origin, &event));
        }
        assert_eq!(
            tally.summary(),
            "1 event from 2 hosts, 1,207 lost (controller on web-1 7; kernel_ring on web-2 1,000; \
             subscriber 200)"
        );
        assert_eq!(Tally::new(None, Vec::new()).summary(), "0 events from 0 hosts, 0 lost");
        assert_eq!(
            (grouped(999), grouped(1_000), grouped(12_345_678)),
            ("999".to_owned(), "1,000".to_owned(), "12,345,678".to_owned())
        );
    }

    #[test]
    fn repeats_are_known_by_host_boot_and_number() {
        let mut tally = Tally::new(None, Vec::new());
        let mut new = |host, boot, seq| {
            tally.is_new(&origin(host, boot), &event(seq, Payload::Exec(Default::default())))
        };
        assert!(new("a", "1", 5) && !new("a", "1", 5) && !new("a", "1", 4));
        assert!(new("b", "1", 4) && new("a", "1", 6));
        // A reboot counts from the start, and what is left of the boot before is known still.
        assert!(new("a", "2", 1) && !new("a", "1", 6));
        assert!(new("-", "x", 1) && new("-", "x", 1));
    }

    #[test]
    fn lines_about_the_stream_count_only_when_they_were_asked_for() {
        let host = || event(1, Payload::Host(Default::default()));
        let drop = || event(2, Payload::Drop(Default::default()));
        let mut tally = Tally::new(Some(1), vec![Kind::Drop]);
        assert!(!tally.count(&origin("-", ""), &host()));
        assert!(tally.count(&origin("a", ""), &drop()));
        assert!(Tally::new(Some(1), vec![Kind::Host]).count(&origin("-", ""), &host()));
    }
}
