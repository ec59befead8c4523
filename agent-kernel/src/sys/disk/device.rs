//! One block device as its folders in sysfs tell it.

use super::{Counters, SECTOR_BYTES};
use crate::proc::Mount;
use crate::sys::file::{attribute, flag, names, number, word};
use std::path::Path;

/// One block device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// As below /dev: `vda1`, `dm-0`.
    pub name: String,
    /// Number of its driver.
    pub major: u32,
    /// Its number at its driver.
    pub minor: u32,
    /// `disk`, `part`, `loop`, `dm`, `md` or `rom`.
    pub kind: &'static str,
    /// Whether the kernel hides it: it is one of the ways to another device.
    pub hidden: bool,
    /// The disk that it is a partition of.
    pub parent: Option<String>,
    /// Its room.
    pub size_bytes: u64,
    /// The smallest block that it takes.
    pub logical_block_bytes: Option<u32>,
    /// The smallest block that it writes at one go.
    pub physical_block_bytes: Option<u32>,
    /// As it calls itself; any bytes.
    pub model: Option<Vec<u8>>,
    /// Who made it; any bytes.
    pub vendor: Option<Vec<u8>>,
    /// Its serial number; any bytes.
    pub serial: Option<Vec<u8>>,
    /// Whether it turns, as far as its driver knows.
    pub rotational: Option<bool>,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether it refuses to be written.
    pub read_only: bool,
    /// The I/O scheduler in use; `none` is one too.
    pub scheduler: Option<String>,
    /// Those that could be used.
    pub schedulers: Vec<String>,
    /// Devices that are made of this one.
    pub holders: Vec<String>,
    /// Devices that this one is made of.
    pub slaves: Vec<String>,
    /// The file behind a loop device; any bytes.
    pub backing_file: Option<Vec<u8>>,
    /// The name that a device mapper device has below /dev/mapper; any bytes.
    pub dm_name: Option<Vec<u8>>,
    /// What it did since it is there.
    pub counters: Counters,
}

impl Disk {
    /// Whether a mount shows this device's file system.
    pub fn backs(&self, mount: &Mount) -> bool {
        if (self.major, self.minor) == (mount.major, mount.minor) {
            return true;
        }
        // btrfs and the like give each file system a number of its own.
        if mount.major != 0 {
            return false;
        }
        match mount.source.strip_prefix(b"/dev/") {
            Some(source) => match source.strip_prefix(b"mapper/") {
                Some(mapped) => self.dm_name.as_deref() == Some(mapped),
                None => source == self.name.as_bytes(),
            },
            None => false,
        }
    }
}

/// The kernel writes the slash of `cciss/c0d0` as an exclamation mark.
pub(super) fn shown(name: &str) -> String {
    name.replace('!', "/")
}

/// `254:0`
pub(super) fn numbers(folder: &Path) -> Option<(u32, u32)> {
    let numbers = word(folder, "dev")?;
    let (major, minor) = numbers.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `None` for what is gone.
pub(super) fn read(class: &Path, name: &str) -> Option<Disk> {
    // In its real place a partition lies in its disk.
    let folder = std::fs::canonicalize(class.join(name)).ok()?;
    let (major, minor) = numbers(&folder)?;
    let is_part = folder.join("partition").exists();
    let whole = if is_part { folder.parent()?.to_owned() } else { folder.clone() };
    let parent = is_part.then(|| whole.file_name()?.to_str().map(shown)).flatten();
    let (queue, device) = (whole.join("queue"), whole.join("device"));
    let (scheduler, schedulers) = schedulers(&word(&queue, "scheduler").unwrap_or_default());
    let size: u64 = number(&folder, "size")?;
    let listed = |name: &str| names(&folder.join(name)).iter().map(|name| shown(name)).collect();
    Some(Disk {
        name: shown(name),
        major,
        minor,
        kind: if is_part { "part" } else { kind(&folder, &device) },
        hidden: flag(&folder, "hidden").unwrap_or(false),
        parent,
        size_bytes: size.saturating_mul(SECTOR_BYTES),
        logical_block_bytes: number(&queue, "logical_block_size"),
        physical_block_bytes: number(&queue, "physical_block_size"),
        model: attribute(&device, "model"),
        vendor: attribute(&device, "vendor"),
        serial: serial(&whole, &device),
        rotational: flag(&queue, "rotational"),
        removable: flag(&whole, "removable").unwrap_or(false),
        read_only: flag(&folder, "ro").unwrap_or(false),
        scheduler,
        schedulers,
        holders: listed("holders"),
        slaves: listed("slaves"),
        backing_file: attribute(&folder.join("loop"), "backing_file"),
        dm_name: attribute(&folder.join("dm"), "name"),
        counters: Counters::parse(&word(&folder, "stat")?)?,
    })
}

fn kind(folder: &Path, device: &Path) -> &'static str {
    // Number 5 of SCSI's device types.
    const ROM: u8 = 5;
    match folder {
        _ if folder.join("dm").exists() => "dm",
        _ if folder.join("md").exists() => "md",
        _ if number(device, "type") == Some(ROM) => "rom",
        _ => match folder.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.starts_with("loop") => "loop",
            _ => "disk",
        },
    }
}

/// Where NVMe and MMC, virtio, and SCSI have it.
fn serial(whole: &Path, device: &Path) -> Option<Vec<u8>> {
    let page = || {
        // Page 80h of SCSI's vital product data, after a header of 4 bytes.
        let bytes = std::fs::read(device.join("vpd_pg80")).ok()?;
        Some(bytes.get(4..)?.trim_ascii().to_vec()).filter(|serial| !serial.is_empty())
    };
    attribute(device, "serial").or_else(|| attribute(whole, "serial")).or_else(page)
}

/// `none [mq-deadline] kyber`: the one in use, and all.
fn schedulers(text: &str) -> (Option<String>, Vec<String>) {
    let bare = |word: &str| word.trim_matches(['[', ']']).to_owned();
    let words: Vec<_> = text.split_whitespace().collect();
    let used = words.iter().find(|word| word.starts_with('['));
    let only = words.first().filter(|_| words.len() == 1);
    (used.or(only).map(|word| bare(word)), words.into_iter().map(bare).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_number_or_by_the_name_of_its_source() {
        let disk = |name: &str, dm: Option<&[u8]>| Disk {
            name: name.to_owned(),
            major: 8,
            minor: 2,
            dm_name: dm.map(<[u8]>::to_vec),
            ..Disk::default()
        };
        let mount = |major, minor, source: &[u8]| Mount {
            major,
            minor,
            source: source.to_vec(),
            ..Mount::default()
        };
        let sda2 = disk("sda2", None);
        assert!(sda2.backs(&mount(8, 2, b"/dev/root")));
        assert!(!sda2.backs(&mount(8, 3, b"/dev/sda2")));
        assert!(sda2.backs(&mount(0, 40, b"/dev/sda2")));
        assert!(!sda2.backs(&mount(0, 40, b"tmpfs")));
        assert!(disk("dm-0", Some(b"vg-root")).backs(&mount(0, 40, b"/dev/mapper/vg-root")));
        assert!(!sda2.backs(&mount(0, 40, b"/dev/mapper/sda2")));
    }

    #[test]
    fn one_scheduler_alone_is_the_one_in_use() {
        assert_eq!(schedulers("none"), (Some("none".to_owned()), vec!["none".to_owned()]));
        assert_eq!(schedulers("[none] bfq").0.as_deref(), Some("none"));
        assert_eq!(schedulers(""), (None, Vec::new()));
    }
}
