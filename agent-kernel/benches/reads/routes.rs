//! 100,000 routes.

use crate::run;
use agent_kernel::netlink::{RouteFilter, routes};
use criterion::Criterion;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;

pub(crate) const COUNT: usize = 100_000;
const NLMSG_DONE: u16 = 3;

fn fill() {
    let mut batch = tempfile::NamedTempFile::new().expect("a file");
    let mut lines = String::new();
    for number in 0..COUNT {
        let (third, fourth) = (number / 256 % 256, number % 256);
        writeln!(lines, "route add 10.{}.{third}.{fourth}/32 dev lo", number / 65_536)
            .expect("a string takes it");
    }
    batch.write_all(lines.as_bytes()).expect("written");
    run("ip", &["-batch", batch.path().to_str().expect("text")]);
}

/// What the kernel writes, looked at just enough to find its end.
pub(crate) fn bare() -> usize {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("a socket");
    socket.bind_auto().expect("bound");
    socket.connect(&SocketAddr::new(0, 0)).expect("connected");
    // `struct nlmsghdr` (RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP) and `struct rtmsg` of AF_INET.
    let mut request = [0_u8; 28];
    request[0] = 28;
    request[4] = 26;
    request[5..8].copy_from_slice(&[0, 1, 3]);
    request[16] = 2;
    socket.send(&request, 0).expect("sent");
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut count = 0;
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).expect("an answer");
        let mut rest = buffer.as_slice();
        while let Some(header) = rest.first_chunk::<6>() {
            let [l0, l1, l2, l3, k0, k1] = *header;
            if u16::from_ne_bytes([k0, k1]) == NLMSG_DONE {
                return count;
            }
            count += 1;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    fill();
    let mut group = criterion.benchmark_group("routes");
    group.bench_function("kctl", |bencher| {
        bencher.iter(|| {
            let list = routes(RouteFilter::default()).expect("routes");
            let mut count = 0;
            for route in list {
                black_box(route.expect("a route"));
                count += 1;
            }
            assert!(count > COUNT);
        });
    });
    group.bench_function("ip route show", |bencher| {
        bencher.iter(|| run("ip", &["route", "show"]));
    });
    group.bench_function("bare dump", |bencher| {
        bencher.iter(|| assert!(black_box(bare()) >= COUNT));
    });
    group.finish();
}
