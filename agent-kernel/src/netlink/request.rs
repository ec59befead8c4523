//! Asking the kernel over netlink(7) and taking its answer. It must not know what is asked.

use crate::{Error, ErrorKind};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable as _,
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

/// Whether an object is wanted, by its payload.
pub(super) type Keep<'a> = &'a dyn Fn(&[u8]) -> io::Result<bool>;

/// What the kernel is asked.
#[derive(Debug)]
pub(super) struct Question {
    /// Of netlink(7), `NETLINK_ROUTE`.
    pub(super) protocol: isize,
    /// What kind of message it is.
    pub(super) kind: u16,
    /// What follows the message's header.
    pub(super) body: Vec<u8>,
}

impl From<&RouteNetlinkMessage> for Question {
    fn from(message: &RouteNetlinkMessage) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self { protocol: NETLINK_ROUTE, kind: message.message_type(), body }
    }
}

/// A whole answer as the kernel wrote it, some 60 bytes a route.
#[derive(Debug, Default)]
pub(super) struct Answer {
    datagrams: Vec<Vec<u8>>,
}

impl Answer {
    /// The objects in it, read one by one as they are taken. `read` gets a message's payload, and leaves
    /// out what it answers `None` for.
    pub(super) fn objects<T>(
        self,
        read: impl Fn(&[u8]) -> io::Result<Option<T>> + Send,
    ) -> impl Iterator<Item = Result<T, Error>> + Send {
        let mut datagrams = self.datagrams.into_iter();
        let (mut datagram, mut at) = (Vec::new(), 0);
        std::iter::from_fn(move || {
            loop {
                // A datagram of which nothing is kept is empty.
                while at >= datagram.len() {
                    (datagram, at) = (datagrams.next()?, 0);
                }
                let told = message(&datagram[at..]);
                at += told.as_ref().map_or(datagram.len(), Message::space);
                let object = told.and_then(|told| match told.is_object() {
                    true => read(told.payload),
                    false => Ok(None),
                });
                if let Some(object) = object.transpose() {
                    return Some(object.map_err(|error| Error::io(OBJECT, error)));
                }
            }
        })
    }

    /// The payload of each object.
    pub(super) fn payloads(&self) -> impl Iterator<Item = io::Result<&[u8]>> {
        let all = self.datagrams.iter().flat_map(|datagram| messages(datagram));
        let objects = all.filter(|told| told.as_ref().map_or(true, Message::is_object));
        objects.map(|told| told.map(|told| told.payload))
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
pub(super) fn raw_dump(question: impl Into<Question>) -> Result<Answer, Error> {
    dump_kept(&question.into(), None)
}

/// The same with those objects alone that `keep` keeps by their payload: a part of a list costs no more
/// memory than that part, however much the kernel tells.
pub(super) fn dump_kept(question: &Question, keep: Option<Keep>) -> Result<Answer, Error> {
    let mut attempts = 0;
    loop {
        match ask(question, NLM_F_REQUEST | NLM_F_DUMP, keep) {
            // Something changed meanwhile, so the answer may lack objects.
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < MAX_ATTEMPTS => {
                attempts += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                let why =
                    "it changes faster than the kernel tells it; ask again, or for a part of it";
                return Err(Error::new(ErrorKind::Busy, OBJECT, why));
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
pub(super) fn one(message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    raw_one(message)?.parsed()
}

/// The same, as the kernel wrote it.
pub(super) fn raw_one(question: impl Into<Question>) -> io::Result<Answer> {
    ask(&question.into(), NLM_F_REQUEST | NLM_F_ACK, None)
}

fn ask(question: &Question, flags: u16, keep: Option<Keep>) -> io::Result<Answer> {
    let mut socket = Socket::new(question.protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Makes the kernel heed filters in dump requests. One before 4.20 can't: what it tells too much
    // is left out when it is read.
    let _ = socket.set_netlink_get_strict_chk(true);
    socket.send(&request(question, flags)?, 0)?;
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
        let datagram = match keep {
            None => datagram,
            Some(keep) => part(&datagram, keep)?,
        };
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

/// The objects of a datagram that are kept.
fn part(datagram: &[u8], keep: Keep) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    for message in messages(datagram) {
        let message = message?;
        if message.is_object() && keep(message.payload)? {
            kept.extend(message.whole);
            kept.resize(kept.len().next_multiple_of(4), 0);
        }
    }
    Ok(kept)
}

/// `struct nlmsghdr` and what follows it.
pub(super) fn request(question: &Question, flags: u16) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER_BYTES + question.body.len());
    let mut bytes = length.map_err(|_| io::ErrorKind::InvalidInput)?.to_ne_bytes().to_vec();
    bytes.extend([question.kind.to_ne_bytes(), flags.to_ne_bytes()].as_flattened());
    // Sequence number and port: the socket asks once, and is connected to the kernel alone.
    bytes.extend([0; 8]);
    bytes.extend(&question.body);
    Ok(bytes)
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) payload: &'a [u8],
    whole: &'a [u8],
}

impl Message<'_> {
    /// Of one that ends an answer; 0 is success.
    pub(super) fn error_number(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number).saturating_neg())
    }

    /// Messages start at multiples of four bytes.
    fn space(&self) -> usize {
        self.whole.len().next_multiple_of(4)
    }

    pub(super) fn is_object(&self) -> bool {
        !matches!(self.kind, NLMSG_DONE | NLMSG_ERROR)
    }
}

pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = message(rest);
        let length = message.as_ref().map_or(rest.len(), Message::space);
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
