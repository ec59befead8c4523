//! What a record of a connection says. It must not know where it came from.

use super::super::decode::{read, some};
use super::super::event::Process;
use super::super::ring;
use What::{Accept, Close, Connect};
use agent_records::tcp::{Record, kind, known};
use std::net::{IpAddr, Ipv6Addr};

/// What happened, as the programs wrote it; taken apart only by [`Records::events`].
#[derive(Debug, Clone, Default)]
pub struct Records {
    overdue: Vec<Record>,
    records: ring::Records,
}

/// One thing that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_BOOTTIME when it was told, nanoseconds.
    pub boot_ns: u64,
    /// Who made or accepted the connection; `None` where that can't be told.
    pub process: Option<Process>,
    /// The end that made the connection, or this end where it is not known which did; `None` where no
    /// address was chosen yet. An IPv4 address also where the socket has it mapped into IPv6.
    pub src: Option<IpAddr>,
    /// 0 where none was chosen yet.
    pub src_port: u16,
    /// The other end.
    pub dst: IpAddr,
    /// Its port.
    pub dst_port: u16,
    /// What happened.
    pub what: What,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It was made from here, or failed with that error number.
    Connect {
        /// `None` when it was made.
        error: Option<u32>,
    },
    /// It was made to here.
    Accept,
    /// It ended.
    Close {
        /// Payload that the other end acknowledged.
        sent_bytes: Option<u64>,
        /// Payload that came in order, whether a process read it or not.
        received_bytes: Option<u64>,
        /// Since it was made.
        duration_ns: Option<u64>,
        /// The other end made it.
        accepted: Option<bool>,
    },
}

impl Records {
    pub(super) fn new(overdue: Vec<Record>, records: ring::Records) -> Self {
        Self { overdue, records }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.overdue.len() + self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much memory they take, bytes.
    pub fn bytes(&self) -> usize {
        self.overdue.len() * size_of::<Record>() + self.records.bytes()
    }

    /// The events; `None` for a record that is not ours.
    pub fn events(&self) -> impl Iterator<Item = Option<Event>> {
        let ring = self.records.iter().map(|bytes| read(bytes).map(|(record, _)| record));
        self.overdue.iter().copied().map(Some).chain(ring).map(|record| record.map(event))
    }
}

fn event(record: Record) -> Event {
    let has = |bit| record.known & bit != 0;
    let accepted = has(known::MAKER).then(|| has(known::ACCEPTED));
    let local = (record.local, record.local_port);
    let remote = (record.remote, record.remote_port);
    let (src, dst) = if accepted == Some(true) { (remote, local) } else { (local, remote) };
    let what = match record.kind {
        kind::CONNECT => Connect { error: (record.error != 0).then(|| u32::from(record.error)) },
        kind::ACCEPT => Accept,
        _ => Close {
            sent_bytes: has(known::SENT).then_some(record.sent_bytes),
            received_bytes: has(known::RECEIVED).then_some(record.received_bytes),
            duration_ns: has(known::DURATION).then_some(record.duration_ns),
            accepted,
        },
    };
    let src_ip = address(src.0);
    Event {
        boot_ns: record.boot_ns,
        process: some(&record.owner),
        src: (!src_ip.is_unspecified()).then_some(src_ip),
        src_port: src.1,
        dst: address(dst.0),
        dst_port: dst.1,
        what,
    }
}

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}
