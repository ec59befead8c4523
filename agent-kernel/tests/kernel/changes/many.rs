//! More changes than anybody reads.

use super::{Listener, quiet};
use crate::support::run;
use agent_kernel::netlink::NetEvent;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::process::{Child, Command};

/// A file for `ip -batch`.
fn file(lines: impl Iterator<Item = String>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines.collect::<String>()).expect("written");
    file
}

fn batch(lines: impl Iterator<Item = String>) {
    let file = file(lines);
    run(&format!("ip -batch {}", file.path().display()));
}

/// `ip -force -batch`, which goes on after what the kernel refuses, killed when the test is over.
struct Storm(Child, #[expect(dead_code, reason = "it is read meanwhile")] tempfile::NamedTempFile);

impl Storm {
    fn start(lines: impl Iterator<Item = String>) -> Self {
        let file = file(lines);
        let mut ip = Command::new("ip");
        ip.args(["-force", "-batch"]).arg(file.path()).stderr(std::process::Stdio::null());
        Self(ip.spawn().expect("ip"), file)
    }

    fn goes_on(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel counts as lost for the only socket of this namespace that listens.
fn drops() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("netlink sockets");
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let drops: Vec<u64> = rows
        .filter(|row| row[1] == "0" && row[2] != "0" && row[3] != "00000000")
        .map(|row| row[8].parse().expect("a number"))
        .collect();
    assert_eq!(drops.len(), 1, "{table}");
    drops[0]
}

fn lost(events: &[NetEvent]) -> u64 {
    let lost = events.iter().map(|event| match event {
        NetEvent::Lost(count) => *count,
        _ => 0,
    });
    lost.sum()
}

#[test]
fn what_a_reader_lost_is_counted_and_made_good() {
    let _world = quiet();
    run("ip link add br0 type bridge");
    run("ip link set br0 up");
    let route = |i: u32| format!("10.{}.{}.{}/32 dev lo\n", i / 65_536, i / 256 % 256, i % 256);
    batch((0..2_000).map(|i| format!("route add {}", route(i))));
    batch((0..500).map(|i| {
        format!(
            "neigh add 10.77.{}.{} lladdr 02:00:00:00:00:01 dev br0 nud permanent\n",
            i / 250,
            i % 250
        )
    }));
    let mut listener = Listener::with_buffer(4_096);
    batch((2_000..102_000).map(|i| format!("route add {}", route(i))));
    batch((1_000..3_000).map(|i| format!("route del {}", route(i))));
    batch((500..1_000).map(|i| {
        let source = if i % 2 == 0 { "src 127.0.0.1 " } else { "" };
        format!("route replace {}", route(i).replace("dev", &format!("{source}dev")))
    }));
    batch((0..100).map(|i| format!("neigh del 10.77.0.{i} dev br0\n")));
    let counted = drops();
    let heard = listener.hear();
    assert!(counted > 100_000);
    assert_eq!((lost(&heard), drops()), (counted, counted));
    listener.model.assert_is_real();
    assert!(listener.model.len() > 100_000);
    // Each difference once: what came, what went, the replaced routes that look different.
    let told = heard.len() as u64
        - heard.iter().filter(|it| matches!(it, NetEvent::Lost(_))).count() as u64;
    assert!((100_000..103_000).contains(&told), "{told}");
}

/// A reader that is too slow again and again.
#[test]
fn a_storm_with_a_tiny_buffer_ends_with_the_right_picture() {
    storm(4_096, true);
}

#[test]
fn a_storm_is_told_whole() {
    storm(8 << 20, false);
}

fn storm(buffer_bytes: usize, loses: bool) {
    let _world = quiet();
    for link in 0..8 {
        run(&format!("ip link add st{link} type veth peer name su{link}"));
        run(&format!("ip link set su{link} up"));
        run(&format!("ip link set st{link} up"));
    }
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut listener = Listener::with_buffer(buffer_bytes);
    let mut storm = Storm::start((0..20_000).map(move |_| line(&mut random)));
    let mut heard = Vec::new();
    while storm.goes_on() {
        heard.extend(listener.hear());
    }
    listener.settle(&mut heard, |_| true);
    assert!(heard.len() > 2_000, "{}", heard.len());
    assert_eq!((lost(&heard), lost(&heard) > 0), (drops(), loses));
}

/// Something that may make sense to the kernel.
fn line(random: &mut StdRng) -> String {
    let dev = format!("dev st{}", random.random_range(0..8));
    let number = random.random_range(1..40);
    let verb =
        |random: &mut StdRng, verbs: &[&str]| verbs[random.random_range(0..verbs.len())].to_owned();
    let hop = |random: &mut StdRng| random.random_range(1..6);
    match random.random_range(0..100) {
        0..3 => format!("link set {dev} {}\n", verb(random, &["up", "up", "up", "down"])),
        3..5 => format!("link set {dev} mtu {}\n", 1_300 + number),
        5..20 => {
            format!("addr {} 10.{number}.0.1/16 {dev}\n", verb(random, &["add", "add", "del"]))
        }
        20..30 => {
            format!("addr {} fd{number:02}::1/64 {dev}\n", verb(random, &["add", "add", "del"]))
        }
        30..50 => {
            let verb =
                verb(random, &["add", "append", "prepend", "replace", "replace", "del", "del"]);
            let metric = number % 3;
            format!("route {verb} 203.0.{number}.0/24 {dev} metric {metric} scope link\n")
        }
        50..60 => {
            let verb = verb(random, &["add", "append", "replace", "del"]);
            format!(
                "route {verb} 198.51.{number}.0/24 via 10.{}.0.{} onlink {dev}\n",
                hop(random),
                hop(random)
            )
        }
        60..85 => {
            let verb = verb(random, &["add", "append", "replace", "del"]);
            format!("route {verb} fd99:{number}::/64 via fd01::{} {dev} onlink\n", hop(random))
        }
        // A batch ends with the first neighbour that is refused.
        _ => {
            let neighbour = format!("10.9.0.{number} {dev}");
            let mac = format!("lladdr 02:00:00:00:00:{:02x}", hop(random));
            let mut line = format!("neigh replace {neighbour} {mac} nud permanent\n");
            if random.random_bool(0.3) {
                line.push_str(&format!("neigh del {neighbour}\n"));
            }
            line
        }
    }
}
