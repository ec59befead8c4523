//! A picture of the network that only events change.

use crate::ip::{
    addr_as_ip, addrs_of_ip, link_as_ip, link_of_ip, list, neighbour_as_ip, route_as_ip,
    routes_of_ip,
};
use agent_kernel::netlink::{NetChange, NetEvent};
use serde_json::Value;
use std::collections::BTreeMap;

/// Objects as ip(8) has them, by kind and by what they are found by. Several routes can have one key.
#[derive(Debug, PartialEq)]
pub(super) struct Model(BTreeMap<(Kind, String), Vec<Value>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Link,
    Addr4,
    Addr6,
    Route,
    Neighbour,
}

impl Kind {
    fn of_addr(addr: &Value) -> Self {
        if addr["family"] == "inet" { Self::Addr4 } else { Self::Addr6 }
    }

    fn key(self, object: &Value) -> (Self, String) {
        let fields: &[&str] = match self {
            Self::Link => &["ifindex"],
            Self::Addr4 => &["dev", "local", "prefixlen", "address"],
            // An address by itself.
            Self::Addr6 => &["dev", "local"],
            Self::Route => &["dst", "table", "metric", "from", "tos"],
            Self::Neighbour => &["dst", "dev"],
        };
        let values: Vec<_> = fields.iter().map(|field| object[field].to_string()).collect();
        (self, values.join(" "))
    }
}

impl Model {
    pub(super) fn nothing() -> Self {
        Self(BTreeMap::new())
    }

    /// What ip shows.
    pub(super) fn read() -> Self {
        let mut model = Self::nothing();
        let links = list("ip -j -d link show");
        links.iter().for_each(|link| model.add(Kind::Link, link_of_ip(link)));
        for addr in addrs_of_ip() {
            model.add(Kind::of_addr(&addr), timeless(addr));
        }
        routes_of_ip("").into_iter().for_each(|it| model.add(Kind::Route, orderless(it)));
        list("ip -j neigh show").into_iter().for_each(|it| model.add(Kind::Neighbour, it));
        model
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub(super) fn apply(&mut self, event: &NetEvent) {
        match event {
            NetEvent::Link { change, link } => self.put(*change, Kind::Link, link_as_ip(link)),
            NetEvent::Addr { change, addr } => {
                let addr = addr_as_ip(addr);
                self.put(*change, Kind::of_addr(&addr), timeless(addr));
            }
            NetEvent::Route { change, route } => {
                self.put(*change, Kind::Route, orderless(route_as_ip(route)));
            }
            NetEvent::Neigh { change, neighbour } => {
                self.put(*change, Kind::Neighbour, neighbour_as_ip(neighbour));
            }
            NetEvent::Lost(_) => {}
        }
    }

    /// Whether something goes on that nobody caused just now.
    pub(super) fn is_in_flux(&self) -> bool {
        // An address that is looked for on the link first, and a pair that does not carry yet.
        let waits = |link: &Value| {
            let is_up = link["flags"].to_string().contains("\"UP\"");
            is_up && link["kind"] == "veth" && link["operstate"] != "UP"
        };
        self.0.values().flatten().any(|object| object["tentative"] == true || waits(object))
    }

    pub(super) fn is_real(&self) -> bool {
        *self == Self::read()
    }

    pub(super) fn assert_is_real(&self) {
        let real = Self::read();
        let only = |a: &Self, b: &Self| -> Vec<String> {
            let differs = |it: &(&(Kind, String), &Vec<Value>)| b.0.get(it.0) != Some(it.1);
            let all = a.0.iter().filter(differs).flat_map(|(_, objects)| objects);
            all.map(Value::to_string).take(9).collect()
        };
        let (wrong, missing) = (only(self, &real), only(&real, self));
        assert!(*self == real, "told: {wrong:#?}\nreal: {missing:#?}");
    }

    fn add(&mut self, kind: Kind, object: Value) {
        let all = self.0.entry(kind.key(&object)).or_default();
        all.push(object);
        all.sort_by_cached_key(Value::to_string);
    }

    /// One that came is added, one that changed takes the place of its former self, one that went is
    /// taken out. Of several with one key it is the one that differs in flags alone.
    fn put(&mut self, change: NetChange, kind: Kind, object: Value) {
        if change == NetChange::Added {
            let known = self.0.get(&kind.key(&object));
            assert!(!known.is_some_and(|all| all.contains(&object)), "added again: {object}");
            return self.add(kind, object);
        }
        let key = kind.key(&object);
        let all = self.0.get_mut(&key).unwrap_or_else(|| panic!("{change:?}, unknown: {object}"));
        let alike = |it: &Value| flagless(it) == flagless(&object);
        // What went is told as it was.
        let at = match change {
            NetChange::Changed if all.len() == 1 => Some(0),
            _ => all.iter().position(alike),
        };
        let at = at.unwrap_or_else(|| panic!("{change:?}, not as it was: {object} of {all:?}"));
        let before = all.remove(at);
        match change {
            NetChange::Changed => {
                assert_ne!(before, object, "nothing changed");
                self.add(kind, object);
            }
            _ if all.is_empty() => drop(self.0.remove(&key)),
            _ => {}
        }
    }
}

fn flagless(value: &Value) -> Value {
    let mut value = value.clone();
    let fields = value.as_object_mut().expect("an object");
    fields.retain(|_, field| *field != Value::Bool(true));
    fields.remove("flags");
    for hop in fields.get_mut("nexthops").and_then(Value::as_array_mut).into_iter().flatten() {
        hop["flags"] = Value::Null;
    }
    value
}

/// Time that is left passes.
fn timeless(mut addr: Value) -> Value {
    let fields = addr.as_object_mut().expect("an object");
    fields.remove("valid_life_time");
    fields.remove("preferred_life_time");
    addr
}

/// The order of several ways means nothing.
fn orderless(mut route: Value) -> Value {
    if let Some(hops) = route.get_mut("nexthops").and_then(Value::as_array_mut) {
        hops.sort_by_cached_key(Value::to_string);
    }
    route
}
