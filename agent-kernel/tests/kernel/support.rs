//! A world of its own for one test: fresh network and mount namespaces with a bpffs, which vanish
//! with the test's thread whatever happens in it.

use agent_kernel::filter::{
    Attached, Filter, FilterConfig, Hook, Interface, Mode, Protocol, Rule, RuleKey, Service, Until,
};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TestRun, Xdp};
use aya::programs::{TestRunOptions, TestRunResult};
use aya_obj::generated::bpf_prog_type;
use aya_obj::programs::XdpAttachType;
use kctl_flood::{Addresses, Flood, Sender, Sent, Sources};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Namespaces of this thread; it must not leave it.
pub(crate) struct World {
    folder: tempfile::TempDir,
    /// Where filters are tried.
    hook: Hook,
    _not_send: PhantomData<*const ()>,
}

/// What is called the attacker's side of a veth pair.
pub(crate) const PEER: &str = "peer";

impl World {
    pub(crate) fn new() -> Self {
        Self::on(Hook::Xdp)
    }

    /// One in which the filter is tried at that hook.
    pub(crate) fn on(hook: Hook) -> Self {
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
        Self { folder, hook, _not_send: PhantomData }
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.folder.path().join("kctl")
    }

    /// How to attach there.
    pub(crate) fn mode(&self) -> Mode {
        if self.hook == Hook::Xdp { Mode::Auto } else { Mode::Tcx }
    }

    /// How it is attached then.
    pub(crate) fn attached(&self) -> Attached {
        if self.hook == Hook::Xdp { Attached::Native } else { Attached::Tcx }
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
        if !Path::new("/run/netns").join(PEER).exists() {
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

/// The peer's addresses that tests block, and its others.
pub(crate) const BLOCKED: Addresses = addresses(2);
pub(crate) const FREE: Addresses = addresses(3);

const fn addresses(last: u8) -> Addresses {
    (Ipv4Addr::new(10, 9, 0, last), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, last as u16))
}

/// Datagrams from two sources in turn, over IPv4 and IPv6, as fast as the machine gives. Those that pass are
/// counted (`kctl_flood::passed`) and go no further.
pub(crate) fn storm(sources: [Addresses; 2]) -> Flood {
    kctl_flood::count_passed(sources).expect("counted");
    // Without XDP, too, it takes frames in as a driver does.
    run("ethtool -K kt0 gro on");
    let link = json("ip -j link show dev kt0");
    let bytes = link[0]["address"].as_str().expect("an address").split(':');
    let bytes: Vec<u8> = bytes.map(|it| u8::from_str_radix(it, 16).expect("a byte")).collect();
    let bytes = bytes.try_into().expect("six bytes");
    let frames = kctl_flood::datagrams(bytes, addresses(1), sources);
    let sender = Sender::new(&frames, Sources::Own).expect("the program");
    let flood = std::thread::scope(|scope| {
        let start = scope.spawn(|| {
            let peer = std::fs::File::open(Path::new("/run/netns").join(PEER)).expect("the peer");
            setns(peer, CloneFlags::CLONE_NEWNET).expect("entered");
            Flood::start(sender, "kt1")
        });
        start.join().expect("no panic").expect("it sends")
    });
    goes_on(&flood);
    flood
}

/// Waits until it has sent more.
pub(crate) fn goes_on(storm: &Flood) {
    let before = storm.frames();
    within("the storm goes on", || storm.frames() > before);
}

/// Ends a storm of which the first source is blocked and the second is not: not one packet of the first has
/// passed, and none of the second is lost.
pub(crate) fn end(storm: Flood) -> Sent {
    goes_on(&storm);
    let sent = storm.end().expect("it sent");
    let passed = || kctl_flood::passed().expect("counted");
    within("all of the second source passes", || kctl_flood::all_passed(&sent, passed()));
    assert!(kctl_flood::only_second(&sent, passed()), "{sent:?}, passed {:?}", passed());
    sent
}

/// Waits for a condition.
pub(crate) fn within(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// The filter's program of the world's hook, for running frames through it.
pub(crate) fn program(world: &World, filter: &mut Filter) -> Program {
    let pin = world.pin("program");
    let id = filter.program_id(world.hook).expect("it is loaded");
    run(&format!("bpftool prog pin id {id} {}", pin.display()));
    Program::from_pin(&pin)
}

/// A program of one of the hooks.
#[derive(Debug)]
pub(crate) enum Program {
    Xdp(Xdp),
    Tcx(SchedClassifier),
}

impl Program {
    pub(crate) fn from_pin(pin: &Path) -> Self {
        let info = ProgramInfo::from_pin(pin).expect("the pinned program");
        match info.program_type() {
            bpf_prog_type::BPF_PROG_TYPE_XDP => {
                Self::Xdp(Xdp::from_pin(pin, XdpAttachType::Interface).expect("XDP"))
            }
            _ => Self::Tcx(SchedClassifier::from_pin(pin).expect("tcx")),
        }
    }

    /// Whether it drops a frame.
    pub(crate) fn drops(&self, frame: &[u8]) -> bool {
        const XDP_PASS: u32 = 2;
        const TCX_NEXT: u32 = u32::MAX;
        let verdict = self.run(frame, 1).return_value;
        match (self, verdict) {
            (Self::Xdp(_), 1) | (Self::Tcx(_), 2) => true,
            (Self::Xdp(_), XDP_PASS) | (Self::Tcx(_), TCX_NEXT) => false,
            _ => panic!("verdict {verdict}"),
        }
    }

    /// Runs a frame that often. A signal to this thread ends the runs before their end: then again.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> TestRunResult {
        let options =
            || TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        loop {
            let ran = match self {
                Self::Xdp(program) => program.test_run(options()),
                Self::Tcx(program) => program.test_run(options()),
            };
            match ran {
                Err(ProgramError::SyscallError(error))
                    if error.io_error.kind() == std::io::ErrorKind::Interrupted => {}
                ran => return ran.expect("the program runs"),
            }
        }
    }
}

/// Makes tests of functions of a world's hook: one for XDP and one for tcx.
macro_rules! on_each_hook {
    ($($test:ident),+ $(,)?) => {
        mod xdp {
            $(
                #[test]
                fn $test() {
                    super::$test(agent_kernel::filter::Hook::Xdp);
                }
            )+
        }

        mod tcx {
            $(
                #[test]
                fn $test() {
                    super::$test(agent_kernel::filter::Hook::Tcx);
                }
            )+
        }
    };
}
pub(crate) use on_each_hook;

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
