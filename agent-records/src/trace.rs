//! What processes do: the records of the tracing programs, and what user space tells these programs of
//! the kernel they run on.
//!
//! A record begins with a [`Header`] and goes on as its kind says. Numbers are in host byte order.

/// Bytes of a name of a task, with the zero at its end.
pub const COMM_BYTES: usize = 16;
/// Bytes of a path, with the zero at its end: PATH_MAX.
pub const PATH_BYTES: usize = 4_096;
/// Bytes of arguments that are told, at most.
pub const ARGS_BYTES: usize = 4_096;
/// Bytes of a path that a prefix of paths can have, at most.
pub const PREFIX_BYTES: usize = 256;
/// Bytes of a cgroup's path that are kept for those that vanish, with the zero at its end.
pub const CGROUP_BYTES: usize = 512;
/// Cgroups whose paths are kept, at most; the least recent ones go.
pub const CGROUPS: u32 = 1_024;
/// An offset of what this kernel has not.
pub const ABSENT: u32 = u32::MAX;
/// System calls that can be chosen have lower numbers.
pub const CALLS: usize = 512;

/// Kinds of records.
pub mod kind {
    /// [`Exec`](super::Exec), then the path, then the arguments, each with a zero at its end.
    pub const EXEC: u32 = 1;
    /// [`Exit`](super::Exit)
    pub const EXIT: u32 = 2;
    /// [`Open`](super::Open), then the path.
    pub const OPEN: u32 = 3;
    /// [`Cred`](super::Cred)
    pub const CRED: u32 = 4;
    /// [`Module`](super::Module)
    pub const MODULE: u32 = 5;
    /// [`Bpf`](super::Bpf)
    pub const BPF: u32 = 6;
    /// [`Ptrace`](super::Ptrace)
    pub const PTRACE: u32 = 7;
    /// [`Signal`](super::Signal)
    pub const SIGNAL: u32 = 8;
    /// [`Oom`](super::Oom)
    pub const OOM: u32 = 9;
}

/// What a system call is to the programs.
pub mod call {
    /// Nothing.
    pub const OTHER: u8 = 0;
    /// open(2)
    pub const OPEN: u8 = 1;
    /// creat(2)
    pub const CREAT: u8 = 2;
    /// openat(2)
    pub const OPENAT: u8 = 3;
    /// openat2(2)
    pub const OPENAT2: u8 = 4;
    /// setuid(2) and its like, capset(2), execve(2)
    pub const CRED: u8 = 5;
    /// bpf(2)
    pub const BPF: u8 = 6;
    /// ptrace(2)
    pub const PTRACE: u8 = 7;
}

/// Every record begins so.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// What it is of: [`kind`].
    pub kind: u32,
    /// Always 0.
    pub zero: u32,
}

/// A process: all threads of it, so its name is the one of its first thread.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Id of its cgroup of version 2; 0 when there is none.
    pub cgroup: u64,
    /// Thread group id; 0 when there is no process.
    pub pid: u32,
    /// Of the parent.
    pub ppid: u32,
    /// Real user, in the first user namespace.
    pub uid: u32,
    /// Always 0.
    pub zero: u32,
    /// Up to the first zero.
    pub comm: [u8; COMM_BYTES],
}

/// Another program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exec {
    /// First of every record.
    pub header: Header,
    /// Under its new name.
    pub process: Process,
    /// Name of the parent.
    pub parent_comm: [u8; COMM_BYTES],
    /// Bytes of the path, without the zero at its end.
    pub path_bytes: u32,
    /// Bytes of the arguments.
    pub args_bytes: u32,
    /// Bytes that there are of them.
    pub args_whole_bytes: u32,
    /// Always 0.
    pub zero: u32,
}

/// The end of a process.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    /// First of every record.
    pub header: Header,
    /// As it was.
    pub process: Process,
    /// CLOCK_BOOTTIME of its start, nanoseconds.
    pub start_boot_ns: u64,
    /// As wait(2) has it.
    pub status: u32,
    /// Always 0.
    pub zero: u32,
}

/// An opened file.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// First of every record.
    pub header: Header,
    /// Who opened it.
    pub process: Process,
    /// open(2)
    pub flags: u64,
    /// Error number; 0 when it was opened.
    pub error: u32,
    /// Bytes of the path, without the zero at its end; [`u32::MAX`] when it could not be read.
    pub path_bytes: u32,
    /// Always 0.
    pub zero: u32,
    /// Bits of the path that are compared with prefixes: the path follows, as an LPM trie wants it.
    pub prefix_bits: u32,
}

/// Credentials of a task, in the first user namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Effective capabilities.
    pub capabilities: u64,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
}

/// Changed credentials.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cred {
    /// First of every record.
    pub header: Header,
    /// Whose.
    pub process: Process,
    /// Before.
    pub old: Credentials,
    /// After.
    pub new: Credentials,
}

/// A kernel module.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// First of every record.
    pub header: Header,
    /// Who loads or unloads it.
    pub process: Process,
    /// Up to the first zero.
    pub name: [u8; 56],
    /// 1 when it was loaded, 0 when it was unloaded.
    pub loaded: u32,
    /// Always 0.
    pub zero: u32,
}

/// A BPF program that was loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bpf {
    /// First of every record.
    pub header: Header,
    /// Who loaded it.
    pub process: Process,
    /// As in bpftool-prog(8); 0 when it is not known.
    pub id: u32,
    /// Number of its type, linux/bpf.h.
    pub program_type: u32,
    /// Up to the first zero.
    pub name: [u8; 16],
}

/// A tracer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ptrace {
    /// First of every record.
    pub header: Header,
    /// Who traces.
    pub process: Process,
    /// Who is traced; pid 0 when it is not known.
    pub target: Process,
    /// ptrace(2)
    pub request: u32,
    /// Always 0.
    pub zero: u32,
}

/// A signal.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signal {
    /// First of every record.
    pub header: Header,
    /// Who sent it; pid 0 when the kernel did.
    pub process: Process,
    /// Who gets it.
    pub target: Process,
    /// Its number.
    pub signal: u32,
    /// `si_code` of sigaction(2).
    pub code: i32,
    /// `TRACE_SIGNAL_*` of the kernel's trace/events/signal.h.
    pub result: u32,
    /// Always 0.
    pub zero: u32,
}

/// A process killed for want of memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oom {
    /// First of every record.
    pub header: Header,
    /// Who was killed; on a kernel that tells only the number, nothing else is known.
    pub victim: Process,
    /// Pages of virtual memory; [`u64::MAX`] when that is not known, as below.
    pub virtual_pages: u64,
    /// Pages of files, anonymous memory, swap and shared memory, as the kernel counts them.
    pub resident_pages: [u64; 4],
}

/// What user space tells the programs of what is wanted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Id of the cgroup that tells are narrowed to; 0 for none.
    pub scope: u64,
    /// How deep it is below the root.
    pub scope_level: u32,
    /// Whether only paths with certain prefixes are told.
    pub has_prefixes: u32,
    /// Whether the tracepoint of a task's end tells that it is the last of its process.
    pub tells_last: u32,
    /// Whether the tracepoint of a victim has the task.
    pub tells_victim: u32,
    /// Bytes between two counters of resident memory; 0 when they can't be read.
    pub rss_step: u32,
    /// Bytes of these before the first one's number.
    pub rss_first: u32,
}

impl Settings {
    /// Of who wants nothing.
    pub const EMPTY: Self = Self {
        scope: 0,
        scope_level: 0,
        has_prefixes: 0,
        tells_last: 0,
        tells_victim: 0,
        rss_step: 0,
        rss_first: 0,
    };
}

macro_rules! layout {
    ($($field:ident: $of:literal $member:literal,)*) => {
        /// Where this kernel keeps what is read, bytes from the start of its struct;
        /// [`ABSENT`](crate::trace::ABSENT) for what it has not.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Layout {
            $(
                #[doc = concat!("`", $of, ".", $member, "`")]
                pub $field: u32,
            )*
        }

        /// The fields of [`Layout`], in order: a struct of the kernel and a member of it.
        pub const MEMBERS: &[(&str, &str)] = &[$(($of, $member),)*];

        impl Layout {
            /// Of a kernel that has nothing.
            pub const EMPTY: Self = Self { $($field: $crate::trace::ABSENT,)* };
        }
    };
}

pub(crate) use layout;

layout! {
    task_pid: "task_struct" "pid",
    task_tgid: "task_struct" "tgid",
    task_group_leader: "task_struct" "group_leader",
    task_real_parent: "task_struct" "real_parent",
    task_parent: "task_struct" "parent",
    task_cred: "task_struct" "cred",
    task_comm: "task_struct" "comm",
    task_signal: "task_struct" "signal",
    task_mm: "task_struct" "mm",
    task_files: "task_struct" "files",
    task_cgroups: "task_struct" "cgroups",
    task_exit_code: "task_struct" "exit_code",
    task_start_boottime: "task_struct" "start_boottime",
    task_thread_pid: "task_struct" "thread_pid",
    task_ptraced: "task_struct" "ptraced",
    task_ptrace_entry: "task_struct" "ptrace_entry",
    task_thread_info: "task_struct" "thread_info",
    thread_info_status: "thread_info" "status",
    signal_live: "signal_struct" "live",
    signal_flags: "signal_struct" "flags",
    signal_group_exit_code: "signal_struct" "group_exit_code",
    cred_uid: "cred" "uid",
    cred_gid: "cred" "gid",
    cred_euid: "cred" "euid",
    cred_egid: "cred" "egid",
    cred_cap_effective: "cred" "cap_effective",
    mm_arg_start: "mm_struct" "arg_start",
    mm_arg_end: "mm_struct" "arg_end",
    mm_total_vm: "mm_struct" "total_vm",
    mm_rss_stat: "mm_struct" "rss_stat",
    binprm_filename: "linux_binprm" "filename",
    css_set_dfl_cgrp: "css_set" "dfl_cgrp",
    cgroup_level: "cgroup" "level",
    cgroup_kn: "cgroup" "kn",
    cgroup_root: "cgroup" "root",
    cgroup_ancestors: "cgroup" "ancestors",
    root_hierarchy_id: "cgroup_root" "hierarchy_id",
    kernfs_id: "kernfs_node" "id",
    pid_level: "pid" "level",
    pid_numbers: "pid" "numbers",
    files_fdt: "files_struct" "fdt",
    fdtable_max_fds: "fdtable" "max_fds",
    fdtable_fd: "fdtable" "fd",
    file_private_data: "file" "private_data",
    prog_type: "bpf_prog" "type",
    prog_aux: "bpf_prog" "aux",
    aux_id: "bpf_prog_aux" "id",
    aux_name: "bpf_prog_aux" "name",
    aux_prog: "bpf_prog_aux" "prog",
    module_name: "module" "name",
    regs_call: "pt_regs" "orig_ax",
    regs_first: "pt_regs" "di",
    regs_second: "pt_regs" "si",
    regs_third: "pt_regs" "dx",
}
