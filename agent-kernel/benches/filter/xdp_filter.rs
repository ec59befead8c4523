//! xdp-filter: what it takes for a packet, beside the filter.

use crate::flood::{HERE, pair};
use crate::lists::{Family, List};
use crate::peers::{Lookup, Peers, program};
use crate::world::{World, try_run};
use crate::{ROUNDS, median};
use serde_json::Value;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;

/// Addresses that it holds at most.
pub(crate) const SIZE: u32 = 10_000;

/// Both with the same addresses, in turn.
pub(crate) fn compare(world: &World) {
    println!("\nns above an empty program: a random IPv4 source, {SIZE} entries, miss / hit");
    let list = List::singles(Family::V4, SIZE);
    pair();
    let theirs = match start(world, &list).and_then(|()| attached()) {
        Ok(id) => program(id, &world.folder.path().join("xdp-filter")),
        Err(why) => return println!("{:<24}not measured: {why}", "xdp-filter"),
    };
    let mut peers = Peers::load(1, &List::singles(Family::V4, 0));
    let (filter, _) = world.filled(&list);
    let (hits, misses) = (list.hits().expect("a list"), list.misses().expect("a list"));
    peers.run_all(filter.program(), &hits);
    let mut net: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (column, sources) in [&misses, &hits].into_iter().enumerate() {
            let empty = peers.measure(Lookup::EmptyPlain, sources);
            net[0][column].push(peers.measure(Lookup::Plain(&theirs), sources) - empty);
            let empty = peers.measure(Lookup::Empty, sources);
            net[1][column].push(peers.measure(Lookup::Other(filter.program()), sources) - empty);
        }
    }
    let [[miss, hit], [our_miss, our_hit]] = net.map(|rows| rows.map(|mut it| median(&mut it)));
    println!("{:<24}{miss:>8.1} / {hit:.1}", "xdp-filter");
    let (misses, hits) = (our_miss / miss, our_hit / hit);
    println!("{:<24}{our_miss:>8.1} / {our_hit:.1}   {misses:.2} / {hits:.2} of it", "kctl");
    let _ = try_run(&format!("ip link del {HERE}"));
}

/// Id of the program on the interface.
fn attached() -> Result<u32, String> {
    let output = Command::new("ip").args(["-j", "link", "show", HERE]).output();
    let links: Value = serde_json::from_slice(&output.map_err(|it| it.to_string())?.stdout)
        .map_err(|it| it.to_string())?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("{HERE} has no program"))
}

/// Loads it on an interface, with a list.
pub(crate) fn start(world: &World, list: &List) -> Result<(), String> {
    // Its dispatcher needs more of the kernel than a filter alone does.
    let load = format!("env LIBXDP_SKIP_DISPATCHER=1 xdp-filter load -m native -f ipv4 {HERE}");
    try_run(&load)?;
    // As `xdp-filter ip -m src ADDRESS` does it, but in one process.
    let mut batch = String::new();
    for prefix in &list.prefixes {
        let IpAddr::V4(address) = prefix.addr() else { continue };
        let [a, b, c, d] = address.octets();
        let map = "/sys/fs/bpf/xdp-filter/filter_ipv4";
        let _ =
            writeln!(batch, "map update pinned {map} key {a} {b} {c} {d} value 1 0 0 0 0 0 0 0");
    }
    let file = world.folder.path().with_extension("batch");
    std::fs::write(&file, batch).map_err(|it| it.to_string())?;
    let result = try_run(&format!("bpftool batch file {}", file.display()));
    let _ = std::fs::remove_file(&file);
    result
}
