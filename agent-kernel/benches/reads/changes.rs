//! What a storm of changes costs who listens, in processor time, and what it costs to catch up.

use crate::routes;
use crate::run;
use agent_kernel::netlink::{Changes, NetEvent};
use criterion::{BenchmarkGroup, Criterion, SamplingMode, measurement::WallTime};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use nix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const ROOM_BYTES: usize = 8 << 20;
/// Link, addresses, routes, neighbours and nexthop objects, as kctl listens to.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];

/// Who listens, and how much processor time it took since it began.
trait Listener {
    fn used(self) -> Duration;
}

/// A thread that ends with the first change after it is told to.
struct Thread {
    is_last: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Thread {
    /// `listen` answers whether there was something.
    fn start(listen: impl FnMut() -> bool + Send + 'static) -> Self {
        let is_last = Arc::new(AtomicBool::new(false));
        let (last, mut listen) = (Arc::clone(&is_last), listen);
        let thread = std::thread::spawn(move || {
            let before = processor_time();
            loop {
                let is_last = last.load(Ordering::Acquire);
                if listen() && is_last {
                    return processor_time() - before;
                }
            }
        });
        Self { is_last, thread }
    }
}

impl Listener for Thread {
    fn used(self) -> Duration {
        self.is_last.store(true, Ordering::Release);
        while !self.thread.is_finished() {
            run("ip", &["route", "add", "blackhole", "10.255.255.255"]);
            run("ip", &["route", "del", "blackhole", "10.255.255.255"]);
        }
        self.thread.join().expect("a reader")
    }
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

fn kctl() -> Thread {
    let mut changes = Changes::open().expect("changes");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    Thread::start(move || {
        runtime.block_on(changes.readable()).expect("a socket");
        let events = changes.drain().expect("events");
        assert!(!events.iter().any(|event| matches!(event, NetEvent::Lost(_))), "lost");
        !black_box(events).is_empty()
    })
}

fn subscription() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("a socket");
    socket.bind(&SocketAddr::new(0, 0)).expect("bound");
    setsockopt(&socket, RcvBufForce, &ROOM_BYTES).expect("room");
    GROUPS.iter().for_each(|group| socket.add_membership(*group).expect("a member"));
    socket
}

/// Takes what waits every 5 ms, and looks at none of it.
fn bare() -> Thread {
    let socket = subscription();
    let mut buffer = Vec::with_capacity(32 << 10);
    Thread::start(move || {
        buffer.clear();
        socket.recv(&mut buffer, 0).expect("a message");
        std::thread::sleep(Duration::from_millis(5));
        loop {
            buffer.clear();
            if socket.recv(&mut buffer, nix::libc::MSG_DONTWAIT).is_err() {
                return true;
            }
            black_box(&buffer);
        }
    })
}

/// `ip monitor`, which writes to nobody.
struct Monitor(Child);

impl Monitor {
    fn start() -> Self {
        let mut ip = Command::new("ip");
        ip.args(["-rcvbuf", "8388608", "monitor", "link", "address", "route", "neigh", "nexthop"]);
        let monitor = Self(ip.stdout(Stdio::null()).spawn().expect("ip"));
        // It listens when it is a member.
        while monitor.socket().is_none() {
            std::thread::yield_now();
        }
        monitor
    }

    /// Bytes that wait in its socket, and how many messages it lost.
    fn socket(&self) -> Option<(u64, u64)> {
        let table = std::fs::read_to_string("/proc/self/net/netlink").expect("netlink sockets");
        let pid = self.0.id().to_string();
        table.lines().find_map(|line| {
            let row: Vec<_> = line.split_whitespace().collect();
            let is_its = row[2] == pid && row[3] != "00000000";
            is_its.then(|| (row[4].parse().expect("bytes"), row[8].parse().expect("a number")))
        })
    }

    fn used_until_now(&self) -> u64 {
        let path = format!("/proc/{}/schedstat", self.0.id());
        let text = std::fs::read_to_string(path).expect("a process");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
    }
}

impl Listener for Monitor {
    fn used(self) -> Duration {
        let mut used = 0;
        loop {
            let now = self.used_until_now();
            let (waiting, lost) = self.socket().expect("a socket");
            assert_eq!(lost, 0, "ip monitor lost messages");
            if waiting == 0 && now == used {
                return Duration::from_nanos(used);
            }
            used = now;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It can't have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Commands of `ip -batch` that make so many messages of one kind.
struct Storm {
    name: &'static str,
    batch: tempfile::NamedTempFile,
}

impl Storm {
    fn new(name: &'static str, count: usize, lines: impl Fn(&mut String, usize)) -> Self {
        let batch = tempfile::NamedTempFile::new().expect("a file");
        let mut text = String::new();
        (0..count).for_each(|number| lines(&mut text, number));
        std::fs::write(batch.path(), text).expect("written");
        Self { name, batch }
    }

    fn rage(&self) {
        run("ip", &["-batch", self.batch.path().to_str().expect("text")]);
    }
}

fn storms() -> [Storm; 3] {
    let address = |number: usize| format!("10.200.{}.{}", number / 250, number % 250);
    [
        Storm::new("20,000 changes of routes", 10_000, |text, number| {
            let route = format!("route {{}} {}/32 dev lo\n", address(number));
            text.push_str(&route.replace("{}", "add"));
            text.push_str(&route.replace("{}", "del"));
        }),
        // Each with a local route.
        Storm::new("4,000 changes of addresses", 2_000, |text, number| {
            writeln!(text, "addr add {}/32 dev lo", address(number)).expect("a string");
            writeln!(text, "addr del {}/32 dev lo", address(number)).expect("a string");
        }),
        Storm::new("10,000 changes of a link", 10_000, |text, number| {
            writeln!(text, "link set lo mtu {}", 60_000 + number).expect("a string");
        }),
    ]
}

fn measure<L: Listener>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    storm: &Storm,
    listener: impl Fn() -> L,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let one = |_| {
                let listener = listener();
                storm.rage();
                listener.used()
            };
            (0..times).map(one).sum()
        });
    });
}

pub(crate) fn bench(criterion: &mut Criterion) {
    for storm in storms() {
        let mut group = criterion.benchmark_group(storm.name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        measure(&mut group, "kctl", &storm, kctl);
        measure(&mut group, "ip monitor", &storm, Monitor::start);
        measure(&mut group, "bare, every 5 ms", &storm, bare);
        group.finish();
    }
}

/// With 100,000 routes there: catching up after a loss, and reading the list once.
pub(crate) fn bench_resync(criterion: &mut Criterion) {
    let loss = Storm::new("", 500, |text, number| {
        writeln!(text, "link set lo mtu {}", 60_000 + number).expect("a string");
    });
    let mut group = criterion.benchmark_group("catching up, 100,000 routes");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("kctl", |bencher| {
        bencher.iter_custom(|times| {
            let one = |_| {
                let mut changes = Changes::open_with_buffer(4_096).expect("changes");
                loss.rage();
                let begun = processor_time();
                let events = changes.drain().expect("events");
                assert!(events.iter().any(|event| matches!(event, NetEvent::Lost(_))));
                processor_time() - begun
            };
            (0..times).map(one).sum()
        });
    });
    group.bench_function("bare dump", |bencher| {
        bencher.iter_custom(|times| {
            let begun = processor_time();
            (0..times).for_each(|_| assert!(black_box(routes::bare()) >= routes::COUNT));
            processor_time() - begun
        });
    });
    group.finish();
}
