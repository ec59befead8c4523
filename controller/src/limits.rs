//! How much one user may ask for at once, so that a script gone wild stops nobody else.

use crate::status::Error;
use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::DefaultKeyedStateStore};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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
}
