//! Sockets.

use super::{cell, end, family_name};
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SocketView {
    protocol: String,
    family: Option<&'static str>,
    r#type: String,
    state: String,
    local_address: Option<String>,
    local_port: Option<u32>,
    peer_address: Option<String>,
    peer_port: Option<u32>,
    interface: Option<String>,
    path: Option<String>,
    peer_inode: Option<u32>,
    rx_queue_bytes: Option<u32>,
    tx_queue_bytes: Option<u32>,
    backlog: Option<u32>,
    backlog_limit: Option<u32>,
    uid: Option<u32>,
    user: Option<String>,
    inode: Option<u32>,
    cookie: u64,
    processes: Vec<HolderView>,
    processes_truncated: bool,
    tcp: Option<TcpView>,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct HolderView {
    pid: u32,
    comm: String,
    fd: u32,
}

/// What TCP measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TcpView {
    rtt_us: u32,
    rtt_var_us: u32,
    congestion_window: u32,
    retransmits: u32,
}

impl From<pb::Socket> for SocketView {
    fn from(socket: pb::Socket) -> Self {
        let family = match socket.family() {
            pb::Family::Unspecified => None,
            family => Some(family_name(family)),
        };
        let holder = |it: pb::socket::Process| HolderView { pid: it.pid, comm: it.comm, fd: it.fd };
        let tcp = |it: pb::socket::Tcp| TcpView {
            rtt_us: it.rtt_us,
            rtt_var_us: it.rtt_var_us,
            congestion_window: it.congestion_window,
            retransmits: it.retransmits,
        };
        let number = |inode: u32| (inode != 0).then_some(inode);
        Self {
            protocol: socket.protocol,
            family,
            r#type: socket.r#type,
            state: socket.state,
            local_address: some(socket.local_address),
            local_port: socket.local_port,
            peer_address: some(socket.peer_address),
            peer_port: socket.peer_port,
            interface: some(socket.interface),
            path: some(socket.path),
            peer_inode: number(socket.peer_inode),
            rx_queue_bytes: socket.rx_queue_bytes,
            tx_queue_bytes: socket.tx_queue_bytes,
            backlog: socket.backlog,
            backlog_limit: socket.backlog_limit,
            uid: socket.uid,
            user: some(socket.user),
            inode: number(socket.inode),
            cookie: socket.cookie,
            processes: socket.processes.into_iter().map(holder).collect(),
            processes_truncated: socket.processes_truncated,
            tcp: socket.tcp.map(tcp),
        }
    }
}

impl SocketView {
    /// `sshd/812,sshd/4711`: as many as a line holds well.
    fn holders(&self) -> String {
        const SHOWN: usize = 3;
        let mut shown: Vec<_> =
            self.processes.iter().map(|it| format!("{}/{}", it.comm, it.pid)).collect();
        shown.dedup();
        if shown.len() > SHOWN || self.processes_truncated {
            shown.truncate(SHOWN);
            shown.push("…".to_owned());
        }
        shown.join(",")
    }
}

impl Record for SocketView {
    const NOUN: &'static str = "sockets";
    const COLUMNS: &'static [&'static str] =
        &["PROTOCOL", "STATE", "RECV-Q", "SEND-Q", "LOCAL", "PEER", "PROCESS"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["TYPE", "USER", "INODE", "INTERFACE", "RTT", "CWND", "RETRANSMITS"];

    fn cells(&self) -> Vec<String> {
        let at = |address: &Option<String>, port| {
            address.as_deref().map(|address| end(address, port)).unwrap_or_default()
        };
        let (local, peer) = match self.protocol.as_str() {
            "unix" => (cell(self.path.as_ref()), cell(self.peer_inode)),
            _ => {
                let local = at(&self.local_address, self.local_port);
                (local, at(&self.peer_address, self.peer_port))
            }
        };
        let tcp = self.tcp.as_ref();
        vec![
            self.protocol.clone(),
            self.state.clone(),
            cell(self.backlog.or(self.rx_queue_bytes)),
            cell(self.backlog_limit.or(self.tx_queue_bytes)),
            local,
            peer,
            self.holders(),
            self.r#type.clone(),
            self.user.clone().unwrap_or_else(|| cell(self.uid)),
            cell(self.inode),
            cell(self.interface.as_ref()),
            tcp.map(|it| format!("{}us", it.rtt_us)).unwrap_or_default(),
            cell(tcp.map(|it| it.congestion_window)),
            cell(tcp.map(|it| it.retransmits)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_key_and_null_for_what_there_is_none_of() {
        let process = pb::socket::Process { pid: 812, comm: "sshd".to_owned(), fd: 3 };
        let socket = pb::Socket {
            protocol: "tcp".to_owned(),
            family: pb::Family::Inet6.into(),
            r#type: "stream".to_owned(),
            state: "LISTEN".to_owned(),
            local_address: "::".to_owned(),
            local_port: Some(22),
            backlog: Some(0),
            backlog_limit: Some(128),
            uid: Some(0),
            user: "root".to_owned(),
            inode: 4711,
            cookie: 9,
            processes: vec![process],
            ..Default::default()
        };
        let view = SocketView::from(socket);
        let cells = view.cells();
        assert_eq!(cells[..7], ["tcp", "LISTEN", "0", "128", "[::]:22", "", "sshd/812"]);
        assert_eq!(cells.len(), SocketView::COLUMNS.len() + SocketView::WIDE_COLUMNS.len());
        let json = serde_json::to_value(view).expect("json");
        let expected = serde_json::json!({
            "protocol": "tcp", "family": "inet6", "type": "stream", "state": "LISTEN",
            "local_address": "::", "local_port": 22, "peer_address": null, "peer_port": null,
            "interface": null, "path": null, "peer_inode": null, "rx_queue_bytes": null,
            "tx_queue_bytes": null, "backlog": 0, "backlog_limit": 128, "uid": 0, "user": "root",
            "inode": 4711, "cookie": 9, "processes": [{"pid": 812, "comm": "sshd", "fd": 3}],
            "processes_truncated": false, "tcp": null,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_unix_socket_has_a_path_and_no_address() {
        let processes = (1..5).map(|pid| pb::socket::Process { pid, comm: "a".to_owned(), fd: 3 });
        let socket = pb::Socket {
            protocol: "unix".to_owned(),
            state: "ESTAB".to_owned(),
            path: "@bus".to_owned(),
            peer_inode: 8,
            rx_queue_bytes: Some(5),
            tx_queue_bytes: Some(0),
            processes: processes.collect(),
            ..Default::default()
        };
        let view = SocketView::from(socket);
        assert_eq!(view.cells()[..7], ["unix", "ESTAB", "5", "0", "@bus", "8", "a/1,a/2,a/3,…"]);
        let json = serde_json::to_value(view).expect("json");
        assert!(json["family"].is_null() && json["local_address"].is_null(), "{json}");
        assert!(json["uid"].is_null() && json["inode"].is_null(), "{json}");
    }
}
