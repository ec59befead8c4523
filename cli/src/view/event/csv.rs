//! An event as a row of CSV, RFC 4180: columns that serve all types, like a classic security log.

use crate::output::csv_cell;
use kctl_events::view::{EventView, PayloadView, ProcessView};

/// The first line. Columns may be added at the end.
pub(crate) const HEADINGS: &str = "time,host,action,src,src_port,dst,dst_port,protocol,interface,\
                                   rule,packets,bytes,pid,uid,comm,path,outcome,detail,boot_id,seq\r\n";

/// What most types have.
#[derive(Default)]
struct Cells<'a> {
    ends: [Option<&'a str>; 2],
    ports: [Option<u32>; 2],
    protocol: Option<&'a str>,
    interface: Option<&'a str>,
    rule: Option<&'a str>,
    packets: Option<u64>,
    bytes: Option<u64>,
    process: Option<&'a ProcessView<'a>>,
    path: Option<&'a str>,
    outcome: Option<&'a str>,
}

/// One row.
pub(crate) fn row(event: &EventView<'_>) -> String {
    let cells = event.payload.as_ref().map(cells).unwrap_or_default();
    let detail = super::text::of(event);
    let process = cells.process;
    let [src, dst] = cells.ends;
    let [src_port, dst_port] = cells.ports.map(number);
    let columns = [
        event.time.clone(),
        cell(Some(event.host)),
        event.kind.to_owned(),
        cell(src),
        src_port,
        cell(dst),
        dst_port,
        cell(cells.protocol),
        cell(cells.interface),
        cell(cells.rule),
        number(cells.packets),
        number(cells.bytes),
        number(process.and_then(|it| it.pid)),
        number(process.and_then(|it| it.uid)),
        cell(process.and_then(|it| it.comm)),
        cell(cells.path),
        cell(cells.outcome),
        cell(Some(detail.trim_end())),
        cell(Some(event.boot_id)),
        event.seq.to_string(),
    ];
    columns.join(",") + "\r\n"
}

fn cells<'a>(payload: &'a PayloadView<'a>) -> Cells<'a> {
    let of = |process: &'a ProcessView<'a>| Cells { process: Some(process), ..Cells::default() };
    match payload {
        PayloadView::Drop(it) | PayloadView::Monitor(it) => Cells {
            ends: [it.src, it.dst],
            ports: [it.src_port, it.dst_port],
            protocol: it.protocol.as_deref(),
            interface: it.interface,
            rule: it.rule,
            packets: Some(it.packets),
            bytes: it.bytes,
            ..Cells::default()
        },
        PayloadView::Scan(it) => Cells {
            ends: [it.src, None],
            protocol: Some("tcp"),
            interface: it.interface,
            ..Cells::default()
        },
        PayloadView::Flood(it) => Cells {
            ends: [it.src, None],
            ports: [None, Some(it.dst_port)],
            protocol: Some("tcp"),
            interface: it.interface,
            packets: Some(it.syns),
            outcome: Some(it.kind),
            ..Cells::default()
        },
        PayloadView::Autoblock(it) => {
            let outcome = if it.not_made.is_some() { "not_made" } else { "blocked" };
            let ends = [it.src, None];
            Cells { ends, rule: it.source, outcome: Some(outcome), ..Cells::default() }
        }
        PayloadView::Connect(it) | PayloadView::Accept(it) => Cells {
            ends: [it.src, it.dst],
            ports: [it.src_port, it.dst_port],
            protocol: Some("tcp"),
            outcome: it.error.as_deref(),
            ..of(&it.process)
        },
        PayloadView::Close(it) => Cells {
            ends: [it.src, it.dst],
            ports: [it.src_port, it.dst_port],
            protocol: Some("tcp"),
            bytes: it.bytes_sent.zip(it.bytes_received).map(|(out, back)| out.saturating_add(back)),
            ..of(&it.process)
        },
        PayloadView::Exec(it) => Cells { path: it.path, ..of(&it.process) },
        PayloadView::Exit(it) => Cells { outcome: it.signal.as_deref(), ..of(&it.process) },
        PayloadView::Open(it) => {
            Cells { path: it.path, outcome: it.error.as_deref(), ..of(&it.process) }
        }
        PayloadView::Cred(it) => of(&it.process),
        PayloadView::Module(it) => Cells { outcome: Some(it.action), ..of(&it.process) },
        PayloadView::Bpf(it) => Cells { outcome: Some(it.action), ..of(&it.process) },
        PayloadView::Ptrace(it) => Cells { outcome: Some(it.request), ..of(&it.process) },
        PayloadView::Signal(it) => Cells { outcome: Some(&it.signal), ..of(&it.process) },
        PayloadView::Oom(it) => of(&it.victim),
        PayloadView::Link(it) => Cells {
            interface: it.object.as_ref().map(|it| it.name.as_str()),
            outcome: Some(it.change),
            ..Cells::default()
        },
        PayloadView::Addr(it) => Cells {
            interface: it.object.as_ref().map(|it| it.interface.as_str()),
            outcome: Some(it.change),
            ..Cells::default()
        },
        PayloadView::Route(it) => Cells {
            interface: it.object.as_ref().and_then(|it| it.interface.as_deref()),
            outcome: Some(it.change),
            ..Cells::default()
        },
        PayloadView::Neigh(it) => Cells {
            interface: it.object.as_ref().map(|it| it.interface.as_str()),
            outcome: Some(it.change),
            ..Cells::default()
        },
        PayloadView::Uevent(it) => {
            Cells { path: Some(it.devpath), outcome: Some(it.action), ..Cells::default() }
        }
        PayloadView::Alert(it) => Cells {
            interface: it.object.filter(|_| it.name == "link"),
            path: it.object.filter(|_| it.name == "disk"),
            process: it.cause.as_ref().map(|cause| &cause.process),
            outcome: Some(it.state),
            ..Cells::default()
        },
        PayloadView::HostState(it) => Cells { outcome: Some(it.state), ..Cells::default() },
        PayloadView::Lost(it) => Cells { outcome: Some(it.stage), ..Cells::default() },
    }
}

fn number<T: ToString>(number: Option<T>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// Text; nothing for none.
fn cell(text: Option<&str>) -> String {
    csv_cell(text.unwrap_or_default())
}
