//! Asking the kernel over routing netlink (rtnetlink(7)) and taking its answer. It must not know
//! what is asked.

use crate::{Error, ErrorKind};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

pub(super) const OBJECT: &str = "netlink";
const MAX_ATTEMPTS: u32 = 10;
/// More than a million routes; a list beyond it is refused and not a reason to run out of memory.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;

/// A whole answer as the kernel wrote it, some 60 bytes a route.
#[derive(Debug, Default)]
pub(super) struct Answer {
    datagrams: Vec<Vec<u8>>,
}

impl Answer {
    /// The objects in it, read as they are taken, a datagram of some 32 KiB at a time. `read` gets a
    /// message's payload, and leaves out what it answers `None` for.
    pub(super) fn objects<T>(
        self,
        read: impl Fn(&[u8]) -> io::Result<Option<T>> + Send,
    ) -> impl Iterator<Item = Result<T, Error>> + Send
    where
        T: Send,
    {
        self.datagrams.into_iter().flat_map(move |datagram| {
            let objects = messages(&datagram).filter_map(|message| {
                let read = message.and_then(|message| match message.is_object() {
                    true => read(message.payload),
                    false => Ok(None),
                });
                read.map_err(|error| Error::io(OBJECT, error)).transpose()
            });
            objects.collect::<Vec<_>>()
        })
    }

    fn parsed(&self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut parsed = Vec::new();
        for message in self.datagrams.iter().flat_map(|datagram| messages(datagram)) {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message?.whole)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                parsed.push(message);
            }
        }
        Ok(parsed)
    }
}

/// Every object that answers a dump request, as the kernel wrote it.
pub(super) fn raw_dump(message: &RouteNetlinkMessage) -> Result<Answer, Error> {
    let mut attempts = 0;
    loop {
        match ask(message.clone(), NLM_F_REQUEST | NLM_F_DUMP) {
            // Something changed meanwhile, so the answer may lack objects.
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < MAX_ATTEMPTS => {
                attempts += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(Error::new(ErrorKind::Full, OBJECT, error.to_string()));
            }
            result => return result.map_err(|error| Error::io(OBJECT, error)),
        }
    }
}

/// Every object that answers a dump request.
pub(super) fn dump(message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
    raw_dump(message)?.parsed().map_err(|error| Error::io(OBJECT, error))
}

/// The answer to a request for one object.
pub(super) fn one(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    raw_one(message)?.parsed()
}

/// The same, as the kernel wrote it.
pub(super) fn raw_one(message: RouteNetlinkMessage) -> io::Result<Answer> {
    ask(message, NLM_F_REQUEST | NLM_F_ACK)
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Makes the kernel heed filters in dump requests. One before 4.20 can't: what it tells too much
    // is left out when it is read.
    let _ = socket.set_netlink_get_strict_chk(true);
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Answer::default();
    let mut size = 0;
    let mut interrupted = false;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut end = None;
        for message in messages(&datagram) {
            let message = message?;
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                end = Some(message.error_number());
            }
        }
        size += datagram.len();
        if size > MAX_ANSWER_BYTES {
            let why = "the list is larger than 256 MiB; ask for a part of it";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        answer.datagrams.push(datagram);
        match end {
            None => {}
            Some(0) if interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Some(0) => return Ok(answer),
            Some(number) => return Err(io::Error::from_raw_os_error(number)),
        }
    }
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
    whole: &'a [u8],
}

impl Message<'_> {
    /// Of one that ends an answer; 0 is success.
    fn error_number(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number).saturating_neg())
    }

    fn is_object(&self) -> bool {
        !matches!(self.kind, NLMSG_DONE | NLMSG_ERROR)
    }
}

fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = message(rest);
        // Messages start at multiples of four bytes.
        let length = message.as_ref().map_or(rest.len(), |it| it.whole.len().next_multiple_of(4));
        rest = rest.get(length..).unwrap_or_default();
        Some(message)
    })
}

fn message(bytes: &[u8]) -> io::Result<Message<'_>> {
    let split = || {
        let [l0, l1, l2, l3, k0, k1, f0, f1, ..] = *bytes.first_chunk::<HEADER_BYTES>()?;
        let whole = bytes.get(..u32::from_ne_bytes([l0, l1, l2, l3]) as usize)?;
        let payload = whole.get(HEADER_BYTES..)?;
        let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
        Some(Message { kind, flags, payload, whole })
    };
    split().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message is cut short"))
}
