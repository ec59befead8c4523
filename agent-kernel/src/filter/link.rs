//! Attaching the programs to interfaces, and the pinned links that keep them there. It must not know
//! what the programs do.

use super::bpf::Place;
use super::pins::{Pin, Pins};
use super::program::{Hook, Program};
use super::{Attached, Attachment, Mode, bpf};
use crate::error::{Error, ErrorKind, named};
use crate::netlink::{Hooks, Xdp, hooks_of};
use aya::programs::loaded_programs;
use nix::net::if_::{if_indextoname, if_nametoindex};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Puts this program onto every pinned link that is alive, and forgets the others.
pub(super) fn adopt(program: &mut Program, maps: &Pins, links: &Pins) -> Result<(), Error> {
    for pin in links.list()? {
        let Pin::Link(hook, interface) = &pin else { continue };
        let Some(link) = alive(links, &pin)? else { continue };
        bpf::update_link(link.fd.as_fd(), program.fd(*hook, maps)?)
            .map_err(|error| Error::io(named("link", interface), error))?;
    }
    Ok(())
}

/// Takes a pinned link off its interface, and its pin away.
pub(super) fn detach(pins: &Pins, pin: &Pin) -> Result<(), Error> {
    if let Some(link) = alive(pins, pin)? {
        bpf::detach_link(link.fd.as_fd())
            .map_err(|error| Error::io(named("pin", pins.path(pin).display()), error))?;
    }
    pins.remove(pin)
}

/// Why an interface is filtered at tcx although XDP was asked for first.
#[derive(Debug)]
struct Instead {
    ifindex: u32,
    why: String,
    /// Because of somebody else's program.
    foreign: bool,
}

/// The links of one folder.
#[derive(Debug)]
pub(super) struct Links {
    pins: Pins,
    /// By interface. It lasts as long as this process: tcx is not given up in between.
    instead: HashMap<String, Instead>,
}

impl Links {
    pub(super) fn new(pins: Pins) -> Self {
        Self { pins, instead: HashMap::new() }
    }

    /// Attaches a program to an interface, unless one is there already.
    pub(super) fn attach(
        &mut self,
        program: &mut Program,
        interface: &str,
        mode: Mode,
    ) -> Result<Attached, Error> {
        let object = || named("link", interface);
        let ifindex =
            if_nametoindex(interface).map_err(|error| Error::io(object(), error.into()))?;
        let hooks = hooks_of(ifindex).map_err(|error| Error::io(object(), error))?;
        let mut here = Vec::new();
        for hook in Hook::ALL {
            let pin = Pin::Link(hook, interface.to_owned());
            let Some(link) = alive(&self.pins, &pin)? else { continue };
            match is_on(program, hook, ifindex, &hooks)? {
                Some(attached) if link.ifindex == ifindex => here.push((attached, pin)),
                _ => make_way(&self.pins, hook, &pin, &link, interface)?,
            }
        }
        let known = self.instead.get(interface).is_some_and(|it| it.ifindex == ifindex);
        let is_there = |attached| here.iter().any(|(it, _)| *it == attached);
        let mut refused = None;
        for wanted in order(mode, &hooks, known && is_there(Attached::Tcx)) {
            // The driver and the stack can't both have XDP: what is there stays.
            let same = |it: Attached| it == wanted || (it.is_xdp() && wanted.is_xdp());
            if let Some((attached, _)) = here.iter().find(|(it, _)| same(*it)) {
                return self.settle(*attached, &here, interface, ifindex, refused);
            }
            let foreign = hooks.xdp.filter(|_| wanted.is_xdp());
            let result = match foreign {
                Some(xdp) => Err(taken(interface, xdp.program)),
                None => self.try_attach(program, interface, ifindex, wanted, &hooks),
            };
            match result {
                Ok(()) => return self.settle(wanted, &here, interface, ifindex, refused),
                // Drivers refuse native mode with many different numbers; where it was for another
                // reason, what comes next fails with it too.
                Err(error) => refused = Some(first(refused, error, wanted)),
            }
        }
        let refused = refused.expect("every mode has something to try");
        // What is there filters on, whatever was asked for.
        match here.first() {
            Some((attached, _)) => self.settle(*attached, &here, interface, ifindex, Some(refused)),
            None => Err(refused),
        }
    }

    /// The new program filters; whatever else of ours is there goes only now.
    fn settle(
        &mut self,
        attached: Attached,
        here: &[(Attached, Pin)],
        interface: &str,
        ifindex: u32,
        refused: Option<Error>,
    ) -> Result<Attached, Error> {
        for (_, pin) in here.iter().filter(|(it, _)| *it != attached) {
            detach(&self.pins, pin)?;
        }
        // Generic mode in the place of native is no news to whoever asked for either.
        let is_there = here.iter().any(|(it, _)| *it == attached);
        if let Some(error) = refused.filter(|_| is_there || attached == Attached::Tcx) {
            let foreign = error.kind() == ErrorKind::Busy;
            let instead = Instead { ifindex, why: error.why().to_owned(), foreign };
            self.instead.insert(interface.to_owned(), instead);
        } else if attached != Attached::Tcx {
            self.instead.remove(interface);
        }
        Ok(attached)
    }

    fn try_attach(
        &self,
        program: &mut Program,
        interface: &str,
        ifindex: u32,
        wanted: Attached,
        hooks: &Hooks,
    ) -> Result<(), Error> {
        let object = || named("link", interface);
        let (hook, place) = match wanted {
            Attached::Native => (Hook::Xdp, Place::XdpDriver),
            Attached::Generic => (Hook::Xdp, Place::XdpStack),
            Attached::Tcx => (tcx_of(hooks), Place::Tcx),
        };
        if wanted.is_xdp() && !hooks.ethernet {
            let why = "its packets have no Ethernet header, and XDP programs can't tell";
            return Err(Error::new(ErrorKind::Unsupported, object(), why)
                .with_remedy("use --mode auto or tcx"));
        }
        if wanted == Attached::Tcx {
            // Before a program is loaded in vain.
            bpf::programs_at_tcx(ifindex)
                .map_err(|error| without_tcx(Error::io(object(), error)))?;
        }
        let fd = program.fd(hook, &self.pins)?;
        let link =
            bpf::create_link(fd, ifindex, place).map_err(|error| Error::io(object(), error))?;
        let path = self.pins.path(&Pin::Link(hook, interface.to_owned()));
        bpf::pin(link.as_fd(), &path)
            .map_err(|error| Error::io(named("pin", path.display()), error))
    }

    /// The interfaces of this network namespace that a program of ours is on.
    pub(super) fn attachments(&self, program: &Program) -> Result<Vec<Attachment>, Error> {
        let mut attachments = Vec::<Attachment>::new();
        for pin in self.pins.list()? {
            let Pin::Link(hook, interface) = pin.clone() else { continue };
            let Some(Link { ifindex, .. }) = alive(&self.pins, &pin)? else { continue };
            let Ok(hooks) = hooks_of(ifindex) else { continue };
            // For a moment there may be two.
            let is_new = attachments.iter().all(|it| it.interface != interface);
            if let (Some(mode), true) = (is_on(program, hook, ifindex, &hooks)?, is_new) {
                let why = self.instead.get(&interface).filter(|it| it.ifindex == ifindex);
                let reason = why.map(|it| reason(it, &hooks));
                attachments.push(Attachment { interface, ifindex, mode, reason });
            }
        }
        Ok(attachments)
    }
}

/// What is tried, in this order. Once tcx filters in the place of XDP it stays, because a change means
/// that for a moment packets are counted twice.
fn order(mode: Mode, hooks: &Hooks, settled: bool) -> Vec<Attached> {
    match mode {
        Mode::Tcx => vec![Attached::Tcx],
        Mode::Native => vec![Attached::Native],
        Mode::Generic => vec![Attached::Generic],
        Mode::Auto if settled => vec![Attached::Tcx],
        Mode::Auto if hooks.ethernet => {
            vec![Attached::Native, Attached::Generic, Attached::Tcx]
        }
        // Only to say why.
        Mode::Auto => vec![Attached::Generic, Attached::Tcx],
    }
}

fn tcx_of(hooks: &Hooks) -> Hook {
    if hooks.ethernet { Hook::Tcx } else { Hook::TcxIp }
}

/// Of two refusals the one to tell: that of XDP, and that there is no tcx in the place of it.
fn first(before: Option<Error>, error: Error, tried: Attached) -> Error {
    match before {
        Some(before) if tried == Attached::Tcx => {
            let why = format!("{}; and no tcx in its place: {}", before.why(), error.why());
            let kind = before.kind();
            match error.remedy() {
                Some(remedy) if kind != ErrorKind::Busy => {
                    before.because(kind, why).with_remedy(remedy)
                }
                _ => before.because(kind, why),
            }
        }
        Some(before) if before.kind() == ErrorKind::Busy => before,
        _ => error,
    }
}

/// How our program of a hook is on an interface of this network namespace.
fn is_on(
    program: &Program,
    hook: Hook,
    ifindex: u32,
    hooks: &Hooks,
) -> Result<Option<Attached>, Error> {
    let Some(ours) = program.id(hook)? else { return Ok(None) };
    if hook != Hook::Xdp {
        // Without tcx there is no link either.
        let all = bpf::programs_at_tcx(ifindex).unwrap_or_default();
        return Ok(all.contains(&ours).then_some(Attached::Tcx));
    }
    Ok(hooks.xdp.filter(|xdp| xdp.program == ours).map(attached))
}

/// A pinned link that is on an interface.
struct Link {
    fd: OwnedFd,
    ifindex: u32,
}

/// The pinned link, if there is one and its interface lives; the pin of a dead one goes.
fn alive(pins: &Pins, pin: &Pin) -> Result<Option<Link>, Error> {
    let path = pins.path(pin);
    let failed = |error| Error::io(named("pin", path.display()), error);
    let fd = match bpf::open_pin(&path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let ifindex = bpf::fdinfo(fd.as_fd(), "ifindex").map_err(failed)?;
    match ifindex.and_then(|ifindex| u32::try_from(ifindex).ok()) {
        None | Some(0) => {
            pins.remove(pin)?;
            Ok(None)
        }
        Some(ifindex) => Ok(Some(Link { fd, ifindex })),
    }
}

/// Moves a live link away from a name that now belongs to another interface: an interface that was
/// renamed stays filtered.
fn make_way(pins: &Pins, hook: Hook, pin: &Pin, link: &Link, interface: &str) -> Result<(), Error> {
    let name = if_indextoname(link.ifindex).ok().and_then(|name| name.into_string().ok());
    match name {
        Some(name) if name != interface => pins.rename(pin, &Pin::Link(hook, name)),
        // It sits in another network namespace, or another program took its place.
        _ => detach(pins, pin),
    }
}

fn attached(xdp: Xdp) -> Attached {
    if xdp.generic { Attached::Generic } else { Attached::Native }
}

fn reason(instead: &Instead, hooks: &Hooks) -> String {
    let gone = if instead.foreign && hooks.xdp.is_none() {
        "; it is gone since: restart the agent to filter at XDP"
    } else {
        ""
    };
    format!("{}{gone}", instead.why)
}

fn taken(interface: &str, program: u32) -> Error {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == program)
        .and_then(|info| info.name_as_str().map(|name| format!(" \"{name}\"")))
        .unwrap_or_default();
    let why = format!("XDP program {program}{name} of somebody else is attached");
    Error::new(ErrorKind::Busy, named("link", interface), why)
        .with_remedy(format!("stop its owner, or take it off: ip link set dev {interface} xdp off"))
}

/// A kernel without tcx knows no such place to attach to.
fn without_tcx(error: Error) -> Error {
    if error.kind() != ErrorKind::Invalid {
        return error;
    }
    let release = crate::sys::kernel_release().unwrap_or_default();
    let why = format!("kernel {release} has no tcx, which came with Linux 6.6");
    error.because(ErrorKind::Unsupported, why).with_remedy("use Linux 6.6 or newer")
}
