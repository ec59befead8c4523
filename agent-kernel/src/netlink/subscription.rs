//! A socket that is told of changes: the groups it joined, many messages a system call, and how many
//! the kernel had no room for. It must not know what the messages are about.

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, NetlinkAddr, recvmmsg, setsockopt,
    sockopt::{RcvBuf, RcvBufForce},
};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};
use tokio::time::{Instant, sleep_until, timeout_at};

/// What is asked for at first. The kernel doubles it for its own records: some 20,000 routes.
pub(super) const BUFFER_BYTES: usize = 8 << 20;
/// And at most; 64 MiB with the kernel's doubling.
const MAX_BUFFER_BYTES: usize = 32 << 20;
/// Messages a system call.
const BATCH: usize = 64;
/// Room for one message. Some hundred ways of a route fit; of what does not, the end is cut off.
const MESSAGE_BYTES: usize = 8 << 10;
/// How long changes gather while they go on.
const NAP: Duration = Duration::from_millis(5);

/// A loss that the kernel notes just when the last message was taken is an error and nothing to read, and
/// then nothing comes until it was seen.
const NEWS: Interest = Interest::READABLE.add(Interest::ERROR);

#[derive(Debug)]
pub(super) struct Subscription {
    socket: Socket,
    buffer_bytes: usize,
    messages: Box<[u8]>,
    /// When there was something to receive, if there was the last time.
    busy: Option<Instant>,
    /// The kernel's count of lost messages when it was last asked.
    drops: u32,
}

/// One message as it came.
pub(super) struct Datagram<'a> {
    pub(super) bytes: &'a [u8],
    /// 0 is the kernel.
    pub(super) sender: u32,
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// That many messages; there may be more.
    Messages(usize),
    /// None; all was received.
    Nothing,
    /// None; some were lost after those that still wait.
    Overflow,
}

impl Subscription {
    /// Joins groups of a protocol (netlink(7)), of the calling thread's network namespace. An older
    /// kernel that has not all of them tells of the others.
    pub(super) fn open(protocol: isize, groups: &[u32], buffer_bytes: usize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        let messages = vec![0; BATCH * MESSAGE_BYTES].into();
        let subscription = Self { socket, buffer_bytes, messages, busy: None, drops: 0 };
        subscription.set_buffer()?;
        for group in groups {
            match subscription.socket.add_membership(*group) {
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                _ => {}
            }
        }
        Ok(subscription)
    }

    /// Takes the next messages, if there are any.
    pub(super) fn receive(&mut self, mut each: impl FnMut(Datagram<'_>)) -> io::Result<Received> {
        let slices = self.messages.chunks_mut(MESSAGE_BYTES).map(|it| [IoSliceMut::new(it)]);
        let mut slices: Vec<_> = slices.collect();
        let mut headers = MultiHeaders::<NetlinkAddr>::preallocate(BATCH, None);
        let fd = self.socket.as_raw_fd();
        let none = MsgFlags::empty();
        let received = match recvmmsg(fd, &mut headers, &mut slices, none, None) {
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(Errno::EINTR) => return Ok(Received::Messages(0)),
            Err(Errno::ENOBUFS) => return Ok(Received::Overflow),
            received => received?,
        };
        let mut count = 0;
        for message in received {
            each(Datagram {
                bytes: message.iovs().next().unwrap_or_default(),
                sender: message.address.map_or(0, |address| address.pid()),
            });
            count += 1;
        }
        Ok(Received::Messages(count))
    }

    /// Says whether the last look at the socket found something. Then what comes next gathers.
    pub(super) fn rest(&mut self, found: bool) {
        self.busy = found.then(Instant::now);
    }

    /// Waits for a message, or until then. Cancel safe, within a tokio runtime.
    ///
    /// While changes go on it naps first, and nothing watches the socket meanwhile: a storm then wakes
    /// nobody for each message, and does not slow down who makes it.
    pub(super) async fn readable(&self, until: Option<Instant>) -> io::Result<()> {
        if let Some(busy) = self.busy {
            sleep_until(busy + NAP).await;
        }
        let watched = watched(self.socket.as_fd())?;
        match until {
            None => drop(watched.ready(NEWS).await?),
            Some(until) => {
                if let Ok(ready) = timeout_at(until, watched.ready(NEWS)).await {
                    drop(ready?);
                }
            }
        }
        Ok(())
    }

    /// How many messages the kernel had no room for since it was last asked.
    pub(super) fn lost(&mut self) -> io::Result<u64> {
        let drops = drops(self.socket.as_fd())?;
        let lost = drops.wrapping_sub(self.drops);
        self.drops = drops;
        Ok(lost.into())
    }

    /// Makes room for twice as much, up to 64 MiB.
    pub(super) fn grow(&mut self) -> io::Result<()> {
        self.buffer_bytes = self.buffer_bytes.saturating_mul(2).min(MAX_BUFFER_BYTES);
        self.set_buffer()
    }

    fn set_buffer(&self) -> io::Result<()> {
        let bytes = self.buffer_bytes;
        // Without the privilege: as much as everybody may have.
        setsockopt(&self.socket, RcvBufForce, &bytes)
            .or_else(|_| setsockopt(&self.socket, RcvBuf, &bytes))?;
        Ok(())
    }
}

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn watched(socket: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the descriptor is borrowed for as long as it is watched, and always names the same one.
    Ok(unsafe { AsyncFd::register_with_interest(socket, NEWS)? })
}

/// SO_MEMINFO, SK_MEMINFO_DROPS: what the socket could not take since it was made.
#[expect(unsafe_code, reason = "getsockopt(2) takes a pointer and a length")]
fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    /// linux/sock_diag.h
    const SK_MEMINFO_DROPS: usize = 8;
    let mut values = [0_u32; SK_MEMINFO_DROPS + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&values)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `values`, which are that many, and the length
    // to `length`; both live until it returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(values[SK_MEMINFO_DROPS])
}
