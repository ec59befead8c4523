//! The same processes from a BPF task iterator (bpf(2), BPF_ITER_CREATE): nine fields of each, and
//! neither command line nor cgroup.

use aya::programs::Iter;
use aya::{Btf, Ebpf, EbpfLoader};
use std::fs::File;
use std::io::Read as _;
use std::process::Command;

/// As in agent-ebpf/src/tasks.rs.
const RECORD_BYTES: usize = 64;
/// Its offsets: a member of a struct, in their order.
const MEMBERS: [(&str, &str); 13] = [
    ("task_struct", "tgid"),
    ("task_struct", "pid"),
    ("task_struct", "real_parent"),
    ("task_struct", "__state"),
    ("task_struct", "start_boottime"),
    ("task_struct", "cred"),
    ("task_struct", "comm"),
    ("task_struct", "signal"),
    ("task_struct", "mm"),
    ("cred", "euid"),
    ("signal_struct", "nr_threads"),
    ("mm_struct", "total_vm"),
    ("mm_struct", "rss_stat"),
];

/// The loaded program.
pub(crate) struct Tasks {
    program: Ebpf,
}

impl Tasks {
    pub(crate) fn load() -> Self {
        let offsets = offsets();
        let object = aya::include_bytes_aligned!("tasks.bpf.o");
        let mut program = EbpfLoader::new()
            .override_global("OFFSETS", &offsets, true)
            .load(object)
            .expect("root: the task iterator");
        let iterator: &mut Iter =
            program.program_mut("tasks").expect("it is there").try_into().expect("an iterator");
        iterator.load("task", &Btf::from_sys_fs().expect("the kernel's BTF")).expect("loaded");
        Self { program }
    }

    /// How many processes there are, with everything read.
    pub(crate) fn count(&mut self, buffer: &mut Vec<u8>) -> usize {
        let iterator: &mut Iter =
            self.program.program_mut("tasks").expect("it is there").try_into().expect("one");
        let link = iterator.attach().expect("attached");
        let link = iterator.take_link(link).expect("just attached");
        let mut file: File = link.into_file().expect("an iterator's file");
        buffer.clear();
        file.read_to_end(buffer).expect("records");
        assert_eq!(buffer.len() % RECORD_BYTES, 0);
        buffer.len() / RECORD_BYTES
    }

    /// The pid of each record.
    pub(crate) fn pids(buffer: &[u8]) -> impl Iterator<Item = u32> {
        buffer.chunks_exact(RECORD_BYTES).map(|record| {
            let pid = record[24..28].try_into().expect("four bytes");
            u32::from_ne_bytes(pid)
        })
    }
}

/// Where this kernel keeps each member, bytes.
fn offsets() -> [u32; MEMBERS.len()] {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["-j", "btf", "dump", "file", "/sys/kernel/btf/vmlinux"]);
    let dump = bpftool.output().expect("bpftool").stdout;
    let dump: serde_json::Value = serde_json::from_slice(&dump).expect("JSON");
    let types = dump["types"].as_array().expect("types");
    MEMBERS.map(|(name, member)| {
        let found = types.iter().filter(|it| it["kind"] == "STRUCT" && it["name"] == name);
        let mut offsets = found.filter_map(|it| offset(types, it, member));
        offsets.next().unwrap_or_else(|| panic!("this kernel has no {name}.{member}"))
    })
}

/// Of a member, perhaps one of a struct without a name in it.
fn offset(types: &[serde_json::Value], of: &serde_json::Value, member: &str) -> Option<u32> {
    of["members"].as_array()?.iter().find_map(|it| {
        let bits = u32::try_from(it["bits_offset"].as_u64()?).ok()?;
        if it["name"] == member {
            return Some(bits / 8);
        }
        let inner = types.iter().find(|inner| inner["id"] == it["type_id"])?;
        let unnamed = it["name"] == "(anon)" && inner["members"].is_array();
        unnamed.then(|| offset(types, inner, member)).flatten().map(|more| bits / 8 + more)
    })
}
