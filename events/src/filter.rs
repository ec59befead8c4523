//! Which events a reader wants.

use crate::{Kind, Kinds, expression::Expression};
use ipnet::IpNet;
use kctl_proto::agent::v1::{Event, EventFilter, EventProcess, Origin, event::Payload};
use std::net::IpAddr;

/// So many values each list of a filter may have.
const MAX_VALUES: usize = 1_024;

/// A filter that can't be read: where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFilter(String);

/// A filter, ready for events.
#[derive(Debug, Clone)]
pub struct Filter {
    /// With those about the stream itself.
    kinds: Kinds,
    /// It asks for nothing but kinds.
    only_kinds: bool,
    src: Vec<IpNet>,
    dst: Vec<IpNet>,
    ports: Vec<u32>,
    pids: Vec<u32>,
    comms: Vec<String>,
    paths: Vec<String>,
    expression: Option<Expression>,
}

impl Default for Filter {
    /// Every event.
    fn default() -> Self {
        Self {
            kinds: Kinds::all(),
            only_kinds: true,
            src: Vec::new(),
            dst: Vec::new(),
            ports: Vec::new(),
            pids: Vec::new(),
            comms: Vec::new(),
            paths: Vec::new(),
            expression: None,
        }
    }
}

impl Filter {
    /// Reads a filter; absent means every event.
    pub fn new(filter: Option<EventFilter>) -> Result<Self, InvalidFilter> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let kinds = kinds(&filter)?;
        for (name, count) in [
            ("src", filter.src.len()),
            ("dst", filter.dst.len()),
            ("port", filter.ports.len()),
            ("pid", filter.pids.len()),
            ("comm", filter.comms.len()),
            ("path", filter.paths.len()),
        ] {
            if count > MAX_VALUES {
                let why = format!("{name}: {count} values, of at most {MAX_VALUES}");
                return Err(InvalidFilter(why));
            }
        }
        if let Some(port) = filter.ports.iter().find(|port| **port > u16::MAX.into()) {
            return Err(InvalidFilter(format!("port {port}: must be at most {}", u16::MAX)));
        }
        let expression = (!filter.expression.is_empty())
            .then(|| Expression::new(&filter.expression, kinds))
            .transpose()
            .map_err(|why| InvalidFilter(format!("filter expression: {why}")))?;
        let (src, dst) = (prefixes("src", &filter.src)?, prefixes("dst", &filter.dst)?);
        let only_kinds = expression.is_none()
            && src.is_empty()
            && dst.is_empty()
            && filter.ports.is_empty()
            && filter.pids.is_empty()
            && filter.comms.is_empty()
            && filter.paths.is_empty();
        let EventFilter { ports, pids, comms, paths, .. } = filter;
        Ok(Self { kinds, only_kinds, src, dst, ports, pids, comms, paths, expression })
    }

    /// The kinds that can match; those about the stream itself always can.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// Whether it asks for the arguments of processes, which not everybody may see.
    pub fn asks_for_arguments(&self) -> bool {
        self.expression.as_ref().is_some_and(|expression| expression.arguments)
    }

    /// Whether an event is wanted. Lost events always are; an event that this version does not know is
    /// when everything is.
    pub fn matches(&self, origin: &Origin, event: &Event) -> bool {
        match Kind::of(event) {
            None => self.only_kinds && self.kinds == Kinds::all(),
            Some(Kind::Lost) => true,
            Some(kind) if !self.kinds.contains(kind) => false,
            Some(kind) => self.only_kinds || self.wants(origin, event, kind),
        }
    }

    fn wants(&self, origin: &Origin, event: &Event, kind: Kind) -> bool {
        let Some(payload) = event.payload.as_ref() else { return false };
        let any = |wanted: &[u32], found: [Option<u32>; 2]| {
            wanted.is_empty() || found.into_iter().flatten().any(|it| wanted.contains(&it))
        };
        let addresses = |wanted: &[IpNet], of: fn(Ends<'_>) -> &str| {
            wanted.is_empty() || ends(payload).is_some_and(|ends| within(wanted, of(ends)))
        };
        let [actor, target] = processes(payload);
        addresses(&self.src, |ends| ends.src)
            && addresses(&self.dst, |ends| ends.dst)
            && (any(&self.ports, ends(payload).map_or([None; 2], |ends| ends.ports))
                || scanned(payload).iter().any(|port| self.ports.contains(port)))
            && any(&self.pids, [actor, target].map(|process| process.and_then(|it| it.pid)))
            && (self.comms.is_empty()
                || [actor, target].into_iter().flatten().any(|it| self.comms.contains(&it.comm)))
            && (self.paths.is_empty()
                || path(payload).is_some_and(|it| self.paths.iter().any(|p| it.starts_with(&**p))))
            && self.expression.as_ref().is_none_or(|it| it.is_true(origin, event, kind))
    }
}

fn kinds(filter: &EventFilter) -> Result<Kinds, InvalidFilter> {
    let known = filter.types.iter().map(|number| {
        Kind::from_proto(*number)
            .ok_or_else(|| InvalidFilter(format!("type {number}: unknown to this version")))
    });
    let kinds: Kinds = known.collect::<Result<_, _>>()?;
    let wanted =
        |kind: &Kind| kinds.is_empty() || kind.is_about_the_stream() || kinds.contains(*kind);
    Ok(Kind::all().filter(wanted).collect())
}

fn prefixes(name: &str, texts: &[String]) -> Result<Vec<IpNet>, InvalidFilter> {
    let prefix = |text: &String| {
        let bare = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| bare()).map_err(|_| {
            InvalidFilter(format!("{name} {text:?}: must be an address or a prefix: 10.0.0.0/8"))
        })
    };
    texts.iter().map(prefix).collect()
}

/// Both ends of packets and connections, as far as there are.
#[derive(Clone, Copy)]
struct Ends<'a> {
    src: &'a str,
    dst: &'a str,
    ports: [Option<u32>; 2],
}

fn ends(payload: &Payload) -> Option<Ends<'_>> {
    Some(match payload {
        Payload::Drop(it) | Payload::Monitor(it) => {
            Ends { src: &it.src, dst: &it.dst, ports: [it.src_port, it.dst_port] }
        }
        Payload::Connect(it) | Payload::Accept(it) => {
            let ports = [Some(it.src_port), Some(it.dst_port)];
            Ends { src: &it.src, dst: &it.dst, ports }
        }
        Payload::Close(it) => {
            let ports = [Some(it.src_port), Some(it.dst_port)];
            Ends { src: &it.src, dst: &it.dst, ports }
        }
        Payload::Scan(it) => Ends { src: &it.src, dst: "", ports: [None; 2] },
        Payload::Flood(it) => Ends { src: &it.src, dst: "", ports: [None, Some(it.dst_port)] },
        Payload::Autoblock(it) => Ends { src: &it.src, dst: "", ports: [None; 2] },
        _ => return None,
    })
}

/// Ports of a scan, as far as they are told.
fn scanned(payload: &Payload) -> &[u32] {
    if let Payload::Scan(it) = payload { &it.first_ports } else { &[] }
}

/// An IPv4 address in IPv6's clothes is that IPv4 address.
fn within(prefixes: &[IpNet], address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let address = address.to_canonical();
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// Who acts, and who is acted on.
fn processes(payload: &Payload) -> [Option<&EventProcess>; 2] {
    match payload {
        Payload::Exec(it) => [it.process.as_ref(), None],
        Payload::Exit(it) => [it.process.as_ref(), None],
        Payload::Open(it) => [it.process.as_ref(), None],
        Payload::Connect(it) | Payload::Accept(it) => [it.process.as_ref(), None],
        Payload::Close(it) => [it.process.as_ref(), None],
        Payload::Cred(it) => [it.process.as_ref(), None],
        Payload::Module(it) => [it.process.as_ref(), None],
        Payload::Bpf(it) => [it.process.as_ref(), None],
        Payload::Ptrace(it) => [it.process.as_ref(), it.target.as_ref()],
        Payload::Signal(it) => [it.process.as_ref(), it.target.as_ref()],
        Payload::Oom(it) => [None, it.victim.as_ref()],
        Payload::Alert(it) => [it.cause.as_ref().and_then(|cause| cause.process.as_ref()), None],
        _ => [None, None],
    }
}

fn path(payload: &Payload) -> Option<&str> {
    match payload {
        Payload::Exec(it) => Some(&it.path),
        Payload::Open(it) => Some(&it.path),
        _ => None,
    }
}
