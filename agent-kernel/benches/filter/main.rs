//! What a packet costs, beside the least that it can cost and beside what else looks sources up.
//! `cargo xtask bench filter` runs it, as root.

mod detection;
mod fill;
mod flood;
mod lists;
mod peers;
mod world;
mod xdp_filter;

use lists::{Family, List};
use peers::{Lookup, Peers};
use world::World;

/// Entries of a list.
const SIZES: [u32; 5] = [0, 1_000, 10_000, 100_000, 1_000_000];
/// Each program is measured that often, in turn.
const ROUNDS: usize = 5;

fn main() {
    let world = World::new();
    // `cargo bench` says this to every benchmark.
    let words: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    if wanted("lookup") {
        let sizes: Vec<u32> = words.iter().filter_map(|word| word.parse().ok()).collect();
        let sizes = if sizes.is_empty() { SIZES.to_vec() } else { sizes };
        for family in [Family::V4, Family::V6] {
            lookups(&world, family, &sizes);
        }
    }
    if wanted("xdp-filter") {
        xdp_filter::compare(&world);
    }
    if wanted("detection") {
        detection::print(&world);
    }
    if wanted("mixed") {
        mixed(&world);
    }
    if wanted("fill") {
        fill::compare(&world);
    }
    if wanted("flood") {
        flood::compare(&world);
    }
}

/// Median of a few figures.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Every program with lists of each size, miss and hit, in nanoseconds above an empty program.
fn lookups(world: &World, family: Family, sizes: &[u32]) {
    println!("\nns above an empty program: a random {family} source, miss / hit");
    println!(
        "{:<12}{:>16}{:>16}{:>16}{:>16}{:>22}",
        "entries", "parse", "hash", "trie", "kctl", "kctl takes of hash"
    );
    for size in sizes.iter().copied() {
        let list = List::singles(family, size);
        let mut peers = Peers::load(size, &list);
        let (filter, took) = world.filled(&list);
        if let Some(sources) = list.hits() {
            // The first packet of each source is an event; what is measured are the others.
            peers.run_all(filter.program(), &sources);
        }
        let mut net: [[Vec<f64>; 2]; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (hit, sources) in [(0, list.misses()), (1, list.hits())] {
                let Some(sources) = sources else { continue };
                let empty = peers.measure(Lookup::Empty, &sources);
                for (row, lookup) in
                    [Lookup::Parse, Lookup::Hash, Lookup::Trie].into_iter().enumerate()
                {
                    net[row][hit].push(peers.measure(lookup, &sources) - empty);
                }
                net[3][hit].push(peers.measure(Lookup::Other(filter.program()), &sources) - empty);
            }
        }
        let cell = |figures: &mut [Vec<f64>; 2]| {
            let mut words = figures.iter_mut().map(|it| match it.is_empty() {
                true => "-".to_owned(),
                false => format!("{:.1}", median(it)),
            });
            format!("{} / {}", words.next().unwrap_or_default(), words.next().unwrap_or_default())
        };
        let cells: Vec<String> = net.iter_mut().map(cell).collect();
        let ratio = |hit: usize, net: &mut [[Vec<f64>; 2]; 4]| match net[3][hit].is_empty() {
            true => "-".to_owned(),
            false => format!("{:.2}", median(&mut net[3][hit]) / median(&mut net[1][hit])),
        };
        let ratios = format!("{} / {}", ratio(0, &mut net), ratio(1, &mut net));
        println!(
            "{size:<12}{:>16}{:>16}{:>16}{:>16}{ratios:>22}",
            cells[0], cells[1], cells[2], cells[3]
        );
        if size == SIZES[SIZES.len() - 1] {
            let bytes = filter.memory_bytes();
            println!(
                "{size} entries in the kernel after {took:.1?}, in {:.0} MiB",
                bytes as f64 / 1_048_576.0
            );
        }
    }
}

/// A miss of IPv4 beside other entries.
fn mixed(world: &World) {
    println!("\nns above an empty program: a random IPv4 source that no rule is about");
    let size = 10_000;
    let mut peers = Peers::load(0, &List::singles(Family::V4, 0));
    for (name, list) in [
        ("10,000 addresses", List::singles(Family::V4, size)),
        (
            "and 100,000 of IPv6",
            List::singles(Family::V4, size).and(List::singles(Family::V6, 10 * size)),
        ),
        (
            "and 10,000 prefixes of 24 to 31",
            List::singles(Family::V4, size).and(List::prefixes(24..32, size)),
        ),
        (
            "and 100 prefixes of 16 to 23",
            List::singles(Family::V4, size).and(List::prefixes(16..24, size / 100)),
        ),
        (
            "and all of those",
            List::singles(Family::V4, size)
                .and(List::singles(Family::V6, 10 * size))
                .and(List::prefixes(24..32, size))
                .and(List::prefixes(16..24, size / 100)),
        ),
    ] {
        let (filter, _) = world.filled(&list);
        let sources = List::singles(Family::V4, size).misses().expect("misses");
        let mut net: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let empty = peers.measure(Lookup::Empty, &sources);
                peers.measure(Lookup::Other(filter.program()), &sources) - empty
            })
            .collect();
        println!("{name:<40}{:>8.1}", median(&mut net));
    }
}
