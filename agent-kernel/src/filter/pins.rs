//! The folder on a bpffs where maps and links are pinned. It must not know what they mean.

use super::program::Hook;
use crate::error::{Error, ErrorKind, named};
use agent_records::LAYOUT;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::io;
use std::path::{Path, PathBuf};

const BPFFS: &str = "/sys/fs/bpf";
/// What the names of links begin with.
const LINKS: [(Hook, &str); 3] =
    [(Hook::Xdp, "link-"), (Hook::Tcx, "tcx-"), (Hook::TcxIp, "tcxip-")];
/// And those of links of counting programs.
const COUNTING: &str = "count-";

/// One layout's folder.
#[derive(Debug, Clone)]
pub(crate) struct Pins(PathBuf);

/// What is pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pin {
    /// The link of an interface's hook.
    Link(Hook, String),
    /// The link of a counting program: its name, and which version of it.
    Counting(String, String),
    /// A map.
    Map(String),
}

impl Pins {
    /// Makes the folder, and mounts a bpffs where one belongs and none is.
    pub(crate) fn open(bpffs: &Path) -> Result<Self, Error> {
        if !on_bpffs(bpffs)? {
            mount_below(bpffs)?;
        }
        let folder = bpffs.join(LAYOUT);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Error::io(named("folder", folder.display()), error))?;
        Ok(Self(folder))
    }

    /// The folders of every layout below `bpffs`, this one's or an older agent's.
    pub(crate) fn existing(bpffs: &Path) -> Result<Vec<Self>, Error> {
        let mut found = Vec::new();
        for name in names(bpffs)? {
            let layout = name.strip_prefix('v').is_some_and(|rest| rest.parse::<u32>().is_ok());
            if layout && on_bpffs(bpffs)? {
                found.push(Self(bpffs.join(name)));
            }
        }
        Ok(found)
    }

    /// The folder of the layout before this one, if it is there.
    pub(super) fn before(&self) -> Option<Self> {
        let number = LAYOUT.trim_start_matches('v').parse::<u32>().expect("a layout has a number");
        let folder = self.0.with_file_name(format!("v{}", number - 1));
        folder.is_dir().then_some(Self(folder))
    }

    /// Moves a pin to another folder.
    pub(super) fn hand_over(&self, pin: &Pin, to: &Self) -> Result<(), Error> {
        let path = self.path(pin);
        std::fs::rename(&path, to.path(pin))
            .map_err(|error| Error::io(named("pin", path.display()), error))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    pub(crate) fn path(&self, pin: &Pin) -> PathBuf {
        match pin {
            Pin::Link(hook, interface) => {
                let (_, prefix) = LINKS.iter().find(|(it, _)| it == hook).expect("all are there");
                self.0.join(format!("{prefix}{}", escape(interface)))
            }
            Pin::Counting(program, version) => {
                self.0.join(format!("{COUNTING}{program}-{version}"))
            }
            Pin::Map(name) => self.0.join(name),
        }
    }

    /// Everything that is pinned, in order.
    pub(crate) fn list(&self) -> Result<Vec<Pin>, Error> {
        let link = |name: &str| {
            let of = |(hook, prefix): &(Hook, &str)| Some((*hook, name.strip_prefix(prefix)?));
            let (hook, interface) = LINKS.iter().find_map(of)?;
            Some(Pin::Link(hook, unescape(interface)))
        };
        let counting = |name: &str| {
            let (program, version) = name.strip_prefix(COUNTING)?.rsplit_once('-')?;
            Some(Pin::Counting(program.to_owned(), version.to_owned()))
        };
        let pin = |name: String| link(&name).or_else(|| counting(&name)).unwrap_or(Pin::Map(name));
        let mut pins: Vec<Pin> = names(&self.0)?.into_iter().map(pin).collect();
        pins.sort();
        Ok(pins)
    }

    /// Takes a pin away; what it held lives on while something else holds it.
    pub(crate) fn remove(&self, pin: &Pin) -> Result<(), Error> {
        let path = self.path(pin);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(named("pin", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &Pin, to: &Pin) -> Result<(), Error> {
        let path = self.path(from);
        std::fs::rename(&path, self.path(to))
            .map_err(|error| Error::io(named("pin", path.display()), error))
    }

    pub(super) fn remove_folder(&self) -> Result<(), Error> {
        std::fs::remove_dir(&self.0)
            .map_err(|error| Error::io(named("folder", self.0.display()), error))
    }
}

/// bpffs keeps names with a dot for itself, and VLAN interfaces have one.
fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |error| Error::io(named("folder", folder.display()), error);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Whether the folder, or where it would be made, is on a bpffs.
fn on_bpffs(folder: &Path) -> Result<bool, Error> {
    let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let stat =
        statfs(there).map_err(|error| Error::io(named("folder", there.display()), error.into()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_below(folder: &Path) -> Result<(), Error> {
    if !folder.starts_with(BPFFS) {
        let object = named("folder", folder.display());
        return Err(Error::new(ErrorKind::Unsupported, object, "not on a bpffs")
            .with_remedy("name a folder below /sys/fs/bpf, or mount one: mount -t bpf bpf DIR"));
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|error| {
        Error::io(named("bpffs", BPFFS), error.into())
            .with_remedy(format!("mount it: mount -t bpf bpf {BPFFS}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_name_survives_as_a_pin() {
        for name in ["eth0", "eth0.100", "100%.25", "%2e"] {
            assert!(!escape(name).contains('.'));
            assert_eq!(unescape(&escape(name)), name);
        }
    }

    #[test]
    fn a_folder_that_is_not_on_a_bpffs_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = Pins::open(&folder.path().join("kctl")).expect_err("not a bpffs");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.remedy().is_some());
    }
}
