//! Changes of links, addresses, routes and neighbours as they happen, each told by what became of it.
//!
//! It keeps a picture of the network, so that a message that changes nothing a person sees is no event,
//! and so that after a loss, and where the kernel changes something without a word, a fresh dump tells
//! what is different. It must not know who listens.

mod dump;
mod picture;
mod resync;
mod routes;
mod table;

use self::picture::Picture;
use self::resync::Resync;
use super::request::{OBJECT, messages};
use super::subscription::{BUFFER_BYTES, Received, Subscription};
use super::{Addr, Family, Link, Neighbour, Route};
use crate::Error;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetChange {
    /// It came.
    Added,
    /// It is another than before.
    Changed,
    /// It went.
    Removed,
}

/// A change of the network. It has no time: netlink tells none, so a reader gives it that of its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// Of a link. Its new name is told by this alone, and not of each address and route.
    Link {
        /// What became of it.
        change: NetChange,
        /// The link as it is now or was at last, without what it counted.
        link: Link,
    },
    /// Of an address. That more time is left is no change.
    Addr {
        /// What became of it.
        change: NetChange,
        /// The address as it is now or was at last.
        addr: Addr,
    },
    /// Of a route of any table.
    Route {
        /// What became of it.
        change: NetChange,
        /// The route as it is now or was at last.
        route: Route,
    },
    /// Of a neighbour. The kernel does not tell when one begins to be looked for (INCOMPLETE, DELAY).
    Neigh {
        /// What became of it.
        change: NetChange,
        /// The neighbour as it is now or was at last.
        neighbour: Neighbour,
    },
    /// The kernel had no room for so many messages. What they changed is told next, as what is different
    /// now.
    Lost(u64),
}

const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_NEXTHOP,
];
/// Events after which a call answers.
const EVENTS: usize = 4_096;
/// Messages after which a call answers, whatever they tell.
const MESSAGES: usize = 16_384;
/// A dump takes at most one part in so many of the time.
const DUMP_SHARE: u32 = 10;

/// A part of the network that is dumped at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Links,
    Addrs(Family),
    Routes(Family),
    Neighbours(Family),
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Links,
        Self::Addrs(Family::Inet),
        Self::Addrs(Family::Inet6),
        Self::Routes(Family::Inet),
        Self::Routes(Family::Inet6),
        Self::Neighbours(Family::Inet),
        Self::Neighbours(Family::Inet6),
    ];

    /// Whether the kernel goes on in this list at a number, so that it tells too much or too little when
    /// the list changes meanwhile, and does not say so.
    fn may_skip(self) -> bool {
        matches!(self, Self::Routes(Family::Inet6) | Self::Neighbours(_))
    }
}

/// The changes of one network namespace from some moment on.
///
/// Up to 32,768 links, and in each family 32,768 addresses, 32,768 neighbours and 200,000 routes are
/// known. What is beyond that is told as the kernel tells it: a new route is told as added, or changed
/// where it replaces one, another object as changed, and what is lost of it stays lost.
#[derive(Debug)]
pub struct Changes {
    subscription: Subscription,
    picture: Picture,
    resync: Option<Resync>,
    /// What was heard of since the resync began.
    heard: BTreeSet<Part>,
    /// Parts that may be different from what is known.
    due: BTreeSet<Part>,
    /// No dump before.
    not_before: Instant,
    /// Messages were lost after those that still wait.
    overflowed: bool,
    /// The last call left something.
    more: bool,
}

impl Changes {
    /// Subscribes to the calling thread's network namespace, and takes a picture of it: what is there is
    /// known, and what changes from now on is told. Blocks for the dumps, under a microsecond a route.
    pub fn open() -> Result<Self, Error> {
        Self::open_with_buffer(BUFFER_BYTES)
    }

    /// The same with room for so many bytes of messages at first, where the default is 8 MiB. Each loss
    /// doubles it, up to 32 MiB; the kernel takes twice that for its records.
    pub fn open_with_buffer(bytes: usize) -> Result<Self, Error> {
        let subscription = Subscription::open(NETLINK_ROUTE, &GROUPS, bytes).map_err(wrong)?;
        let mut changes = Self {
            subscription,
            picture: Picture::new(),
            resync: Some(Resync::of(Part::ALL)),
            heard: BTreeSet::new(),
            due: BTreeSet::new(),
            not_before: Instant::now(),
            overflowed: false,
            more: true,
        };
        let mut known = Vec::new();
        while changes.resync.is_some() {
            changes.take(&mut known).map_err(wrong)?;
            known.clear();
        }
        // A loss that comes next is made good at once.
        changes.not_before = Instant::now();
        Ok(changes)
    }

    /// Waits until there is something for [`Self::drain`]. A lone change is told at once; while changes
    /// go on, it lets them gather for 5 ms. Within a tokio runtime; cancel safe.
    pub async fn readable(&mut self) -> Result<(), Error> {
        if self.more {
            return Ok(());
        }
        let look = (!self.due.is_empty()).then_some(self.not_before);
        self.subscription.readable(look).await.map_err(wrong)
    }

    /// What changed since the last call, in the order in which the kernel told each object; some
    /// thousands at once at most, and then [`Self::readable`] does not wait.
    ///
    /// It does not wait for changes, but may ask the kernel for a list, so it is for a thread that may
    /// block. It belongs to the network namespace that the calling thread is in, as [`Self::open`].
    pub fn drain(&mut self) -> Result<Vec<NetEvent>, Error> {
        let mut events = Vec::new();
        self.more = self.take(&mut events).map_err(wrong)?;
        Ok(events)
    }

    /// True when it left something.
    fn take(&mut self, events: &mut Vec<NetEvent>) -> io::Result<bool> {
        let mut count = 0;
        loop {
            while self.resync.as_ref().is_some_and(|resync| !resync.is_to_settle()) {
                self.go_on(events)?;
                if events.len() >= EVENTS {
                    return Ok(true);
                }
            }
            if events.len() >= EVENTS || count >= MESSAGES {
                return Ok(true);
            }
            match self.receive(events)? {
                Received::Messages(more) => count += more,
                Received::Overflow => {
                    self.overflowed = true;
                    self.subscription.grow()?;
                }
                Received::Nothing => {
                    self.subscription.rest(count > 0);
                    if !self.look(events)? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    fn receive(&mut self, events: &mut Vec<NetEvent>) -> io::Result<Received> {
        self.subscription.receive(|datagram| {
            if datagram.sender != 0 {
                return;
            }
            for message in messages(datagram.bytes) {
                match message.and_then(|message| self.picture.hear(&message, events)) {
                    Ok(heard) => {
                        self.heard.extend(heard.about);
                        self.due.extend(heard.links.then_some(Part::Links));
                        if heard.routes {
                            self.due.extend([Family::Inet, Family::Inet6].map(Part::Routes));
                        }
                    }
                    // Longer than the room for it, or not understood: what it told shows in a dump.
                    Err(_) => self.due.extend(Part::ALL),
                }
            }
        })
    }

    /// Everything was heard: what was lost on the way is counted, and what is in doubt is looked at.
    /// False when there is nothing to look at, or not yet.
    fn look(&mut self, events: &mut Vec<NetEvent>) -> io::Result<bool> {
        if std::mem::take(&mut self.overflowed) {
            let lost = self.subscription.lost()?;
            // None where the kernel only had no memory to make a message.
            events.extend((lost > 0).then_some(NetEvent::Lost(lost)));
            self.due.extend(Part::ALL);
            if let Some(resync) = self.resync.take() {
                self.wait_after(resync.took());
            }
        }
        if let Some(resync) = &mut self.resync {
            resync.settle(&self.heard);
            self.heard.clear();
            return Ok(true);
        }
        if self.due.is_empty() || Instant::now() < self.not_before {
            return Ok(false);
        }
        self.resync = Some(Resync::of(std::mem::take(&mut self.due)));
        self.heard.clear();
        Ok(true)
    }

    fn go_on(&mut self, events: &mut Vec<NetEvent>) -> io::Result<()> {
        let Some(resync) = &mut self.resync else { return Ok(()) };
        if resync.go_on(&mut self.picture, EVENTS, events)? {
            return Ok(());
        }
        self.due.extend(resync.failed());
        let took = resync.took();
        self.resync = None;
        self.wait_after(took);
        Ok(())
    }

    fn wait_after(&mut self, took: Duration) {
        self.not_before = Instant::now() + took * (DUMP_SHARE - 1);
    }
}

fn wrong(error: io::Error) -> Error {
    Error::io(OBJECT, error)
}
