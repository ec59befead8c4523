//! Attaching, re-adopting, detaching.

use crate::support::{
    BLOCKED, DROP, FREE, World, answers, command, end, goes_on, json, key, on_each_hook, run,
    storm, within,
};
use agent_kernel::ErrorKind;
use agent_kernel::filter::{Attached, Filter, FilterConfig, Hook, Mode, detach};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use std::path::Path;

/// The XDP mode of kt0 as ip(8) sees it: 1 in the driver, 2 in the stack.
pub(crate) fn mode_of_kt0() -> i64 {
    json("ip -j -d link show dev kt0")[0]["xdp"]["mode"].as_i64().unwrap_or(0)
}

/// The pinned link of kt0 as bpftool(8) sees it.
fn link(world: &World) -> serde_json::Value {
    let name = if world.attached() == Attached::Tcx { "tcx-kt0" } else { "link-kt0" };
    json(&format!("bpftool -j link show pinned {}/v3/{name}", world.bpffs().display()))
}

/// Ids of the programs at tcx ingress, in their order. bpftool(8) tells of tcx from version 7.3 on only,
/// so aya asks.
pub(crate) fn at_tcx(interface: &str) -> Vec<u32> {
    let asked = SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
    asked.expect("asked").1.iter().map(ProgramInfo::id).collect()
}

on_each_hook!(
    a_new_owner_adopts_links_and_counters_without_letting_a_packet_through,
    an_interface_that_comes_back_is_filtered_anew_and_one_with_a_dot_is_pinned,
    detach_leaves_nothing_behind,
);

fn blocks(mode: Mode, expected: Attached, seen: i64) {
    let world = World::new();
    world.veth();
    let mut filter = world.filter(100);
    assert_eq!(filter.attach("kt0", mode).expect("attached"), expected);
    assert_eq!(mode_of_kt0(), seen);
    let attachments = filter.attachments().expect("known");
    assert_eq!(attachments.len(), 1);
    assert_eq!((attachments[0].interface.as_str(), attachments[0].mode), ("kt0", expected));

    filter.update(&[(key("10.9.0.2"), DROP), (key("fd09::2"), DROP)]).expect("room");
    for source in ["10.9.0.2", "fd09::2"] {
        assert!(!answers(source), "{source} is blocked");
    }
    for bystander in ["10.9.0.3", "fd09::3"] {
        within("the neighbour gets through", || answers(bystander));
    }
    assert!(filter.hits().expect("read").iter().all(|hit| hit.packets > 0));
    filter.update(&[(key("10.9.0.2"), None), (key("fd09::2"), None)]).expect("removed");
    within("nothing is blocked any more", || answers("10.9.0.2") && answers("fd09::2"));
}

#[test]
fn native_mode_blocks_one_source_and_not_its_neighbour() {
    blocks(Mode::Auto, Attached::Native, 1);
}

#[test]
fn generic_mode_blocks_one_source_and_not_its_neighbour() {
    blocks(Mode::Generic, Attached::Generic, 2);
}

#[test]
fn tcx_blocks_one_source_and_not_its_neighbour() {
    blocks(Mode::Tcx, Attached::Tcx, 0);
}

/// What the rules in force met.
pub(crate) fn packets(filter: &Filter) -> u64 {
    filter.hits().expect("read").iter().map(|hit| hit.packets).sum()
}

fn a_new_owner_adopts_links_and_counters_without_letting_a_packet_through(hook: Hook) {
    let world = World::on(hook);
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", world.mode()).expect("attached");
    filter.update(&[(key("10.9.0.2"), DROP), (key("fd09::2"), DROP)]).expect("room");
    let id = link(&world)["id"].clone();

    let storm = storm([BLOCKED, FREE]);
    for _ in 0..4 {
        goes_on(&storm);
        let before = packets(&filter);
        drop(filter);
        filter = world.filter(100);
        let after = packets(&filter);
        assert!(after >= before, "hits went on: {after} after {before}");
        assert_eq!(filter.attach("kt0", world.mode()).expect("still there"), world.attached());
        assert_eq!(link(&world)["id"], id, "the link is the same");
        assert_eq!(
            link(&world)["prog_id"],
            filter.program_id(hook).expect("loaded"),
            "its program is the new one"
        );
    }
    let sent = end(storm);
    assert!(kctl_flood::all_met(&sent, packets(&filter)), "{} of {sent:?}", packets(&filter));
    assert!(filter.rules().contains_key(&key("10.9.0.2")));
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    let world = World::new();
    world.veth();
    let elsewhere = FilterConfig { bpffs: world.pin("other"), max_entries: 1 };
    let mut other = Filter::open(&elsewhere).expect("a filter");
    let foreign = other.program_id(Hook::Xdp).expect("loaded");
    run(&format!("bpftool net attach xdpdrv id {foreign} dev kt0"));

    let mut filter = world.filter(100);
    for mode in [Mode::Native, Mode::Generic] {
        let error = filter.attach("kt0", mode).expect_err("somebody else's");
        assert_eq!(error.kind(), ErrorKind::Busy);
        let text = error.to_string();
        assert!(text.contains(&format!("XDP program {foreign} \"kctl_filter\"")), "{text}");
        assert!(error.remedy().is_some());
    }
    assert_eq!(json("ip -j -d link show dev kt0")[0]["xdp"]["prog"]["id"], foreign);
    assert!(filter.attachments().expect("known").is_empty());
}

#[test]
fn an_interface_that_is_not_there_is_an_error_that_names_it() {
    let world = World::new();
    let error = world.filter(1).attach("eth7", Mode::Auto).expect_err("no such device");
    assert_eq!(error.to_string(), "link \"eth7\": no such device");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

fn an_interface_that_comes_back_is_filtered_anew_and_one_with_a_dot_is_pinned(hook: Hook) {
    let world = World::on(hook);
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", world.mode()).expect("attached");
    filter.update(&[(key("10.9.0.2"), DROP)]).expect("room");
    run("ip link del kt0");
    within("the link is forgotten", || filter.attachments().expect("known").is_empty());
    world.veth_without_check();
    filter.attach("kt0", world.mode()).expect("attached again");
    assert!(!answers("10.9.0.2"));
    within("the others get through", || answers("10.9.0.3"));

    // A renamed interface stays filtered, and its old name is free.
    run("ip link set kt0 down");
    run("ip link set kt0 name kt.100 up");
    run("ip link add kt0 type veth peer name kt2");
    filter.attach("kt0", world.mode()).expect("the new kt0");
    let mut names: Vec<_> =
        filter.attachments().expect("known").into_iter().map(|it| it.interface).collect();
    names.sort();
    assert_eq!(names, ["kt.100", "kt0"]);
    assert_eq!(world.filter(100).attachments().expect("adopted").len(), 2);
}

#[test]
fn a_bpffs_is_mounted_where_one_belongs_and_none_is() {
    let _world = World::new();
    // Whatever this machine has there.
    run("mount -t tmpfs tmpfs /sys/fs/bpf");
    let config = FilterConfig { bpffs: "/sys/fs/bpf/kctl".into(), max_entries: 1 };
    Filter::open(&config).expect("a filter");
    assert_eq!(run("stat -f -c %T /sys/fs/bpf").trim(), "bpf_fs");
    let pinned = pinned(&config.bpffs);
    assert!(pinned > 0);
    assert_eq!(detach(&config.bpffs).expect("detached").len(), pinned);
}

/// How many things are pinned below a folder.
fn pinned(bpffs: &Path) -> usize {
    let of = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    of(bpffs).iter().map(|layout| of(layout).len()).sum()
}

fn detach_leaves_nothing_behind(hook: Hook) {
    let world = World::on(hook);
    world.veth();
    let mut filter = world.filter(100);
    filter.attach("kt0", world.mode()).expect("attached");
    filter.update(&[(key("10.9.0.2"), DROP)]).expect("room");
    assert!(!answers("10.9.0.2"));
    let (program, id) = (filter.program_id(hook).expect("loaded"), link(&world)["id"].clone());
    drop(filter);
    let pinned = pinned(&world.bpffs());

    let removed = detach(&world.bpffs()).expect("detached");
    assert!(
        removed.iter().any(|it| it.ends_with("link kt0"))
            && removed.contains(&"map records".to_owned())
    );
    assert_eq!(removed.len(), pinned);
    assert_eq!((mode_of_kt0(), at_tcx("kt0")), (0, vec![]));
    within("it passes", || answers("10.9.0.2"));
    within("program and link are gone", || {
        !command(&format!("bpftool prog show id {program}")).status.success()
            && !command(&format!("bpftool link show id {id}")).status.success()
    });
    assert!(!world.bpffs().join("v3").exists());
    assert!(detach(&world.bpffs()).expect("nothing to do").is_empty());
}
