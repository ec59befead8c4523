//! Open file descriptors.

use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;
use std::time::Duration;

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FdView {
    pid: u32,
    fd: u32,
    r#type: String,
    target: String,
    flags: Vec<String>,
    position: u64,
    inode: Option<u64>,
    detail: Option<DetailView>,
}

/// The type says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum DetailView {
    Socket {
        protocol: String,
        state: Option<String>,
        local_address: Option<String>,
        local_port: Option<u32>,
        remote_address: Option<String>,
        remote_port: Option<u32>,
        path: Option<String>,
    },
    Eventfd {
        count: u64,
        semaphore: bool,
    },
    Epoll {
        watches: Vec<EpollView>,
        truncated: bool,
    },
    Timerfd {
        clock: String,
        ticks: u64,
        settime_flags: Vec<String>,
        value_ns: u64,
        interval_ns: u64,
    },
    Signalfd {
        signals: Vec<String>,
    },
    Inotify {
        watches: Vec<InotifyView>,
        truncated: bool,
    },
    Pidfd {
        target_pid: Option<i32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct EpollView {
    fd: u32,
    events: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct InotifyView {
    wd: i32,
    inode: u64,
    device: u64,
    mask: Vec<String>,
}

impl From<pb::Fd> for FdView {
    fn from(fd: pb::Fd) -> Self {
        Self {
            pid: fd.pid,
            fd: fd.fd,
            r#type: fd.r#type,
            target: fd.target,
            flags: fd.flags,
            position: fd.position,
            inode: Some(fd.inode).filter(|inode| *inode != 0),
            detail: fd.detail.map(DetailView::from),
        }
    }
}

impl From<pb::fd::Detail> for DetailView {
    fn from(detail: pb::fd::Detail) -> Self {
        use pb::fd::Detail;
        match detail {
            Detail::Socket(it) => {
                let remote_port = (!it.remote_address.is_empty()).then_some(it.remote_port);
                Self::Socket {
                    protocol: it.protocol,
                    state: some(it.state),
                    local_port: (!it.local_address.is_empty()).then_some(it.local_port),
                    local_address: some(it.local_address),
                    remote_port,
                    remote_address: some(it.remote_address),
                    path: some(it.path),
                }
            }
            Detail::Eventfd(it) => Self::Eventfd { count: it.count, semaphore: it.semaphore },
            Detail::Epoll(it) => {
                let watch = |it: pb::fd::epoll::Watch| EpollView { fd: it.fd, events: it.events };
                let watches = it.watches.into_iter().map(watch).collect();
                Self::Epoll { watches, truncated: it.truncated }
            }
            Detail::Timerfd(it) => Self::Timerfd {
                clock: it.clock,
                ticks: it.ticks,
                settime_flags: it.settime_flags,
                value_ns: it.value_ns,
                interval_ns: it.interval_ns,
            },
            Detail::Signalfd(it) => Self::Signalfd { signals: it.signals },
            Detail::Inotify(it) => {
                let watch = |it: pb::fd::inotify::Watch| {
                    let pb::fd::inotify::Watch { wd, inode, device, mask } = it;
                    InotifyView { wd, inode, device, mask }
                };
                let watches = it.watches.into_iter().map(watch).collect();
                Self::Inotify { watches, truncated: it.truncated }
            }
            Detail::Pidfd(it) => Self::Pidfd { target_pid: Some(it.pid).filter(|pid| *pid > 0) },
        }
    }
}

impl DetailView {
    /// `tcp ESTAB 10.0.0.9:22 10.0.0.5:40000`
    fn text(&self) -> String {
        match self {
            Self::Socket { protocol, state, path, .. } => {
                let words = [Some(protocol.clone()), state.clone(), self.local(), self.remote()];
                let words = words.into_iter().flatten().chain(path.clone());
                words.collect::<Vec<_>>().join(" ")
            }
            Self::Eventfd { count, .. } => format!("count {count}"),
            Self::Epoll { watches, truncated } => {
                let shown = watches.iter().take(8).map(|it| it.fd.to_string());
                let shown = shown.collect::<Vec<_>>().join(",");
                let more = if *truncated || watches.len() > 8 { ",…" } else { "" };
                format!("watches {shown}{more}")
            }
            Self::Timerfd { clock, value_ns, interval_ns, .. } => {
                let (value, interval) =
                    (Duration::from_nanos(*value_ns), Duration::from_nanos(*interval_ns));
                match (value_ns, interval_ns) {
                    (0, _) => format!("{clock} not armed"),
                    (_, 0) => format!("{clock} in {value:?}"),
                    _ => format!("{clock} in {value:?} every {interval:?}"),
                }
            }
            Self::Signalfd { signals } => signals.join(","),
            Self::Inotify { watches, truncated } => {
                format!("{}{} watched", watches.len(), if *truncated { "+" } else { "" })
            }
            Self::Pidfd { target_pid: Some(pid) } => format!("process {pid}"),
            Self::Pidfd { target_pid: None } => "no process".to_owned(),
        }
    }

    fn local(&self) -> Option<String> {
        match self {
            Self::Socket { local_address, local_port, .. } => address(local_address, *local_port),
            _ => None,
        }
    }

    fn remote(&self) -> Option<String> {
        match self {
            Self::Socket { remote_address, remote_port, .. } => {
                address(remote_address, *remote_port)
            }
            _ => None,
        }
    }
}

/// `10.0.0.9:22`, `[::1]:22`
fn address(address: &Option<String>, port: Option<u32>) -> Option<String> {
    let (address, port) = (address.as_ref()?, port?);
    let is_v6 = address.contains(':');
    Some(if is_v6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
}

impl Record for FdView {
    const NOUN: &'static str = "fds";
    const COLUMNS: &'static [&'static str] = &["FD", "TYPE", "TARGET", "DETAIL"];
    const WIDE_COLUMNS: &'static [&'static str] = &["FLAGS", "POSITION", "INODE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.fd.to_string(),
            self.r#type.clone(),
            self.target.clone(),
            self.detail.as_ref().map(DetailView::text).unwrap_or_default(),
            self.flags.join(","),
            self.position.to_string(),
            self.inode.map(|inode| inode.to_string()).unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(detail: pb::fd::Detail) -> FdView {
        FdView::from(pb::Fd { pid: 7, fd: 3, detail: Some(detail), ..pb::Fd::default() })
    }

    #[test]
    fn a_socket_tells_where_it_is_connected() {
        let socket = pb::fd::Socket {
            protocol: "tcp6".to_owned(),
            state: "ESTAB".to_owned(),
            local_address: "::1".to_owned(),
            local_port: 22,
            remote_address: "::2".to_owned(),
            remote_port: 40_000,
            path: String::new(),
        };
        let view = view(pb::fd::Detail::Socket(socket));
        let json = serde_json::to_value(&view).expect("json");
        let detail = json!({"protocol": "tcp6", "state": "ESTAB", "local_address": "::1",
            "local_port": 22, "remote_address": "::2", "remote_port": 40000, "path": null});
        assert_eq!(json["detail"], detail);
        assert_eq!((&json["pid"], &json["inode"]), (&7.into(), &serde_json::Value::Null));
        assert_eq!(view.cells()[3], "tcp6 ESTAB [::1]:22 [::2]:40000");
    }

    #[test]
    fn people_read_what_a_descriptor_waits_for() {
        let timer = |value_ns, interval_ns| {
            let clock = "CLOCK_MONOTONIC".to_owned();
            let timer = pb::fd::Timerfd { clock, value_ns, interval_ns, ..Default::default() };
            view(pb::fd::Detail::Timerfd(timer)).cells()[3].clone()
        };
        assert_eq!(timer(0, 5), "CLOCK_MONOTONIC not armed");
        assert_eq!(timer(1_500_000_000, 0), "CLOCK_MONOTONIC in 1.5s");
        let watch = |fd| pb::fd::epoll::Watch { fd, events: vec!["EPOLLIN".to_owned()] };
        let epoll = pb::fd::Epoll { watches: (0..9).map(watch).collect(), truncated: false };
        let epoll = view(pb::fd::Detail::Epoll(epoll));
        assert_eq!(epoll.cells()[3], "watches 0,1,2,3,4,5,6,7,…");
        let gone = view(pb::fd::Detail::Pidfd(pb::fd::Pidfd { pid: -1 }));
        let json = serde_json::to_value(&gone).expect("json");
        assert_eq!(json["detail"], json!({"target_pid": null}));
    }
}
