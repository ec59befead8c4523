//! Memory that is shared with the kernel. It must not know what is in it.
#![expect(unsafe_code, reason = "mapped memory is reached by pointers")]

use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A part of a file in memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns the mapping, and hands out atomics and copies only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

/// Bytes of a page.
pub fn page_bytes() -> usize {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4_096)
}

impl Pages {
    /// Maps `length` bytes of it from `offset` on, a multiple of a page.
    pub(super) fn map(
        file: &impl AsFd,
        offset: usize,
        length: usize,
        writable: bool,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let fd = file.as_fd().as_raw_fd();
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping, wherever the kernel puts it.
        let start = unsafe { libc::mmap(none, length, protection, libc::MAP_SHARED, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at 0 by itself");
        Ok(Self { start, length })
    }

    /// The word there. Where the mapping is not writable, it must only be loaded.
    pub(super) fn u64_at(&self, offset: usize) -> &AtomicU64 {
        let word = self.at(offset, 8).cast::<AtomicU64>();
        assert!(word.is_aligned());
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned.
        unsafe { word.as_ref() }
    }

    /// Likewise, of four bytes.
    pub(super) fn u32_at(&self, offset: usize) -> &AtomicU32 {
        let word = self.at(offset, 4).cast::<AtomicU32>();
        assert!(word.is_aligned());
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned.
        unsafe { word.as_ref() }
    }

    /// A copy of bytes.
    ///
    /// # Safety
    ///
    /// Nobody writes them meanwhile.
    pub(super) unsafe fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        let from = self.at(offset, length);
        // SAFETY: inside the mapping, and the caller's promise.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), length) }.to_vec()
    }

    fn at(&self, offset: usize, length: usize) -> NonNull<u8> {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.length));
        // SAFETY: inside the mapping.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
