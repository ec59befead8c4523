//! Frames that the kernel itself sends, faster than any socket: a program that runs over live frames
//! (`BPF_PROG_TEST_RUN`, `BPF_F_TEST_XDP_LIVE_FRAMES`) and makes another one of each. For tests and
//! benchmarks; it must not know what filters them.
//!
//! A frame goes out by one end of a veth pair. The other end takes it when it has an XDP program or GRO, and
//! as long as it has room: it keeps 256 that it has not looked at.

mod burst;
mod passed;

pub use burst::{Flood, Sent};
pub use passed::{all_met, all_passed, count_passed, only_second, passed};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Built by `cargo xtask ebpf` from agent-ebpf/src/flood.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../flood.bpf.o");
/// Frames that go out together.
const BATCH: u32 = 64;
/// A signal ends the verifier's work, and a busy machine has many.
const LOAD_ATTEMPTS: u32 = 20;
/// State of the generator, frames made, number of the first source, and how many.
type State = [u64; 4];
/// Bytes of a frame that takes turns with others, and how many do at most.
const FRAME: usize = 80;
const TURNS: usize = 4;

/// The port of datagrams (RFC 863).
const DISCARD: u8 = 9;

/// An address of each family.
pub type Addresses = (Ipv4Addr, Ipv6Addr);

/// Which sources frames have.
#[derive(Debug, Clone, Copy)]
pub enum Sources {
    /// Their own.
    Own,
    /// Drawn from those of the numbers from `first` on; agent-ebpf/src/sources.rs says which these are.
    Numbered {
        /// The first number.
        first: u64,
        /// How many, at most 2^32.
        count: u64,
        /// What is made right in each frame, too.
        sums: Sums,
    },
}

/// Checksums of a frame.
#[derive(Debug, Clone, Copy)]
pub enum Sums {
    /// The one of an IPv4 header.
    Header,
    /// That, and the one of a TCP segment without options and data.
    Tcp,
}

/// Sends the same frames over and over.
pub struct Sender {
    ebpf: Ebpf,
    state: Array<MapData, State>,
    program: &'static str,
    sources: Sources,
    frame: Vec<u8>,
    turns: usize,
    random: u64,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Sender {
    /// Loads the program for one Ethernet frame of 54 bytes at least, or for two or four of 80 at most, which
    /// take turns.
    pub fn new(frames: &[Vec<u8>], sources: Sources) -> Result<Self> {
        let program = match sources {
            Sources::Own => "send_own",
            Sources::Numbered { sums: Sums::Header, .. } => "send",
            Sources::Numbered { sums: Sums::Tcp, .. } => "send_tcp",
        };
        let mut ebpf = Ebpf::load(OBJECT)?;
        let mut attempts = 1;
        while let Err(error) = xdp(&mut ebpf, program)?.load() {
            let again = matches!(&error, ProgramError::LoadError { io_error, .. }
                if io_error.raw_os_error() == Some(nix::libc::EAGAIN));
            if attempts == LOAD_ATTEMPTS || !again {
                return Err(error.into());
            }
            attempts += 1;
        }
        let state = Array::try_from(ebpf.take_map("SOURCES").context("the object has it")?)?;
        let mut frame = frames.first().context("no frame")?.clone();
        let turns = frames.len();
        if turns > 1 {
            ensure!(turns.is_power_of_two() && turns <= TURNS, "{turns} frames");
            frame.resize(FRAME, 0);
            let map = ebpf.map_mut("FRAMES").context("the object has it")?;
            let mut map = Array::<_, [u8; FRAME]>::try_from(map)?;
            for (turn, frame) in (0..).zip(frames) {
                let mut bytes = [0; FRAME];
                let place = bytes.get_mut(..frame.len()).context("a long frame")?;
                place.copy_from_slice(frame);
                map.set(turn, bytes, 0)?;
            }
            let map = ebpf.map_mut("TURNS").context("the object has it")?;
            Array::<_, u64>::try_from(map)?.set(0, turns as u64, 0)?;
        }
        Ok(Self { ebpf, state, program, sources, frame, turns, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// How many frames take turns.
    pub(crate) fn turns(&self) -> usize {
        self.turns
    }

    /// Sends so many by an interface of this thread's network namespace; how many it were, which is fewer when
    /// a signal came. Those that the other end had no room for are among them.
    pub fn send(&mut self, ifindex: u32, frames: u32) -> Result<u64> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (first, count) = match self.sources {
            Sources::Own => (0, 0),
            Sources::Numbered { first, count, .. } => (first, count),
        };
        self.state.set(0, [self.random | 1, 0, first, count], 0)?;
        // `struct xdp_md`: where the frame ends, and the interface that it came in by.
        let mut context = [0_u8; 24];
        context[4..8].copy_from_slice(&u32::try_from(self.frame.len())?.to_ne_bytes());
        context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        if let Err(error) = xdp(&mut self.ebpf, self.program)?.test_run(options) {
            let ended = matches!(&error, ProgramError::SyscallError(error)
                if error.io_error.kind() == std::io::ErrorKind::Interrupted);
            if !ended {
                return Err(error.into());
            }
        }
        Ok(self.state.get(&0, 0)?[1])
    }
}

/// UDP datagrams to the discard port, in frames: of two sources over IPv4, then of them over IPv6.
pub fn datagrams(link: [u8; 6], to: Addresses, sources: [Addresses; 2]) -> [Vec<u8>; TURNS] {
    let head = |ethertype: [u8; 2]| [&link[..], &[0x02, 0, 0, 0, 0, 1], &ethertype].concat();
    // Without a checksum.
    let udp = [0xa0, 0x28, 0, DISCARD, 0, 8, 0, 0];
    let over4 = |source: Ipv4Addr| {
        let mut header = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        header.extend([source.octets(), to.0.octets()].concat());
        let sum: u32 = header.chunks(2).map(|it| u32::from(it[0]) << 8 | u32::from(it[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16));
        header[10..12].copy_from_slice(&sum.to_be_bytes()[2..]);
        [&head([0x08, 0x00])[..], &header, &udp].concat()
    };
    let over6 = |source: Ipv6Addr| {
        let mut header = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        header.extend([source.octets(), to.1.octets()].concat());
        [&head([0x86, 0xdd])[..], &header, &udp].concat()
    };
    let [first, second] = sources;
    [over4(first.0), over4(second.0), over6(first.1), over6(second.1)]
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).context("the object has it")?.try_into()?)
}
