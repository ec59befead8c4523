//! Running a program over many sources, and the programs that the filter is measured beside.

use crate::lists::{Family, List, Sources};
use crate::median;
use agent_kernel::filter::{Filter, Hook};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use std::net::IpAddr;

/// Sources made between two looks at the clock; see agent-ebpf/src/bench.rs.
const WINDOW: u32 = 4096;
/// Windows in a run.
const WINDOWS: u32 = 65;

/// State of the generator, sources made so far, number of the first, and how many there are.
type State = [u64; 4];

/// What is run for each source.
pub(crate) enum Lookup<'a> {
    /// Nothing.
    Empty,
    /// Nothing, in a program for frames of one buffer.
    EmptyPlain,
    /// Reading the source, and a counter.
    Parse,
    /// The kernel's hash.
    Hash,
    /// The kernel's trie.
    Trie,
    /// Another program.
    Other(&'a Xdp),
    /// Another program for frames of one buffer.
    Plain(&'a Xdp),
}

/// The loaded programs.
pub(crate) struct Peers {
    ebpf: Ebpf,
    /// What follows the two programs that make sources.
    frags: ProgramArray<aya::maps::MapData>,
    plain: ProgramArray<aya::maps::MapData>,
    state: Array<aya::maps::MapData, State>,
    windows: Array<aya::maps::MapData, u64>,
    random: u64,
}

impl Peers {
    /// Loads them with a list.
    pub(crate) fn load(size: u32, list: &List) -> Self {
        let object = aya::include_bytes_aligned!("peers.bpf.o");
        let mut loader = EbpfLoader::new();
        for map in ["HASH4", "HASH6", "LPM4", "LPM6"] {
            loader.map_max_entries(map, size.max(1));
        }
        let mut ebpf = loader.load(object).expect("root: the programs");
        let own = ["source_frags", "empty", "parse", "hash", "lpm", "drop"];
        for name in own.into_iter().chain(["source_plain", "empty_plain"]) {
            xdp(&mut ebpf, name).load().expect(name);
        }
        let mut next = |map| ProgramArray::try_from(ebpf.take_map(map).expect("it is there"));
        let (frags, plain) = (next("FRAGS"), next("PLAIN"));
        let state = Array::try_from(ebpf.take_map("SOURCES").expect("it is there"));
        let windows = Array::try_from(ebpf.take_map("WINDOWS").expect("it is there"));
        fill(&mut ebpf, list);
        Self {
            frags: frags.expect("programs"),
            plain: plain.expect("programs"),
            state: state.expect("an array"),
            windows: windows.expect("an array"),
            ebpf,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Median nanoseconds of one run of a program, with one of these sources each.
    pub(crate) fn measure(&mut self, lookup: Lookup<'_>, sources: &Sources) -> f64 {
        self.measure_frame(lookup, sources, &frame(sources.family))
    }

    /// The same of a frame, whose source address is written over.
    pub(crate) fn measure_frame(
        &mut self,
        lookup: Lookup<'_>,
        sources: &Sources,
        frame: &[u8],
    ) -> f64 {
        let name = match lookup {
            Lookup::Empty => "empty",
            Lookup::EmptyPlain => "empty_plain",
            Lookup::Parse => "parse",
            Lookup::Hash => "hash",
            Lookup::Trie => "lpm",
            Lookup::Other(_) | Lookup::Plain(_) => "",
        };
        let fd: &ProgramFd = match lookup {
            Lookup::Other(program) | Lookup::Plain(program) => program.fd().expect("loaded"),
            _ => xdp(&mut self.ebpf, name).fd().expect("loaded"),
        };
        let plain = matches!(lookup, Lookup::EmptyPlain | Lookup::Plain(_));
        let next = if plain { &mut self.plain } else { &mut self.frags };
        next.set(0, fd, 0).expect("a program for such frames");
        self.run(plain, sources, frame, WINDOW * WINDOWS);
        let starts: Vec<u64> =
            (0..WINDOWS).map(|window| self.windows.get(&window, 0).expect("there")).collect();
        let mut figures: Vec<f64> =
            starts.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / f64::from(WINDOW)).collect();
        median(&mut figures)
    }
}

impl Peers {
    /// Lets a program see nearly all of these sources.
    pub(crate) fn run_all(&mut self, program: &Xdp, sources: &Sources) {
        let fd = program.fd().expect("loaded");
        self.frags.set(0, fd, 0).expect("a program that takes frames of any size");
        let repeat = u32::try_from(sources.count * 5).expect("a list");
        self.run(false, sources, &frame(sources.family), repeat);
    }

    /// The least that drops.
    pub(crate) fn drop_all(&mut self) -> &mut Xdp {
        xdp(&mut self.ebpf, "drop")
    }

    fn set(&mut self, sources: &Sources) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let state = [self.random | 1, 0, sources.first, sources.count];
        self.state.set(0, state, 0).expect("set");
    }

    fn run(&mut self, plain: bool, sources: &Sources, frame: &[u8], repeat: u32) {
        self.set(sources);
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let source = if plain { "source_plain" } else { "source_frags" };
        xdp(&mut self.ebpf, source).test_run(options).expect("the programs run");
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).expect("it is there").try_into().expect("an XDP program")
}

/// Puts a list into the hashes and tries.
fn fill(ebpf: &mut Ebpf, list: &List) {
    let mut hash4 = HashMap::<_, [u8; 4], u64>::try_from(ebpf.take_map("HASH4").expect("there"))
        .expect("a hash");
    let mut hash6 = HashMap::<_, [u8; 16], u64>::try_from(ebpf.take_map("HASH6").expect("there"))
        .expect("a hash");
    let mut trie4 = LpmTrie::<_, [u8; 4], u64>::try_from(ebpf.take_map("LPM4").expect("there"))
        .expect("a trie");
    let mut trie6 = LpmTrie::<_, [u8; 16], u64>::try_from(ebpf.take_map("LPM6").expect("there"))
        .expect("a trie");
    for prefix in &list.prefixes {
        match prefix.addr() {
            IpAddr::V4(address) => {
                hash4.insert(address.octets(), 0, 0).expect("room");
                trie4.insert(&Key::new(32, address.octets()), 0, 0).expect("room");
            }
            IpAddr::V6(address) => {
                hash6.insert(address.octets(), 0, 0).expect("room");
                trie6.insert(&Key::new(128, address.octets()), 0, 0).expect("room");
            }
        }
    }
}

/// A TCP segment.
pub(crate) fn frame(family: Family) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    match family {
        Family::V4 => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend([0, 0, 0, 0, 10, 9, 0, 1]);
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend([0; 16]);
            frame.extend([9; 16]);
        }
    }
    frame.extend([0x9c, 0x40, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The program of a filter.
pub(crate) fn program_of(filter: &mut Filter, pin: &std::path::Path) -> Xdp {
    program(filter.program_id(Hook::Xdp).expect("it is loaded"), pin)
}

/// A program of the kernel's.
pub(crate) fn program(id: u32, pin: &std::path::Path) -> Xdp {
    let _ = std::fs::remove_file(pin);
    crate::world::run(&format!("bpftool prog pin id {id} {}", pin.display()));
    let attach = aya_obj::programs::XdpAttachType::Interface;
    Xdp::from_pin(pin, attach).expect("the pinned program")
}
