//! Who is at the other end of a connection, and how long a silent one is believed.

use crate::{Identity, tls::ca_sha256};
use rustls_pki_types::CertificateDer;
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::{TcpStream, UnixStream};

/// The other end of a connection. Handlers find it as `Arc<Peer>` in a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What its certificate names; `None` where none is asked for.
    pub identity: Option<Identity>,
    /// SHA-256 of its certificate.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Where it connects from; `None` on a unix socket.
    pub address: Option<SocketAddr>,
    /// Who it is on a unix socket.
    pub unix: Option<UnixPeer>,
}

/// The process at the other end of a unix socket (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// `None` where the kernel does not tell.
    pub pid: Option<i32>,
}

impl Peer {
    /// The peer of a TLS connection after its handshake.
    pub fn of_tls(certificates: Option<&[CertificateDer<'_>]>, address: SocketAddr) -> Self {
        let certificate = certificates.and_then(|chain| chain.first());
        Self {
            identity: certificate.and_then(|der| Identity::of_certificate(der).ok()),
            certificate_sha256: certificate.map(ca_sha256),
            address: Some(address),
            unix: None,
        }
    }

    /// The peer of a unix socket.
    pub fn of_unix(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let unix =
            UnixPeer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
        Ok(Self { identity: None, certificate_sha256: None, address: None, unix: Some(unix) })
    }
}

/// Small messages leave at once, and a peer that is gone is noticed in about five seconds.
pub fn configure_tcp(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(5)))?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}
