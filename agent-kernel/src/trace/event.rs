//! What processes do that is told. It must not know how the kernel records it.

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// What.
    pub event: Event,
}

/// What happened. Names and paths hold any bytes but zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A process runs another program.
    Exec(Exec),
    /// A process ended.
    Exit(Exit),
    /// A file was opened, or could not be.
    Open(Open),
    /// A process changed its credentials.
    Cred(Cred),
    /// A kernel module was loaded or unloaded.
    Module(Module),
    /// A BPF program was loaded.
    Bpf(Bpf),
    /// A process traces another.
    Ptrace(Ptrace),
    /// A signal was sent.
    Signal(Signal),
    /// A process was killed for want of memory.
    Oom(Oom),
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Of the whole process, in the first pid namespace.
    pub pid: u32,
    /// Of its parent; `None` when that is not known, as below.
    pub ppid: Option<u32>,
    /// Real user, in the first user namespace.
    pub uid: Option<u32>,
    /// Name of its first thread, at most 15 bytes.
    pub comm: Vec<u8>,
    /// Id of its cgroup of version 2: [`CgroupPaths::find`](super::CgroupPaths::find).
    pub cgroup: Option<u64>,
}

/// A process runs another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Under its new name.
    pub process: Process,
    /// The program as it was asked for.
    pub path: Vec<u8>,
    /// Its arguments, together at most 4,095 bytes.
    pub argv: Vec<Vec<u8>>,
    /// Some are missing, and the last may be cut off.
    pub argv_truncated: bool,
    /// Name of the parent.
    pub parent_comm: Vec<u8>,
}

/// A process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Who.
    pub process: Process,
    /// Of exit(2); `None` when a signal ended it.
    pub code: Option<u32>,
    /// The signal that ended it.
    pub signal: Option<u32>,
    /// It left its memory behind.
    pub core_dumped: bool,
    /// Since its start, nanoseconds.
    pub lifetime_ns: u64,
}

/// A file was opened, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Who.
    pub process: Process,
    /// As it was named, at most 4,095 bytes.
    pub path: Vec<u8>,
    /// It was longer, or could not be read.
    pub path_truncated: bool,
    /// open(2)
    pub flags: u64,
    /// Error number, when it could not be.
    pub error: Option<u32>,
}

/// Credentials, in the first user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Effective capabilities as a mask, capabilities(7).
    pub capabilities: u64,
}

/// A process changed its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cred {
    /// Who, with its new user.
    pub process: Process,
    /// Before.
    pub old: Credentials,
    /// After.
    pub new: Credentials,
}

/// A kernel module was loaded or unloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Who did it.
    pub process: Process,
    /// As in lsmod(8).
    pub name: Vec<u8>,
    /// Loaded; else unloaded.
    pub loaded: bool,
}

/// A BPF program was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bpf {
    /// Who loaded it.
    pub process: Process,
    /// As in bpftool-prog(8); `None` when it was gone too soon, as below.
    pub id: Option<u32>,
    /// Empty when it has none.
    pub name: Vec<u8>,
    /// Number of its type: [`bpf_type`].
    pub program_type: Option<u32>,
}

/// How a process came to trace another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PtraceRequest {
    /// The tracer stopped it.
    Attach,
    /// The tracer let it run.
    Seize,
    /// It asked for it.
    Traceme,
}

/// A process traces another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ptrace {
    /// Who traces.
    pub process: Process,
    /// How.
    pub request: PtraceRequest,
    /// Who is traced; `None` when it was gone too soon.
    pub target: Option<Process>,
}

/// A signal was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Who sent it; `None` when the kernel did.
    pub process: Option<Process>,
    /// Its number.
    pub signal: u32,
    /// `si_code` of sigaction(2).
    pub code: i32,
    /// Who gets it.
    pub target: Process,
    /// Why it was not delivered.
    pub undelivered: Option<Undelivered>,
}

/// Why a signal was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// Its target ignores it.
    Ignored,
    /// One of this number waits already.
    AlreadyPending,
    /// There was no room for it.
    Overflow,
}

/// A process was killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oom {
    /// Who.
    pub victim: Process,
    /// Its memory; `None` on a kernel that doesn't tell.
    pub memory: Option<VictimMemory>,
}

/// Memory of a victim, pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VictimMemory {
    /// All that it has addresses for.
    pub virtual_pages: u64,
    /// What it holds of its own, of files, and of shared memory; `None` when that is not known.
    pub resident: Option<ResidentPages>,
}

/// Memory that a victim holds, pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentPages {
    /// Of its own.
    pub anon: u64,
    /// Of files.
    pub file: u64,
    /// Shared.
    pub shmem: u64,
}
