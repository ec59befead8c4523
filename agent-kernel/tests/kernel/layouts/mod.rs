//! What an agent of an earlier layout left pinned. Its program is kept beside this, as it was built.

use crate::support::{PEER, World, answers, key, port, within};
use agent_kernel::filter::{Action, Drift, Filter, FilterConfig, Mode, Protocol, Telling};
use aya::maps::{Array, HashMap};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

static V1: &[u8] = aya::include_bytes_aligned!("v1.bpf.o");
static V2: &[u8] = aya::include_bytes_aligned!("v2.bpf.o");

/// `drop_until` forever, no monitor, and the counter.
fn entry(slot: u32) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..8].fill(0xff);
    entry[16..20].copy_from_slice(&slot.to_ne_bytes());
    entry
}

/// Loads the program of a layout, and pins it with its maps as its agent would.
fn load(world: &World, layout: &str, object: &[u8], sizes: &[(&str, u32)]) -> Ebpf {
    let folder = world.bpffs().join(layout);
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&folder);
    let by_slot = ["hits", "paces", "told", "retired"].map(|map| (map, 200));
    for (map, size) in sizes.iter().copied().chain(by_slot).chain([("sightings", 262_144)]) {
        loader.map_max_entries(map, size);
    }
    let mut ebpf = loader.load(object).expect("loaded");
    let xdp: &mut Xdp = ebpf.program_mut("kctl_filter").expect("it").try_into().expect("XDP");
    // A signal interrupts the verifier, and a busy machine has many.
    within("the verifier takes it", || xdp.load().is_ok());
    let link = xdp.attach("kt0", XdpMode::Driver).expect("attached");
    let link = FdLink::try_from(xdp.take_link(link).expect("just attached")).expect("a link");
    link.pin(folder.join("link-kt0")).expect("pinned");
    ebpf
}

fn array<V: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> Array<aya::maps::MapData, V> {
    Array::try_from(ebpf.take_map(name).expect("there")).expect("an array")
}

/// Rules about 10.9.0.2, fd09::2 and a service, in the first layout.
fn leave_v1(world: &World) {
    let mut ebpf = load(world, "v1", V1, &[("rules4", 100), ("rules6", 100)]);
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
    let mut masks = array::<u64>(&mut ebpf, "masks");
    for (word, lengths) in [(0, 1), (1, 1 << 16), (2, 1)] {
        masks.set(word, lengths, 0).expect("set");
    }
}

/// The same in the second layout, of which the program finds the first; with counters of an earlier owner
/// and of a rule that is gone.
fn leave_v2(world: &World) {
    let sizes = [("records", 100), ("index", 128), ("filter4", 128), ("filter6", 128)];
    let mut ebpf = load(world, "v2", V2, &sizes);
    let mut records = array::<[u64; 8]>(&mut ebpf, "records");
    let rest = |version: u64, len: u64, service: u64| version << 32 | len << 24 | service;
    let mut put = |number: u32, high: u64, low: u64, rest: u64, slots: u64| {
        records.set(number, [high, low, rest, u64::MAX, 0, slots, 0, 0], 0).expect("set");
    };
    put(0, 0x0a09_0002, 0, rest(4, 32, 0), 0);
    put(1, 0x0a01_0000, 0, rest(4, 16, 6 << 16 | 22), 1);
    put(2, 0x0a01_0000, 0, rest(4, 16, 6 << 16), 1);
    put(3, 0xfd09 << 48, 2, rest(6, 128, 0), 2);
    // With seeds of zeros each hash is zero.
    let mut index = array::<[u32; 16]>(&mut ebpf, "index");
    let mut bucket = [0; 16];
    bucket[0] = 1 << 31;
    index.set(0, bucket, 0).expect("set");
    array::<u64>(&mut ebpf, "filter4").set(64, u64::MAX, 0).expect("set");
    // Orders of the index and of the filters, and a mask.
    let mut lookup = [0_u8; 16_640];
    (lookup[0], lookup[8], lookup[16], lookup[24]) = (6, 6, 6, 1);
    array::<[u8; 16_640]>(&mut ebpf, "lookup").set(0, lookup, 0).expect("set");

    let (mut hits, mut told) =
        (array::<[u64; 2]>(&mut ebpf, "hits"), array::<[u64; 4]>(&mut ebpf, "told"));
    told.set(0, [5, 500, 5, 500], 0).expect("set");
    told.set(3, [4, 400, 0, 0], 0).expect("set");
    hits.set(0, [5, 500], 0).expect("set");
    hits.set(3, [7, 700], 0).expect("set");
    let retired = ebpf.take_map("retired").expect("there");
    let mut retired = HashMap::<_, u32, [u8; 24]>::try_from(retired).expect("a hash");
    let mut gone = [0; 24];
    gone[10..14].copy_from_slice(&[0xff, 0xff, 10, 7]);
    (gone[19], gone[20]) = (16, 4);
    retired.insert(3, gone, 0).expect("room");
}

/// Takes over under a flood from a blocked source and from another, and says how much of each was sent.
fn takes_over(world: &World, layout: &str) -> (Filter, Vec<Telling>, u64) {
    assert!(!answers("10.9.0.2") && answers("10.9.0.3"));
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
    assert!(!world.bpffs().join(layout).exists());
    assert_eq!(filter.attachments().expect("listed").len(), 1);
    filter.attach("kt0", Mode::Auto).expect("still there");

    let said = |ping: std::process::Child| {
        let output = ping.wait_with_output().expect("ping ended");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (blocked, other) = (said(blocked), said(other));
    assert!(blocked.contains(" 0 received"), "{blocked}");
    assert!(other.contains(" 0% packet loss"), "{other}");
    let sent = blocked.split_whitespace().find_map(|word| word.parse::<u64>().ok()).expect("sent");
    // And the ping at the start.
    let met = sent + 1;
    let hits = filter.hits().expect("read");
    let hit = hits.iter().find(|hit| hit.key == key("10.9.0.2")).map(|hit| hit.packets);
    assert_eq!(hit, Some(met), "both programs count on one counter");
    let of = |told: &[Telling], rule| {
        told.iter().filter(|it| it.rule == rule).map(|it| it.packets).sum::<u64>()
    };
    let mut told = filter.tell().expect("told");
    let deadline = Instant::now() + Duration::from_secs(10);
    while of(&told, key("10.9.0.2")) < met {
        assert!(Instant::now() < deadline, "told in vain: {told:?}");
        told.extend(filter.summarize().expect("summed up"));
    }
    assert_eq!(of(&told, key("10.9.0.2")), met);
    (filter, told, met)
}

#[test]
fn the_first_layout_is_taken_over_under_a_flood() {
    let world = World::new();
    world.veth();
    leave_v1(&world);
    takes_over(&world, "v1");
}

#[test]
fn the_second_layout_is_taken_over_under_a_flood_with_exact_counts() {
    let world = World::new();
    world.veth();
    leave_v2(&world);
    let (mut filter, mut told, met) = takes_over(&world, "v2");
    let deadline = Instant::now() + Duration::from_secs(10);
    let gone = |told: &[Telling]| {
        let its = told.iter().filter(|it| it.rule == key("10.7.0.0/16"));
        its.map(|it| (it.action, it.packets)).collect::<Vec<_>>()
    };
    while gone(&told).is_empty() {
        assert!(Instant::now() < deadline, "what an old rule met is told to the end: {told:?}");
        told.extend(filter.summarize().expect("summed up"));
    }
    drop(filter);
    // Nothing is told twice, and the counter lives on.
    let mut filter = world.filter(100);
    for _ in 0..3 {
        told.extend(filter.summarize().expect("summed up"));
    }
    assert_eq!(gone(&told), [(Action::Drop, 3)]);
    assert_eq!(told.iter().map(|it| it.packets).sum::<u64>(), met + 3);
    let hits = filter.hits().expect("read");
    assert_eq!(hits.iter().map(|hit| hit.packets).collect::<Vec<_>>(), [met]);
    assert!(!answers("10.9.0.2"));
}
