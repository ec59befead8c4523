//! Every type of event: its JSON form fits the schema, and filters see what is in it.

use kctl_events::{
    Filter, Kind,
    view::{EventView, payload_key},
};
use kctl_proto::agent::v1::{
    Addr, AddrEvent, AlertCause, AlertEvent, AlertState, AutoblockEvent, BpfEvent, CloseEvent,
    ConnectionEvent, CredEvent, Event, EventFilter, EventProcess, ExecEvent, ExitEvent, Family,
    FloodEvent, FloodKind, HostEvent, Link, LinkEvent, LostEvent, ModuleEvent, NeighEvent,
    Neighbour, NetChange, OomEvent, OpenEvent, Origin, PacketEvent, Protocol, PtraceEvent, Route,
    RouteEvent, ScanEvent, SignalEvent, UeventEvent, cred_event::Credentials, event::Payload,
    host_event::State, link, route,
};
use serde_json::{Value, json};

fn origin() -> Origin {
    Origin { host: "web-1".to_owned(), boot_id: "b".to_owned() }
}

fn event(payload: Payload) -> Event {
    let time_unix_ns = 1_767_323_045_678_901_234;
    Event { time_unix_ns, seq: 991, payload: Some(payload), ..Event::default() }
}

fn process(pid: u32, comm: &str) -> Option<EventProcess> {
    Some(EventProcess {
        pid: Some(pid),
        ppid: Some(1),
        uid: Some(33),
        comm: comm.to_owned(),
        cgroup: "/system.slice".to_owned(),
        container_id: "c1".to_owned(),
    })
}

fn packets() -> PacketEvent {
    PacketEvent {
        src: "10.0.0.5".to_owned(),
        dst: "10.0.0.9".to_owned(),
        src_port: Some(41_000),
        dst_port: Some(22),
        protocol: Some(6),
        tcp_flags: Some(0x12),
        interface: "eth0".to_owned(),
        rule: "10.0.0.5/32".to_owned(),
        rule_port: 22,
        rule_port_last: 29,
        rule_interface: "eth1".to_owned(),
        rule_protocol: Protocol::Tcp.into(),
        reason: "scanner".to_owned(),
        packets: 1,
        bytes: Some(60),
        sources: 0,
    }
}

fn connection(error: Option<u32>) -> ConnectionEvent {
    ConnectionEvent {
        process: process(8, "curl"),
        src: "10.0.0.9".to_owned(),
        src_port: 40_000,
        dst: "2001:db8::1".to_owned(),
        dst_port: 443,
        error,
    }
}

/// One of every type, as full as it can be; then as empty.
fn samples() -> Vec<Event> {
    let text = str::to_owned;
    let link = Link {
        name: text("eth0"),
        index: 2,
        state: text("UP"),
        flags: vec![text("UP")],
        mtu: 1_500,
        xdp: vec![link::Xdp { mode: text("xdp-native"), program: 12 }],
        ..Link::default()
    };
    let addr = Addr {
        family: Family::Inet.into(),
        interface: text("eth0"),
        address: text("10.0.0.9"),
        prefix_len: 24,
        scope: text("global"),
        ..Addr::default()
    };
    let hop = route::NextHop { gateway: text("10.0.0.1"), weight: 1, ..Default::default() };
    let route = Route {
        family: Family::Inet.into(),
        dst: text("10.50.0.0/16"),
        r#type: text("unicast"),
        table: 254,
        nexthops: vec![hop],
        ..Route::default()
    };
    let neighbour =
        Neighbour { interface: text("eth0"), address: text("10.0.0.1"), ..Neighbour::default() };
    let change = NetChange::Added.into();
    let old =
        Credentials { uid: 1, gid: 1, euid: 1, egid: 1, capabilities: vec!["cap_kill".to_owned()] };
    let new = Credentials { uid: 0, ..old.clone() };
    let full = [
        Payload::Drop(packets()),
        Payload::Monitor(packets()),
        Payload::Scan(ScanEvent {
            src: text("10.0.0.5"),
            ports: 20,
            first_ports: vec![21, 22, 23],
            interface: text("eth0"),
            window_ms: 10_000,
        }),
        Payload::Flood(FloodEvent {
            kind: FloodKind::Syn.into(),
            src: text("10.0.0.5"),
            dst_port: 443,
            syns: 5_000,
            progress: Some(2),
            sources: 1,
            interface: text("eth0"),
            duration_ms: 1_000,
        }),
        Payload::Autoblock(AutoblockEvent {
            src: text("10.0.0.5"),
            source: text("auto:portscan"),
            reason: text("20 ports in 10 s"),
            ttl_ms: 60_000,
            not_made: 0,
        }),
        Payload::Exec(ExecEvent {
            process: process(7, "sh"),
            path: text("/bin/sh"),
            argv: vec![text("sh"), text("-c"), text("id")],
            argv_truncated: true,
            parent_comm: text("sshd"),
        }),
        Payload::Exit(ExitEvent {
            process: process(7, "sh"),
            code: None,
            signal: Some(9),
            core_dumped: true,
            lifetime_ns: Some(5),
        }),
        Payload::Open(OpenEvent {
            process: process(7, "cat"),
            path: text("/etc/shadow"),
            path_truncated: false,
            flags: 0o2_000_000,
            error: Some(13),
        }),
        Payload::Connect(connection(Some(111))),
        Payload::Accept(connection(None)),
        Payload::Close(CloseEvent {
            process: process(8, "curl"),
            src: text("10.0.0.9"),
            src_port: 40_000,
            dst: text("10.0.0.5"),
            dst_port: 443,
            bytes_sent: Some(1),
            bytes_received: Some(u64::MAX),
            duration_ns: Some(3),
            accepted: Some(false),
        }),
        Payload::Cred(CredEvent { process: process(9, "su"), old: Some(old), new: Some(new) }),
        Payload::Module(ModuleEvent {
            process: process(9, "modprobe"),
            name: text("xfs"),
            action: text("load"),
        }),
        Payload::Bpf(BpfEvent {
            process: process(9, "bpftool"),
            action: text("load"),
            id: Some(3),
            name: text("p"),
            r#type: text("xdp"),
        }),
        Payload::Ptrace(PtraceEvent {
            process: process(9, "gdb"),
            request: text("attach"),
            target: process(10, "web"),
        }),
        Payload::Signal(SignalEvent {
            process: process(9, "kill"),
            signal: 15,
            code: -1,
            target: process(10, "web"),
            undelivered: text("ignored"),
        }),
        Payload::Oom(OomEvent {
            victim: process(10, "web"),
            anon_bytes: Some(4),
            ..OomEvent::default()
        }),
        Payload::Link(LinkEvent { change, link: Some(link) }),
        Payload::Addr(AddrEvent { change, addr: Some(addr) }),
        Payload::Route(RouteEvent { change, route: Some(route) }),
        Payload::Neigh(NeighEvent { change, neighbour: Some(neighbour) }),
        Payload::Uevent(UeventEvent {
            action: text("add"),
            devpath: text("/devices/virtual/net/v0"),
            subsystem: text("net"),
            properties: [(text("INTERFACE"), text("v0"))].into_iter().collect(),
            ..UeventEvent::default()
        }),
        Payload::Alert(AlertEvent {
            name: text("syscalls"),
            state: AlertState::Firing.into(),
            value: Some(250_000.5),
            threshold: 100_000.0,
            clear_below: 80_000.0,
            unit: text("/s"),
            object: String::new(),
            since_unix_ns: 1_767_323_015_000_000_000,
            cause: Some(AlertCause {
                process: process(812, "perl"),
                value: Some(249_000.0),
                syscall: text("getppid"),
            }),
        }),
        Payload::Host(HostEvent {
            name: text("web-1"),
            state: State::ClockOff.into(),
            reason: text("far"),
            clock_offset_ms: Some(-60_000),
        }),
        Payload::Lost(LostEvent {
            stage: text("kernel_ring"),
            count: 1_200,
            source: text("tracing"),
            name: text("web-2"),
        }),
    ];
    let empty = [
        Payload::Drop(PacketEvent { packets: 7, sources: 40, ..PacketEvent::default() }),
        Payload::Monitor(PacketEvent::default()),
        Payload::Scan(ScanEvent::default()),
        Payload::Flood(FloodEvent::default()),
        Payload::Autoblock(AutoblockEvent { not_made: 3, ..AutoblockEvent::default() }),
        Payload::Exec(ExecEvent::default()),
        Payload::Exit(ExitEvent::default()),
        Payload::Open(OpenEvent::default()),
        Payload::Connect(ConnectionEvent::default()),
        Payload::Accept(ConnectionEvent::default()),
        Payload::Close(CloseEvent::default()),
        Payload::Cred(CredEvent::default()),
        Payload::Module(ModuleEvent::default()),
        Payload::Bpf(BpfEvent::default()),
        Payload::Ptrace(PtraceEvent::default()),
        Payload::Signal(SignalEvent::default()),
        Payload::Oom(OomEvent::default()),
        Payload::Link(LinkEvent { change, link: Some(Link::default()) }),
        Payload::Addr(AddrEvent { change, addr: Some(Addr::default()) }),
        Payload::Route(RouteEvent { change, route: Some(Route::default()) }),
        Payload::Neigh(NeighEvent { change, neighbour: Some(Neighbour::default()) }),
        Payload::Uevent(UeventEvent::default()),
        Payload::Alert(AlertEvent::default()),
        Payload::Host(HostEvent::default()),
        Payload::Lost(LostEvent::default()),
    ];
    full.into_iter().chain(empty).map(event).collect()
}

fn of(kind: Kind) -> Event {
    samples().into_iter().find(|event| Kind::of(event) == Some(kind)).expect("a sample")
}

fn json_of(event: &Event) -> Value {
    serde_json::to_value(EventView::new(&origin(), event)).expect("JSON")
}

/// Whether a filter with this expression takes an event.
fn takes(expression: &str, event: &Event) -> bool {
    let filter = EventFilter { expression: expression.to_owned(), ..EventFilter::default() };
    let filter = Filter::new(Some(filter)).unwrap_or_else(|why| panic!("{expression}: {why}"));
    filter.matches(&origin(), event)
}

fn refused(expression: &str, kinds: &[Kind]) -> String {
    let types = kinds.iter().map(|kind| kind.to_proto().into()).collect();
    let filter = EventFilter { expression: expression.to_owned(), types, ..EventFilter::default() };
    Filter::new(Some(filter)).map(|_| ()).expect_err(expression).to_string()
}

#[test]
fn every_type_fits_the_schema_and_has_every_key() {
    let schema = kctl_events::schema();
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    for event in samples() {
        let (kind, json) = (Kind::of(&event).expect("known"), json_of(&event));
        let errors: Vec<_> = validator.iter_errors(&json).map(|it| it.to_string()).collect();
        assert!(errors.is_empty(), "{json}: {errors:?}");
        assert_eq!(json["type"], kind.name());
        assert!(json[payload_key(kind)].is_object(), "{json}");
    }
    let seen: Vec<_> = samples().iter().filter_map(Kind::of).collect();
    assert!(Kind::all().all(|kind| seen.iter().filter(|it| **it == kind).count() == 2));
    // An event of a later version has no payload, and a wrong one does not fit.
    let unknown = json_of(&Event { seq: 1, ..Event::default() });
    assert_eq!(unknown["type"], "unknown");
    assert!(validator.is_valid(&unknown));
    let mut wrong = json_of(&of(Kind::Drop));
    wrong["drop"]["packets"] = json!("many");
    assert!(!validator.is_valid(&wrong));
}

#[test]
fn what_is_not_known_is_null_and_marks_are_there_when_they_are_set() {
    let summary = json_of(&samples()[25]);
    assert_eq!((&summary["drop"]["src"], &summary["drop"]["sources"]), (&Value::Null, &json!(40)));
    assert!(summary.get("late").is_none() && summary.get("clock_off").is_none());
    let mut late = of(Kind::Drop);
    (late.late, late.clock_off) = (true, true);
    assert_eq!(
        (&json_of(&late)["late"], &json_of(&late)["clock_off"]),
        (&json!(true), &json!(true))
    );
    let link = json_of(&of(Kind::Link));
    assert_eq!(
        (&link["link"]["change"], &link["link"]["statistics"]),
        (&json!("added"), &Value::Null)
    );
    let open = json_of(&of(Kind::Open));
    assert_eq!(
        (&open["open"]["flags"], &open["open"]["error"]),
        (&json!("O_RDONLY|O_CLOEXEC"), &json!("EACCES"))
    );
    assert_eq!(json_of(&of(Kind::Cred))["cred"]["old"]["capabilities"], json!(["cap_kill"]));
    assert_eq!(json_of(&of(Kind::Host))["host_state"]["clock_offset_ms"], json!(-60_000));
}

#[test]
fn expressions_see_every_kind_of_value() {
    let (drop, exec, close) = (of(Kind::Drop), of(Kind::Exec), of(Kind::Close));
    for (expression, event) in [
        ("drop.dst_port == 22", &drop),
        ("drop.dst_port == 22u && drop.packets < 2", &drop),
        ("drop.dst_port in [22, 23]", &drop),
        ("drop.dst_port in [-1, 22]", &drop),
        ("drop.dst_port * 2 + 1 == 45 && drop.dst_port / 4 == 5 && drop.dst_port % 4 == 2", &drop),
        ("drop.dst_port / 4.0 == 5.5 && -drop.dst_port == -22", &drop),
        (
            "drop.src.startsWith('10.') && drop.src.endsWith('.5') && drop.src.contains('0.0')",
            &drop,
        ),
        ("drop.src.matches(r'^10\\.')", &drop),
        ("drop.src < '10.0.0.6' ? drop.packets == 1 : false", &drop),
        ("has(drop.bytes) && !has(drop.sources)", &drop),
        ("type == 'drop' && host == 'web-1' && seq == 991 && boot_id == 'b'", &drop),
        ("type in ['drop', 'exec']", &drop),
        ("time >= '2026-01-02' && time < '2026-01-03'", &drop),
        ("!late && clock_off == false", &drop),
        ("size(drop.src) == 8 && drop.src.size() == 8", &drop),
        ("exec.argv.exists(arg, arg == '-c') && exec.argv.all(a, size(a) < 5)", &exec),
        ("'id' in exec.argv && size(exec.argv) == 3 && exec.argv[0] == 'sh'", &exec),
        ("exec.uid == 33 && exec.comm == 'sh'", &exec),
        ("close.bytes_received > 9223372036854775807", &close),
        ("!close.accepted", &close),
        (
            "uevent.properties.INTERFACE == 'v0' && 'INTERFACE' in uevent.properties",
            &of(Kind::Uevent),
        ),
        ("uevent.properties['INTERFACE'].startsWith('v')", &of(Kind::Uevent)),
        ("route.nexthops.exists(it, it.gateway == '10.0.0.1')", &of(Kind::Route)),
        ("'cap_kill' in cred.old.capabilities && cred.new.uid == 0", &of(Kind::Cred)),
        ("signal.signal == 'TERM' && signal.code == -1", &of(Kind::Signal)),
        ("alert.name == 'syscalls' && alert.state == 'firing'", &of(Kind::Alert)),
        ("alert.value > 1e5 && alert.cause.comm == 'perl'", &of(Kind::Alert)),
        ("host_state.clock_offset_ms < -1000", &of(Kind::Host)),
    ] {
        assert!(takes(expression, event), "{expression}");
        assert!(!takes(&format!("!({expression})"), event), "!({expression})");
    }
}

#[test]
fn what_an_event_has_not_is_neither_true_nor_false() {
    let (drop, exec) = (of(Kind::Drop), of(Kind::Exec));
    for expression in
        ["exec.path == 'a'", "exec.path != 'a'", "!(exec.path == 'a')", "has(exec.path)"]
    {
        assert!(!takes(expression, &drop), "{expression}");
    }
    // Null is not there, either.
    for expression in ["drop.sources > 0", "drop.sources < 1", "drop.sources != 1"] {
        assert!(!takes(expression, &drop), "{expression}");
    }
    for expression in [
        "exec.path == '/bin/sh' || drop.dst_port == 22",
        "drop.dst_port == 22 || exec.path == '/bin/sh'",
        "!(exec.path == 'a' && drop.dst_port == 23)",
    ] {
        assert!(takes(expression, &drop), "{expression}");
    }
    assert!(takes("exec.path == '/bin/sh' || drop.dst_port == 22", &exec));
    // Results that there are not.
    for expression in [
        "drop.dst_port / 0 == 1",
        "drop.dst_port % 0 == 1",
        "drop.packets * 9223372036854775807 * 9223372036854775807 * 9223372036854775807 > 0",
        "exec.argv[3] == 'a'",
        "exec.argv[-1] == 'a'",
    ] {
        assert!(!takes(expression, &drop) && !takes(expression, &exec), "{expression}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (expression, why) in [
        (
            "drop.sorce == 'a'",
            "line 1, column 5: drop has no field \"sorce\"; there are bytes, dst",
        ),
        ("drop.src == 'a' &&\n drop.x == 1", "line 2, column 6: drop has no field \"x\""),
        (
            "exec.name == 'a'",
            "column 5: exec has no field \"name\"; there are argv, argv_truncated, cgroup",
        ),
        ("drop.src.x == 'a'", "drop.src is text and has no field \"x\""),
        (
            "dorp.src == 'a'",
            "column 1: unknown name \"dorp\"; there are accept, addr, alert, autoblock",
        ),
        ("alert.src == 'a'", "alert has no field \"src\"; there are cause, clear_below, name"),
        ("drop.packets >", "column 15: something is missing at the end"),
        ("drop.packets = 1", "column 14: unexpected \"=\"; equality is \"==\""),
        ("drop.src == 'a", "column 13: this text has no end"),
        ("drop.packets > 1 and late", "column 18: unexpected \"and\""),
        ("drop.packets", "is a number, not true or false"),
        ("'a'", "is text, not true or false"),
        ("drop.packets == 'a'", "compares a number with text"),
        ("drop.packets > true", "compares a number with true or false"),
        ("late < true", "can't be compared so"),
        ("exec.argv == 'a'", "compares a list with text"),
        ("drop == drop", "an object can't be compared so"),
        ("drop.packets in ['a']", "looks for a number where each is text"),
        ("drop.packets in [1, 'a']", "is not a number as the first is"),
        ("drop.packets in [drop.bytes]", "must be a constant"),
        ("drop.packets in []", "an empty list has nothing"),
        ("drop.src + 'a' == 'b'", "is text, not a number"),
        ("drop.src == null", "has(…)"),
        ("has(drop)", "wants a field"),
        ("drop.src.lower() == 'a'", "unknown function \"lower\"; there are has, size"),
        ("now() > 1", "unknown function \"now\""),
        ("drop.src.matches(host)", "a pattern must be a constant"),
        ("drop.src.matches('(')", "pattern: unclosed group"),
        ("drop.src.matches('a{1000}{1000}')", "pattern: "),
        ("drop.src.startsWith('a', 'b')", "does not take 2 arguments"),
        ("exec.argv.exists(a, exec.argv.exists(b, a == b))", "can't be inside each other"),
        ("exec.argv.map(a, a) == 'b'", "unknown function \"map\""),
        ("type == 'dorp'", "type \"dorp\": unknown"),
        ("type in ['drop', 'dorp']", "type \"dorp\": unknown"),
        ("[1].exists(a, a == 1)", "must be a field"),
        ("{'a': 1}.a == 1", "can't be used in a filter"),
    ] {
        let told = refused(expression, &[]);
        assert!(told.starts_with("filter expression: line "), "{expression}: {told}");
        assert!(told.contains(why), "{expression}: {told}");
    }
    let told = refused("drop.src == 'a'", &[Kind::Exec, Kind::Exit]);
    assert!(
        told.contains("drop: events of this type are not asked for, only exec, exit, host, lost"),
        "{told}"
    );
    assert!(refused(&"a".repeat(4_097), &[]).contains("4097 bytes long; at most 4096"));
    let told = refused(&"drop.packets > 1 || ".repeat(50), &[]);
    assert!(told.contains("operators and fields; at most 128 are read"), "{told}");
    for deep in ["(", "[", "!", "-", "a.f(", "late?", "late?late:", "{1:", "x.exists(y,", "a[b"] {
        refused(&deep.repeat(4_096 / deep.len()), &[]);
    }
    let told = refused(&format!("{}late{}", "(".repeat(100), ")".repeat(100)), &[]);
    assert!(told.contains("nested deeper than 48"), "{told}");
    // As many as are read, in a row: no stack overflows.
    for (first, next, last) in [
        ("late", ".b", ""),
        ("1", "+1", "==1"),
        ("late", "||late", ""),
        ("true", "==true", ""),
        ("", "!", "late"),
        ("late", "[0]", ""),
        ("late", ".f()", ""),
    ] {
        let expression = format!("{first}{}{last}", next.repeat(64));
        let filter = EventFilter { expression, ..EventFilter::default() };
        let _ = Filter::new(Some(filter)).map(|it| it.matches(&origin(), &of(Kind::Drop)));
    }
    assert!(takes("!late||".repeat(60).trim_end_matches('|'), &of(Kind::Drop)));
}

#[test]
fn no_expression_panics() {
    use rand::{Rng as _, SeedableRng as _};
    let words = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "drop",
        "exec",
        ".",
        "src",
        "argv",
        "==",
        "!=",
        "<",
        "&&",
        "||",
        "!",
        "-",
        "?",
        ":",
        "'x'",
        "\"",
        "'",
        "1",
        "2u",
        "0x",
        "1e9",
        "\\",
        " in ",
        " ",
        ",",
        "has(",
        ".exists(a,",
        "a",
        "é",
        "\0",
        "`",
        "b'",
        "r'",
        "\n",
        "//",
        "true",
        "null",
        "9223372036854775808",
        "-9223372036854775808",
        ".all(a,",
        ".map(",
        "size(",
        ".matches('",
        "drop.packets",
        "exec.argv",
        "late",
        "type",
        "+",
        "%",
        "/",
    ];
    let events = samples();
    let seed = rand::random();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut valid = 0;
    for _ in 0..4_000 {
        let count = random.random_range(1..14);
        let expression: String =
            (0..count).map(|_| words[random.random_range(0..words.len())]).collect();
        let filter = EventFilter { expression, ..EventFilter::default() };
        if let Ok(filter) = Filter::new(Some(filter)) {
            valid += 1;
            for event in &events {
                filter.matches(&origin(), event);
            }
        }
    }
    assert!(valid > 4, "seed {seed}: {valid} valid");
}

#[test]
fn flags_look_at_both_ends_both_processes_and_paths() {
    let takes = |filter: EventFilter, kind| {
        Filter::new(Some(filter)).expect("valid").matches(&origin(), &of(kind))
    };
    let with = |set: fn(&mut EventFilter, &str), value: &str| {
        let mut filter = EventFilter::default();
        set(&mut filter, value);
        filter
    };
    let src = |value| with(|it, value| it.src.push(value.to_owned()), value);
    let dst = |value| with(|it, value| it.dst.push(value.to_owned()), value);
    let comm = |value| with(|it, value| it.comms.push(value.to_owned()), value);
    let path = |value| with(|it, value| it.paths.push(value.to_owned()), value);
    let port = |port| EventFilter { ports: vec![1, port], ..EventFilter::default() };
    let pid = |pid| EventFilter { pids: vec![1, pid], ..EventFilter::default() };
    assert!(takes(src("10.0.0.0/8"), Kind::Drop) && takes(src("10.0.0.5"), Kind::Monitor));
    assert!(!takes(src("10.0.0.6"), Kind::Drop) && !takes(src("0.0.0.0/0"), Kind::Exec));
    assert!(takes(dst("2001:db8::/32"), Kind::Connect) && takes(dst("10.0.0.5"), Kind::Close));
    assert!(!takes(dst("::/0"), Kind::Close) && !takes(src("::/0"), Kind::Link));
    assert!(takes(port(22), Kind::Drop) && takes(port(41_000), Kind::Drop));
    assert!(takes(port(443), Kind::Accept) && !takes(port(80), Kind::Accept));
    assert!(
        takes(pid(9), Kind::Ptrace) && takes(pid(10), Kind::Ptrace) && takes(pid(10), Kind::Oom)
    );
    assert!(!takes(pid(33), Kind::Exec) && !takes(pid(7), Kind::Drop));
    assert!(takes(comm("web"), Kind::Signal) && takes(comm("kill"), Kind::Signal));
    assert!(!takes(comm("we"), Kind::Signal));
    assert!(takes(path("/etc"), Kind::Open) && takes(path("/bin/sh"), Kind::Exec));
    assert!(!takes(path("/usr"), Kind::Open) && !takes(path("/"), Kind::Uevent));
    // Everything that is given must match.
    let both =
        EventFilter { src: vec!["10.0.0.5".to_owned()], ports: vec![80], ..EventFilter::default() };
    assert!(!takes(both, Kind::Drop));
    for filter in [src("web"), dst("10.0.0.5/33"), port(65_536)] {
        assert!(Filter::new(Some(filter)).is_err());
    }
    let many = EventFilter { pids: vec![1; 1_025], ..EventFilter::default() };
    assert!(Filter::new(Some(many)).is_err());
}

#[test]
fn lost_always_comes_and_host_passes_every_filter_of_types() {
    let nothing = |types: Vec<i32>| EventFilter {
        types,
        expression: "seq == 0".to_owned(),
        src: vec!["192.0.2.1".to_owned()],
        ..EventFilter::default()
    };
    let drops = vec![Kind::Drop.to_proto().into()];
    let none = Filter::new(Some(nothing(drops.clone()))).expect("valid");
    assert!(none.matches(&origin(), &of(Kind::Lost)) && !none.matches(&origin(), &of(Kind::Host)));
    let types =
        Filter::new(Some(EventFilter { types: drops, ..EventFilter::default() })).expect("valid");
    assert!(
        [Kind::Drop, Kind::Host, Kind::Lost].iter().all(|it| types.matches(&origin(), &of(*it)))
    );
    assert!(!types.matches(&origin(), &of(Kind::Exec)));
    assert_eq!(types.kinds().iter().collect::<Vec<_>>(), [Kind::Drop, Kind::Host, Kind::Lost]);
    // What this version does not know comes when everything does.
    let unknown = Event::default();
    let all = Filter::new(None).expect("valid");
    assert!(all.matches(&origin(), &unknown) && !types.matches(&origin(), &unknown));
    assert!(Filter::new(Some(EventFilter { types: vec![99], ..EventFilter::default() })).is_err());
}
