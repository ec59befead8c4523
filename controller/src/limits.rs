//! How much one user may ask for at once, so that a script gone wild stops nobody else; and how many
//! connections may be open that have not said yet whose they are.

use crate::status::Error;
use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::DefaultKeyedStateStore};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::sync::CancellationToken;

/// Connections that have not shown a certificate. One more ends the oldest of them: who means it is done
/// in milliseconds, who does not is in nobody's way.
const STRANGERS: usize = 1_024;

/// What one user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Calls a second; twice as many at once.
    pub(crate) requests_per_second: NonZeroU32,
    /// Calls that run at once, streams included.
    pub(crate) streams: usize,
    /// Connections.
    pub(crate) connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: NonZeroU32::new(500).unwrap_or(NonZeroU32::MIN),
            streams: 512,
            connections: 256,
        }
    }
}

/// What every user has right now. Its clones share it.
#[derive(Clone)]
pub(crate) struct Usage {
    limits: Limits,
    requests: Arc<RateLimiter<String, DefaultKeyedStateStore<String>, DefaultClock>>,
    streams: Counts,
    connections: Counts,
}

impl Usage {
    pub(crate) fn new(limits: Limits) -> Self {
        let quota = Quota::per_second(limits.requests_per_second).allow_burst(
            limits.requests_per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1)),
        );
        let (streams, connections) = (Counts::default(), Counts::default());
        Self { limits, requests: Arc::new(RateLimiter::keyed(quota)), streams, connections }
    }

    /// One call more of somebody with a certificate of ours, until what is answered is dropped.
    pub(crate) fn call(&self, user: &str) -> Result<Place, Error> {
        let Limits { requests_per_second, streams, .. } = self.limits;
        if self.requests.check_key(&user.to_owned()).is_err() {
            return Err(Error::Exhausted(format!(
                "{user}: more than {requests_per_second} calls a second; slow down"
            )));
        }
        self.streams.take(user, streams).ok_or_else(|| {
            Error::Exhausted(format!("{user}: {streams} calls run already; end one of them first"))
        })
    }

    /// One connection more.
    pub(crate) fn connection(&self, user: &str) -> Option<Place> {
        self.connections.take(user, self.limits.connections)
    }
}

/// How many each user has. Who has none is not in it, so it is no larger than what there is.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<HashMap<String, usize>>>);

impl Counts {
    fn take(&self, user: &str, most: usize) -> Option<Place> {
        let mut counts = held(&self.0);
        let count = counts.entry(user.to_owned()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place(Arc::new(Taken { user: user.to_owned(), counts: self.clone() })))
    }
}

/// One of the places that a user has; free again with the last clone.
#[derive(Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "it counts while it is there")] Arc<Taken>);

struct Taken {
    user: String,
    counts: Counts,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut counts = held(&self.counts.0);
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
    }
}

/// Connections whose owners are not known.
#[derive(Clone, Default)]
pub(crate) struct Strangers(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    /// In the order of their coming.
    ends: BTreeMap<u64, CancellationToken>,
}

impl Strangers {
    /// One more; the oldest goes when there are too many.
    pub(crate) fn admit(&self) -> Stranger {
        let mut waiting = held(&self.0);
        if waiting.ends.len() >= STRANGERS
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
pub(crate) struct Stranger {
    number: u64,
    /// Cancelled when the place is wanted by somebody else.
    pub(crate) end: CancellationToken,
    strangers: Strangers,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        held(&self.strangers.0).ends.remove(&self.number);
    }
}

/// Nothing panics while it holds one of these.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_for_each_user_and_come_back() {
        let limits = Limits { streams: 2, connections: 1, ..Limits::default() };
        let usage = Usage::new(limits);
        let first = usage.call("a").expect("free");
        let second = (usage.call("a").expect("free"), first.clone());
        let full = usage.call("a").map(drop).expect_err("full").to_string();
        assert!(full.starts_with("a: ") && full.contains("2 calls"), "{full}");
        assert!(usage.call("b").is_ok());
        drop(first);
        assert!(usage.call("a").is_err(), "a clone counts too");
        drop(second);
        assert!(usage.call("a").is_ok());
        let connection = usage.connection("a").expect("free");
        assert!(usage.connection("a").is_none());
        drop(connection);
        assert!(usage.connection("a").is_some() && held(&usage.connections.0).is_empty());
    }

    #[test]
    fn the_oldest_stranger_makes_room() {
        let strangers = Strangers::default();
        let mut all: Vec<_> = (0..STRANGERS).map(|_| strangers.admit()).collect();
        assert!(all.iter().all(|stranger| !stranger.end.is_cancelled()));
        drop(all.remove(0));
        all.push(strangers.admit());
        assert!(!all[0].end.is_cancelled(), "there was room");
        all.push(strangers.admit());
        assert!(all[0].end.is_cancelled() && !all[1].end.is_cancelled());
    }
}
