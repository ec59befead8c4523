//! Asking the kernel over routing netlink (rtnetlink(7)) and reading its answer. It must not know
//! what is asked.

use crate::Error;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

pub(super) const OBJECT: &str = "netlink";
const MAX_ATTEMPTS: u32 = 10;

/// Every object that answers a dump request.
pub(super) fn dump(message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
    let mut attempts = 0;
    loop {
        match ask(message.clone(), NLM_F_REQUEST | NLM_F_DUMP) {
            // Something changed meanwhile, so the answer may lack objects.
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < MAX_ATTEMPTS => {
                attempts += 1;
            }
            result => return result.map_err(|error| Error::io(OBJECT, error)),
        }
    }
}

/// The answer to a request for one object.
pub(super) fn one(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    ask(message, NLM_F_REQUEST | NLM_F_ACK)
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    let mut interrupted = false;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Messages start at multiples of four bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::Done(_) if interrupted => {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
