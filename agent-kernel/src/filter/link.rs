//! Attaching the program to interfaces, and the pinned links that keep it there. It must not know
//! what the program does.

use super::pins::{Pin, Pins};
use super::program::Program;
use super::{Attached, Attachment, Mode, bpf};
use crate::error::{Error, ErrorKind, named};
use crate::netlink::{Xdp, xdp_on};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, XdpMode, loaded_programs};
use nix::net::if_::{if_indextoname, if_nametoindex};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Puts this program onto every pinned link that is alive, and forgets the others.
pub(super) fn adopt(program: &mut Program, pins: &Pins) -> Result<(), Error> {
    for pin in pins.list()? {
        let Pin::Link(interface) = &pin else { continue };
        let Some(link) = alive(pins, &pin)? else { continue };
        let fd = program.xdp().fd().map_err(|error| Error::wrapped("filter", error))?;
        bpf::update_link(link.fd.as_fd(), fd.as_fd())
            .map_err(|error| Error::io(named("link", interface), error))?;
    }
    Ok(())
}

/// Attaches the program to an interface, unless it is there already.
pub(super) fn attach(
    program: &mut Program,
    pins: &Pins,
    interface: &str,
    mode: Mode,
) -> Result<Attached, Error> {
    let object = || named("link", interface);
    let ifindex = if_nametoindex(interface).map_err(|error| Error::io(object(), error.into()))?;
    let ours = program.id()?;
    let on_it = xdp_on(ifindex).map_err(|error| Error::io(object(), error))?;
    let pin = Pin::Link(interface.to_owned());
    if let Some(link) = alive(pins, &pin)? {
        if let (true, Some(xdp)) = (link.ifindex == ifindex, on_it)
            && xdp.program == ours
        {
            return Ok(attached(xdp));
        }
        make_way(pins, &pin, &link, interface)?;
    }
    if let Some(xdp) = on_it {
        return Err(foreign(interface, xdp.program));
    }
    let result = match mode {
        Mode::Native => try_attach(program, ifindex, Attached::Native),
        Mode::Generic => try_attach(program, ifindex, Attached::Generic),
        // Drivers refuse native mode with many different numbers; where it was for another reason,
        // generic mode fails with it too.
        Mode::Auto => try_attach(program, ifindex, Attached::Native)
            .or_else(|_| try_attach(program, ifindex, Attached::Generic)),
    };
    let (link, attached) = result.map_err(|error| Error::wrapped(object(), error))?;
    let path = pins.path(&pin);
    link.pin(&path).map_err(|error| Error::wrapped(named("pin", path.display()), error))?;
    Ok(attached)
}

/// The interfaces of this network namespace that the program is on.
pub(super) fn attachments(program: u32, pins: &Pins) -> Result<Vec<Attachment>, Error> {
    let mut attachments = Vec::new();
    for pin in pins.list()? {
        let Pin::Link(interface) = &pin else { continue };
        let Some(Link { ifindex, .. }) = alive(pins, &pin)? else { continue };
        if let Ok(Some(xdp)) = xdp_on(ifindex)
            && xdp.program == program
        {
            let interface = interface.clone();
            attachments.push(Attachment { interface, ifindex, mode: attached(xdp) });
        }
    }
    Ok(attachments)
}

/// Takes a pinned link off its interface, and its pin away.
pub(super) fn detach(pins: &Pins, pin: &Pin) -> Result<(), Error> {
    if let Some(link) = alive(pins, pin)? {
        bpf::detach_link(link.fd.as_fd())
            .map_err(|error| Error::io(named("pin", pins.path(pin).display()), error))?;
    }
    pins.remove(pin)
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
fn make_way(pins: &Pins, pin: &Pin, link: &Link, interface: &str) -> Result<(), Error> {
    let name = if_indextoname(link.ifindex).ok().and_then(|name| name.into_string().ok());
    match name {
        Some(name) if name != interface => pins.rename(pin, &Pin::Link(name)),
        // It sits in another network namespace, or another program took its place.
        _ => detach(pins, pin),
    }
}

fn try_attach(
    program: &mut Program,
    ifindex: u32,
    mode: Attached,
) -> Result<(FdLink, Attached), ProgramError> {
    let xdp_mode = match mode {
        Attached::Native => XdpMode::Driver,
        Attached::Generic => XdpMode::Skb,
    };
    let id = program.xdp().attach_to_if_index(ifindex, xdp_mode)?;
    let link = program.xdp().take_link(id)?;
    // A kernel without links for XDP cannot load this program either.
    let link = FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)?;
    Ok((link, mode))
}

fn attached(xdp: Xdp) -> Attached {
    if xdp.generic { Attached::Generic } else { Attached::Native }
}

fn foreign(interface: &str, program: u32) -> Error {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == program)
        .and_then(|info| info.name_as_str().map(|name| format!(" \"{name}\"")))
        .unwrap_or_default();
    let why = format!("XDP program {program}{name} of somebody else is attached");
    Error::new(ErrorKind::Busy, named("link", interface), why)
        .with_remedy(format!("stop its owner, or take it off: ip link set dev {interface} xdp off"))
}
