//! First packets, as frames on a wire: told at once, and right in every field.

use super::{Listener, Wakes};
use crate::support::{DROP, PEER, World, answers, key, on_each_hook, pass, port, within};
use agent_kernel::filter::{Action, Filter, Hook, Protocol, Rule, RuleKey, Telling, Until};
use agent_kernel::sys::boottime_ns;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket,
};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Puts frames on the peer's end of the wire.
struct Sender {
    socket: OwnedFd,
    link: LinkAddr,
}

impl Sender {
    fn open() -> Self {
        // A thread of its own enters, and ends with its namespace.
        let inside = || {
            let namespace = std::fs::File::open(format!("/run/netns/{PEER}")).expect("the peer");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entered");
            let flags = SockFlag::empty();
            let packets = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>);
            let mut all = getifaddrs().expect("interfaces");
            let link = all.find_map(|it| {
                let address = it.address?;
                (it.interface_name == "kt1").then(|| address.as_link_addr().copied())?
            });
            Self { socket: packets.expect("a packet socket"), link: link.expect("kt1") }
        };
        std::thread::scope(|threads| threads.spawn(inside).join()).expect("the peer is there")
    }

    fn send(&self, frame: &[u8]) {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.link, MsgFlags::empty());
        assert_eq!(sent.expect("sent"), frame.len());
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A frame of at least 60 bytes, so that none is padded.
fn frame(tags: &[u16], src: &str, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 9, 0x02, 0, 0, 0, 0, 8];
    for tag in tags {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    match src.parse().expect("an address") {
        IpAddr::V4(src) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 60, 0, 1]);
            frame.extend(fragment.to_be_bytes());
            frame.extend([64, protocol, 0, 0]);
            frame.extend(src.octets());
            frame.extend([10, 9, 0, 1]);
        }
        IpAddr::V6(src) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, protocol, 64]);
            frame.extend(src.octets());
            frame.extend("fd09::1".parse::<std::net::Ipv6Addr>().expect("valid").octets());
        }
    }
    frame.extend(payload);
    frame.resize(frame.len() + 40, 0);
    frame
}

/// Ports 41000 and 22, and flags of TCP in their place.
fn ports(flags: u8) -> Vec<u8> {
    vec![0xa0, 0x28, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]
}

/// What a frame of `src` is told as, without its transport.
fn told(rule: RuleKey, src: &str, frame: &[u8]) -> Telling {
    let dst = if src.contains(':') { "fd09::1" } else { "10.9.0.1" };
    Telling {
        action: Action::Drop,
        rule,
        src: src.parse().ok(),
        sources: 0,
        dst: dst.parse().ok(),
        src_port: None,
        dst_port: None,
        protocol: None,
        tcp_flags: None,
        interface: Some("kt0".to_owned()),
        packets: 1,
        bytes: frame.len() as u64,
        boot_ns: 0,
    }
}

/// Waits until the ring says that something is there; then what is told.
fn awaited(filter: &mut Filter, wakes: &Wakes) -> Vec<Telling> {
    assert!(wakes.came(Duration::from_secs(1)), "nothing is told");
    let mut told = Vec::new();
    within("what woke us is there", || {
        told.extend(filter.tell().expect("told"));
        !told.is_empty()
    });
    told
}

fn world(hook: Hook) -> (World, Filter, Sender) {
    let world = World::on(hook);
    world.veth();
    let mut filter = world.filter(100);
    assert_eq!(filter.attach("kt0", world.mode()).expect("attached"), world.attached());
    (world, filter, Sender::open())
}

on_each_hook!(
    a_first_packet_is_told_at_once_with_every_field,
    a_monitored_packet_is_told_and_a_guarded_one_is_not,
    only_news_wakes,
);

fn a_first_packet_is_told_at_once_with_every_field(hook: Hook) {
    let (world, mut filter, sender) = world(hook);
    let wakes = Wakes::of(&filter);
    let mut listener = Listener::default();
    let wide = [key("10.9.64.0/18"), key("fd09:1::/64"), port("10.9.128.0/18", Protocol::Udp, 53)];
    filter.update(&wide.map(|rule| (rule, DROP))).expect("room");
    let cases: Vec<(RuleKey, &str, Vec<u8>, Telling)> = [
        (key("10.9.0.21"), "10.9.0.21", frame(&[], "10.9.0.21", 0, TCP, &ports(0x02))),
        (key("10.9.0.22"), "10.9.0.22", frame(&[], "10.9.0.22", 0, UDP, &ports(0))),
        (key("10.9.0.23"), "10.9.0.23", frame(&[], "10.9.0.23", 0, 1, &[8, 0, 0, 0])),
        (key("fd09::21"), "fd09::21", frame(&[], "fd09::21", 0, TCP, &ports(0x11))),
        (key("fd09::22"), "fd09::22", frame(&[], "fd09::22", 0, UDP, &ports(0))),
        (key("fd09::23"), "fd09::23", frame(&[], "fd09::23", 0, 58, &[128, 0, 0, 0])),
        (key("10.9.0.24"), "10.9.0.24", frame(&[7], "10.9.0.24", 0, TCP, &ports(0x10))),
        (key("fd09::24"), "fd09::24", frame(&[7, 8], "fd09::24", 0, TCP, &ports(0))),
        // Later fragments have no ports; a first one has.
        (key("10.9.0.25"), "10.9.0.25", frame(&[], "10.9.0.25", 9, UDP, &ports(0))),
        (key("10.9.0.26"), "10.9.0.26", frame(&[], "10.9.0.26", 0x2000, TCP, &ports(0x02))),
        (wide[0], "10.9.64.1", frame(&[], "10.9.64.1", 0, TCP, &ports(0x02))),
        (wide[0], "10.9.64.2", frame(&[], "10.9.64.2", 0, TCP, &ports(0x02))),
        (wide[1], "fd09:1::9", frame(&[], "fd09:1::9", 0, UDP, &ports(0))),
        (wide[2], "10.9.128.1", frame(&[], "10.9.128.1", 9, UDP, &[])),
    ]
    .into_iter()
    .map(|(rule, src, frame)| {
        let tag_bytes = usize::from(frame[12] == 0x81) * 4 + usize::from(frame[16] == 0x81) * 4;
        let (v4, v6) = (frame[23 + tag_bytes], frame[20 + tag_bytes]);
        let protocol = if src.contains(':') { v6 } else { v4 };
        let later = !src.contains(':') && frame[20 + tag_bytes..22 + tag_bytes] == [0, 9];
        let has_ports = (protocol == TCP || protocol == UDP) && !later;
        let mut told = told(rule, src, &frame);
        told.protocol = Some(protocol);
        told.src_port = has_ports.then_some(41_000);
        told.dst_port = has_ports.then_some(22);
        let transport = if src.contains(':') { 54 } else { 34 } + tag_bytes;
        told.tcp_flags = (has_ports && protocol == TCP).then(|| frame[transport + 13]);
        (rule, src, frame, told)
    })
    .collect();
    for (rule, src, frame, expected) in cases {
        if !wide.contains(&rule) {
            filter.update(&[(rule, DROP)]).expect("room");
        }
        let before = boottime_ns();
        sender.send(&frame);
        let told = awaited(&mut filter, &wakes);
        assert_eq!(told.len(), 1, "{src}: {told:#?}");
        assert!((before..=boottime_ns()).contains(&told[0].boot_ns), "{src}: {told:#?}");
        assert_eq!(Telling { boot_ns: 0, ..told[0].clone() }, expected, "{src}");
        listener.heard.extend(told);
        // Another one is no news.
        sender.send(&frame);
    }
    within("all are counted", || super::counted(&world, 1).0 == 28);
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.firsts().count(), 14);
    let mut sums = listener.heard.iter().filter(|it| it.dst.is_none());
    assert!(sums.all(|it| it.packets == 1 && it.src.is_some() && it.interface.is_none()));
}

fn a_monitored_packet_is_told_and_a_guarded_one_is_not(hook: Hook) {
    let (world, mut filter, sender) = world(hook);
    let wakes = Wakes::of(&filter);
    let forever = Some(Until::FOREVER);
    let both = Some(Rule { drop: forever, monitor: forever });
    let monitor = Some(Rule { drop: None, monitor: forever });
    filter
        .update(&[
            (key("10.9.0.2"), monitor),
            (key("fd09::/64"), monitor),
            (key("10.9.0.21"), DROP),
            (key("10.9.0.22"), both),
        ])
        .expect("room");
    filter.update(&[pass(key("10.9.0.21"))]).expect("room");
    let mut listener = Listener::default();

    sender.send(&frame(&[], "10.9.0.21", 0, TCP, &ports(0x02)));
    within("it is guarded", || filter.counters().expect("read").guarded.packets == 1);
    for (source, rule) in [("10.9.0.2", key("10.9.0.2")), ("fd09::2", key("fd09::/64"))] {
        assert!(answers(source), "it passes");
        let told = awaited(&mut filter, &wakes);
        assert_eq!(told.len(), 1, "{told:#?}");
        let (src, destination) = (source.parse().ok(), told[0].dst);
        assert_eq!((told[0].action, told[0].rule, told[0].src), (Action::Monitor, rule, src));
        assert_eq!(destination.map(|it| it.is_ipv4()), Some(source.contains('.')));
        listener.heard.extend(told);
    }
    sender.send(&frame(&[], "10.9.0.22", 0, TCP, &ports(0x02)));
    let told = awaited(&mut filter, &wakes);
    assert_eq!((told.len(), told[0].action), (1, Action::Drop), "a drop is no monitor");
    listener.heard.extend(told);
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.packets(Action::Drop), 1);
}

/// Whoever goes on wakes nobody; the next sum has it.
fn only_news_wakes(hook: Hook) {
    let (world, mut filter, sender) = world(hook);
    let wakes = Wakes::of(&filter);
    filter.update(&[(key("10.9.0.21"), DROP)]).expect("room");
    let one = frame(&[], "10.9.0.21", 0, UDP, &ports(0));
    let mut listener = Listener::default();
    sender.send(&one);
    listener.heard.extend(awaited(&mut filter, &wakes));
    for _ in 0..3 {
        listener.hear_out(&world, &mut filter);
        let before = super::counted(&world, 1).0;
        sender.send(&one);
        within("it is counted", || super::counted(&world, 1).0 == before + 1);
        assert!(!wakes.came(Duration::ZERO));
    }
    filter.update(&[(key("10.9.0.22"), DROP)]).expect("room");
    sender.send(&frame(&[], "10.9.0.22", 0, UDP, &ports(0)));
    assert!(wakes.came(Duration::from_secs(1)), "news wake");
    listener.hear_out(&world, &mut filter);
    assert_eq!(listener.firsts().count(), 2);
}
