//! The counters of CPU, memory, network and disks.

use agent_kernel::netlink::links;
use agent_kernel::proc::{cpu_times, load, memory};
use agent_kernel::sys::sample;
use criterion::Criterion;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// In a network namespace of our own.
const ADDRESS: &str = "127.0.0.1:9100";
const FILES: [&str; 5] = ["stat", "meminfo", "net/dev", "diskstats", "loadavg"];

/// prometheus-node-exporter with the collectors of the same counters; dropping it ends it.
struct Exporter(Child);

impl Exporter {
    fn start() -> Self {
        let collectors = ["cpu", "meminfo", "netdev", "diskstats", "loadavg", "stat"];
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address={ADDRESS}"));
        command.args(["--collector.disable-defaults", "--web.disable-exporter-metrics"]);
        command.args(collectors.map(|name| format!("--collector.{name}")));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut exporter = Self(child.expect("prometheus-node-exporter"));
        while TcpStream::connect(ADDRESS).is_err() {
            let ended = exporter.0.try_wait().expect("its state");
            assert!(ended.is_none(), "prometheus-node-exporter ended: {ended:?}");
            std::thread::yield_now();
        }
        exporter
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scrape(stream: &mut TcpStream) -> usize {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "the exporter hung up");
        answer.extend_from_slice(&buffer[..count]);
        // In chunks, of which the last is empty, or of a length that it tells.
        if answer.ends_with(b"\r\n0\r\n\r\n") || end(&answer) == Some(answer.len()) {
            assert!(answer.starts_with(b"HTTP/1.1 200"));
            return answer.len();
        }
    }
}

/// Where an answer of a told length ends.
fn end(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    Some(head + 4 + length.parse::<usize>().ok()?)
}

fn bare() -> usize {
    let read = |name: &&str| std::fs::read(format!("/proc/{name}")).expect(name).len();
    FILES.iter().map(read).sum()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let _exporter = Exporter::start();
    let mut stream = TcpStream::connect(ADDRESS).expect("connected");
    let mut group = criterion.benchmark_group("counters");
    let root = Path::new("/proc");
    group.bench_function("kctl", |bencher| {
        bencher.iter(|| {
            black_box(cpu_times(root).expect("times"));
            black_box(memory(root).expect("memory"));
            black_box(load(root).expect("load"));
            black_box(sample(root).expect("disks"));
            black_box(links(None).expect("links").count())
        });
    });
    group.bench_function("bare read", |bencher| bencher.iter(|| black_box(bare())));
    group.bench_function("node_exporter scrape", |bencher| {
        bencher.iter(|| black_box(scrape(&mut stream)));
    });
    group.finish();
}
