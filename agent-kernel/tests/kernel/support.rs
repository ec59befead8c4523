//! A world of its own for one test: fresh network and mount namespaces with a bpffs, which vanish
//! with the test's thread whatever happens in it.

use agent_kernel::filter::{
    Filter, FilterConfig, Interface, Protocol, Rule, RuleKey, Service, Until,
};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Namespaces of this thread; it must not leave it.
pub(crate) struct World {
    folder: tempfile::TempDir,
    _not_send: PhantomData<*const ()>,
}

/// What is called the attacker's side of a veth pair.
pub(crate) const PEER: &str = "peer";

impl World {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("this test needs root: namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
        // `ip netns` keeps its names there; ours must not be seen outside.
        std::fs::create_dir_all("/run/netns").expect("a folder for names");
        mount(Some("tmpfs"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
        run("ip link set lo up");
        Self { folder, _not_send: PhantomData }
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.folder.path().join("kctl")
    }

    /// A pin of the test's own.
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn filter(&self, max_entries: u32) -> Filter {
        Filter::open(&FilterConfig { bpffs: self.bpffs(), max_entries }).expect("a filter")
    }

    /// `kt0` here with 10.9.0.1 and fd09::1, its peer `kt1` elsewhere with .2 and .3.
    pub(crate) fn veth(&self) {
        self.veth_without_check();
        within("the pair carries", || answers("10.9.0.2") && answers("fd09::2"));
    }

    /// The same, which need not answer yet.
    pub(crate) fn veth_without_check(&self) {
        if !std::path::Path::new("/run/netns").join(PEER).exists() {
            run(&format!("ip netns add {PEER}"));
        }
        run(&format!("ip link add kt0 type veth peer name kt1 netns {PEER}"));
        run("ip addr add 10.9.0.1/24 dev kt0");
        run("ip addr add fd09::1/64 dev kt0 nodad");
        run("ip link set kt0 up");
        for address in ["10.9.0.2/24", "10.9.0.3/24"] {
            run(&format!("ip -n {PEER} addr add {address} dev kt1"));
        }
        for address in ["fd09::2/64", "fd09::3/64"] {
            run(&format!("ip -n {PEER} addr add {address} dev kt1 nodad"));
        }
        run(&format!("ip -n {PEER} link set kt1 up"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Else the temporary folder can't be removed under it.
        nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

/// Whether a ping from that address of the peer to the like address here is answered.
pub(crate) fn answers(source: &str) -> bool {
    let target = if source.contains(':') { "fd09::1" } else { "10.9.0.1" };
    let ping = format!("ip netns exec {PEER} ping -n -c 1 -W 0.3 -I {source} {target}");
    command(&ping).status.success()
}

/// Waits for a condition.
pub(crate) fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// The filter's program, for running frames through it.
pub(crate) fn program(world: &World, filter: &Filter) -> Xdp {
    let pin = world.pin("program");
    run(&format!("bpftool prog pin id {} {}", filter.program_id(), pin.display()));
    Xdp::from_pin(&pin, XdpAttachType::Interface).expect("the pinned program")
}

/// Runs a command of words without blanks.
pub(crate) fn command(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().expect("a program")).args(words).output().expect(line)
}

/// Runs a command that must succeed; what it said.
pub(crate) fn run(line: &str) -> String {
    let output = command(line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that answers JSON.
pub(crate) fn json(line: &str) -> Value {
    serde_json::from_str(&run(line)).expect(line)
}

pub(crate) fn key(prefix: &str) -> RuleKey {
    let address = || prefix.parse::<std::net::IpAddr>().expect("a prefix or an address");
    RuleKey::any(prefix.parse().unwrap_or_else(|_| address().into()))
}

pub(crate) fn port(prefix: &str, protocol: Protocol, port: u16) -> RuleKey {
    RuleKey { service: Some(Service::port(protocol, port)), ..key(prefix) }
}

pub(crate) fn ports(prefix: &str, protocol: Protocol, first: u16, last: u16) -> RuleKey {
    RuleKey { service: Some(Service { protocol, first, last }), ..key(prefix) }
}

pub(crate) fn on(interface: &str, key: RuleKey) -> RuleKey {
    RuleKey { interface: Some(Interface::named(interface)), ..key }
}

/// A change that lets pass what a key is about.
pub(crate) fn pass(key: RuleKey) -> (RuleKey, Option<Rule>) {
    (RuleKey { guards: true, ..key }, Some(Rule::PASS))
}

pub(crate) fn drop_until(until: Until) -> Option<Rule> {
    Some(Rule { drop: Some(until), monitor: None })
}

pub(crate) const DROP: Option<Rule> = Some(Rule { drop: Some(Until::FOREVER), monitor: None });
