//! Lists that are large, and lists that change while they are told.

use super::all_routes;
use crate::support::{World, run};
use agent_kernel::ErrorKind;
use agent_kernel::netlink::{AddrFilter, Family, Route, RouteFilter, addrs};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::ops::Range;
use std::process::{Child, Command, Stdio};

const TABLE: Option<u32> = Some(9);

/// A file for `ip -batch`.
fn file(lines: impl Iterator<Item = String>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines.collect::<String>()).expect("written");
    file
}

/// Lines that add that many routes, each another.
fn routes(numbers: Range<u32>) -> impl Iterator<Item = String> {
    numbers.map(|i| {
        let (high, middle, low) = (i / 62_500, i / 250 % 250, i % 250);
        format!("route add 10{high}.{middle}.{low}.0/24 dev lo table 9\n")
    })
}

fn batch(lines: impl Iterator<Item = String>) {
    let file = file(lines);
    run(&format!("ip -batch {}", file.path().display()));
}

fn distinct(routes: &[Route]) -> BTreeSet<IpNet> {
    let distinct: BTreeSet<_> = routes.iter().map(|route| route.dst).collect();
    assert_eq!(distinct.len(), routes.len(), "a route was told twice");
    distinct
}

#[test]
fn a_large_table_is_whole() {
    let _world = World::new();
    batch(routes(0..100_000));
    let routes = all_routes(RouteFilter { table: TABLE, ..RouteFilter::default() });
    let theirs = run("ip -4 route show table 9");
    let destination = |line: &str| line.split(' ').next().and_then(|dst| dst.parse().ok());
    let theirs: BTreeSet<IpNet> = theirs.lines().filter_map(destination).collect();
    assert_eq!(theirs.len(), 100_000);
    assert!(distinct(&routes) == theirs, "not the routes that ip shows");
}

/// A batch that goes on until it is done or the test has failed.
struct Running {
    ip: Child,
    _lines: tempfile::NamedTempFile,
}

impl Running {
    fn start(lines: impl Iterator<Item = String>) -> Self {
        let lines = file(lines);
        let mut command = Command::new("ip");
        command.arg("-batch").arg(lines.path()).stdin(Stdio::null());
        Self { ip: command.spawn().expect("ip"), _lines: lines }
    }

    fn goes_on(&mut self) -> bool {
        self.ip.try_wait().expect("a child").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.ip.kill();
        let _ = self.ip.wait();
    }
}

/// Routes that come while a list is told make the kernel tell it in another order or say that it
/// changed. A route that was there before the question is never missing, and none comes twice.
#[test]
fn a_list_that_changes_while_it_is_told_loses_nothing() {
    let _world = World::new();
    batch(routes(0..2_000));
    let filter = || RouteFilter { table: TABLE, ..RouteFilter::default() };
    let mut known = distinct(&all_routes(filter()));
    assert_eq!(known.len(), 2_000);
    let mut adding = Running::start(routes(2_000..40_000));
    let mut lists = 0;
    while adding.goes_on() {
        match super::try_routes(filter()) {
            Ok(routes) => {
                let now = distinct(&routes);
                assert!(known.is_subset(&now), "lost {:?}", known.difference(&now).next());
                known = now;
                lists += 1;
            }
            // It says so, instead of telling a part.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
    }
    let end = distinct(&all_routes(filter()));
    assert!(end.len() == 40_000 && known.is_subset(&end));
    assert!(lists > 1, "nothing was listed meanwhile");
}

/// The kernel goes on in its list of addresses at a number, so each one that leaves makes it skip
/// another, and it says that it was interrupted.
#[test]
fn an_interrupted_list_is_asked_for_again() {
    let _world = World::new();
    let address = |i: u32| format!("10.{}.{}.{}", i / 62_500, i / 250 % 250, i % 250);
    let lines = |what: &'static str, numbers: Range<u32>| {
        numbers.map(move |i| format!("addr {what} {}/32 dev lo\n", address(i)))
    };
    batch(lines("add", 0..5_000));
    let staying: BTreeSet<_> = (3_000..5_000).map(address).collect();
    let listed = || -> Result<BTreeSet<String>, agent_kernel::Error> {
        let found = addrs(AddrFilter { family: Some(Family::Inet), interface: None })?;
        let found = found.map(|addr| addr.map(|addr| addr.address.to_string()));
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(distinct.len(), found.len(), "an address was told twice");
        Ok(distinct)
    };
    let mut leaving = Running::start(lines("del", 0..3_000));
    let mut asked = 0;
    while leaving.goes_on() {
        match listed() {
            Ok(now) => assert_eq!(staying.difference(&now).next(), None, "an address was lost"),
            // It says so, instead of telling a part.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
        asked += 1;
    }
    assert!(asked > 1, "nothing was listed meanwhile");
    let mut end = listed().expect("nothing changes any more");
    end.remove("127.0.0.1");
    assert!(end == staying, "not the addresses that stayed");
}
