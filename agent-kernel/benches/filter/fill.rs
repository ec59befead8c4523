//! How long it takes until the kernel has a list, beside what else holds lists of addresses there.

use crate::lists::{Family, List};
use crate::median;
use crate::world::{World, try_run};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const SIZE: u32 = 100_000;
const ROUNDS: usize = 3;

/// Each of them with the same addresses, in turn.
pub(crate) fn compare(world: &World) {
    let list = List::singles(Family::V4, SIZE);
    println!("\n{SIZE} IPv4 addresses in the kernel after   and gone after");
    let mut ours: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        let (mut filter, took) = world.filled(&list);
        ours[0].push(took.as_secs_f64());
        ours[1].push(filter.empty(&list).as_secs_f64());
    }
    let kctl = ours.each_mut().map(|it| Duration::from_secs_f64(median(it)));
    println!("{:<24}{:>22.1?}{:>17.1?}", "kctl", kctl[0], kctl[1]);
    let file = world.folder.path().with_extension("list");
    for (name, text, fill, empty) in [
        ("nft -f", nft(&list, None), "nft -f", "nft delete table netdev bench"),
        ("ipset restore", ipset(&list), "ipset restore -file", "ipset destroy bench"),
    ] {
        std::fs::write(&file, text).expect("a temporary file");
        let mut took: [Vec<f64>; 2] = Default::default();
        let round = || {
            let start = Instant::now();
            try_run(&format!("{fill} {}", file.display()))?;
            let filled = start.elapsed();
            try_run(empty)?;
            Ok::<_, String>([filled, start.elapsed().saturating_sub(filled)])
        };
        for _ in 0..ROUNDS {
            match round() {
                Ok(figures) => {
                    for (all, it) in took.iter_mut().zip(figures) {
                        all.push(it.as_secs_f64());
                    }
                }
                Err(why) => println!("{name:<24}not measured: {why}"),
            }
        }
        if took[0].len() == ROUNDS {
            let [filled, gone] = took.each_mut().map(|it| Duration::from_secs_f64(median(it)));
            let ratio = kctl[0].as_secs_f64() / filled.as_secs_f64();
            println!("{name:<24}{filled:>22.1?}{gone:>17.1?}   kctl fills in {ratio:.2} of it");
        }
    }
    let _ = std::fs::remove_file(&file);
    println!("{:<24}{:>22}", "xdp-filter", "holds 10000 at most");

    let list = List::singles(Family::V4, 10 * SIZE);
    let (mut filter, took) = world.filled(&list);
    println!("{:<24}{took:>22.1?}{:>17.1?}", "kctl, 1000000 of them", filter.empty(&list));
}

/// A table with a set, and a chain that drops its members on an interface.
pub(crate) fn nft(list: &List, interface: Option<&str>) -> String {
    let mut text = "table netdev bench {\nset blocked {\ntype ipv4_addr\nelements = {\n".to_owned();
    for prefix in &list.prefixes {
        let _ = writeln!(text, "{},", prefix.addr());
    }
    text.push_str("}\n}\n");
    if let Some(interface) = interface {
        let hook = format!("type filter hook ingress device \"{interface}\" priority 0;");
        let _ = writeln!(text, "chain ingress {{\n{hook}\nip saddr @blocked counter drop\n}}");
    }
    text.push_str("}\n");
    text
}

/// A set as `ipset restore` reads it.
pub(crate) fn ipset(list: &List) -> String {
    let mut text =
        format!("create bench hash:ip maxelem {}\n", list.prefixes.len().next_power_of_two());
    // It can't hold 0.0.0.0.
    for prefix in list.prefixes.iter().filter(|it| !it.addr().is_unspecified()) {
        let _ = writeln!(text, "add bench {}", prefix.addr());
    }
    text
}
