//! A list of the kernel's that is read piece by piece, so that a large one takes neither much memory nor
//! long at a time. It must not know what is in it.

use crate::netlink::request::{Message, Question, messages, request};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr};
use std::io;

/// The kernel writes up to half of it at once.
const BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Dump {
    socket: Socket,
    buffer: Vec<u8>,
    interrupted: bool,
}

/// What came of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// There is more.
    Part,
    /// It was the last one.
    Last,
    /// It was the last one, and something changed meanwhile: objects may be missing.
    Interrupted,
}

impl Dump {
    pub(super) fn ask(question: &Question) -> io::Result<Self> {
        let mut socket = Socket::new(question.protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&request(question, NLM_F_REQUEST | NLM_F_DUMP)?, 0)?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER_BYTES), interrupted: false })
    }

    /// Reads a piece, some hundred objects.
    pub(super) fn piece(
        &mut self,
        mut each: impl FnMut(&Message<'_>) -> io::Result<()>,
    ) -> io::Result<Piece> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        for message in messages(&self.buffer) {
            let message = message?;
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match (message.kind, message.error_number()) {
                (NLMSG_DONE | NLMSG_ERROR, 0) if self.interrupted => return Ok(Piece::Interrupted),
                (NLMSG_DONE | NLMSG_ERROR, 0) => return Ok(Piece::Last),
                (NLMSG_DONE | NLMSG_ERROR, number) => {
                    return Err(io::Error::from_raw_os_error(number));
                }
                _ => each(&message)?,
            }
        }
        Ok(Piece::Part)
    }
}
