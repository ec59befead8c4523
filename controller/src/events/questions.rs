//! How often hosts are asked for watermarks, and which questions are open.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Time between two questions when there are many: 10,000 a second.
const INTERVAL: Duration = Duration::from_micros(100);
/// So many may come at once.
const BURST: u32 = 256;

/// A question to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) host: u64,
    /// Upwards for each host.
    pub(super) number: u64,
}

/// Questions to all hosts.
#[derive(Debug)]
pub(super) struct Questions {
    /// By when they must be answered; perhaps they are.
    open: VecDeque<(Instant, Question)>,
    /// When the next one would be due if they came evenly.
    due: Instant,
}

impl Questions {
    pub(super) fn new(now: Instant) -> Self {
        Self { open: VecDeque::new(), due: now }
    }

    /// When the next question may be asked.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.due.checked_sub(INTERVAL * BURST).unwrap_or(now)
    }

    /// A question was asked.
    pub(super) fn asked(&mut self, question: Question, now: Instant, answer_by: Instant) {
        // Time that nobody used is not saved up.
        self.due = self.due.max(now) + INTERVAL;
        self.open.push_back((answer_by, question));
    }

    /// The oldest question that was not closed, and by when it must be answered.
    pub(super) fn oldest(&self) -> Option<(Instant, Question)> {
        self.open.front().copied()
    }

    /// It was answered, or its host is gone, or is known to be silent.
    pub(super) fn close_oldest(&mut self) {
        self.open.pop_front();
    }
}
