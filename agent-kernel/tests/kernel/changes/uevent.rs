//! What the kernel tells of devices.

use super::block_on;
use crate::support::{World, run, within};
use agent_kernel::ErrorKind;
use agent_kernel::netlink::{DeviceEvent, Uevent, Uevents};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What is told of a device until as many events are there.
fn told(uevents: &mut Uevents, devpath: &str, count: usize) -> Vec<Uevent> {
    let mut found = Vec::new();
    let all = async {
        while found.len() < count {
            uevents.readable().await.expect("a socket");
            // Devices of the whole host are told too.
            found.extend(uevents.drain().expect("uevents").into_iter().filter_map(|event| {
                match event {
                    DeviceEvent::Device(uevent) if uevent.devpath == devpath => Some(uevent),
                    DeviceEvent::Device(_) => None,
                    DeviceEvent::Lost(count) => panic!("{count} lost"),
                }
            }));
        }
    };
    let waited = block_on(async { tokio::time::timeout(Duration::from_secs(5), all).await });
    waited.unwrap_or_else(|_| panic!("only {found:#?}"));
    found
}

#[test]
fn a_device_that_comes_and_goes_is_told() {
    let _world = World::new();
    let mut uevents = Uevents::open().expect("uevents");
    run("ip tuntap add dev uv0 mode tap");
    let devpath = "/devices/virtual/net/uv0";
    let come = told(&mut uevents, devpath, 1).remove(0);
    assert_eq!((come.action.as_str(), come.subsystem.as_str()), ("add", "net"));
    assert_eq!((&come.devname, &come.devtype), (&None, &None));
    let index = run("ip -j link show uv0");
    let index =
        serde_json::from_str::<serde_json::Value>(&index).expect("JSON")[0]["ifindex"].to_string();
    let mut properties = come.properties;
    let number: u64 = properties.remove("SEQNUM").expect("a number").parse().expect("a number");
    let expected = [("INTERFACE", "uv0"), ("IFINDEX", index.as_str())];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(properties, BTreeMap::from(expected));
    run("ip link del uv0");
    let gone = told(&mut uevents, devpath, 1).remove(0);
    assert_eq!(gone.action, "remove");
    let later: u64 = gone.properties["SEQNUM"].parse().expect("a number");
    assert!(later > number);
}

#[test]
fn the_reason_of_a_change_is_told() {
    let _world = World::new();
    // /sys shows the network of whoever mounts it.
    let sys = tempfile::tempdir().expect("a folder");
    run(&format!("mount -t sysfs sysfs {}", sys.path().display()));
    run("ip tuntap add dev uv1 mode tap");
    let mut uevents = Uevents::open().expect("uevents");
    let file = sys.path().join("class/net/uv1/uevent");
    std::fs::write(&file, "change 5a25bd1c-8f3b-4a2e-9d27-0123456789ab WHY=kctl").expect("written");
    let told = told(&mut uevents, "/devices/virtual/net/uv1", 1).remove(0);
    run(&format!("umount {}", sys.path().display()));
    assert_eq!(told.action, "change");
    assert_eq!(told.properties["SYNTH_ARG_WHY"], "kctl");
}

/// Root can send to the group; only the kernel is believed.
#[test]
fn what_a_program_sends_is_no_event() {
    let _world = World::new();
    let mut uevents = Uevents::open().expect("uevents");
    let mut forger = Socket::new(NETLINK_KOBJECT_UEVENT).expect("a socket");
    forger.bind_auto().expect("bound");
    let text =
        b"add@/devices/forged\0ACTION=add\0DEVPATH=/devices/virtual/net/uv2\0SUBSYSTEM=net\0";
    forger.send_to(text, &SocketAddr::new(0, 1), 0).expect("sent");
    run("ip tuntap add dev uv2 mode tap");
    let told = told(&mut uevents, "/devices/virtual/net/uv2", 1);
    // The forged one came first.
    assert_eq!(told.len(), 1);
    assert!(told[0].properties.contains_key("SEQNUM"), "{told:?}");
}

/// `unshare`, which holds a network namespace of another user namespace until its standard input ends.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends with its input, at the latest with this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_namespace_of_another_user_namespace_has_none() {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--net", "cat"]).stdin(Stdio::piped());
    let holder = Holder(unshare.spawn().expect("unshare"));
    let namespace = format!("/proc/{}/ns/net", holder.0.id());
    let here = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    within("a namespace of its own", || std::fs::read_link(&namespace).is_ok_and(|it| it != here));
    setns(File::open(&namespace).expect("a namespace"), CloneFlags::CLONE_NEWNET).expect("entered");
    let error = Uevents::open().map(drop).expect_err("no uevents");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().starts_with("uevents: "), "{error}");
    assert!(error.remedy().is_some());
}
