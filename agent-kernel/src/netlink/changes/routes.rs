//! Known routes of one family, kept as numbers, and what a message makes of them.
//!
//! One destination can have several routes of the same table and metric. The kernel tells which of them
//! a message is about only by what it says of the route, so they are kept in the kernel's order
//! (net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c):
//!
//! - NLM_F_REPLACE is about the first one; in IPv6 about the first that can share its destination, or
//!   can not, as the new one;
//! - NLM_F_APPEND puts a route last, and anything else in IPv4 first;
//! - IPv6 makes those that can share one multipath route, tells the whole of it when a way is added, and
//!   that way alone when one is removed.

use super::NetChange;
use super::table::Table;
use crate::netlink::Family;
use crate::netlink::way::{Hop, Key, Way};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};

/// Takes what changed: the key, what became of the route, and the route.
pub(super) type Tell<'a> = &'a mut dyn FnMut(&Key, NetChange, &Way);

#[derive(Debug)]
pub(super) struct Routes {
    family: Family,
    table: Table<Key, Ways>,
    /// What the dump that goes on has told of the last key.
    run: Option<(Key, Ways)>,
    /// Keys of which it shows less or other routes than are known. An interrupted dump may have skipped
    /// them, so nothing comes of it before the end.
    fewer: Vec<(Key, Ways)>,
}

/// Routes of one key in the kernel's order.
#[derive(Debug)]
enum Ways {
    One(Way),
    More(Vec<Way>),
}

impl Ways {
    fn all(&self) -> &[Way] {
        match self {
            Self::One(way) => std::slice::from_ref(way),
            Self::More(ways) => ways,
        }
    }

    fn of(mut ways: Vec<Way>) -> Option<Self> {
        match ways.pop() {
            None => None,
            Some(only) if ways.is_empty() => Some(Self::One(only)),
            Some(last) => {
                ways.push(last);
                Some(Self::More(ways))
            }
        }
    }

    fn has(&self, way: &Way) -> bool {
        self.all().iter().any(|it| is_like(it, way))
    }

    /// Adds one that is not there yet.
    fn push_new(&mut self, way: Way) {
        if !self.has(&way) {
            let mut ways = self.all().to_vec();
            ways.push(way);
            *self = Self::More(ways);
        }
    }
}

impl Routes {
    pub(super) fn new(family: Family, most: usize) -> Self {
        Self { family, table: Table::new(most), run: None, fewer: Vec::new() }
    }

    /// RTM_NEWROUTE with the flags of its header.
    pub(super) fn added(&mut self, key: Key, way: Way, flags: u16, tell: Tell<'_>) {
        let replaces = flags & NLM_F_REPLACE != 0;
        match self.table.show(&key) {
            Some((_, known)) => {
                let new = match self.family {
                    Family::Inet => added4(known.all(), &way, replaces, flags & NLM_F_APPEND != 0),
                    Family::Inet6 => added6(known.all(), &way, replaces),
                };
                differences(known.all(), &new, &mut |change, way| tell(&key, change, way));
                if let Some(new) = Ways::of(new) {
                    *known = new;
                }
            }
            None => {
                let room = self.table.has_room();
                let change = match replaces && !room {
                    true => NetChange::Changed,
                    false => NetChange::Added,
                };
                tell(&key, change, &way);
                if room {
                    self.table.insert(key, Ways::One(way));
                }
            }
        }
    }

    /// RTM_DELROUTE. False when it is about a route that is not known as it is told.
    pub(super) fn removed(&mut self, key: &Key, way: &Way, tell: Tell<'_>) -> bool {
        let Some((_, known)) = self.table.show(key) else {
            if !self.table.is_whole() {
                tell(key, NetChange::Removed, way);
            }
            return true;
        };
        let mut ways = known.all().to_vec();
        let exactly = ways.iter().position(|it| it == way);
        if let Some(at) = exactly.or_else(|| ways.iter().position(|it| is_like(it, way))) {
            ways.remove(at);
            tell(key, NetChange::Removed, way);
        } else {
            let part = |it: &Way| without(it, way).filter(|_| self.family == Family::Inet6);
            let Some((at, left)) =
                ways.iter().enumerate().find_map(|(at, it)| Some((at, part(it)?)))
            else {
                return false;
            };
            ways[at] = left;
            differences(known.all(), &ways, &mut |change, way| tell(key, change, way));
        }
        match Ways::of(ways) {
            Some(ways) => *known = ways,
            None => drop(self.table.remove(key)),
        }
        true
    }

    /// A dump of all of them begins.
    pub(super) fn begin(&mut self) {
        self.table.begin();
        self.run = None;
        self.fewer = Vec::new();
    }

    /// The next route of the dump. What it means is told with the next key, or at the end.
    pub(super) fn shown(&mut self, key: Key, way: Way, tell: Tell<'_>) {
        match &mut self.run {
            Some((last, ways)) if *last == key => ways.push_new(way),
            _ => {
                if let Some((key, ways)) = self.run.replace((key, Ways::One(way))) {
                    self.commit(key, ways, tell);
                }
            }
        }
    }

    /// The dump was whole: tells what it shows to be gone, about so many routes at once. False when that
    /// was all.
    pub(super) fn sweep(&mut self, most: usize, tell: Tell<'_>) -> bool {
        if let Some((key, ways)) = self.run.take() {
            self.commit(key, ways, tell);
        }
        let rest = self.fewer.len().saturating_sub(most);
        let fewer = self.fewer.split_off(rest);
        for (key, ways) in fewer {
            if let Some((_, known)) = self.table.show(&key) {
                differences(known.all(), ways.all(), &mut |change, way| tell(&key, change, way));
                *known = ways;
            }
        }
        let unseen = self.table.take_unseen(most);
        for (key, ways) in &unseen {
            ways.all().iter().for_each(|way| tell(key, NetChange::Removed, way));
        }
        rest > 0 || !unseen.is_empty()
    }

    /// Takes all routes of a key from a dump.
    fn commit(&mut self, key: Key, ways: Ways, tell: Tell<'_>) {
        match self.table.show(&key) {
            Some((_, known)) if known.all() == ways.all() => {}
            // The kernel came back to a key, as it does when a list changes while it is told.
            Some((true, _)) => {}
            Some((false, known)) if known.all().iter().all(|it| ways.has(it)) => {
                differences(known.all(), ways.all(), &mut |change, way| tell(&key, change, way));
                *known = ways;
            }
            Some((false, _)) => self.fewer.push((key, ways)),
            None => {
                // Without room, whether it is new is not known.
                if self.table.has_room() {
                    ways.all().iter().for_each(|way| tell(&key, NetChange::Added, way));
                    self.table.insert(key, ways);
                }
            }
        }
    }
}

fn added4(known: &[Way], way: &Way, replaces: bool, appends: bool) -> Vec<Way> {
    let mut ways = known.to_vec();
    match known.iter().position(|it| is_like(it, way)) {
        // Told before it was dumped, and dumped since; or with other flags.
        Some(at) => {
            ways[at] = way.clone();
            if replaces && at > 0 {
                ways.remove(0);
            }
        }
        None if replaces => ways[0] = way.clone(),
        None if appends => ways.push(way.clone()),
        None => ways.insert(0, way.clone()),
    }
    ways
}

fn added6(known: &[Way], way: &Way, replaces: bool) -> Vec<Way> {
    let mut ways = known.to_vec();
    let alike = |it: &Way| can_share(it) == can_share(way);
    if let Some(at) = known.iter().position(|it| is_like(it, way)) {
        ways[at] = way.clone();
    } else if replaces {
        let at = known.iter().position(alike).unwrap_or_default();
        ways[at] = way.clone();
    } else {
        // The whole of what it became a part of.
        let at = known.iter().position(|it| without(way, it).is_some());
        ways.retain(|it| without(way, it).is_none());
        ways.insert(at.unwrap_or(ways.len()), way.clone());
    }
    ways
}

/// Tells what leads from one list to the other. Where there was one route and is one, that changed; among
/// several nobody could tell which one did, so one went and another came.
fn differences(old: &[Way], new: &[Way], tell: &mut dyn FnMut(NetChange, &Way)) {
    let mut gone: Vec<&Way> = old.iter().collect();
    let mut came = Vec::new();
    for way in new {
        match gone.iter().position(|it| is_like(it, way)) {
            Some(at) => {
                let known = gone.remove(at);
                if sorted(known) != sorted(way) {
                    tell(NetChange::Changed, way);
                }
            }
            None => came.push(way),
        }
    }
    if old.len() == 1 && new.len() == 1 {
        came.iter().for_each(|way| tell(NetChange::Changed, way));
        return;
    }
    gone.iter().for_each(|way| tell(NetChange::Removed, way));
    came.iter().for_each(|way| tell(NetChange::Added, way));
}

/// Whether IPv6 makes it one of several ways with others of its key.
fn can_share(way: &Way) -> bool {
    let outs = way.outs();
    !outs.is_empty() && outs.iter().all(|out| out.gateway.is_some())
}

/// What is left of a route when the ways out of another are taken from it; `None` when the other is not
/// a part of it.
fn without(whole: &Way, part: &Way) -> Option<Way> {
    if !can_share(whole) || !can_share(part) {
        return None;
    }
    let is = |a: &Hop, b: &Hop| (a.gateway, a.interface) == (b.gateway, b.interface);
    let (outs, taken) = (whole.outs(), part.outs());
    let is_part = taken.len() < outs.len() && taken.iter().all(|t| outs.iter().any(|o| is(o, t)));
    let left = outs.into_iter().filter(|out| !taken.iter().any(|it| is(out, it)));
    is_part.then(|| whole.through(left.collect()))
}

/// The same route, perhaps with other flags: they come and go by themselves.
fn is_like(a: &Way, b: &Way) -> bool {
    let bare = |way: &Way| {
        let mut way = sorted(way);
        way.flags = 0;
        if let Some(rest) = &mut way.rest {
            rest.hops.iter_mut().for_each(|hop| hop.flags = 0);
        }
        way
    };
    a == b || bare(a) == bare(b)
}

/// The order of several ways means nothing, and the kernel tells it one time so and one time so.
fn sorted(way: &Way) -> Way {
    let mut way = way.clone();
    if let Some(rest) = &mut way.rest {
        rest.hops.sort();
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;
    use NetChange::{Added, Changed, Removed};

    /// `struct rtmsg` and attributes: to 10.0.0.NUMBER/32 through a link.
    fn route(number: u8, link: u8) -> (Key, Way) {
        let mut payload = vec![2, 32, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        payload.extend([8, 0, 1, 0, 10, 0, 0, number]);
        payload.extend([8, 0, 4, 0, link, 0, 0, 0]);
        crate::netlink::way::read(Family::Inet, &payload).expect("whole").expect("a route")
    }

    fn told(act: impl FnOnce(Tell<'_>)) -> Vec<NetChange> {
        let mut told = Vec::new();
        act(&mut |_, change, _| told.push(change));
        told
    }

    fn add(routes: &mut Routes, (key, way): (Key, Way), flags: u16) -> Vec<NetChange> {
        told(|tell| routes.added(key, way, flags, tell))
    }

    fn remove(routes: &mut Routes, (key, way): (Key, Way)) -> Vec<NetChange> {
        told(|tell| assert!(routes.removed(&key, &way, tell)))
    }

    fn dump(routes: &mut Routes, all: &[(u8, u8)]) -> Vec<NetChange> {
        told(|tell| {
            routes.begin();
            for (number, link) in all {
                let (key, way) = route(*number, *link);
                routes.shown(key, way, tell);
            }
            while routes.sweep(1, tell) {}
        })
    }

    #[test]
    fn what_is_not_kept_is_told_as_the_kernel_tells_it() {
        let mut routes = Routes::new(Family::Inet, 2);
        for number in 1..=3 {
            assert_eq!(add(&mut routes, route(number, 1), 0), [Added]);
        }
        assert_eq!(add(&mut routes, route(3, 2), NLM_F_REPLACE), [Changed]);
        assert_eq!(add(&mut routes, route(2, 2), NLM_F_REPLACE), [Changed]);
        assert_eq!(remove(&mut routes, route(3, 2)), [Removed]);
        // Whether the third is new, nobody knows; the rest is known.
        assert_eq!(dump(&mut routes, &[(1, 1), (2, 3), (4, 1)]), [Changed]);
        // Everything fits again, so what is not known never was there.
        assert_eq!(dump(&mut routes, &[(2, 3)]), [Removed]);
        assert_eq!(remove(&mut routes, route(4, 1)), []);
    }

    #[test]
    fn a_dump_that_did_not_end_takes_nothing_away() {
        let mut routes = Routes::new(Family::Inet, 9);
        assert_eq!(add(&mut routes, route(1, 1), 0), [Added]);
        assert_eq!(add(&mut routes, route(1, 2), NLM_F_APPEND), [Added]);
        let told = told(|tell| {
            routes.begin();
            for number in [1, 2] {
                let (key, way) = route(number, 1);
                routes.shown(key, way, tell);
            }
        });
        assert_eq!(told, []);
        assert_eq!(dump(&mut routes, &[(1, 1), (1, 2), (2, 1)]), [Added]);
        assert_eq!(dump(&mut routes, &[(1, 2), (2, 1)]), [Removed]);
    }

    #[test]
    fn very_many_routes_fit() {
        assert!(size_of::<(Key, Ways)>() <= 104, "{}", size_of::<(Key, Ways)>());
    }
}
