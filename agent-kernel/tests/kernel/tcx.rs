//! Where XDP can't be had: beside somebody else's program, and where packets have no Ethernet header;
//! and from one hook to the other.

use crate::attach::{at_tcx, packets};
use crate::differential::frames;
use crate::support::{
    BLOCKED, DROP, FREE, PEER, World, answers, end, goes_on, json, key, port, run, storm, within,
};
use agent_kernel::filter::{Attached, Filter, FilterConfig, Hook, Mode, Protocol, detach};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// Somebody else's XDP program on kt0, as `bpftool net attach` puts one there.
fn foreign(world: &World) -> (Filter, u32) {
    let elsewhere = FilterConfig { bpffs: world.pin("other"), max_entries: 1 };
    let mut other = Filter::open(&elsewhere).expect("a filter");
    let id = other.program_id(Hook::Xdp).expect("loaded");
    run(&format!("bpftool net attach xdpdrv id {id} dev kt0"));
    (other, id)
}

/// The XDP program on kt0 as ip(8) sees it.
fn xdp_on_kt0() -> Option<u64> {
    json("ip -j -d link show dev kt0")[0]["xdp"]["prog"]["id"].as_u64()
}

fn reason(filter: &Filter) -> Option<String> {
    let all = filter.attachments().expect("known");
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().find_map(|it| it.reason)
}

#[test]
fn a_foreign_program_keeps_its_interface_and_tcx_filters_beside_it() {
    let world = World::new();
    world.veth();
    let (_other, id) = foreign(&world);
    let mut filter = world.filter(100);
    filter.update(&[(key("10.9.0.2"), DROP), (key("fd09::2"), DROP)]).expect("room");
    for _ in 0..2 {
        assert_eq!(filter.attach("kt0", Mode::Auto).expect("beside it"), Attached::Tcx);
        assert_eq!(xdp_on_kt0(), Some(id.into()));
        assert_eq!(at_tcx("kt0"), [filter.program_id(Hook::Tcx).expect("loaded")]);
        assert!(!answers("10.9.0.2") && !answers("fd09::2"));
        within("the others get through", || answers("10.9.0.3") && answers("fd09::3"));
        let why = reason(&filter).expect("told");
        assert!(why.contains(&format!("XDP program {id} \"kctl_filter\"")), "{why}");
        // The next round is another agent's.
        drop(filter);
        assert!(!answers("10.9.0.2"));
        filter = world.filter(100);
    }

    // It stays at tcx when the way is free, until an agent starts.
    assert_eq!(filter.attach("kt0", Mode::Auto).expect("beside it"), Attached::Tcx);
    run("bpftool net detach xdpdrv dev kt0");
    assert_eq!(filter.attach("kt0", Mode::Auto).expect("as before"), Attached::Tcx);
    let why = reason(&filter).expect("told");
    assert!(why.contains("restart the agent"), "{why}");
    filter = world.filter(100);
    assert_eq!(filter.attach("kt0", Mode::Auto).expect("at XDP"), Attached::Native);
    assert_eq!((at_tcx("kt0"), reason(&filter)), (vec![], None));
    drop(filter);

    // And through a detach.
    detach(&world.bpffs()).expect("detached");
    let (_other, id) = foreign(&world);
    let mut filter = world.filter(100);
    assert_eq!(filter.attach("kt0", Mode::Auto).expect("beside it"), Attached::Tcx);
    drop(filter);
    detach(&world.bpffs()).expect("detached");
    assert_eq!((at_tcx("kt0"), xdp_on_kt0()), (vec![], Some(id.into())));
}

#[test]
fn from_one_hook_to_the_other_nothing_passes_and_all_is_counted_once() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Auto).expect("attached");
    filter.update(&[(key("10.9.0.2"), DROP), (key("fd09::2"), DROP)]).expect("room");
    let storm = storm([BLOCKED, FREE]);
    for round in 0..6 {
        goes_on(&storm);
        if round % 2 == 1 {
            filter = world.filter(100);
        }
        let (mode, attached) = match round % 3 {
            0 => (Mode::Tcx, Attached::Tcx),
            1 => (Mode::Auto, Attached::Native),
            _ => (Mode::Native, Attached::Native),
        };
        assert_eq!(filter.attach("kt0", mode).expect("attached"), attached);
        let at_xdp = attached == Attached::Native;
        assert_eq!((at_tcx("kt0").is_empty(), xdp_on_kt0().is_some()), (at_xdp, at_xdp));
        assert_eq!(filter.attachments().expect("known").len(), 1);
    }
    let sent = end(storm);
    assert!(kctl_flood::all_met(&sent, packets(&filter)), "{} of {sent:?}", packets(&filter));
}

/// An end of an agent between the new link and the old one's going.
#[test]
fn of_two_links_one_goes() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Tcx).expect("attached");
    let pins = world.bpffs().join("v3");
    std::fs::rename(pins.join("tcx-kt0"), world.pin("aside")).expect("set aside");
    filter.attach("kt0", Mode::Native).expect("attached");
    std::fs::rename(world.pin("aside"), pins.join("tcx-kt0")).expect("put back");
    assert_eq!((at_tcx("kt0").len(), xdp_on_kt0().is_some()), (1, true));
    let mut filter = world.filter(100);
    assert_eq!(filter.attachments().expect("known").len(), 1);
    assert_eq!(filter.attach("kt0", Mode::Tcx).expect("attached"), Attached::Tcx);
    assert_eq!((at_tcx("kt0").len(), xdp_on_kt0()), (1, None));
}

/// A foreign program at tcx goes on seeing what passes, and nothing else.
#[test]
fn others_at_tcx_see_what_passes() {
    let world = World::new();
    world.veth();
    let elsewhere = FilterConfig { bpffs: world.pin("other"), max_entries: 1 };
    let mut other = Filter::open(&elsewhere).expect("a filter");
    other.attach("kt0", Mode::Tcx).expect("attached");
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Tcx).expect("attached");
    let ids = [&mut filter, &mut other].map(|it| it.program_id(Hook::Tcx).expect("loaded"));
    assert_eq!(at_tcx("kt0"), ids);
    filter.update(&[(key("10.9.0.2"), DROP)]).expect("room");
    let seen = |filter: &Filter| filter.counters().expect("read").passed.packets;
    within("it sees the neighbour", || {
        let before = seen(&other);
        answers("10.9.0.3") && seen(&other) > before
    });
    other.update(&[(key("10.9.0.2"), DROP)]).expect("room");
    assert!(!answers("10.9.0.2"));
    assert!(other.hits().expect("read").is_empty());
    assert_eq!(filter.hits().expect("read").len(), 1);
}

/// What the stack takes in as one counts as what was on the wire.
#[test]
fn merged_packets_count_one_by_one() {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", Mode::Tcx).expect("attached");
    filter.update(&[(key("10.9.0.3"), DROP)]).expect("room");
    let send = || {
        let namespace = File::open(format!("/run/netns/{PEER}")).expect("the peer");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("entered");
        let socket = UdpSocket::bind("10.9.0.3:0").expect("a socket");
        let (payload, segment) = ([7; 1_000], 300);
        let to = SockaddrIn::new(10, 9, 0, 1, 9);
        let parts = [IoSlice::new(&payload)];
        let merged = [ControlMessage::UdpGsoSegments(&segment)];
        let fd = socket.as_raw_fd();
        sendmsg(fd, &parts, &merged, MsgFlags::empty(), Some(&to)).expect("sent");
    };
    std::thread::scope(|threads| threads.spawn(send).join()).expect("sent");
    within("it is counted", || filter.counters().expect("read").dropped.packets > 0);
    // 300, 300, 300 and 100 bytes, each with Ethernet, IPv4 and UDP.
    let dropped = filter.counters().expect("read").dropped;
    assert_eq!((dropped.packets, dropped.bytes), (4, 1_000 + 4 * (14 + 20 + 8)));
    let told = filter.tell().expect("told");
    assert_eq!(told.iter().map(|it| it.packets).sum::<u64>(), 1);
    let mut sum = (1, told[0].bytes);
    within("the rest is told", || {
        for it in filter.summarize().expect("told") {
            sum = (sum.0 + it.packets, sum.1 + it.bytes);
        }
        sum == (dropped.packets, dropped.bytes)
    });
}

/// linux/if_tun.h: a tun; and a tap that leaves what is written in pages, as some drivers do.
const IFF_TUN: u16 = 0x0001;
const IFF_TAP_FRAGS: u16 = 0x0002 | 0x0010 | 0x0020;

/// A tun or tap, kt9 with 10.8.0.1 and fd08::1: what is written is a packet that comes in.
#[expect(unsafe_code, reason = "an ioctl makes it")]
fn tun(kind: u16) -> File {
    const TUNSETIFF: nix::libc::c_ulong = 0x4004_54ca;
    const IFF_NO_PI: u16 = 0x1000;
    let mut options = OpenOptions::new();
    let tun = options.read(true).write(true).open("/dev/net/tun").expect("tun(4)");
    // struct ifreq: its name, and flags.
    let mut request = [0_u8; 40];
    request[..3].copy_from_slice(b"kt9");
    request[16..18].copy_from_slice(&(kind | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the kernel reads and writes a struct ifreq, 40 bytes.
    let made = unsafe { nix::libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    run("ip addr add 10.8.0.1/24 dev kt9");
    run("ip addr add fd08::1/64 dev kt9 nodad");
    run("ip link set kt9 up");
    tun
}

#[test]
fn packets_without_an_ethernet_header_are_judged_at_tcx() {
    let world = World::new();
    let mut tun = tun(IFF_TUN);
    let mut filter = world.filter(100);
    for mode in [Mode::Native, Mode::Generic] {
        let error = filter.attach("kt9", mode).expect_err("XDP can't read that");
        assert!(error.to_string().contains("no Ethernet header"), "{error}");
    }
    assert_eq!(filter.attach("kt9", Mode::Auto).expect("attached"), Attached::Tcx);
    assert!(reason(&filter).is_some_and(|it| it.contains("no Ethernet header")));
    let id = filter.program_id(Hook::TcxIp).expect("loaded");
    assert_eq!(at_tcx("kt9"), [id]);
    // A source like the EtherType of IPv4, where an Ethernet header would have it.
    let sources = ["10.8.0.2", "8.0.69.1", "fd08::2", "2001:db8:86dd:6000::1"];
    let blocked = sources.map(|source| (key(source), DROP));
    filter.update(&blocked).expect("room");
    let others = ["10.8.0.3", "8.0.69.2", "fd08::3", "2001:db8:86dd:6000::2"];
    let mut sent = 0;
    for source in sources.into_iter().chain(others) {
        let frame = frames::plain(source.parse().expect("valid"));
        tun.write_all(&frame[14..]).expect("sent");
        sent += frame.len() as u64 - 14;
    }
    within("all are counted", || {
        let counters = filter.counters().expect("read");
        counters.dropped.packets + counters.passed.packets >= 8
    });
    let counters = filter.counters().expect("read");
    assert_eq!(counters.dropped.packets, 4, "{counters:?}");
    assert_eq!(counters.dropped.bytes * 2, sent);
    assert!(filter.hits().expect("read").iter().all(|hit| hit.packets == 1));
    // Another agent finds it again.
    drop(filter);
    let mut filter = world.filter(100);
    assert_eq!(at_tcx("kt9"), [filter.program_id(Hook::TcxIp).expect("loaded")]);
    assert_eq!(filter.attach("kt9", Mode::Auto).expect("still there"), Attached::Tcx);
}

#[test]
fn headers_in_pages_are_read() {
    let world = World::new();
    let mut tap = tun(IFF_TAP_FRAGS);
    let mut filter = world.filter(100);
    assert_eq!(filter.attach("kt9", Mode::Tcx).expect("attached"), Attached::Tcx);
    // Ports that can't be read would be dropped too.
    let rules = ["10.8.0.2", "fd08::2"].map(|it| (port(it, Protocol::Udp, 53), DROP));
    filter.update(&rules).expect("room");
    let counted = |filter: &Filter| {
        let counters = filter.counters().expect("read");
        let udp = counters.protocols.iter().find(|(number, _)| *number == 17);
        (counters.dropped.packets, udp.map_or(0, |(_, count)| count.packets))
    };
    for (round, source) in (1..).zip(["10.8.0.2", "fd08::2"]) {
        for port in [53_u16, 54] {
            let mut frame = frames::plain(source.parse().expect("valid"));
            let (protocol, ports) = if source.contains(':') { (20, 54) } else { (23, 34) };
            frame[protocol] = 17;
            frame[ports + 2..ports + 4].copy_from_slice(&port.to_be_bytes());
            frame.resize(1_000, 0);
            let (header, rest) = frame.split_at(14);
            let sent = tap.write_vectored(&[IoSlice::new(header), IoSlice::new(rest)]);
            assert_eq!(sent.expect("sent"), frame.len());
        }
        within("both are judged", || counted(&filter).1 == 2 * round);
        assert_eq!(counted(&filter).0, round, "{source}");
    }
    let dropped = filter.counters().expect("read").dropped;
    assert_eq!((dropped.packets, dropped.bytes), (2, 2_000));
}
