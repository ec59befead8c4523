//! Connections whose owners are not known yet: how many there may be, and which of them goes for one more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::sync::CancellationToken;

/// Connections that have not shown who they are. One more than there may be ends the oldest: who means
/// it is done in milliseconds, who does not is in nobody's way.
#[derive(Debug, Clone)]
pub struct Strangers {
    most: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order of their coming.
    ends: BTreeMap<u64, CancellationToken>,
}

impl Strangers {
    /// At most so many at once.
    pub fn new(most: usize) -> Self {
        Self { most, waiting: Arc::default() }
    }

    /// One more; the oldest goes when there are too many.
    pub fn admit(&self) -> Stranger {
        let mut waiting = held(&self.waiting);
        if waiting.ends.len() >= self.most
            && let Some((_, oldest)) = waiting.ends.pop_first()
        {
            oldest.cancel();
        }
        let number = waiting.next;
        waiting.next += 1;
        let end = CancellationToken::new();
        waiting.ends.insert(number, end.clone());
        Stranger { number, end, strangers: self.clone() }
    }
}

/// A place among the strangers; free when dropped.
#[derive(Debug)]
pub struct Stranger {
    number: u64,
    /// Cancelled when the place is wanted by somebody else.
    pub end: CancellationToken,
    strangers: Strangers,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        held(&self.strangers.waiting).ends.remove(&self.number);
    }
}

/// Nothing panics while it holds this.
fn held(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_stranger_makes_room() {
        let strangers = Strangers::new(8);
        let mut all: Vec<_> = (0..8).map(|_| strangers.admit()).collect();
        assert!(all.iter().all(|stranger| !stranger.end.is_cancelled()));
        drop(all.remove(0));
        all.push(strangers.admit());
        assert!(!all[0].end.is_cancelled(), "there was room");
        all.push(strangers.admit());
        assert!(all[0].end.is_cancelled() && !all[1].end.is_cancelled());
    }
}
