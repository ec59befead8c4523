//! A plain program and its reader: epoll, and each record by itself.

use crate::{Attached, Read, Reader, cpu_time};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) fn empty() -> Attached {
    let mut ebpf = load(u64::MAX);
    attach(&mut ebpf, "empty");
    Attached { programs: Box::new(ebpf), reader: None }
}

/// Whose reader is woken when so many bytes wait.
pub(crate) fn ring(wake_bytes: u64) -> Attached {
    let mut ebpf = load(wake_bytes);
    attach(&mut ebpf, "batched");
    let ring = ebpf.take_map("ring").expect("it is there");
    let mut ring = RingBuf::try_from(ring).expect("a ring");
    let lost = ebpf.take_map("lost").expect("it is there");
    let lost = PerCpuArray::try_from(lost).expect("counters");
    let reader = Reader::start(move |stop| read(&mut ring, &lost, stop));
    Attached { programs: Box::new(ebpf), reader: Some(reader) }
}

fn load(wake_bytes: u64) -> Ebpf {
    let plain = [wake_bytes, offset("real_parent"), offset("tgid")];
    let object = aya::include_bytes_aligned!("opens.bpf.o");
    let mut loader = EbpfLoader::new();
    loader
        .override_global("PLAIN", plain.as_slice(), true)
        .load(object)
        .expect("root: the programs")
}

fn attach(ebpf: &mut Ebpf, name: &str) {
    let program: &mut RawTracePoint =
        ebpf.program_mut(name).expect("it is there").try_into().expect("a raw tracepoint");
    program.load().expect("loaded");
    program.attach("sys_exit").expect("attached");
}

fn read(ring: &mut RingBuf<MapData>, lost: &PerCpuArray<MapData, u64>, stop: &AtomicBool) -> Read {
    let (before, mut events, mut kept) = (cpu_time(), 0, Vec::with_capacity(1 << 20));
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(50_u8)).expect("poll");
        while let Some(record) = ring.next() {
            events += 1;
            // As whoever has a use for it does.
            kept.extend_from_slice(&record);
        }
        std::hint::black_box(&kept);
        kept.clear();
    }
    let cpu = cpu_time() - before;
    Read { events, lost: lost.get(&0, 0).expect("counters").iter().sum(), cpu }
}

/// Of a member of `task_struct`, bytes.
fn offset(member: &str) -> u64 {
    static DUMP: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
    let dump = DUMP.get_or_init(|| {
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["-j", "btf", "dump", "file", "/sys/kernel/btf/vmlinux"]);
        let dump = bpftool.output().expect("bpftool").stdout;
        serde_json::from_slice(&dump).expect("JSON")
    });
    let types = dump["types"].as_array().expect("types");
    let task = types.iter().find(|it| it["kind"] == "STRUCT" && it["name"] == "task_struct");
    let members = task.expect("a task")["members"].as_array().expect("members");
    let found = members.iter().find(|it| it["name"] == member).expect(member);
    found["bits_offset"].as_u64().expect("bits") / 8
}
