//! Being told of changes. What changed exactly is not told: a reader asks for the new state.

use super::request::OBJECT;
use crate::Error;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use std::collections::BTreeSet;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// An interface came, went or changed.
    Link,
    /// An address came or went.
    Addr,
    /// A route came or went.
    Route,
}

const EVERY_CHANGE: [Change; 3] = [Change::Link, Change::Addr, Change::Route];
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// Room for a burst of some thousand messages before the kernel starts to lose them.
const RECEIVE_BUFFER_BYTES: u32 = 1 << 20;
/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;

/// A subscription to changes of one network namespace.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<Socket>,
}

impl Watch {
    /// Subscribes, within a tokio runtime; what changes from now on is told.
    pub fn open() -> Result<Self, Error> {
        let socket = subscribe().map_err(|error| Error::io(OBJECT, error))?;
        Ok(Self { socket })
    }

    /// The next changes, all that wait at once. Where the kernel lost some, every kind is told.
    ///
    /// Cancel safe. An error is final.
    pub async fn next(&mut self) -> Result<BTreeSet<Change>, Error> {
        let mut changes = BTreeSet::new();
        loop {
            let mut ready =
                self.socket.readable().await.map_err(|error| Error::io(OBJECT, error))?;
            loop {
                match ready.try_io(|socket| socket.get_ref().recv_from_full()) {
                    Ok(Ok((bytes, _))) => kinds(&bytes, &mut changes),
                    Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        changes.extend(EVERY_CHANGE);
                    }
                    Ok(Err(error)) => return Err(Error::io(OBJECT, error)),
                    Err(_would_block) => break,
                }
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn subscribe() -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    // SAFETY: the socket owns its descriptor, keeps it open, and always names the same one.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? })
}

/// Notes the kinds of the messages in one datagram.
fn kinds(mut bytes: &[u8], changes: &mut BTreeSet<Change>) {
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        match u16::from_ne_bytes([t0, t1]) {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => changes.insert(Change::Link),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => changes.insert(Change::Addr),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changes.insert(Change::Route),
            _ => false,
        };
        // A length shorter than its header would never end.
        let length = (u32::from_ne_bytes([l0, l1, l2, l3]) as usize).max(HEADER_BYTES);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, length: u32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(20, 0);
        bytes
    }

    #[test]
    fn every_message_of_a_datagram_is_seen_and_a_broken_one_ends_it() {
        let mut changes = BTreeSet::new();
        let mut bytes = message(libc::RTM_NEWADDR, 18);
        bytes.extend(message(libc::RTM_DELROUTE, 20));
        kinds(&bytes, &mut changes);
        assert_eq!(changes, [Change::Addr, Change::Route].into());
        changes.clear();
        kinds(&message(libc::RTM_NEWLINK, 0), &mut changes);
        kinds(&message(libc::RTM_NEWROUTE, u32::MAX - 3), &mut changes);
        assert_eq!(changes, [Change::Link, Change::Route].into());
    }
}
