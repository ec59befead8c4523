//! Events that the controller itself tells: what became of hosts in the stream, and what was lost here.

use super::batch::{Batch, Source};
use kctl_events::Place;
use kctl_proto::agent::v1::{Event, event::Payload};

/// The host in lines of the controller.
pub(crate) const OWN_HOST: &str = "-";

/// Who tells such lines: each has a run id and numbers of its own.
#[derive(Debug)]
pub(crate) struct Lines {
    source: Source,
    seq: u64,
}

impl Lines {
    /// Of a new run.
    pub(crate) fn new() -> Self {
        let source = Source { host: OWN_HOST.into(), boot_id: random_id().into() };
        Self { source, seq: 0 }
    }

    /// Who tells them.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The next line.
    pub(crate) fn event(&mut self, payload: Payload, time_unix_ns: i64) -> Event {
        self.seq += 1;
        Event { time_unix_ns, seq: self.seq, payload: Some(payload), ..Event::default() }
    }

    /// The next line, with the places around it.
    pub(crate) fn batch(&mut self, payload: Payload, time_unix_ns: i64) -> Batch {
        let at = |seq| Place { seq, produced: seq };
        let before = at(self.seq);
        let event = self.event(payload, time_unix_ns);
        Batch { source: self.source.clone(), before, after: at(self.seq), events: vec![event] }
    }
}

/// A random UUID, RFC 9562 version 4.
fn random_id() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_look_like_boot_ids() {
        let id = random_id();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "4");
        assert_ne!(id, random_id());
    }
}
