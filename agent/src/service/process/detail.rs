//! What one process has, as messages.

use crate::text::text;
use agent_kernel::proc::pid::{Cgroup, Detail, Environment, Fd, Io, Limit, Map, Namespace, Socket};
use kctl_proto::agent::v1 as pb;
use std::net::SocketAddr;

/// A memory mapping.
pub(super) fn map(pid: u32, map: Map) -> pb::Map {
    let usage = map.usage.map(|usage| pb::map::Usage {
        rss_bytes: usage.rss_bytes,
        pss_bytes: usage.pss_bytes,
        shared_clean_bytes: usage.shared_clean_bytes,
        shared_dirty_bytes: usage.shared_dirty_bytes,
        private_clean_bytes: usage.private_clean_bytes,
        private_dirty_bytes: usage.private_dirty_bytes,
        swap_bytes: usage.swap_bytes,
    });
    pb::Map {
        pid,
        start: map.start,
        end: map.end,
        permissions: map.permissions,
        shared: map.shared,
        offset: map.offset,
        device: map.device,
        inode: map.inode,
        path: text(&map.path),
        usage,
    }
}

/// An open file descriptor.
pub(super) fn fd(pid: u32, fd: Fd) -> pb::Fd {
    pb::Fd {
        pid,
        fd: fd.fd,
        r#type: fd.kind,
        target: text(&fd.target),
        flags: fd.flags,
        position: fd.position,
        inode: fd.inode.unwrap_or_default(),
        detail: fd.detail.map(detail),
    }
}

fn detail(detail: Detail) -> pb::fd::Detail {
    use pb::fd::Detail as Told;
    match detail {
        Detail::Socket(it) => Told::Socket(socket(it)),
        Detail::Eventfd { count, semaphore } => Told::Eventfd(pb::fd::Eventfd { count, semaphore }),
        Detail::Epoll { watches, truncated } => {
            let watches = watches.into_iter();
            let watch = watches.map(|it| pb::fd::epoll::Watch { fd: it.fd, events: it.events });
            Told::Epoll(pb::fd::Epoll { watches: watch.collect(), truncated })
        }
        Detail::Timerfd { clock, ticks, settime_flags, value_ns, interval_ns } => {
            Told::Timerfd(pb::fd::Timerfd { clock, ticks, settime_flags, value_ns, interval_ns })
        }
        Detail::Signalfd { signals } => Told::Signalfd(pb::fd::Signalfd { signals }),
        Detail::Inotify { watches, truncated } => {
            let watch = watches.into_iter().map(|it| pb::fd::inotify::Watch {
                wd: it.wd,
                inode: it.inode,
                device: it.device,
                mask: it.mask,
            });
            Told::Inotify(pb::fd::Inotify { watches: watch.collect(), truncated })
        }
        Detail::Pidfd { pid } => Told::Pidfd(pb::fd::Pidfd { pid }),
    }
}

fn socket(socket: Socket) -> pb::fd::Socket {
    let address = |it: Option<SocketAddr>| it.map(|it| it.ip().to_string()).unwrap_or_default();
    let port = |it: Option<SocketAddr>| it.map(|it| it.port().into()).unwrap_or_default();
    pb::fd::Socket {
        protocol: socket.protocol.to_owned(),
        state: socket.state.to_owned(),
        local_address: address(socket.local),
        local_port: port(socket.local),
        remote_address: address(socket.remote),
        remote_port: port(socket.remote),
        path: text(&socket.path),
    }
}

/// A whole environment.
pub(super) fn environment(pid: u32, environment: Environment) -> Vec<pb::Variable> {
    let variables = environment.variables.iter().map(|variable| pb::Variable {
        pid,
        name: text(&variable.name),
        value: variable.value.as_deref().map(text),
        truncated: false,
    });
    let mut variables: Vec<_> = variables.collect();
    if let Some(last) = variables.last_mut() {
        last.truncated = environment.truncated;
    }
    variables
}

/// A resource limit.
pub(super) fn limit(pid: u32, limit: Limit) -> pb::Limit {
    let Limit { name, soft, hard, unit } = limit;
    pb::Limit { pid, name, soft, hard, unit: unit.unwrap_or_default() }
}

/// Counters of reads and writes.
pub(super) fn io(pid: u32, io: Io) -> pb::ProcessIo {
    pb::ProcessIo {
        pid,
        rchar_bytes: io.rchar_bytes,
        wchar_bytes: io.wchar_bytes,
        syscr: io.syscr,
        syscw: io.syscw,
        read_bytes: io.read_bytes,
        write_bytes: io.write_bytes,
        cancelled_write_bytes: io.cancelled_write_bytes,
    }
}

/// A cgroup.
pub(super) fn cgroup(pid: u32, cgroup: Cgroup) -> pb::Cgroup {
    pb::Cgroup {
        pid,
        hierarchy: cgroup.hierarchy,
        controllers: cgroup.controllers.iter().map(|name| text(name)).collect(),
        path: text(&cgroup.path),
    }
}

/// A namespace.
pub(super) fn namespace(pid: u32, namespace: Namespace) -> pb::Namespace {
    pb::Namespace { pid, kind: namespace.kind, inode: namespace.inode }
}
