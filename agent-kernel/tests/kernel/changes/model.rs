//! A picture of the network that only events change.

use crate::ip::{
    addr_as_ip, addrs_of_ip, link_as_ip, link_of_ip, list, neighbour_as_ip, route_as_ip,
    routes_of_ip,
};
use agent_kernel::netlink::{NetChange, NetEvent};
use serde_json::Value;

/// Objects as ip(8) has them.
#[derive(Debug, PartialEq)]
pub(super) struct Model {
    links: Vec<Value>,
    addrs: Vec<Value>,
    routes: Vec<Value>,
    neighbours: Vec<Value>,
}

impl Model {
    /// What ip shows.
    pub(super) fn read() -> Self {
        Self {
            links: list("ip -j -d link show").iter().map(link_of_ip).collect(),
            addrs: addrs_of_ip().into_iter().map(timeless).collect(),
            routes: routes_of_ip(""),
            neighbours: list("ip -j neigh show"),
        }
        .sorted()
    }

    pub(super) fn apply(&mut self, event: &NetEvent) {
        match event {
            NetEvent::Link { change, link } => {
                put(&mut self.links, *change, link_as_ip(link), &["ifindex"]);
            }
            NetEvent::Addr { change, addr } => {
                let key = ["dev", "local", "prefixlen", "address"];
                // IPv6 knows an address by itself.
                let key = if addr.address.is_ipv6() { &key[..2] } else { &key[..] };
                put(&mut self.addrs, *change, timeless(addr_as_ip(addr)), key);
            }
            NetEvent::Route { change, route } => {
                let key = ["dst", "table", "metric", "from", "tos"];
                put(&mut self.routes, *change, route_as_ip(route), &key);
            }
            NetEvent::Neigh { change, neighbour } => {
                put(&mut self.neighbours, *change, neighbour_as_ip(neighbour), &["dst", "dev"]);
            }
            NetEvent::Lost(_) => {}
        }
    }

    /// Whether something goes on that nobody caused just now.
    pub(super) fn is_in_flux(&self) -> bool {
        let up =
            |link: &Value| link["flags"].as_array().is_some_and(|it| it.contains(&"UP".into()));
        self.addrs.iter().any(|addr| addr["tentative"] == true)
            || self.links.iter().any(|link| link["operstate"] == "DOWN" && up(link))
    }

    pub(super) fn is_real(&self) -> bool {
        self.clone_sorted() == Self::read()
    }

    pub(super) fn assert_is_real(&self) {
        let (ours, theirs) = (self.clone_sorted(), Self::read());
        for (ours, theirs) in [
            (&ours.links, &theirs.links),
            (&ours.addrs, &theirs.addrs),
            (&ours.routes, &theirs.routes),
            (&ours.neighbours, &theirs.neighbours),
        ] {
            let only = |a: &[Value], b: &[Value]| -> Vec<String> {
                a.iter().filter(|it| !b.contains(it)).map(Value::to_string).take(9).collect()
            };
            let (wrong, missing) = (only(ours, theirs), only(theirs, ours));
            assert!(ours == theirs, "wrong: {wrong:#?}\nmissing: {missing:#?}");
        }
    }

    fn clone_sorted(&self) -> Self {
        Self {
            links: self.links.clone(),
            addrs: self.addrs.clone(),
            routes: self.routes.clone(),
            neighbours: self.neighbours.clone(),
        }
        .sorted()
    }

    fn sorted(mut self) -> Self {
        for route in &mut self.routes {
            if let Some(hops) = route.get_mut("nexthops").and_then(Value::as_array_mut) {
                hops.sort_by_key(Value::to_string);
            }
        }
        for all in [&mut self.links, &mut self.addrs, &mut self.routes, &mut self.neighbours] {
            all.sort_by_cached_key(Value::to_string);
        }
        self
    }
}

/// One that came is added, one that changed takes the place of its former self, one that went is taken
/// out. Of several with one key it is the one that differs in flags alone.
fn put(all: &mut Vec<Value>, change: NetChange, object: Value, key: &[&str]) {
    let keyed = |it: &Value| key.iter().all(|key| it.get(key) == object.get(key));
    let mut found: Vec<_> = (0..all.len()).filter(|at| keyed(&all[*at])).collect();
    if found.len() > 1 {
        found.retain(|at| flagless(&all[*at]) == flagless(&object));
    }
    match (change, found.first()) {
        (NetChange::Added, _) => {
            assert!(!all.contains(&object), "added again: {object}");
            all.push(object);
        }
        (NetChange::Changed, Some(at)) => all[*at] = object,
        (NetChange::Removed, Some(at)) => drop(all.swap_remove(*at)),
        (change, None) => panic!("{change:?}, and was never there: {object}\n{all:#?}"),
    }
}

fn flagless(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("flags");
        for hop in fields.get_mut("nexthops").and_then(Value::as_array_mut).into_iter().flatten() {
            hop["flags"] = Value::Null;
        }
    }
    value
}

/// Time that is left passes.
fn timeless(mut addr: Value) -> Value {
    if let Some(fields) = addr.as_object_mut() {
        fields.remove("valid_life_time");
        fields.remove("preferred_life_time");
    }
    addr
}
