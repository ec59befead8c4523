//! What a person reads of an event, without time, host and type.

use crate::{output::count, view::size};
use kctl_events::view::{
    AlertView, AutoblockView, CauseView, CloseView, ConnectionView, CredentialsView, EventView,
    FloodView, PacketView, PayloadView, ProcessView, ScanView,
    net::{AddrView, ChangedView, LinkView, NeighView, RouteView},
};
use std::time::Duration;

/// One line, still with whatever characters hosts told.
pub(super) fn of(event: &EventView<'_>) -> String {
    let Some(payload) = &event.payload else {
        return "this kctl is too old to show it".to_owned();
    };
    match payload {
        PayloadView::Drop(it) | PayloadView::Monitor(it) => packets(it),
        PayloadView::Scan(it) => scan(it),
        PayloadView::Flood(it) => flood(it),
        PayloadView::Autoblock(it) => autoblock(it),
        PayloadView::Exec(it) => {
            let more = if it.argv_truncated { " …" } else { "" };
            let command = match it.argv {
                [] => it.path.unwrap_or("?").to_owned(),
                argv => argv.join(" "),
            };
            let parent = it.parent_comm.map(|name| format!(" by {name}")).unwrap_or_default();
            format!("{} {command}{more}{parent}", process(&it.process))
        }
        PayloadView::Exit(it) => {
            let how = match (it.code, it.signal.as_deref()) {
                (_, Some(signal)) => format!(" by signal {signal}"),
                (Some(code), None) => format!(" with code {code}"),
                (None, None) => String::new(),
            };
            let core = if it.core_dumped { ", core dumped" } else { "" };
            let after = it.lifetime_ns.map(|ns| format!(" after {}", lasted(ns)));
            let after = after.unwrap_or_default();
            format!("{}{how}{core}{after}", process(&it.process))
        }
        PayloadView::Open(it) => {
            let path = it.path.unwrap_or("?");
            let more = if it.path_truncated { "…" } else { "" };
            let error = it.error.as_deref().map(|it| format!(": {it}")).unwrap_or_default();
            format!("{} {path}{more} {}{error}", process(&it.process), it.flags)
        }
        PayloadView::Connect(it) | PayloadView::Accept(it) => connection(it),
        PayloadView::Close(it) => close(it),
        PayloadView::Cred(it) => {
            let changes = changes(it.old.as_ref(), it.new.as_ref());
            format!("{} {changes}", process(&it.process))
        }
        PayloadView::Module(it) => by(format!("{} {}", it.action, it.name), &it.process),
        PayloadView::Bpf(it) => {
            let id = it.id.map(|id| format!(" id {id}")).unwrap_or_default();
            let (kind, name) = (it.kind.unwrap_or("program"), it.name.unwrap_or("without a name"));
            by(format!("{} {kind} {name}{id}", it.action), &it.process)
        }
        PayloadView::Ptrace(it) => {
            let (who, whom) = (process(&it.process), target(it.target.as_ref()));
            format!("{who} {} {whom}", it.request)
        }
        PayloadView::Signal(it) => {
            let who =
                if it.process.is_known() { process(&it.process) } else { "kernel".to_owned() };
            let why = it.undelivered.map(|it| format!(": not delivered, {it}"));
            let why = why.unwrap_or_default();
            format!("{who} {} → {}{why}", it.signal, target(it.target.as_ref()))
        }
        PayloadView::Oom(it) => {
            let used = it.anon_bytes.map(|bytes| format!(" with {} anonymous", size(bytes)));
            format!("killed {}{}", process(&it.victim), used.unwrap_or_default())
        }
        PayloadView::Link(it) => changed(it, link),
        PayloadView::Addr(it) => changed(it, addr),
        PayloadView::Route(it) => changed(it, route),
        PayloadView::Neigh(it) => changed(it, neigh),
        PayloadView::Uevent(it) => {
            let subsystem = it.subsystem.map(|it| format!(" ({it})")).unwrap_or_default();
            format!("{} {}{subsystem}", it.action, it.devpath)
        }
        PayloadView::Alert(it) => alert(it),
        PayloadView::HostState(it) => {
            let offset = it.clock_offset_ms.map(|ms| format!(" by {ms} ms")).unwrap_or_default();
            let why = it.reason.map(|it| format!(": {it}")).unwrap_or_default();
            format!("{} {}{offset}{why}", it.name, it.state.replace('_', " "))
        }
        PayloadView::Lost(it) => {
            let events = if it.count == 1 { "event" } else { "events" };
            let of = it.name.map(|it| format!(" of {it}")).unwrap_or_default();
            let about = it.source.map(|it| format!(" ({it})")).unwrap_or_default();
            format!("LOST {} {events}{of}: {}{about}", it.count, it.stage)
        }
    }
}

/// `cpu FIRING 97.2%, from 95.0% on: perl[812] with 51.0%`
pub(crate) fn alert(it: &AlertView<'_>) -> String {
    let object = it.object.map(|it| format!(" {it}")).unwrap_or_default();
    let state = if it.state == "firing" { "FIRING" } else { it.state };
    let value = it.value.map_or("gone".to_owned(), |value| measure(value, it.unit));
    let level = match it.state {
        "firing" => format!("from {} on", measure(it.threshold, it.unit)),
        _ => format!("over below {}", measure(it.clear_below, it.unit)),
    };
    let cause = it.cause.as_ref().map(|cause| format!(": {}", blamed(cause, it.unit)));
    format!("{}{object} {state} {value}, {level}{}", it.name, cause.unwrap_or_default())
}

/// `perl[812] with 240000/s, mostly getppid`
fn blamed(cause: &CauseView<'_>, unit: &str) -> String {
    let process = cause.process.is_known().then(|| {
        let share = cause.value.map(|value| format!(" with {}", measure(value, unit)));
        process(&cause.process) + &share.unwrap_or_default()
    });
    let syscall = cause.syscall.map(|name| format!("mostly {name}"));
    process.into_iter().chain(syscall).collect::<Vec<_>>().join(", ")
}

/// `97.2%`, `240000/s`, `8 changes`
fn measure(value: f64, unit: &str) -> String {
    match unit {
        "%" => format!("{value:.1}%"),
        "/s" => format!("{value:.0}/s"),
        unit => format!("{value:.0} {unit}"),
    }
}

/// `10.0.0.5:41000`, `[::1]:22`, `?`
fn end(address: Option<&str>, port: Option<u32>) -> String {
    crate::view::net::end(address.unwrap_or("?"), port)
}

fn packets(it: &PacketView<'_>) -> String {
    let from = match (it.src, it.sources) {
        (None, Some(sources)) => format!("{sources} sources or more"),
        (None, None) => "many sources".to_owned(),
        (Some(_), _) => end(it.src, it.src_port),
    };
    let to = it.dst.map(|_| format!(" → {}", end(it.dst, it.dst_port))).unwrap_or_default();
    let words = [it.protocol.as_deref(), it.tcp_flags.as_deref(), it.interface];
    let words = words.into_iter().flatten().filter(|it| !it.is_empty());
    let words: String = words.flat_map(|word| [" ", word]).collect();
    let rule = it.rule.filter(|rule| it.src.is_none_or(|src| !rule.starts_with(src)));
    let rule = rule.map(|rule| format!(" by {rule}")).unwrap_or_default();
    let number = usize::try_from(it.packets).unwrap_or(usize::MAX);
    let reason = it.reason.map(|it| format!(" ({it})")).unwrap_or_default();
    format!("{from}{to}{words}{rule}, {}{reason}", count(number, "packet"))
}

fn scan(it: &ScanView<'_>) -> String {
    let first: Vec<_> = it.first_ports.iter().map(ToString::to_string).collect();
    let more = if first.len() < it.ports as usize { ", …" } else { "" };
    let interface = it.interface.map(|it| format!(" {it}")).unwrap_or_default();
    let within = lasted(it.window_ms.saturating_mul(1_000_000));
    let first = first.join(", ");
    format!(
        "{}{interface}, {} ports within {within}: {first}{more}",
        it.src.unwrap_or("?"),
        it.ports
    )
}

fn flood(it: &FloodView<'_>) -> String {
    let from = match (it.src, it.sources) {
        (Some(src), _) => src.to_owned(),
        (None, sources) => count(usize::try_from(sources).unwrap_or(usize::MAX), "source"),
    };
    let interface = it.interface.map(|it| format!(" {it}")).unwrap_or_default();
    let what = if it.kind == "connections" { "connections" } else { "SYNs" };
    let progress = it.progress.map(|it| format!(", {it} followed up")).unwrap_or_default();
    let within = lasted(it.duration_ms.saturating_mul(1_000_000));
    format!(
        "{from} → port {}{interface}, {} {what}{progress} within {within}",
        it.dst_port, it.syns
    )
}

fn autoblock(it: &AutoblockView<'_>) -> String {
    let reason = it.reason.map(|it| format!(": {it}")).unwrap_or_default();
    match (it.not_made, it.ttl_ms) {
        (Some(not_made), _) => {
            let number = usize::try_from(not_made).unwrap_or(usize::MAX);
            format!("{} not blocked{reason}", count(number, "source"))
        }
        (None, ttl_ms) => {
            let ttl = lasted(ttl_ms.unwrap_or(0).saturating_mul(1_000_000));
            let source = it.source.unwrap_or("?");
            format!("{} for {ttl} ({source}){reason}", it.src.unwrap_or("?"))
        }
    }
}

fn connection(it: &ConnectionView<'_>) -> String {
    let error = it.error.as_deref().map(|it| format!(": {it}")).unwrap_or_default();
    let ends = format!("{} → {}{error}", end(it.src, it.src_port), end(it.dst, it.dst_port));
    by(ends, &it.process)
}

fn close(it: &CloseView<'_>) -> String {
    let mut text = format!("{} → {}", end(it.src, it.src_port), end(it.dst, it.dst_port));
    if let (Some(sent), Some(received)) = (it.bytes_sent, it.bytes_received) {
        text += &format!(", {} out, {} in", size(sent), size(received));
    }
    if let Some(ns) = it.duration_ns {
        text += &format!(", after {}", lasted(ns));
    }
    by(text, &it.process)
}

/// `curl[812]`
fn process(process: &ProcessView<'_>) -> String {
    if !process.is_known() {
        return "?".to_owned();
    }
    let pid = process.pid.map_or("?".to_owned(), |pid| pid.to_string());
    format!("{}[{pid}]", process.comm.unwrap_or("?"))
}

fn target(target: Option<&ProcessView<'_>>) -> String {
    target.map_or("?".to_owned(), process)
}

fn by(text: String, actor: &ProcessView<'_>) -> String {
    if actor.is_known() { format!("{text} by {}", process(actor)) } else { text }
}

/// What is not the same any more.
fn changes(old: Option<&CredentialsView>, new: Option<&CredentialsView>) -> String {
    let (Some(old), Some(new)) = (old, new) else { return String::new() };
    let ids = [
        ("uid", old.uid, new.uid),
        ("gid", old.gid, new.gid),
        ("euid", old.euid, new.euid),
        ("egid", old.egid, new.egid),
    ];
    let mut changes: Vec<_> = ids
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(name, old, new)| format!("{name} {old} → {new}"))
        .collect();
    let gained = new.capabilities.iter().filter(|it| !old.capabilities.contains(it));
    let dropped = old.capabilities.iter().filter(|it| !new.capabilities.contains(it));
    changes.extend(gained.map(|it| format!("+{it}")));
    changes.extend(dropped.map(|it| format!("-{it}")));
    // A kernel has 41: a line of all of them is for nobody.
    let more = changes.len().saturating_sub(8);
    changes.truncate(8);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    changes.join(", ") + &more
}

/// `850µs`, `12ms`, `3.2s`, `5m`
fn lasted(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{}µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        1_000_000_000..120_000_000_000 => {
            format!("{}.{}s", ns / 1_000_000_000, ns / 100_000_000 % 10)
        }
        _ => crate::time::rough(Duration::from_nanos(ns)),
    }
}

fn changed<T>(it: &ChangedView<T>, text: impl FnOnce(&T) -> String) -> String {
    format!("{} {}", it.change, it.object.as_ref().map(text).unwrap_or_default())
}

fn link(it: &LinkView) -> String {
    let kind = it.kind.as_ref().map(|it| format!(" {it}")).unwrap_or_default();
    let master = it.master.as_ref().map(|it| format!(" master {it}")).unwrap_or_default();
    format!("{}{kind} {} mtu {}{master} {}", it.name, it.state, it.mtu, it.flags.join(","))
}

fn addr(it: &AddrView) -> String {
    format!("{}/{} dev {} {}", it.address, it.prefix_len, it.interface, it.flags.join(","))
}

fn route(it: &RouteView) -> String {
    let via = it.gateway.as_ref().map(|it| format!(" via {it}")).unwrap_or_default();
    let dev = it.interface.as_ref().map(|it| format!(" dev {it}")).unwrap_or_default();
    let hops = match it.nexthops.len() {
        0 => String::new(),
        many => format!(" by {many} next hops"),
    };
    format!("{} {}{via}{dev}{hops} table {}", it.kind, it.dst, it.table)
}

fn neigh(it: &NeighView) -> String {
    let mac = it.mac.as_deref().unwrap_or("?");
    format!("{} dev {} {mac} {}", it.address, it.interface, it.state)
}
