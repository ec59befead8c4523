//! A kernel map as memory of this process, so that writing it takes no system calls. It must not know
//! what the words mean.
#![expect(unsafe_code, reason = "mmap(2) gives an address and a length")]

use super::bpf;
use super::pins::{Pin, Pins};
use super::table::object;
use crate::Error;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Every element of an array map that was made for it (BPF_F_MMAPABLE). The program and whoever else
/// has the map see each store at once.
#[derive(Debug)]
pub(super) struct Mapped {
    name: &'static str,
    start: NonNull<AtomicU64>,
    words: usize,
    elements: u32,
}

// SAFETY: the memory belongs to no thread, and atomics are all that is made of it.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps a pinned array with elements of that many bytes, a multiple of eight.
    pub(super) fn open(
        pins: &Pins,
        name: &'static str,
        element_bytes: usize,
    ) -> Result<Self, Error> {
        let failed = |error| Error::io(object(name), error);
        let fd: OwnedFd = bpf::open_pin(&pins.path(&Pin::Map(name.to_owned()))).map_err(failed)?;
        let info = |field| bpf::fdinfo(std::os::fd::AsFd::as_fd(&fd), field).map_err(failed);
        let elements = info("max_entries")?.and_then(|it| u32::try_from(it).ok()).unwrap_or(0);
        let bytes = elements as usize * element_bytes;
        if info("value_size")? != Some(element_bytes as u64) || bytes == 0 {
            return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, shared, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at null");
        Ok(Self { name, start, words: bytes / 8, elements })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn elements(&self) -> u32 {
        self.elements
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for as long as `self` lives, page-aligned, and only ever seen as atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// The same as halves of words.
    pub(super) fn halves(&self) -> &[AtomicU32] {
        // SAFETY: as above; nobody writes one place as a word and as halves.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.words * 2) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody can borrow from any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

/// Waits until every program that runs now has ended (membarrier(2), which waits for an RCU grace
/// period).
pub(super) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Not on hosts with tickless CPUs. A program runs for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
