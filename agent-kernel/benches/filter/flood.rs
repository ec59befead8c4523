//! Packets that are dropped in a second of processor time, over a pair of interfaces: what sends them and
//! what drops them run on one CPU, one after the other.

use crate::lists::{Family, List};
use crate::peers::{Peers, frame};
use crate::world::{World, run, try_run};
use crate::{fill, median, xdp_filter};
use aya::programs::XdpMode;
use aya::programs::links::FdLink;
use kctl_flood::{Sender, Sources, Sums};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Addresses that are blocked.
const SIZE: u32 = xdp_filter::SIZE;
/// Frames of one window.
const FRAMES: u32 = 500_000;
/// Each is measured that often.
const ROUNDS: usize = 7;
/// Where frames are dropped, and where they are sent.
pub(crate) const HERE: &str = "flood0";
const THERE: &str = "flood1";

/// Everything that drops, in turn.
pub(crate) fn compare(world: &World) {
    let list = List::singles(Family::V4, SIZE);
    let mut peers = Peers::load(0, &List::singles(Family::V4, 0));
    let sources = Sources::Numbered { first: 0, count: SIZE.into(), sums: Sums::Header };
    let mut sender = Sender::new(&[frame(Family::V4)], sources).expect("root: the program");
    println!(
        "\n{SIZE} IPv4 addresses, a flood from them       million packets/s   of the path of XDP_DROP"
    );

    pair();
    let link = peers.drop_all().attach(HERE, XdpMode::Driver).expect("attached");
    let link = peers.drop_all().take_link(link).expect("just attached");
    let least = measure(&mut sender);
    drop(FdLink::try_from(link).expect("a link"));
    row("XDP_DROP", least, least);

    pair();
    let (mut filter, _) = world.filled(&list);
    filter.attach(HERE);
    let ours = measure(&mut sender);
    row("kctl", ours, least);
    let (sent, dropped) = (u64::from(FRAMES) * (ROUNDS as u64 + 1), filter.dropped());
    if sent != dropped {
        println!("  (it dropped {dropped} of {sent})");
    }
    drop(filter);

    for (name, start, stop) in [
        ("xdp-filter", xdp_filter::start as fn(&World, &List) -> Result<(), String>, None),
        ("nftables, netdev ingress", nft, Some("nft delete table netdev bench")),
        ("ipset, iptables raw", ipset, None),
        ("the stack, no filter", |_, _| Ok(()), None),
    ] {
        pair();
        match start(world, &list) {
            Ok(()) => row(name, measure(&mut sender), least),
            Err(why) => println!("{name:<44}not measured: {why}"),
        }
        if let Some(stop) = stop {
            let _ = try_run(stop);
        }
    }
    let _ = try_run(&format!("ip link del {HERE}"));
}

fn row(name: &str, mpps: f64, least: f64) {
    println!("{name:<44}{mpps:>18.2}{:>26.2}", least / mpps);
}

/// A new pair of interfaces. The receiving end takes frames in as a driver does, whatever is there.
pub(crate) fn pair() {
    let _ = try_run(&format!("ip link del {HERE}"));
    run(&format!("ip link add {HERE} type veth peer name {THERE}"));
    // What frames are sent to; else the stack would not even look at them.
    run(&format!("ip link set {HERE} address 02:02:02:02:02:02"));
    run(&format!("ip addr add 10.9.0.1/16 dev {HERE}"));
    run(&format!("ip link set {HERE} up"));
    run(&format!("ip link set {THERE} up"));
    run(&format!("ethtool -K {HERE} gro on"));
}

/// Million packets in a second of processor time, median.
fn measure(sender: &mut Sender) -> f64 {
    let ifindex = nix::net::if_::if_nametoindex(THERE).expect("it is there");
    let mut figures = Vec::new();
    for round in 0..=ROUNDS {
        let start = used();
        sender.send(ifindex, FRAMES).expect("frames are sent");
        let took = used() - start;
        // The first window warms everything up.
        if round > 0 {
            figures.push(f64::from(FRAMES) / took / 1e6);
        }
    }
    median(&mut figures)
}

/// Seconds of processor time of this thread, softirqs on its back included.
fn used() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("it can't fail");
    let seconds = |it: TimeVal| it.tv_sec() as f64 + it.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn nft(world: &World, list: &List) -> Result<(), String> {
    let file = world.folder.path().with_extension("nft");
    std::fs::write(&file, fill::nft(list, Some(HERE))).map_err(|it| it.to_string())?;
    let result = try_run(&format!("nft -f {}", file.display()));
    let _ = std::fs::remove_file(&file);
    result
}

fn ipset(world: &World, list: &List) -> Result<(), String> {
    let file = world.folder.path().with_extension("ipset");
    std::fs::write(&file, fill::ipset(list)).map_err(|it| it.to_string())?;
    let result = try_run(&format!("ipset restore -file {}", file.display()));
    let _ = std::fs::remove_file(&file);
    result?;
    try_run("iptables -t raw -A PREROUTING -m set --match-set bench src -j DROP")
}
