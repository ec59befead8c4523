//! Paths of new cgroups, kept for those that are gone when somebody asks.

use crate::kernel::{Address, layout};
use crate::or_zero::{follow, read};
use crate::task::id;
use agent_records::trace::{CGROUP_BYTES, CGROUPS};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;

/// By id, each with a zero at its end.
#[map(name = "cgroup_paths")]
static PATHS: LruHashMap<u64, [u8; CGROUP_BYTES]> = LruHashMap::with_max_entries(CGROUPS, 0);
#[map(name = "cgroup_draft")]
static DRAFT: PerCpuArray<[u8; CGROUP_BYTES]> = PerCpuArray::with_max_entries(1, 0);

/// `cgroup_mkdir(cgroup, path)`
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = ctx.arg::<u64>(0) as Address;
    // Ids are of one hierarchy; that of version 2 has number 0.
    if read::<u32>(follow(cgroup, layout!(cgroup_root)), layout!(root_hierarchy_id)) != 0 {
        return 0;
    }
    let Some(draft) = DRAFT.get_ptr_mut(0) else { return 0 };
    // SAFETY: a checked pointer into this CPU's own value; the helper checks where it reads from.
    unsafe {
        let path = ctx.arg::<u64>(1) as *const _;
        let length = bpf_probe_read_kernel_str(draft.cast(), CGROUP_BYTES as u32, path);
        // One that was cut off would be another one's.
        if length > 0 && length < CGROUP_BYTES as i64 {
            let _ = PATHS.insert(&id(cgroup), &*draft, 0);
        }
    }
    0
}
