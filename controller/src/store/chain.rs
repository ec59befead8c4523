//! The audit log as a chain: each line's hash covers the hash of the line before, so that who changes,
//! removes or adds a line must change all that follow, and the head that somebody has noted elsewhere.

use super::AuditRecord;
use sha2::{Digest as _, Sha256};

/// SHA-256.
pub(crate) type Hash = [u8; 32];

/// Where the chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    /// How many lines there are.
    pub(crate) count: u64,
    /// That of the last line; zeros when there is none.
    pub(crate) hash: Hash,
}

/// A line as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counts from 1 without gaps.
    pub(crate) number: u64,
    pub(crate) record: AuditRecord,
    pub(crate) hash: Vec<u8>,
}

/// Which lines are wanted, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    /// Only lines with a greater number.
    pub(crate) after: u64,
    /// So many at most.
    pub(crate) limit: u64,
    /// The last ones instead of the first ones.
    pub(crate) newest: bool,
    pub(crate) since_unix_ms: Option<i64>,
    pub(crate) until_unix_ms: Option<i64>,
    /// A user's name or an identity; empty means all.
    pub(crate) who: String,
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) lines: Vec<Line>,
    /// As it stood at that moment.
    pub(crate) head: Head,
}

impl Head {
    /// With one line more.
    pub(crate) fn after(&self, record: &AuditRecord) -> Self {
        let AuditRecord { time_unix_ms, who, from, what, hosts, outcome } = record;
        let count = self.count + 1;
        let mut hash = Sha256::new();
        hash.update(self.hash);
        hash.update(count.to_be_bytes());
        hash.update(time_unix_ms.to_be_bytes());
        for text in [who, from, what, hosts, outcome] {
            // With its length, so that nothing can move from one field to the next.
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        Self { count, hash: hash.finalize().into() }
    }

    /// Takes a line as it stands in the store; what is wrong with it if it does not follow.
    pub(crate) fn follow(&mut self, line: &Line) -> Result<(), String> {
        let expected = self.after(&line.record);
        if line.number != expected.count {
            let missing = expected.count;
            return Err(format!("line {missing}: missing; line {} follows", line.number));
        }
        if line.hash != expected.hash {
            return Err(format!("line {}: it or a line before it was changed", line.number));
        }
        *self = expected;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(head: &mut Head, what: &str) -> Line {
        let record = AuditRecord {
            time_unix_ms: 7,
            who: "user:a".to_owned(),
            from: String::new(),
            what: what.to_owned(),
            hosts: "all".to_owned(),
            outcome: "ok".to_owned(),
        };
        *head = head.after(&record);
        Line { number: head.count, record, hash: head.hash.to_vec() }
    }

    #[test]
    fn a_changed_a_missing_and_a_moved_line_show() {
        let mut head = Head::default();
        let lines: Vec<_> = ["a", "b", "c"].map(|what| line(&mut head, what)).to_vec();
        let problem = |lines: &[Line]| {
            let mut at = Head::default();
            lines.iter().find_map(|line| at.follow(line).err())
        };
        assert_eq!(problem(&lines), None);
        let mut changed = lines.clone();
        changed[1].record.outcome = "no".to_owned();
        assert!(problem(&changed).is_some_and(|why| why.starts_with("line 2")));
        let cut = [lines[0].clone(), lines[2].clone()];
        assert!(problem(&cut).is_some_and(|why| why.starts_with("line 2: missing")));
        let mut moved = lines.clone();
        moved[1].record.what = String::new();
        moved[1].record.hosts = "ball".to_owned();
        assert!(problem(&moved).is_some());
    }
}
