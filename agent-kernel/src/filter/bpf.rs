//! What aya has no call for: reading a map in large steps, links by their descriptor, and what
//! /proc/self/fdinfo tells of a map or a link. It must not know what the maps mean.
#![expect(unsafe_code, reason = "bpf(2) takes pointers and lengths")]

use crate::Error;
use aya::Pod;
use nix::libc;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
/// Programs that a tcx hook has at most.
const MAX_ON_HOOK: usize = 64;
/// Elements read by one system call. A bucket of a hash must fit, and none comes near this.
const STEP: u32 = 4096;

/// Where a link puts a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// XDP in the driver.
    XdpDriver,
    /// XDP in the stack.
    XdpStack,
    /// tcx ingress, before all that is there.
    Tcx,
}

impl Place {
    /// `enum bpf_attach_type`, and the flags: XDP_FLAGS_* or BPF_F_BEFORE.
    fn attach_type(self) -> (u32, u32) {
        match self {
            Self::XdpDriver => (37, 1 << 2),
            Self::XdpStack => (37, 1 << 1),
            Self::Tcx => (46, 1 << 3),
        }
    }
}

/// `union bpf_attr`, its `batch` member.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr`, its member for BPF_OBJ_*.
#[repr(C)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr`, its `query` member as far as it is used.
#[repr(C)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
}

/// `union bpf_attr`, its `link_create` member as far as it is used.
#[repr(C)]
struct CreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr`, its `link_update` member.
#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr`, its `link_detach` member.
#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of a union member laid out as in
    // linux/bpf.h; pointers in it are to buffers that the caller keeps alive.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

/// Every element of a hash or array map, or the first ones up to about `most`. What changes meanwhile
/// may or may not be seen.
pub(crate) fn dump<K: Pod, V: Pod>(
    map: &impl AsFd,
    object: &str,
    most: usize,
) -> Result<Vec<(K, V)>, Error> {
    let mut elements = Vec::new();
    let mut keys = vec![MaybeUninit::<K>::uninit(); STEP as usize];
    let mut values = vec![MaybeUninit::<V>::uninit(); STEP as usize];
    // A hash writes four bytes here, an array its key of four.
    let mut place = 0_u32;
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { &raw const place as u64 },
            out_batch: &raw mut place as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: STEP,
            map_fd: number(map.as_fd()),
            ..BatchAttr::default()
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
        let last = match result {
            Ok(_) => false,
            // The end; the last elements come with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(Error::io(object, error)),
        };
        for (key, value) in keys.iter().zip(&values).take(attr.count as usize) {
            // SAFETY: the kernel wrote `count` keys and values, and any bytes are valid for Pod.
            elements.push(unsafe { (key.assume_init(), value.assume_init()) });
        }
        if last || elements.len() >= most {
            return Ok(elements);
        }
        first = false;
    }
}

/// Puts as many values at as many keys.
pub(super) fn write<K: Pod, V: Pod>(
    map: &impl AsFd,
    object: &str,
    keys: &[K],
    values: &[V],
) -> Result<(), Error> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    for (keys, values) in keys.chunks(STEP as usize).zip(values.chunks(STEP as usize)) {
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(keys.len()).expect("a step is small"),
            map_fd: number(map.as_fd()),
            ..BatchAttr::default()
        };
        bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map_err(|error| Error::io(object, error))?;
    }
    Ok(())
}

/// The record that these bytes are; `None` when they are not as long.
pub(super) fn record<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as long as the record, and any bytes are valid for Pod.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Opens what is pinned there.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    bpf(BPF_OBJ_GET, &mut attr).map(owned)
}

/// A descriptor that a call has just returned.
fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = libc::c_int::try_from(fd).expect("a descriptor is an int");
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Pins a link there.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr { pathname: path.as_ptr() as u64, bpf_fd: number(link), file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(|_| ())
}

/// Puts a program onto an interface of this network namespace, for as long as the link is held.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    place: Place,
) -> io::Result<OwnedFd> {
    let (attach_type, flags) = place.attach_type();
    let mut attr =
        CreateAttr { prog_fd: number(program), target_ifindex: ifindex, attach_type, flags };
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Ids of the programs at tcx ingress of an interface of this network namespace.
pub(super) fn programs_at_tcx(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_ON_HOOK];
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: Place::Tcx.attach_type().0,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(MAX_ON_HOOK).expect("few"),
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// Puts another program onto a link, atomically.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (number(link), number(program));
    let mut attr = UpdateAttr { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &mut attr).map(|_| ())
}

/// Takes a link off its hook at once, whoever still holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut DetachAttr { link_fd: number(link) }).map(|_| ())
}

/// One number that the kernel tells of a descriptor of this process (proc_pid_fdinfo(5)).
pub(crate) fn fdinfo(fd: BorrowedFd<'_>, field: &str) -> io::Result<Option<u64>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(parse_fdinfo(&text, field))
}

fn parse_fdinfo(text: &str, field: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_fdinfo_is_found_by_its_whole_name() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t9\nprog_id:\t40\nifindex:\t3\n";
        assert_eq!(parse_fdinfo(text, "ifindex"), Some(3));
        assert_eq!(parse_fdinfo(text, "index"), None);
        assert_eq!(parse_fdinfo(text, "link_type"), None);
    }
}
