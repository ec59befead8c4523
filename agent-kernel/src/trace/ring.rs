//! Reading a ring of events. It must not know what is in a record.
//!
//! The reader takes what is there in one copy and naps while there is traffic; the programs wake it
//! only from sleep, or when much waits (agent-ebpf, `ring.rs`).

use super::pages::{Pages, page_bytes};
use crate::error::{Error, ErrorKind, named};
use agent_records::ring::{ASLEEP, AWAKE, NAPPING, RingState};
use aya::maps::{Map, MapData, MapType};
use aya::{Ebpf, EbpfLoader};
use std::collections::VecDeque;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a reader naps while there is traffic: each look costs some microseconds, whatever it finds, and
/// nobody sees the delay.
const NAP: Duration = Duration::from_millis(4);
/// As much is taken at once, and one record more at most.
const DRAIN_BYTES: u64 = 256 * 1_024;
/// Of a record's length, linux/bpf.h: it is still being written.
const BUSY: u32 = 1 << 31;
/// It was given up.
const DISCARDED: u32 = 1 << 30;
/// `struct bpf_ringbuf_hdr` of the kernel, bytes.
const HEADER_BYTES: usize = 8;
const OBJECT: &str = "ring of events";

/// Size of a ring, and from how much on a napping reader is woken.
#[derive(Debug, Clone, Copy)]
pub struct RingBytes {
    ring: u32,
    wake: u64,
}

impl RingBytes {
    /// A power of two from 16 KiB to 1 GiB, bytes.
    pub fn new(ring: u32) -> Result<Self, Error> {
        if !ring.is_power_of_two() || !(1 << 14..=1 << 30).contains(&ring) {
            let why = format!("{ring} bytes are no power of two from 16 KiB to 1 GiB");
            return Err(Error::new(ErrorKind::Invalid, OBJECT, why));
        }
        Ok(Self { ring, wake: u64::from(ring / 4) })
    }

    /// Tells it to a program that has not been loaded yet.
    pub fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.map_max_entries("ring", self.ring);
        loader.override_global("WAKE_BYTES", &self.wake, true);
    }
}

/// Where a ring is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingPins {
    ring: PathBuf,
    state: PathBuf,
}

impl RingPins {
    /// Below the filter's folder on a bpffs; `None` where there is no such folder.
    pub(super) fn new(bpffs: Option<&Path>, name: &str) -> Option<Self> {
        let folder = crate::filter::pin_folder(bpffs?).ok()?;
        let path = |what| folder.join(format!("{name}_{what}"));
        Some(Self { ring: path("ring"), state: path("ring_state") })
    }

    fn open(&self) -> Result<KernelRing, Error> {
        let open =
            |path: &Path| MapData::from_pin(path).map_err(|error| Error::wrapped(OBJECT, error));
        let (ring, state) = (open(&self.ring)?, open(&self.state)?);
        let is_ours = |data: &MapData, kind| {
            data.info().and_then(|info| info.map_type()).is_ok_and(|it| it == kind)
        };
        if !is_ours(&ring, MapType::RingBuf) || !is_ours(&state, MapType::Array) {
            return Err(Error::new(ErrorKind::Invalid, OBJECT, "something else is pinned there"));
        }
        KernelRing::map(&ring, &state).map_err(|error| Error::io(OBJECT, error))
    }

    fn pin(&self, ring: &MapData, state: &MapData) -> Result<(), Error> {
        for (path, data) in [(&self.ring, ring), (&self.state, state)] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(named("pin", path.display()), error));
                }
                _ => {}
            }
            data.pin(path).map_err(|error| Error::wrapped(named("pin", path.display()), error))?;
        }
        Ok(())
    }
}

/// The reader's end of a ring.
#[derive(Debug)]
pub struct KernelRing {
    fd: AsyncFd<OwnedFd>,
    /// The page that holds how far we have read.
    consumer: Pages,
    /// The page that holds how far the kernel has written, then the records, twice in a row: so those
    /// around the end lie in one piece too.
    producer: Pages,
    state: Pages,
    /// Where the records begin.
    data: usize,
    mask: u64,
    /// The last look found something.
    traffic: bool,
    /// The last drain left something because it was much.
    more: bool,
    /// Records that the reader before left, and how many it had not told to be lost.
    left: VecDeque<Records>,
    left_lost: u64,
}

impl KernelRing {
    /// Takes the maps `ring` and `ring_state` of a loaded object. Within a tokio runtime that has a
    /// timer.
    ///
    /// With `pins`, the ring outlives its reader: what waits in the one of a reader that died comes
    /// first. One reader at a time may have the same pins.
    pub fn take(ebpf: &mut Ebpf, pins: Option<&RingPins>) -> Result<Self, Error> {
        let Some(Map::RingBuf(ring)) = ebpf.take_map("ring") else { return Err(without("ring")) };
        let Some(Map::Array(state)) = ebpf.take_map("ring_state") else {
            return Err(without("ring_state"));
        };
        let mut this = Self::map(&ring, &state).map_err(|error| Error::io(OBJECT, error))?;
        if let Some(pins) = pins {
            // What can't be read has nothing for us.
            if let Ok(mut old) = pins.open() {
                this.left =
                    std::iter::from_fn(|| Some(old.drain()).filter(|it| !it.is_empty())).collect();
                this.left_lost = old.lost();
            }
            pins.pin(&ring, &state)?;
        }
        Ok(this)
    }

    #[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
    fn map(ring: &MapData, state: &MapData) -> io::Result<Self> {
        let info = ring.info().map_err(io::Error::other)?;
        let bytes = info.max_entries() as usize;
        let fd = ring.fd().as_fd().try_clone_to_owned()?;
        let page = page_bytes();
        Ok(Self {
            consumer: Pages::map(&fd, 0, page, true)?,
            producer: Pages::map(&fd, page, page + 2 * bytes, false)?,
            state: Pages::map(state.fd(), 0, size_of::<RingState>(), true)?,
            data: page,
            mask: bytes as u64 - 1,
            // SAFETY: it owns the descriptor, keeps it open, and always names the same one.
            fd: unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? },
            traffic: false,
            more: false,
            left: VecDeque::new(),
            left_lost: 0,
        })
    }

    /// Waits until there is something to drain: at once after silence, else up to 4 ms so that more
    /// comes together. May be given up at any time.
    pub async fn readable(&mut self) -> Result<(), Error> {
        while !self.more && self.left.is_empty() {
            let sleeps = !self.traffic;
            self.says(if sleeps { ASLEEP } else { NAPPING });
            // What came before we said so, nobody tells us of.
            if !(sleeps && self.has_records()) {
                if sleeps {
                    self.woken().await?;
                } else if let Ok(woken) = tokio::time::timeout(NAP, self.woken()).await {
                    woken?;
                }
            }
            self.says(AWAKE);
            self.traffic = self.has_records();
            if self.traffic {
                break;
            }
        }
        Ok(())
    }

    /// The next records, at most 256 KiB and one record of them; none when there are none.
    #[expect(unsafe_code, reason = "what is copied is shared with the kernel")]
    pub fn drain(&mut self) -> Records {
        if let Some(left) = self.left.pop_front() {
            return left;
        }
        let start = self.consumer.u64_at(0).load(Ordering::Relaxed);
        let producer = self.producer.u64_at(0).load(Ordering::Acquire);
        let (mut end, mut count) = (start, 0);
        while end < producer && end - start < DRAIN_BYTES {
            let at = self.data + place(end & self.mask);
            let header = self.producer.u32_at(at).load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            count += usize::from(header & DISCARDED == 0);
            end += step(header) as u64;
        }
        let at = self.data + place(start & self.mask);
        // SAFETY: until we say that we have read them, the kernel leaves finished records alone.
        let bytes = unsafe { self.producer.copy(at, place(end - start)) };
        self.consumer.u64_at(0).store(end, Ordering::Release);
        self.more = end < producer && end - start >= DRAIN_BYTES;
        Records { bytes, count }
    }

    /// How many records found no room since the last call.
    pub fn lost(&mut self) -> u64 {
        let lost = self.state.u64_at(offset_of!(RingState, lost)).load(Ordering::Relaxed);
        let told = self.state.u64_at(offset_of!(RingState, told)).swap(lost, Ordering::Relaxed);
        lost - told + std::mem::take(&mut self.left_lost)
    }

    fn has_records(&self) -> bool {
        let consumer = self.consumer.u64_at(0).load(Ordering::Relaxed);
        consumer != self.producer.u64_at(0).load(Ordering::Acquire)
    }

    fn says(&self, what: u32) {
        self.state.u32_at(offset_of!(RingState, reader)).store(what, Ordering::Relaxed);
        // The programs write a record and then look at this; we write this and then look for records.
        fence(Ordering::SeqCst);
    }

    async fn woken(&self) -> Result<(), Error> {
        let mut ready = self.fd.readable().await.map_err(|error| Error::io(OBJECT, error))?;
        ready.clear_ready();
        Ok(())
    }
}

/// Records as the programs wrote them.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// With the kernel's header before each, at multiples of 8.
    bytes: Vec<u8>,
    count: usize,
}

impl Records {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much memory they take, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Each record, in the order of the ring.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            loop {
                let (header, body) = rest.split_first_chunk::<4>()?;
                let header = u32::from_ne_bytes(*header);
                let record = body.get(HEADER_BYTES - 4..)?.get(..length(header))?;
                rest = rest.get(step(header)..).unwrap_or_default();
                if header & DISCARDED == 0 {
                    return Some(record);
                }
            }
        })
    }
}

fn length(header: u32) -> usize {
    (header & !(BUSY | DISCARDED)) as usize
}

/// From a record to the next, bytes.
fn step(header: u32) -> usize {
    (length(header) + HEADER_BYTES).next_multiple_of(8)
}

fn place(position: u64) -> usize {
    usize::try_from(position).expect("positions are masked by the ring's size")
}

fn without(map: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("map {map}"), "the object has none, or it was taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(flags: u32, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).expect("short") | flags;
        let mut bytes = [length.to_ne_bytes(), [9; 4]].concat();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(8), 0xee);
        bytes
    }

    #[test]
    fn records_come_out_as_they_were_put_in_without_those_given_up() {
        let parts =
            [record(0, b"one"), record(DISCARDED, &[0; 8]), record(0, b""), record(0, &[7; 8])];
        let records = Records { bytes: parts.concat(), count: 3 };
        let seen: Vec<_> = records.iter().collect();
        assert_eq!(seen, [&b"one"[..], b"", &[7; 8]]);
        assert_eq!(records.len(), seen.len());
    }

    #[test]
    fn sizes_that_the_kernel_would_refuse_are_refused() {
        for bytes in [0, 4_096, 20_000, 1 << 31] {
            let error = RingBytes::new(bytes).expect_err("refused").to_string();
            assert!(error.starts_with("ring of events: "), "{error}");
        }
        assert!(RingBytes::new(1 << 14).is_ok());
    }
}
