//! What an agent of an earlier layout left pinned. Its program is kept beside this, as it was built.

use crate::attach::packets;
use crate::support::{BLOCKED, FREE, World, answers, end, key, pass, port, storm, within};
use agent_kernel::filter::{Drift, Filter, FilterConfig, Mode, Protocol, RuleKey, Telling};
use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};

static V2: &[u8] = aya::include_bytes_aligned!("v2.bpf.o");

/// The record of a rule that drops forever: addresses, the rest of the key, and the counter.
fn record(high: u64, low: u64, rest: u64, slot: u64) -> [u64; 8] {
    [high, low, rest, u64::MAX, 0, slot, 0, 0]
}

/// Every number of its secrets.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Buckets that lead to records: fingerprints, then numbers.
fn index(rules: &[[u64; 8]]) -> Vec<[u32; 16]> {
    let mut buckets = vec![[0; 16]; 64];
    for (number, [high, low, rest, ..]) in rules.iter().enumerate() {
        let sum = if rest >> 32 == 4 {
            (high | rest << 32).wrapping_mul(ODD)
        } else {
            high.wrapping_add(*low).wrapping_add(*rest).wrapping_mul(ODD)
        };
        let sum = sum.wrapping_add(ODD);
        let hash = (sum ^ sum >> 32).wrapping_mul(ODD);
        let bucket: &mut [u32; 16] = &mut buckets[usize::try_from(hash >> 58).expect("six bits")];
        let print = hash >> 4 & 0x7fff_ffff | 1 << 31;
        bucket[number] = u32::try_from(print).expect("32 bits");
        bucket[8 + number] = u32::try_from(number).expect("few");
    }
    buckets
}

/// Pins what an agent of the second layout would, with rules about 10.9.0.2, fd09::2, and TCP port 22 of
/// 10.1.0.0/16, and with 10.9.0.4 and UDP port 53 passing whatever there is.
pub(crate) fn leave_v2(world: &World) {
    let folder = world.bpffs().join("v2");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&folder);
    for (map, size) in [("records", 100), ("index", 128), ("filter4", 128), ("filter6", 128)] {
        loader.map_max_entries(map, size);
    }
    for map in ["hits", "paces", "told", "retired"] {
        loader.map_max_entries(map, 200);
    }
    let mut ebpf: Ebpf = loader.map_max_entries("sightings", 262_144).load(V2).expect("loaded");
    let xdp: &mut Xdp = ebpf.program_mut("kctl_filter").expect("it").try_into().expect("XDP");
    // A signal interrupts the verifier, and a busy machine has many.
    within("the verifier takes it", || xdp.load().is_ok());
    let link = xdp.attach("kt0", XdpMode::Driver).expect("attached");
    let link = FdLink::try_from(xdp.take_link(link).expect("just attached")).expect("a link");
    link.pin(folder.join("link-kt0")).expect("pinned");

    let records = ebpf.take_map("records").expect("there");
    let mut records = Array::<_, [u64; 8]>::try_from(records).expect("an array");
    let rules = [
        record(0x0a09_0002, 0, 4 << 32 | 32 << 24, 0),
        record(0x0a01_0000, 0, 4 << 32 | 16 << 24 | 6 << 16 | 22, 1),
        record(0x0a01_0000, 0, 4 << 32 | 16 << 24 | 6 << 16, 1),
        record(0xfd09 << 48, 2, 6 << 32 | 128 << 24, 2),
    ];
    for (number, rule) in (0..).zip(rules) {
        records.set(number, rule, 0).expect("set");
    }
    let index = index(&rules);
    let buckets = ebpf.map_mut("index").expect("there");
    let mut buckets = Array::<_, [u32; 16]>::try_from(buckets).expect("an array");
    for (number, bucket) in (0..).zip(index) {
        buckets.set(number, bucket, 0).expect("set");
    }
    for filter in ["filter4", "filter6"] {
        let mut words = Array::<_, u64>::try_from(ebpf.map_mut(filter).expect("there"));
        let words = words.as_mut().expect("an array");
        (0..128).for_each(|word| words.set(word, u64::MAX, 0).expect("set"));
    }
    // Orders, masks, and secrets.
    let mut lookup = [0; 2080];
    lookup[..3].fill(6);
    (lookup[3], lookup[4], lookup[5]) = (1, 1 << 16, 1);
    lookup[14..29].fill(ODD);
    let mut header = Array::<_, [u64; 2080]>::try_from(ebpf.map_mut("lookup").expect("there"));
    header.as_mut().expect("an array").set(0, lookup, 0).expect("set");
    let guard4 = ebpf.take_map("guard4").expect("there");
    let mut guard4 = LpmTrie::<_, [u8; 4], u8>::try_from(guard4).expect("a trie");
    guard4.insert(&lpm_trie::Key::new(32, [10, 9, 0, 4]), 1, 0).expect("room");
    let guard_ports = ebpf.take_map("guard_ports").expect("there");
    let mut guard_ports = HashMap::<_, [u8; 4], u8>::try_from(guard_ports).expect("a hash");
    guard_ports.insert([53, 0, 17, 0], 1, 0).expect("room");
    leave_counters(&mut ebpf);
}

/// The slot of 10.9.0.2 was another rule's before, and three packets that a rule met that is gone are not
/// told.
fn leave_counters(ebpf: &mut Ebpf) {
    let hits = ebpf.take_map("hits").expect("there");
    let mut hits = Array::<_, [u64; 2]>::try_from(hits).expect("an array");
    hits.set(0, [5, 500], 0).expect("set");
    hits.set(3, [7, 700], 0).expect("set");
    let told = ebpf.take_map("told").expect("there");
    let mut told = Array::<_, [u64; 4]>::try_from(told).expect("an array");
    told.set(0, [5, 500, 5, 500], 0).expect("set");
    told.set(3, [4, 400, 0, 0], 0).expect("set");
    let retired = ebpf.take_map("retired").expect("there");
    let mut retired = HashMap::<_, u32, [u8; 24]>::try_from(retired).expect("a hash");
    let mut gone = [0; 24];
    gone[10..14].copy_from_slice(&[0xff, 0xff, 10, 7]);
    (gone[19], gone[20]) = (16, 4);
    retired.insert(3, gone, 0).expect("room");
    let verdicts = ebpf.take_map("verdicts").expect("there");
    let mut verdicts = PerCpuArray::<_, [u64; 2]>::try_from(verdicts).expect("an array");
    let dropped = vec![DROPPED; nr_cpus().expect("known")];
    verdicts.set(1, dropped.try_into().expect("one each"), 0).expect("set");
}

/// What the program of before dropped on each CPU, packets and bytes, of rules that are long gone.
const DROPPED: [u64; 2] = [1_000, 64_000];

/// What was dropped, as the verdicts tell it and as the rules in force tell it.
fn dropped(filter: &Filter) -> (u64, u64) {
    let before = DROPPED[0] * nr_cpus().expect("known") as u64;
    (filter.verdicts().expect("read").dropped.packets, before + packets(filter))
}

#[test]
fn the_layout_before_is_taken_over_under_a_flood() {
    let world = World::new();
    world.veth();
    leave_v2(&world);
    assert!(!answers("10.9.0.2") && !answers("fd09::2") && answers("10.9.0.3"));
    let storm = storm([BLOCKED, FREE]);
    let config = FilterConfig { bpffs: world.bpffs(), max_entries: 16 };
    let mut filter = Filter::open(&config).expect("it takes over");
    let wanted = [
        key("10.9.0.2"),
        key("fd09::2"),
        port("10.1.0.0/16", Protocol::Tcp, 22),
        pass(key("10.9.0.4")).0,
        pass(port("0.0.0.0/0", Protocol::Udp, 53)).0,
        pass(port("::/0", Protocol::Udp, 53)).0,
    ];
    assert_eq!((filter.entries(), filter.guards()), (3, 3));
    assert!(wanted.iter().all(|key| filter.rules().contains_key(key)));
    assert_eq!(filter.max_entries(), 100, "the old size");
    assert_eq!(filter.verify().expect("verified"), Drift::default());
    assert!(!world.bpffs().join("v2").exists());
    assert_eq!(filter.attachments().expect("listed").len(), 1);
    filter.attach("kt0", Mode::Auto).expect("still there");

    let sent = end(storm);
    // With the pings at the start.
    let met = [key("10.9.0.2"), key("fd09::2")].map(|key| met(&filter, &key) - 1);
    let all = met.iter().sum();
    assert!(
        kctl_flood::all_met(&sent, all),
        "both programs count on one counter: {met:?} of {sent:?}"
    );
    let (verdicts, rules_tell) = dropped(&filter);
    assert_eq!(verdicts, rules_tell, "what the program of before counted is carried over");

    let mut told = filter.tell().expect("told");
    let rules =
        [(key("10.9.0.2"), met[0] + 1), (key("fd09::2"), met[1] + 1), (key("10.7.0.0/16"), 3)];
    within("all is told", || {
        told.extend(filter.summarize().expect("summed up"));
        rules.iter().all(|(rule, packets)| of(&told, rule) >= *packets)
    });
    drop(filter);
    // Nothing is told twice, and the counter lives on.
    let mut filter = world.filter(100);
    for _ in 0..3 {
        told.extend(filter.summarize().expect("summed up"));
    }
    assert!(rules.iter().all(|(rule, packets)| of(&told, rule) == *packets), "{told:#?}");
    assert_eq!(packets(&filter), all + 2);
    assert_eq!(dropped(&filter), (verdicts, rules_tell), "once");
    assert!(!answers("10.9.0.2"));
}

/// How many packets were told of a rule.
fn of(told: &[Telling], rule: &RuleKey) -> u64 {
    told.iter().filter(|it| it.rule == *rule).map(|it| it.packets).sum()
}

/// How many packets a rule met.
fn met(filter: &Filter, key: &RuleKey) -> u64 {
    let hits = filter.hits().expect("read");
    hits.iter().find(|hit| hit.key == *key).map_or(0, |hit| hit.packets)
}
