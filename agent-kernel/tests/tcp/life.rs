//! Processes that end or multiply, cgroups that are not meant, and programs of others.

use super::actor::Actor;
use super::support::{Test, is_close, is_of, one, run};
use agent_kernel::ErrorKind;
use agent_kernel::trace::Scope;
use agent_kernel::trace::tcp::{TcpTracer, What};
use aya::programs::SockOps;
use nix::mount::MsFlags;

const CLIENT: u32 = 41_111;
const SERVER: u32 = 42_222;

#[test]
fn the_connections_of_a_killed_process_end_with_it() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("127.0.0.1");
    client.connect("127.0.0.1", port);
    server.tell("accept");
    client.tell("send 1000");
    server.tell("receive 1000");
    let (pid, comm) = (client.pid(), client.comm());
    client.kill();
    assert_eq!(server.tell("receive-all"), "0");
    server.tell("close");
    let events = watch.all(&mut server);
    assert_eq!(events.len(), 4, "{events:#?}");
    let close = one(&events, |event| {
        matches!(event.what, What::Close { accepted: Some(false), sent_bytes: Some(1_000), .. })
    });
    let process = close.process.as_ref().expect("known");
    assert_eq!((process.pid, &process.comm), (pid, &comm));
}

#[test]
fn a_shared_socket_ends_once_and_is_of_who_made_it() {
    let test = Test::new();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("::1");
    client.connect("::1", port);
    server.tell("accept");
    let child: i32 = client.tell("fork").parse().expect("a pid");
    client.tell("close");
    let before = watch.all(&mut server);
    assert!(!before.iter().any(is_close), "{before:#?}");
    let child = nix::unistd::Pid::from_raw(child);
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("killed");
    assert_eq!(server.tell("receive-all"), "0");
    server.tell("close");
    let after = watch.all(&mut server);
    assert_eq!(after.len(), 2, "{after:#?}");
    let made = one(&after, |event| matches!(event.what, What::Close { accepted: Some(false), .. }));
    is_of(made, &client, &test);
}

#[test]
fn nothing_is_told_of_what_is_out_of_scope() {
    let test = Test::new();
    let other = test.beside();
    let mut watch = test.watch(1 << 16);
    let mut inside = Actor::start(&test, CLIENT);
    let mut client = Actor::start(&other, CLIENT);
    let mut server = Actor::start(&other, SERVER);
    let port = server.listen("127.0.0.1");
    client.connect("127.0.0.1", port);
    server.tell("accept");
    client.tell("close");
    server.tell("close");
    client.tell("connect 192.0.2.2 80");
    assert_eq!(watch.all(&mut inside), []);
    // One end only is in scope.
    inside.connect("127.0.0.1", port);
    server.tell("accept");
    let events = watch.all(&mut inside);
    assert_eq!(events.len(), 1, "{events:#?}");
    is_of(&events[0], &inside, &test);
}

#[test]
fn the_cgroups_below_are_in_scope() {
    let test = Test::new();
    let below = test.below();
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&below, CLIENT);
    assert_eq!(client.tell("connect 192.0.2.2 80"), "error 101");
    let events = watch.all(&mut client);
    assert_eq!(events.len(), 1, "{events:#?}");
    is_of(&events[0], &client, &below);
}

#[test]
fn only_what_was_asked_for_is_told() {
    let test = Test::new();
    let mut config = test.config(1 << 16);
    (config.connect, config.accept) = (false, false);
    let mut watch = test.watch_with(config);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("127.0.0.1");
    client.connect("127.0.0.1", port);
    server.tell("accept");
    client.tell("close");
    server.tell("close");
    let mut events = watch.until("an end", is_close);
    events.extend(watch.until("the other end", is_close));
    assert_eq!(events.len(), 2, "{events:#?}");
    is_of(
        one(&events, |event| matches!(event.what, What::Close { accepted: Some(true), .. })),
        &server,
        &test,
    );
    is_of(
        one(&events, |event| matches!(event.what, What::Close { accepted: Some(false), .. })),
        &client,
        &test,
    );
}

/// The other tests have none: the tracepoints of all calls serve them.
#[test]
fn calls_are_seen_at_their_own_tracepoints_where_tracefs_is() {
    let test = Test::new();
    let (none, tracefs) = (None::<&str>, Some("tracefs"));
    nix::mount::mount(none, "/sys/kernel/tracing", tracefs, MsFlags::empty(), none)
        .expect("tracefs");
    let mut watch = test.watch(1 << 16);
    let mut client = Actor::start(&test, CLIENT);
    let mut server = Actor::start(&test, SERVER);
    let port = server.listen("::1");
    client.connect("::1", port);
    server.tell("accept");
    assert_eq!(client.tell("connect 192.0.2.2 80"), "error 101");
    let events = watch.all(&mut client);
    assert_eq!(events.len(), 3, "{events:#?}");
    is_of(one(&events, |event| event.what == What::Connect { error: None }), &client, &test);
    is_of(one(&events, |event| event.what == What::Accept), &server, &test);
    let failed = one(&events, |event| event.what == What::Connect { error: Some(101) });
    assert_eq!((failed.dst.to_string().as_str(), failed.dst_port), ("192.0.2.2", 80));
    is_of(failed, &client, &test);
}

/// The kernel keeps others' programs as they are, and ours beside them, or not at all.
#[test]
fn programs_of_others_stay_attached() {
    let test = Test::new();
    let path = test.cgroup.display().to_string();
    let mut others = aya::Ebpf::load(aya::include_bytes_aligned!("../../bpf/tcp.bpf.o"))
        .expect("root: the programs");
    let other: &mut SockOps =
        others.program_mut("tcp_connection").expect("there").try_into().expect("sock_ops");
    other.load().expect("loaded");
    let id = other.info().expect("loaded").id();

    run(&format!("bpftool cgroup attach {path} sock_ops id {id} multi"));
    let watch = test.watch(1 << 16);
    assert_eq!(attached(&path).len(), 2);
    drop(watch);
    assert_eq!(attached(&path), [id]);
    run(&format!("bpftool cgroup detach {path} sock_ops id {id}"));

    run(&format!("bpftool cgroup attach {path} sock_ops id {id}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let opened =
        runtime.expect("a runtime").block_on(async { TcpTracer::open(&test.config(1 << 16)) });
    let error = opened.expect_err("it is not ours alone");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().starts_with(&format!("cgroup \"{path}\": ")), "{error}");
    assert_eq!(attached(&path), [id]);
    run(&format!("bpftool cgroup detach {path} sock_ops id {id}"));
}

/// Ids of the programs for sockets on a cgroup.
fn attached(cgroup: &str) -> Vec<u32> {
    let shown: serde_json::Value =
        serde_json::from_str(&run(&format!("bpftool -j cgroup show {cgroup}"))).expect("JSON");
    let programs = shown.as_array().cloned().unwrap_or_default();
    programs.iter().map(|it| it["id"].as_u64().expect("an id").try_into().expect("short")).collect()
}

#[test]
fn a_scope_that_is_not_there_is_said() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut config = Test::new().config(1 << 16);
    config.scope = Scope::Cgroup("/no such cgroup".into());
    let error = runtime.block_on(async { TcpTracer::open(&config) }).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().ends_with("no such cgroup\": no such file or directory"), "{error}");
}
