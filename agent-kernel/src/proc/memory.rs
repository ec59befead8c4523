//! Memory and swap, as in proc_meminfo(5).

use super::file::text;
use crate::error::{Error, ErrorKind, named};
use std::path::Path;

/// Physical memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// All that the kernel manages.
    pub total_bytes: u64,
    /// What programs can have without swapping; estimated as free, buffers and cache on kernels before
    /// 3.14.
    pub available_bytes: u64,
    /// Nobody uses it.
    pub free_bytes: u64,
    /// Block devices' cache.
    pub buffers_bytes: u64,
    /// Files' cache, with shared memory.
    pub cached_bytes: u64,
    /// tmpfs and shared memory.
    pub shared_bytes: u64,
    /// The kernel's own objects.
    pub slab_bytes: u64,
}

/// Swap, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swap {
    /// All of it; 0 for none.
    pub total_bytes: u64,
    /// Nobody uses it.
    pub free_bytes: u64,
}

/// How much there is now.
pub fn memory(root: &Path) -> Result<(Memory, Swap), Error> {
    parse(&text(root, "meminfo")?)
}

fn parse(meminfo: &str) -> Result<(Memory, Swap), Error> {
    let (mut memory, mut swap) = (Memory::default(), Swap::default());
    let (mut total, mut available) = (None, None);
    for line in meminfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let place = match key {
            "MemTotal" => total.insert(0),
            "MemAvailable" => available.insert(0),
            "MemFree" => &mut memory.free_bytes,
            "Buffers" => &mut memory.buffers_bytes,
            "Cached" => &mut memory.cached_bytes,
            "Shmem" => &mut memory.shared_bytes,
            "Slab" => &mut memory.slab_bytes,
            "SwapTotal" => &mut swap.total_bytes,
            "SwapFree" => &mut swap.free_bytes,
            _ => continue,
        };
        let kib: Option<u64> = value.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok());
        *place = kib.ok_or_else(unreadable)?.saturating_mul(1_024);
    }
    memory.total_bytes = total.ok_or_else(unreadable)?;
    let estimated = memory.free_bytes + memory.buffers_bytes + memory.cached_bytes;
    memory.available_bytes = available.unwrap_or(estimated);
    Ok((memory, swap))
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Unsupported, named("file", "meminfo"), "it has another form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_become_bytes_and_old_kernels_are_estimated() {
        let text = "MemTotal:        1000 kB\nMemFree:   100 kB\nMemAvailable: 500 kB\n\
                    Buffers: 20 kB\nCached: 300 kB\nSwapTotal: 64 kB\nSwapFree: 60 kB\n\
                    Shmem: 3 kB\nSlab: 4 kB\nHugePages_Total: 7\n";
        let (memory, swap) = parse(text).expect("memory");
        let expected = Memory {
            total_bytes: 1_024_000,
            available_bytes: 512_000,
            free_bytes: 102_400,
            buffers_bytes: 20_480,
            cached_bytes: 307_200,
            shared_bytes: 3_072,
            slab_bytes: 4_096,
        };
        assert_eq!(memory, expected);
        assert_eq!(swap, Swap { total_bytes: 65_536, free_bytes: 61_440 });

        let old = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\n";
        let (memory, swap) = parse(old).expect("memory");
        assert_eq!((memory.available_bytes, swap), (420 * 1_024, Swap::default()));
        assert!(parse("").is_err() && parse("MemTotal: many kB\n").is_err());
    }
}
