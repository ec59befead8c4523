//! What an agent of an earlier layout left pinned. Its program is kept beside this, as it was built.

use crate::support::{PEER, World, answers, key, port};
use agent_kernel::filter::{Drift, Filter, FilterConfig, Mode, Protocol};
use aya::maps::{Array, HashMap};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use std::process::{Command, Stdio};

static V1: &[u8] = aya::include_bytes_aligned!("v1.bpf.o");

/// `drop_until` forever, no monitor, and the counter.
fn entry(slot: u32) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..8].fill(0xff);
    entry[16..20].copy_from_slice(&slot.to_ne_bytes());
    entry
}

/// Pins what an agent of the first layout would, with rules about 10.9.0.2, fd09::2 and a service.
fn leave_v1(world: &World) {
    let folder = world.bpffs().join("v1");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&folder);
    for (map, size) in [("rules4", 100), ("rules6", 100), ("retired", 200)] {
        loader.map_max_entries(map, size);
    }
    for map in ["hits", "paces", "told"] {
        loader.map_max_entries(map, 200);
    }
    let mut ebpf: Ebpf = loader.map_max_entries("sightings", 262_144).load(V1).expect("loaded");
    let xdp: &mut Xdp = ebpf.program_mut("kctl_filter").expect("it").try_into().expect("XDP");
    xdp.load().expect("the verifier takes it");
    let link = xdp.attach("kt0", XdpMode::Driver).expect("attached");
    let link = FdLink::try_from(xdp.take_link(link).expect("just attached")).expect("a link");
    link.pin(folder.join("link-kt0")).expect("pinned");

    let rules4 = ebpf.take_map("rules4").expect("there");
    let mut rules4 = HashMap::<_, [u8; 8], [u8; 24]>::try_from(rules4).expect("a hash");
    rules4.insert([2, 0, 9, 10, 0, 0, 0, 32], entry(0), 0).expect("room");
    rules4.insert([0, 0, 1, 10, 22, 0, 6, 16], entry(1), 0).expect("room");
    let rules6 = ebpf.take_map("rules6").expect("there");
    let mut rules6 = HashMap::<_, [u8; 24], [u8; 24]>::try_from(rules6).expect("a hash");
    let mut key = [0; 24];
    key[6..8].copy_from_slice(&[9, 0xfd]);
    key[8] = 2;
    key[19] = 128;
    rules6.insert(key, entry(2), 0).expect("room");
    let masks = ebpf.take_map("masks").expect("there");
    let mut masks = Array::<_, u64>::try_from(masks).expect("an array");
    for (word, lengths) in [(0, 1), (1, 1 << 16), (2, 1)] {
        masks.set(word, lengths, 0).expect("set");
    }
}

#[test]
fn the_layout_before_is_taken_over_under_a_flood() {
    let world = World::new();
    world.veth();
    leave_v1(&world);
    assert!(!answers("10.9.0.2") && !answers("fd09::2") && answers("10.9.0.3"));
    let flood = |source: &str| {
        Command::new("ip")
            .args(["netns", "exec", PEER, "ping", "-n", "-q", "-i", "0.002", "-w", "3"])
            .args(["-I", source, "10.9.0.1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ping")
    };
    let (blocked, other) = (flood("10.9.0.2"), flood("10.9.0.3"));
    let config = FilterConfig { bpffs: world.bpffs(), max_entries: 16 };
    let mut filter = Filter::open(&config).expect("it takes over");
    let wanted = [key("10.9.0.2"), key("fd09::2"), port("10.1.0.0/16", Protocol::Tcp, 22)];
    assert_eq!(filter.entries(), 3);
    assert!(wanted.iter().all(|key| filter.rules().contains_key(key)));
    assert_eq!(filter.max_entries(), 100, "the old size");
    assert_eq!(filter.verify().expect("verified"), Drift::default());
    assert!(!world.bpffs().join("v1").exists());
    assert_eq!(filter.attachments().expect("listed").len(), 1);
    filter.attach("kt0", Mode::Auto).expect("still there");

    let said = |ping: std::process::Child| {
        let output = ping.wait_with_output().expect("ping ended");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (blocked, other) = (said(blocked), said(other));
    assert!(blocked.contains(" 0 received"), "{blocked}");
    assert!(other.contains(" 0% packet loss"), "{other}");
    let sent = blocked.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    let hits = filter.hits().expect("read");
    let met = hits.iter().find(|hit| hit.key == key("10.9.0.2")).map(|hit| hit.packets);
    // And the ping at the start.
    assert_eq!(met, sent.map(|sent| sent + 1), "both programs count on one counter");
}
