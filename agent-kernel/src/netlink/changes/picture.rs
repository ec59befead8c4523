//! What is known of the network, so that a message can be told as a difference, and a dump too.
//!
//! It must not know where messages come from.

use super::routes::Routes;
use super::table::{Placed, Table};
use super::{NetChange, NetEvent, Part};
use crate::netlink::attribute::header;
use crate::netlink::names::{self, Links};
use crate::netlink::request::Message;
use crate::netlink::way::{self, Key, Way};
use crate::netlink::{Addr, Family, Link, Neighbour, Route, address, link, neighbour};
use nix::libc;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

/// Links, and in each family addresses and neighbours, that are kept; some 8 MiB each at most.
const OBJECTS: usize = 32_768;
/// Routes of each family that are kept; some 30 MiB at most.
const ROUTES: usize = 200_000;
/// Names of links that are gone: what is told later of their addresses still has them.
const GONE: usize = 1_024;
/// Not in libc; linux/rtnetlink.h.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

#[derive(Debug)]
pub(super) struct Picture {
    names: Links,
    gone: VecDeque<u32>,
    links: Table<u32, Link>,
    families: [Known; 2],
}

/// What is known of one family.
#[derive(Debug)]
struct Known {
    family: Family,
    addrs: Table<AddrKey, Addr>,
    neighbours: Table<(u32, IpAddr), Neighbour>,
    routes: Routes,
}

/// Link and address; in IPv4 also the other end and the length of the prefix.
type AddrKey = (u32, IpAddr, Option<(IpAddr, u8)>);

/// What a message is about, and what it leaves in doubt: the kernel may have changed that without a word.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Heard {
    pub(super) about: Option<Part>,
    /// A link that came may be the other end of one that was told before.
    pub(super) links: bool,
    /// IPv4 routes go silently with their link, address or nexthop object, and flags change so.
    pub(super) routes: bool,
}

impl Picture {
    pub(super) fn new() -> Self {
        let known = |family| Known {
            family,
            addrs: Table::new(OBJECTS),
            neighbours: Table::new(OBJECTS),
            routes: Routes::new(family, ROUTES),
        };
        Self {
            names: Links::default(),
            gone: VecDeque::new(),
            links: Table::new(OBJECTS),
            families: [Family::Inet, Family::Inet6].map(known),
        }
    }

    /// Takes a message, and adds what it changes.
    pub(super) fn hear(
        &mut self,
        message: &Message<'_>,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<Heard> {
        let payload = message.payload;
        match message.kind {
            libc::RTM_NEWLINK => return self.link_is(payload, events),
            libc::RTM_DELLINK => return self.link_is_gone(payload, events),
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
                return Ok(Heard { routes: true, ..Heard::default() });
            }
            _ => {}
        }
        let Some(known) = self.families.iter_mut().find(|it| it.family.begins(payload)) else {
            return Ok(Heard::default());
        };
        let names = &self.names;
        let family = known.family;
        let mut heard = Heard::default();
        match message.kind {
            libc::RTM_NEWADDR => known.addr_is(payload, names, Some(NetChange::Changed), events)?,
            libc::RTM_DELADDR => {
                known.addr_is_gone(payload, names, events)?;
                heard.routes = family == Family::Inet;
            }
            libc::RTM_NEWNEIGH => {
                heard.about = Some(Part::Neighbours(family));
                known.neighbour_is(payload, names, Some(NetChange::Changed), events)?;
            }
            libc::RTM_DELNEIGH => {
                heard.about = Some(Part::Neighbours(family));
                known.neighbour_is_gone(payload, names, events)?;
            }
            libc::RTM_NEWROUTE => {
                heard.about = Some(Part::Routes(family));
                if let Some((key, way)) = way::read(known.family, payload)? {
                    known.routes.added(key, way, message.flags, &mut telling(names, events));
                }
            }
            libc::RTM_DELROUTE => {
                heard.about = Some(Part::Routes(family));
                if let Some((key, way)) = way::read(known.family, payload)? {
                    heard.routes = !known.routes.removed(&key, &way, &mut telling(names, events));
                }
            }
            _ => {}
        }
        Ok(heard)
    }

    /// A dump of a part begins.
    pub(super) fn begin(&mut self, part: Part) {
        match part {
            Part::Links => self.links.begin(),
            Part::Addrs(family) => self.family(family).addrs.begin(),
            Part::Neighbours(family) => self.family(family).neighbours.begin(),
            Part::Routes(family) => self.family(family).routes.begin(),
        }
    }

    /// Names of links, all of which a dump is about to show: they name each other.
    pub(super) fn name(&mut self, payload: &[u8]) -> io::Result<()> {
        let (index, name) = names::link(payload)?;
        self.call(index, &name);
        Ok(())
    }

    fn call(&mut self, index: u32, name: &str) {
        self.names.set(index, name);
        self.gone.retain(|it| *it != index);
    }

    /// Takes an object of a dump, and adds what is new about it.
    pub(super) fn see(
        &mut self,
        part: Part,
        payload: &[u8],
        events: &mut Vec<NetEvent>,
    ) -> io::Result<()> {
        let (Part::Addrs(family) | Part::Neighbours(family) | Part::Routes(family)) = part else {
            let Some(link) = link::told(payload, &self.names)? else { return Ok(()) };
            let placed = self.links.place(link.index, &link, PartialEq::eq);
            let change = placed.change(None);
            events.extend(change.map(|change| NetEvent::Link { change, link }));
            return Ok(());
        };
        // A kernel without the family answers with what it has instead.
        if !family.begins(payload) {
            return Ok(());
        }
        let names = &self.names;
        let Some(known) = self.families.iter_mut().find(|it| it.family == family) else {
            return Ok(());
        };
        match part {
            Part::Addrs(_) => known.addr_is(payload, names, None, events),
            Part::Neighbours(_) => known.neighbour_is(payload, names, None, events),
            _ => {
                if let Some((key, way)) = way::read(family, payload)? {
                    known.routes.shown(key, way, &mut telling(names, events));
                }
                Ok(())
            }
        }
    }

    /// Takes out what a whole dump of a part has not shown, about `most` of it at once. False when that
    /// was all.
    pub(super) fn sweep(&mut self, part: Part, most: usize, events: &mut Vec<NetEvent>) -> bool {
        let change = NetChange::Removed;
        let before = events.len();
        match part {
            Part::Links => {
                for (index, link) in self.links.take_unseen(most) {
                    self.bury(index);
                    events.push(NetEvent::Link { change, link });
                }
            }
            Part::Addrs(family) => {
                let unseen = self.family(family).addrs.take_unseen(most);
                events.extend(unseen.into_iter().map(|(_, addr)| NetEvent::Addr { change, addr }));
            }
            Part::Neighbours(family) => {
                let unseen = self.family(family).neighbours.take_unseen(most);
                let told = |(_, neighbour)| NetEvent::Neigh { change, neighbour };
                events.extend(unseen.into_iter().map(told));
            }
            Part::Routes(family) => {
                let known = &mut self.families[family as usize];
                return known.routes.sweep(most, &mut telling(&self.names, events));
            }
        }
        events.len() > before
    }

    fn family(&mut self, family: Family) -> &mut Known {
        &mut self.families[family as usize]
    }

    fn link_is(&mut self, payload: &[u8], events: &mut Vec<NetEvent>) -> io::Result<Heard> {
        let Some(link) = link::told(payload, &self.names)? else {
            return Ok(Heard::default());
        };
        self.call(link.index, &link.name);
        let known = self.links.get(&link.index);
        let routes = known.is_some_and(|it| (&it.flags, &it.state) != (&link.flags, &link.state));
        let placed = self.links.place(link.index, &link, PartialEq::eq);
        let about = Some(Part::Links);
        let heard = Heard { about, links: placed == Placed::New, routes };
        let change = placed.change(Some(NetChange::Changed));
        events.extend(change.map(|change| NetEvent::Link { change, link }));
        Ok(heard)
    }

    fn link_is_gone(&mut self, payload: &[u8], events: &mut Vec<NetEvent>) -> io::Result<Heard> {
        let Some(link) = link::told(payload, &self.names)? else {
            return Ok(Heard::default());
        };
        let (index, change) = (link.index, NetChange::Removed);
        // The kernel tells it when it is taken apart already.
        let link = self.links.remove(&index).or((!self.links.is_whole()).then_some(link));
        self.bury(index);
        let about = Some(Part::Links);
        let heard = Heard { about, links: false, routes: link.is_some() };
        events.extend(link.map(|link| NetEvent::Link { change, link }));
        Ok(heard)
    }

    /// Keeps the name of a link that is gone for a while.
    fn bury(&mut self, index: u32) {
        self.gone.push_back(index);
        if self.gone.len() > GONE
            && let Some(oldest) = self.gone.pop_front()
        {
            self.names.forget(oldest);
        }
    }
}

impl Known {
    /// `unkept` is what to tell of one that there is no room for.
    fn addr_is(
        &mut self,
        payload: &[u8],
        names: &Links,
        unkept: Option<NetChange>,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<()> {
        if let Some(addr) = address::read(self.family, payload, None, names)? {
            let placed = self.addrs.place(addr_key(payload, &addr)?, &addr, is_same_addr);
            let change = placed.change(unkept);
            events.extend(change.map(|change| NetEvent::Addr { change, addr }));
        }
        Ok(())
    }

    fn addr_is_gone(
        &mut self,
        payload: &[u8],
        names: &Links,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<()> {
        if let Some(addr) = address::read(self.family, payload, None, names)? {
            let known = self.addrs.remove(&addr_key(payload, &addr)?).is_some();
            let change = NetChange::Removed;
            let told = known || !self.addrs.is_whole();
            events.extend(told.then_some(NetEvent::Addr { change, addr }));
        }
        Ok(())
    }

    fn neighbour_is(
        &mut self,
        payload: &[u8],
        names: &Links,
        unkept: Option<NetChange>,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<()> {
        let read = neighbour::read(self.family, payload, (None, true), names)?;
        let Some(neighbour) = read.filter(|neighbour| !neighbour.flags.contains(&"proxy")) else {
            return Ok(());
        };
        let key = (index(payload)?, neighbour.address);
        // Those that nobody put there come without a word.
        if neighbour::is_quiet(payload)? && self.neighbours.get(&key).is_none() {
            return Ok(());
        }
        let change = self.neighbours.place(key, &neighbour, PartialEq::eq).change(unkept);
        events.extend(change.map(|change| NetEvent::Neigh { change, neighbour }));
        Ok(())
    }

    fn neighbour_is_gone(
        &mut self,
        payload: &[u8],
        names: &Links,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<()> {
        let read = neighbour::read(self.family, payload, (None, true), names)?;
        if let Some(neighbour) = read {
            let known = self.neighbours.remove(&(index(payload)?, neighbour.address));
            let neighbour = known.or((!self.neighbours.is_whole()).then_some(neighbour));
            let change = NetChange::Removed;
            events.extend(neighbour.map(|neighbour| NetEvent::Neigh { change, neighbour }));
        }
        Ok(())
    }
}

impl Placed {
    fn change(&self, unkept: Option<NetChange>) -> Option<NetChange> {
        match self {
            Self::Same => None,
            Self::New => Some(NetChange::Added),
            Self::Other => Some(NetChange::Changed),
            Self::NoRoom => unkept,
        }
    }
}

/// Makes events of what became of routes.
fn telling<'a>(
    names: &'a Links,
    events: &'a mut Vec<NetEvent>,
) -> impl FnMut(&Key, NetChange, &Way) + 'a {
    |key, change, way| events.push(NetEvent::Route { change, route: Route::of(key, way, names) })
}

/// `struct ifaddrmsg` and `struct ndmsg` have the link at the same place.
fn index(payload: &[u8]) -> io::Result<u32> {
    let ([_, _, _, _, index @ ..], _): (&[u8; 8], _) = header(payload)?;
    Ok(u32::from_ne_bytes(*index))
}

fn addr_key(payload: &[u8], addr: &Addr) -> io::Result<AddrKey> {
    let more = (addr.peer.unwrap_or(addr.address), addr.prefix_len);
    let more = (addr.family == Family::Inet).then_some(more);
    Ok((index(payload)?, addr.address, more))
}

/// Whether nothing but the time that is left differs: a router renews it every few minutes.
fn is_same_addr(a: &Addr, b: &Addr) -> bool {
    let seen = |it: &Addr| (it.address, it.prefix_len, it.peer, it.broadcast);
    seen(a) == seen(b)
        && (&a.interface, &a.scope, &a.label, &a.flags)
            == (&b.interface, &b.scope, &b.label, &b.flags)
}
