//! The numbers of events, and the ring that holds the newest.
//!
//! The next number is in a file before anybody can see the event, so that it goes on where it was after
//! a restart or a crash of the agent: what was numbered and then died with the agent is a gap that
//! readers are told of. The file need not reach the disk: a number is only worth something within one
//! boot of the kernel, and as long as that lasts its page cache does too.

use super::Content;
use kctl_events::{Ledger, Place, Ring};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// In the state folder.
const FILE: &str = "events";

/// The one place where events get their numbers.
#[derive(Debug)]
pub(crate) struct Journal {
    boot_id: String,
    ring: Ring<Content>,
    ledger: Ledger,
    file: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    file: File,
    /// A failure was logged; the next one says nothing new.
    failed: bool,
}

impl Journal {
    /// Goes on after the last number that was given in this boot. Its ring holds events of `max_bytes`
    /// together.
    pub(crate) fn open(folder: &Path, boot_id: &str, max_bytes: usize) -> io::Result<Self> {
        let path = folder.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path)?;
        let mut text = String::new();
        // What is no text was not written by us.
        let read = file.read_to_string(&mut text);
        let place = read.ok().and_then(|_| parse(&text, boot_id)).unwrap_or_default();
        let this = Self {
            boot_id: boot_id.to_owned(),
            ring: Ring::new(max_bytes, place),
            ledger: Ledger::new(&["agent_ring"]),
            file: Mutex::new(Numbers { file, failed: false }),
        };
        this.lock().file.set_len(0)?;
        this.lock().file.write_all_at(line(boot_id, place).as_bytes(), 0)?;
        Ok(this)
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(crate) fn ring(&self) -> &Ring<Content> {
        &self.ring
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Numbers events and shows them to readers, with what its sources claim.
    pub(crate) fn push(&self, content: Content, watermark: i64) {
        let (count, produced, bytes) = (content.count(), content.produced(), content.bytes());
        if count == 0 {
            return;
        }
        match &content {
            Content::Told(events) => self.ledger.receive(events),
            Content::Raw(_) => self.ledger.receive_many(count),
        }
        let mut numbers = self.lock();
        let end = self.ring.end();
        let next = Place { seq: end.seq + count, produced: end.produced + produced };
        let written = numbers.file.write_all_at(line(&self.boot_id, next).as_bytes(), 0);
        match written {
            Err(error) if !numbers.failed => {
                tracing::error!(%error, "the numbers of events can't be saved; after a restart of the \
                    agent they would repeat");
                numbers.failed = true;
            }
            Err(_) => {}
            Ok(()) => numbers.failed = false,
        }
        self.ring.push(count, produced, bytes, watermark, content);
    }

    /// Claims that everything up to then is there.
    pub(crate) fn advance(&self, watermark: i64) {
        self.ring.advance(watermark);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Numbers> {
        // A panic between the two writes leaves a gap, which is what gaps are for.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of one length, so that the next one covers it.
fn line(boot_id: &str, place: Place) -> String {
    format!("{boot_id} {:020} {:020}\n", place.seq, place.produced)
}

/// `None` for another boot, or what is no such line.
fn parse(text: &str, boot_id: &str) -> Option<Place> {
    let mut words = text.lines().next()?.split(' ');
    let (boot, seq, produced) = (words.next()?, words.next()?, words.next()?);
    let place = Place { seq: seq.parse().ok()?, produced: produced.parse().ok()? };
    (boot == boot_id && words.next().is_none()).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_events::Read;
    use kctl_proto::agent::v1::{Event, LostEvent, event::Payload};

    const BOOT: &str = "00000000-0000-4000-8000-000000000001";

    fn told(count: usize) -> Content {
        Content::Told(vec![Event::default(); count])
    }

    #[test]
    fn numbers_go_on_within_a_boot_and_begin_anew_in_another() {
        let folder = tempfile::tempdir().expect("temp dir");
        let open = |boot| Journal::open(folder.path(), boot, 1 << 20).expect("opens").ring().end();
        let journal = Journal::open(folder.path(), BOOT, 1 << 20).expect("opens");
        journal.push(told(3), 0);
        let lost = Payload::Lost(LostEvent { count: 40, ..LostEvent::default() });
        journal.push(Content::Told(vec![Event { payload: Some(lost), ..Event::default() }]), 0);
        journal.push(told(0), 0);
        let end = Place { seq: 4, produced: 43 };
        assert_eq!(journal.ring().end(), end);
        // The old one died without a word.
        std::mem::forget(journal);
        assert_eq!(open(BOOT), end);
        let other = "00000000-0000-4000-8000-000000000002";
        assert_eq!(open(other), Place::default());
        assert_eq!(open(BOOT), Place::default());
    }

    #[test]
    fn a_reader_of_before_a_restart_is_told_what_died_with_the_agent() {
        let folder = tempfile::tempdir().expect("temp dir");
        let journal = Journal::open(folder.path(), BOOT, 1 << 20).expect("opens");
        journal.push(told(2), 0);
        let place = journal.ring().end();
        journal.push(told(5), 0);
        drop(journal);
        let journal = Journal::open(folder.path(), BOOT, 1 << 20).expect("opens");
        journal.push(told(1), 0);
        let mut reader = journal.ring().reader(place);
        assert!(matches!(reader.try_next(), Some(Read::Lost { seq: 7, count: 5 })));
        assert!(
            matches!(reader.try_next(), Some(Read::Entry { entry, .. }) if entry.before.seq == 7)
        );
    }

    #[test]
    fn nonsense_in_the_file_is_a_new_beginning() {
        let folder = tempfile::tempdir().expect("temp dir");
        for text in ["", "\n", "x", BOOT, &format!("{BOOT} 1"), &format!("{BOOT} 1 -2"), "\u{fffd}"]
        {
            std::fs::write(folder.path().join(FILE), text).expect("writes");
            let journal = Journal::open(folder.path(), BOOT, 1).expect("opens");
            assert_eq!(journal.ring().end(), Place::default(), "{text:?}");
        }
        std::fs::write(folder.path().join(FILE), [0xff; 200]).expect("writes");
        let journal = Journal::open(folder.path(), BOOT, 1).expect("opens");
        journal.push(told(1), 0);
        drop(journal);
        let journal = Journal::open(folder.path(), BOOT, 1).expect("opens");
        assert_eq!(journal.ring().end().seq, 1);
    }
}
