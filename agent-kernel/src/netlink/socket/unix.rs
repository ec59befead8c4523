//! Unix sockets (linux/unix_diag.h).

use super::{Found, Queue, STATES, Socket, SocketFilter, SocketProtocol, absent, asked};
use crate::{
    Error,
    netlink::{
        attribute::{attributes, header, u32},
        names::{Words, word},
    },
};
use nix::libc;
use std::io;

const SHOW_NAME: u32 = 0x01;
const SHOW_PEER: u32 = 0x04;
const SHOW_QUEUES: u32 = 0x10;
const SHOW_UID: u32 = 0x40;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_QUEUES: u16 = 4;
const UNIX_DIAG_UID: u16 = 7;
/// Numbers of `SOCK_STREAM` and so on.
const KINDS: Words = &[(1, "stream"), (2, "dgram"), (3, "raw"), (5, "seqpacket")];

/// Every unix socket in these states.
pub(super) fn dump(filter: &SocketFilter) -> Result<Found, Error> {
    let answer = asked(request(filter))?.ok_or_else(|| absent(SocketProtocol::Unix))?;
    Ok(Box::new(answer.objects(|payload| read(payload).map(Some))))
}

/// `struct unix_diag_req`
fn request(filter: &SocketFilter) -> Vec<u8> {
    let family = u8::try_from(libc::AF_UNIX).expect("families are small numbers");
    let states = filter.states.bits(SocketProtocol::Unix);
    let show = SHOW_NAME | SHOW_PEER | SHOW_QUEUES | SHOW_UID;
    let mut body = vec![family, 0, 0, 0];
    for number in [states, 0, show, 0, 0] {
        body.extend(number.to_ne_bytes());
    }
    body
}

fn read(payload: &[u8]) -> io::Result<Socket> {
    // `struct unix_diag_msg`
    let ([_, kind, state, _, i0, i1, i2, i3, cookie @ ..], rest): (&[u8; 16], _) = header(payload)?;
    let state = u32::from(*state);
    let inode = u32::from_ne_bytes([*i0, *i1, *i2, *i3]);
    let mut socket = Socket {
        protocol: SocketProtocol::Unix,
        family: None,
        kind: word(KINDS, (*kind).into()),
        state: word(STATES, state),
        local: None,
        peer: None,
        interface: None,
        path: None,
        peer_inode: None,
        queue: Queue::new(state, 0, 0),
        uid: None,
        user: None,
        inode: (inode != 0).then_some(inode),
        cookie: u64::from_ne_bytes(*cookie),
        tcp: None,
        holders: Default::default(),
    };
    for attribute in attributes(rest) {
        match attribute? {
            (UNIX_DIAG_NAME, value) => socket.path = path(value),
            (UNIX_DIAG_PEER, value) => socket.peer_inode = Some(u32(value)?).filter(|it| *it != 0),
            (UNIX_DIAG_QUEUES, value) => {
                let (_, wqueue): (&[u8; 4], _) = header(value)?;
                socket.queue = Queue::new(state, u32(value)?, u32(wqueue)?);
            }
            (UNIX_DIAG_UID, value) => socket.uid = Some(u32(value)?),
            _ => {}
        }
    }
    Ok(socket)
}

/// As ss(8) shows it: a path ends at its NUL; an abstract name begins with one and may have more.
fn path(name: &[u8]) -> Option<Vec<u8>> {
    match name {
        [] => None,
        [0, ..] => Some(name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }).collect()),
        path => path.split(|byte| *byte == 0).next().map(<[u8]>::to_vec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_ss() {
        assert_eq!(path(b""), None);
        assert_eq!(path(b"/run/a b\0").as_deref(), Some(&b"/run/a b"[..]));
        assert_eq!(path(b"\0abc\0\xff").as_deref(), Some(&b"@abc@\xff"[..]));
    }

    #[test]
    fn what_the_kernel_cut_short_is_no_socket() {
        let mut message = vec![1, 5, 10, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
        let socket = read(&message).expect("whole");
        assert_eq!((socket.kind.as_ref(), socket.state.as_ref()), ("seqpacket", "LISTEN"));
        assert!(read(&message[..15]).is_err());
        // Queues of four bytes are one too few.
        message.extend([8, 0, 4, 0, 1, 0, 0, 0]);
        assert!(read(&message).is_err());
    }
}
