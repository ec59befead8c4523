//! Echo requests as an oracle: the `ping` program, and a raw socket that asks every millisecond.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind,
    connect, recv, send, socket,
};

use crate::namespace::Namespace;

/// Pause between two echo requests of a [`Pinger`].
const INTERVAL: Duration = Duration::from_millis(1);

/// Sends `count` echo requests with the `ping` program, from `source` or the namespace's own address,
/// and tells how many were answered. A lost one is waited for half a second.
pub fn ping(from: &Namespace, source: Option<IpAddr>, to: IpAddr, count: u32) -> Result<u32> {
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-i", "0.01", "-W", "0.5", "-c", &count.to_string()]);
    if let Some(source) = source {
        command.args(["-I", &source.to_string()]);
    }
    command.arg(to.to_string());
    let output = from.output(command)?;
    received(&output.stdout).with_context(|| format!("{output}no summary"))
}

/// The replies in ping's summary line.
fn received(stdout: &str) -> Option<u32> {
    let line = stdout.lines().find(|line| line.contains(" packets transmitted"))?;
    let words: Vec<_> = line.split_whitespace().collect();
    words
        .iter()
        .position(|word| word.starts_with("received"))
        .and_then(|at| words[at - 1].parse().ok())
}

/// How many echo requests went out and how many replies came in.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Echo requests that left.
    pub sent: u64,
    /// Replies that came back.
    pub replies: u64,
}

/// Asks a host every millisecond until it is dropped, and counts the replies.
#[derive(Debug)]
pub struct Pinger {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    replies: AtomicU64,
}

impl Pinger {
    /// Starts to ask `to` from a namespace, from `source` or the namespace's own address.
    pub fn start(from: &Namespace, source: Option<IpAddr>, to: IpAddr) -> Result<Self> {
        let socket = from.within(|| echo_socket(source, to))??;
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || ask(&socket, to.is_ipv6(), &shared)
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        // Replies first, so that they never outnumber the requests.
        let replies = self.shared.replies.load(Ordering::SeqCst);
        Tally { sent: self.shared.sent.load(Ordering::SeqCst), replies }
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo_socket(source: Option<IpAddr>, to: IpAddr) -> Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_NONBLOCK, protocol)?;
    let address = |ip: IpAddr| -> Box<dyn nix::sys::socket::SockaddrLike> {
        match ip {
            IpAddr::V4(ip) => Box::new(SockaddrIn::from(std::net::SocketAddrV4::new(ip, 0))),
            IpAddr::V6(ip) => Box::new(SockaddrIn6::from(std::net::SocketAddrV6::new(ip, 0, 0, 0))),
        }
    };
    if let Some(source) = source {
        bind(socket.as_raw_fd(), &*address(source))?;
    }
    connect(socket.as_raw_fd(), &*address(to))?;
    Ok(socket)
}

fn ask(socket: &OwnedFd, v6: bool, shared: &Shared) {
    // A raw socket sees the replies to everybody's requests of its namespace; the id tells ours.
    static IDS: AtomicU16 = AtomicU16::new(1);
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let mut due = Instant::now();
    let mut sequence = 0_u16;
    let mut buffer = [0; 256];
    while !shared.stop.load(Ordering::SeqCst) {
        // Counted before it leaves: a reply is never there before its request is counted.
        shared.sent.fetch_add(1, Ordering::SeqCst);
        if send(socket.as_raw_fd(), &echo_request(v6, id, sequence), MsgFlags::empty()).is_err() {
            shared.sent.fetch_sub(1, Ordering::SeqCst);
        }
        sequence = sequence.wrapping_add(1);
        due += INTERVAL;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            if is_reply(v6, id, &buffer[..length]) {
                shared.replies.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn echo_request(v6: bool, id: u16, sequence: u16) -> [u8; 8] {
    let kind = if v6 { 128 } else { 8 };
    let mut packet = [kind, 0, 0, 0, 0, 0, 0, 0];
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if !v6 {
        // The kernel fills the checksum in for ICMPv6 only.
        let checksum = crate::frame::checksum(&packet);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

fn is_reply(v6: bool, id: u16, packet: &[u8]) -> bool {
    // A raw IPv4 socket delivers the IP header as well.
    let (kind, offset) = if v6 { (129, 0) } else { (0, usize::from(packet[0] & 0xf) * 4) };
    packet.get(offset) == Some(&kind)
        && packet.get(offset + 4..offset + 6) == Some(&id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_ping_is_read() {
        let lost = "PING x\n\n3 packets transmitted, 0 received, 100% packet loss, time 20ms\n";
        assert_eq!(received(lost), Some(0));
        let errors = "3 packets transmitted, 1 received, +2 errors, 66% packet loss, time 20ms";
        assert_eq!(received(errors), Some(1));
        assert_eq!(received("ping: unknown host"), None);
    }
}
