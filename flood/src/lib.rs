//! Frames that the kernel itself sends, faster than any socket: a program that runs over live frames
//! (`BPF_PROG_TEST_RUN`, `BPF_F_TEST_XDP_LIVE_FRAMES`) and puts another source into each. For tests and
//! benchmarks; it must not know what filters them.
//!
//! A frame goes out by one end of a veth pair. The other end takes it when it has an XDP program or GRO, and
//! as long as it has room: it keeps 256 that it has not looked at.

mod burst;
mod passed;

pub use burst::{Flood, Sent};
pub use passed::{all_passed, count_passed, passed};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use std::{fmt, net::Ipv4Addr};

/// Built by `cargo xtask ebpf` from agent-ebpf/src/flood.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../flood.bpf.o");
/// Frames that go out together.
const BATCH: u32 = 64;
/// A signal ends the verifier's work, and a busy machine has many.
const LOAD_ATTEMPTS: u32 = 20;
/// State of the generator, sources made, number of the first, how many, and two that take turns.
type State = [u64; 5];

/// Which sources frames have.
#[derive(Debug, Clone, Copy)]
pub enum Sources {
    /// Drawn from those of the numbers from `first` on; agent-ebpf/src/sources.rs says which these are.
    Numbered {
        /// The first number.
        first: u64,
        /// How many, at most 2^32.
        count: u64,
    },
    /// One and the other.
    InTurn([Ipv4Addr; 2]),
}

/// What is made right in each frame, beside the source.
#[derive(Debug, Clone, Copy)]
pub enum Sums {
    /// The checksum of an IPv4 header.
    Header,
    /// That, and the one of a TCP segment over IPv4 without options and data.
    Tcp,
}

/// Sends one frame over and over.
pub struct Sender {
    ebpf: Ebpf,
    state: Array<MapData, State>,
    program: &'static str,
    frame: Vec<u8>,
    random: u64,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Sender {
    /// Loads the program for an Ethernet frame of 54 bytes at least.
    pub fn new(frame: Vec<u8>, sums: Sums) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        let program = match sums {
            Sums::Header => "send",
            Sums::Tcp => "send_tcp",
        };
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
        Ok(Self { ebpf, state, program, frame, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// Sends so many by an interface of this thread's network namespace; how many it were, which is fewer when
    /// a signal came. Those that the other end had no room for are among them.
    pub fn send(&mut self, ifindex: u32, sources: &Sources, frames: u32) -> Result<u64> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (first, count, turns) = match sources {
            Sources::Numbered { first, count } => (*first, *count, 0),
            Sources::InTurn(pair) => {
                let [first, second] = pair.map(|it| u64::from(u32::from_ne_bytes(it.octets())));
                (0, 0, first | second << 32)
            }
        };
        self.state.set(0, [self.random | 1, 0, first, count, turns], 0)?;
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

/// A UDP datagram to the discard port, in a frame of the shortest length. Its source is for the sender to write.
pub fn datagram(link: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
    let mut frame = link.to_vec();
    frame.extend([0x02, 0, 0, 0, 0, 1, 0x08, 0x00]);
    frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0]);
    frame.extend(to.octets());
    // Without a checksum.
    frame.extend([0xa0, 0x28, 0, 9, 0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).context("the object has it")?.try_into()?)
}
