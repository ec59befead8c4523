//! What the kernel tells of devices: they come, go, change and get drivers (kobject uevents, the
//! kernel's lib/kobject_uevent.c). It must not know what a device is for.

use super::subscription::{Received, Subscription};
use crate::{Error, ErrorKind};
use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use nix::errno::Errno;
use nix::libc;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

const OBJECT: &str = "uevents";
/// What the kernel tells; another group is udev's.
const KERNEL: u32 = 1;
/// The kernel's buffer of properties has 2 KiB.
const BUFFER_BYTES: usize = 1 << 20;
/// Messages after which a call answers.
const MESSAGES: usize = 4_096;

/// What the kernel tells of one device. What is no UTF-8 is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `move`, `online`, `offline`, `bind`, `unbind`.
    pub action: String,
    /// Below /sys.
    pub devpath: String,
    /// `net`, `block`.
    pub subsystem: String,
    /// Its file below /dev.
    pub devname: Option<String>,
    /// `disk`, `partition`.
    pub devtype: Option<String>,
    /// Everything else that it says, 8 KiB at most.
    pub properties: BTreeMap<String, String>,
}

/// What is told of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// Something happened to one. The time is that of the call: the kernel tells none.
    Device(Uevent),
    /// The kernel had no room for so many messages, and they are gone.
    Lost(u64),
}

/// A subscription to what is told of devices.
#[derive(Debug)]
pub struct Uevents {
    subscription: Subscription,
    /// Messages were lost after those that still wait.
    overflowed: bool,
    /// The last call left something.
    more: bool,
}

impl Uevents {
    /// Subscribes: what happens from now on is told, of network devices those of the calling thread's
    /// network namespace, of others all. Unsupported: the namespace is one that the kernel tells nothing,
    /// because a user namespace owns it.
    pub fn open() -> Result<Self, Error> {
        if !is_told().map_err(wrong)? {
            let why =
                "the kernel tells of devices only in network namespaces of the host's own users";
            return Err(Error::new(ErrorKind::Unsupported, OBJECT, why)
                .with_remedy("run it outside of a user namespace"));
        }
        let subscription = Subscription::open(NETLINK_KOBJECT_UEVENT, &[KERNEL], BUFFER_BYTES);
        Ok(Self { subscription: subscription.map_err(wrong)?, overflowed: false, more: false })
    }

    /// Waits until there is something for [`Self::drain`]. A lone one is told at once; while more come,
    /// they gather for 5 ms. Within a tokio runtime; cancel safe.
    pub async fn readable(&mut self) -> Result<(), Error> {
        if self.more {
            return Ok(());
        }
        self.subscription.readable(None).await.map_err(wrong)
    }

    /// What came since the last call, without waiting; some thousands at once at most, and then
    /// [`Self::readable`] does not wait.
    pub fn drain(&mut self) -> Result<Vec<DeviceEvent>, Error> {
        let mut events = Vec::new();
        self.more = self.take(&mut events).map_err(wrong)?;
        Ok(events)
    }

    /// True when it left something.
    fn take(&mut self, events: &mut Vec<DeviceEvent>) -> io::Result<bool> {
        while events.len() < MESSAGES {
            let received = self.subscription.receive(|datagram| {
                // Others may send to the group; the kernel has no port.
                if datagram.sender == 0 {
                    events.extend(parse(datagram.bytes).map(DeviceEvent::Device));
                }
            });
            match received? {
                Received::Messages(_) => {}
                Received::Overflow => {
                    self.overflowed = true;
                    self.subscription.grow()?;
                }
                Received::Nothing => {
                    self.subscription.rest(!events.is_empty());
                    if std::mem::take(&mut self.overflowed) {
                        let lost = self.subscription.lost()?;
                        events.extend((lost > 0).then_some(DeviceEvent::Lost(lost)));
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Whether the kernel tells of devices here: it does where the host's own user namespace owns the
/// network namespace.
#[expect(unsafe_code, reason = "ioctl(2) answers with a descriptor as a number")]
fn is_told() -> io::Result<bool> {
    /// PROC_USER_INIT_INO of linux/proc_ns.h
    const HOST: u64 = 0xEFFF_FFFD;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    // SAFETY: ioctl_ns(2), NS_GET_USERNS takes no argument, and the descriptor is open.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    let owner = match Errno::result(owner) {
        // Somebody above us owns it.
        Err(Errno::EPERM) => return Ok(true),
        owner => owner?,
    };
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    let owner = unsafe { File::from_raw_fd(owner) };
    Ok(owner.metadata()?.ino() == HOST)
}

/// A headline, then NAME=VALUE each ended by a zero. `None` for what is no message of the kernel's.
fn parse(bytes: &[u8]) -> Option<Uevent> {
    let mut lines = bytes.split(|byte| *byte == 0);
    // ACTION@DEVPATH, both of which come again.
    lines.next()?.contains(&b'@').then_some(())?;
    let mut properties: BTreeMap<_, _> = lines
        .filter_map(|line| {
            let line = String::from_utf8_lossy(line);
            line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
    let mut take = |name| properties.remove(name);
    Some(Uevent {
        action: take("ACTION")?,
        devpath: take("DEVPATH")?,
        subsystem: take("SUBSYSTEM").unwrap_or_default(),
        devname: take("DEVNAME"),
        devtype: take("DEVTYPE"),
        properties,
    })
}

fn wrong(error: io::Error) -> Error {
    Error::io(OBJECT, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_replaced_and_what_is_no_uevent_refused() {
        let told = b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=block\0DEVNAME=x\0DEVTYPE=disk\0ODD=a\xff=b\0CUT";
        let uevent = parse(told).expect("a uevent");
        assert_eq!((uevent.action.as_str(), uevent.devpath.as_str()), ("add", "/devices/x"));
        assert_eq!(uevent.subsystem, "block");
        assert_eq!(
            (uevent.devname.as_deref(), uevent.devtype.as_deref()),
            (Some("x"), Some("disk"))
        );
        let odd = ("ODD".to_owned(), "a\u{fffd}=b".to_owned());
        assert_eq!(uevent.properties, BTreeMap::from([odd]));
        for other in
            [&b"libudev\0\xfe\xed"[..], b"", b"add@/devices/x", b"ACTION=add\0DEVPATH=/x\0"]
        {
            assert_eq!(parse(other), None);
        }
    }
}
