//! Up to which moment everything that happened is in the journal: what the slowest source claims.

use super::{Content, Journal, now_unix_ns};
use std::sync::Arc;
use tokio::sync::watch;

/// What one source claims.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The last question that it answered.
    answered: u64,
    /// The moment up to which it has told everything, nanoseconds since 1970.
    time: i64,
}

/// What all sources claim. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    asked: Arc<watch::Sender<u64>>,
    marks: Arc<watch::Sender<Vec<Mark>>>,
}

/// One source's say. Dropped, the source no longer holds anything up.
#[derive(Debug)]
pub(crate) struct Source {
    marks: Marks,
    asked: watch::Receiver<u64>,
    at: usize,
    journal: Arc<Journal>,
}

/// A look at a source that has begun: what was there before it will be told by its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look(Mark);

impl Marks {
    pub(crate) fn new() -> Self {
        Self {
            asked: Arc::new(watch::Sender::new(0)),
            marks: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// Adds a source that claims nothing yet.
    pub(crate) fn source(&self, journal: Arc<Journal>) -> Source {
        let mut at = 0;
        self.marks.send_modify(|marks| {
            at = marks.len();
            marks.push(Mark { answered: 0, time: 0 });
        });
        let mut asked = self.asked.subscribe();
        asked.mark_changed();
        Source { marks: self.clone(), asked, at, journal }
    }

    /// What is claimed now.
    pub(crate) fn watermark(&self) -> i64 {
        watermark(&self.marks.borrow())
    }

    /// Asks every source to look, and waits until all have.
    pub(crate) async fn flush(&self) -> i64 {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut marks = self.marks.subscribe();
        let answered = marks.wait_for(|marks| marks.iter().all(|mark| mark.answered >= number));
        // We hold the sender ourselves, so it is never gone.
        answered.await.map_or(0, |marks| watermark(&marks))
    }
}

/// Without a source nothing can happen.
fn watermark(marks: &[Mark]) -> i64 {
    marks
        .iter()
        .map(|mark| mark.time)
        .min()
        .filter(|time| *time < i64::MAX)
        .unwrap_or_else(now_unix_ns)
}

impl Source {
    /// Waits until somebody wants to know up to where the source has told. Cancel safe.
    pub(crate) async fn asked(&mut self) {
        if self.asked.changed().await.is_err() {
            // The agent ends, and with it the task that waits.
            std::future::pending::<()>().await;
        }
    }

    /// To be called before the kernel is asked for what it holds.
    pub(crate) fn look(&mut self) -> Look {
        Look(Mark { answered: *self.asked.borrow_and_update(), time: now_unix_ns() })
    }

    /// Adds events.
    pub(crate) fn push(&self, content: Content) {
        self.journal.push(content, self.marks.watermark());
    }

    /// Claims that everything before the look is told.
    pub(crate) fn done(&self, Look(mark): Look) {
        self.set(mark);
    }

    fn set(&self, mark: Mark) {
        let mut watermark_now = 0;
        self.marks.marks.send_modify(|marks| {
            marks[self.at] = mark;
            watermark_now = watermark(marks);
        });
        self.journal.advance(watermark_now);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.set(Mark { answered: u64::MAX, time: i64::MAX });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn journal() -> (tempfile::TempDir, Arc<Journal>) {
        let folder = tempfile::tempdir().expect("temp dir");
        let journal = Journal::open(folder.path(), "boot", 1 << 20).expect("opens");
        (folder, Arc::new(journal))
    }

    #[tokio::test]
    async fn the_slowest_source_decides_and_who_is_gone_does_not() {
        let (_folder, journal) = journal();
        let marks = Marks::new();
        let (mut fast, mut slow) =
            (marks.source(Arc::clone(&journal)), marks.source(Arc::clone(&journal)));
        assert_eq!(marks.watermark(), 0);
        let mut flush = std::pin::pin!(marks.flush());
        assert!(flush.as_mut().now_or_never().is_none());
        fast.asked().await;
        let look = fast.look();
        fast.done(look);
        assert!(flush.as_mut().now_or_never().is_none());
        let before = now_unix_ns();
        let look = slow.look();
        let after = now_unix_ns();
        slow.done(look);
        // What the fast one claims is older still.
        let watermark = flush.now_or_never().expect("both have answered");
        assert!(watermark > 0 && watermark <= before, "{watermark} {before}");
        let look = fast.look();
        fast.done(look);
        assert!((before..=after).contains(&marks.watermark()));
        drop(slow);
        assert!(marks.watermark() >= after);
    }

    #[tokio::test]
    async fn a_look_that_began_before_a_question_does_not_answer_it() {
        let (_folder, journal) = journal();
        let marks = Marks::new();
        let mut source = marks.source(journal);
        source.asked().await;
        let look = source.look();
        let mut flush = std::pin::pin!(marks.flush());
        assert!(flush.as_mut().now_or_never().is_none());
        source.done(look);
        assert!(flush.as_mut().now_or_never().is_none());
        let look = source.look();
        source.done(look);
        assert!(flush.now_or_never().is_some());
    }

    #[tokio::test]
    async fn with_no_source_everything_is_told() {
        let before = now_unix_ns();
        assert!(Marks::new().flush().await >= before);
    }
}
