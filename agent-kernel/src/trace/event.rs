//! What a record means. It must not know who reads it.

use agent_records::trace::{self as record, Header, kind};
use aya::Pod;

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

impl Traced {
    /// From one record; `None` for one that is not ours.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let (Header { boot_ns, kind, .. }, _) = read(record)?;
        let event = match kind {
            kind::EXEC => exec(record),
            kind::EXIT => exit(record),
            kind::OPEN => open(record),
            kind::CRED => read(record).map(|(it, _)| cred(&it)),
            kind::MODULE => read(record).map(|(it, _)| module(&it)),
            kind::BPF => read(record).map(|(it, _)| bpf(&it)),
            kind::PTRACE => read(record).and_then(|(it, _)| ptrace(&it)),
            kind::SIGNAL => read(record).map(|(it, _)| signal(&it)),
            kind::OOM => read(record).map(|(it, _)| oom(&it)),
            _ => None,
        }?;
        Some(Self { boot_ns, event })
    }
}

/// The beginning of the bytes as what lies there, and the rest.
#[expect(unsafe_code, reason = "records are bytes that the kernel wrote")]
pub(super) fn read<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    // SAFETY: as long as it must be, and any bytes are valid for Pod.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, rest))
}

fn exec(record: &[u8]) -> Option<Event> {
    let (it, rest) = read::<record::Exec>(record)?;
    let (path, rest) = rest.split_at_checked(it.path_bytes as usize)?;
    let args = rest.get(..it.args_bytes as usize)?;
    let args = args.strip_suffix(b"\0").unwrap_or(args);
    let argv = if it.args_bytes == 0 {
        Vec::new()
    } else {
        args.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    };
    Some(Event::Exec(Exec {
        process: process(&it.process),
        path: path.to_vec(),
        argv,
        argv_truncated: it.args_bytes < it.args_whole_bytes,
        parent_comm: text(&it.parent_comm),
    }))
}

fn exit(record: &[u8]) -> Option<Event> {
    let (it, _) = read::<record::Exit>(record)?;
    let signal = Some(it.status & 0x7f).filter(|signal| *signal != 0);
    Some(Event::Exit(Exit {
        process: process(&it.process),
        code: signal.is_none().then_some(it.status >> 8 & 0xff),
        signal,
        core_dumped: it.status & 0x80 != 0,
        lifetime_ns: it.header.boot_ns.saturating_sub(it.start_boot_ns),
    }))
}

fn open(record: &[u8]) -> Option<Event> {
    let (it, rest) = read::<record::Open>(record)?;
    let is_read = it.path_bytes != u32::MAX;
    let path = if is_read { rest.get(..it.path_bytes as usize)? } else { &[] };
    Some(Event::Open(Open {
        process: process(&it.process),
        path: path.to_vec(),
        path_truncated: !is_read || path.len() == record::PATH_BYTES - 1,
        flags: it.flags,
        error: Some(it.error).filter(|error| *error != 0),
    }))
}

fn cred(it: &record::Cred) -> Event {
    let credentials = |of: &record::Credentials| Credentials {
        uid: of.uid,
        gid: of.gid,
        euid: of.euid,
        egid: of.egid,
        capabilities: of.capabilities,
    };
    let (old, new) = (credentials(&it.old), credentials(&it.new));
    Event::Cred(Cred { process: process(&it.process), old, new })
}

fn module(it: &record::Module) -> Event {
    let (process, name) = (process(&it.process), text(&it.name));
    Event::Module(Module { process, name, loaded: it.loaded != 0 })
}

fn bpf(it: &record::Bpf) -> Event {
    let id = Some(it.id).filter(|id| *id != 0);
    Event::Bpf(Bpf {
        process: process(&it.process),
        id,
        name: text(&it.name),
        program_type: id.map(|_| it.program_type),
    })
}

fn ptrace(it: &record::Ptrace) -> Option<Event> {
    let request = match it.request {
        0 => PtraceRequest::Traceme,
        16 => PtraceRequest::Attach,
        0x4206 => PtraceRequest::Seize,
        _ => return None,
    };
    let target = some(&it.target);
    Some(Event::Ptrace(Ptrace { process: process(&it.process), request, target }))
}

fn signal(it: &record::Signal) -> Event {
    Event::Signal(Signal {
        process: some(&it.process),
        signal: it.signal,
        code: it.code,
        target: process(&it.target),
        undelivered: match it.result {
            1 => Some(Undelivered::Ignored),
            2 => Some(Undelivered::AlreadyPending),
            3 => Some(Undelivered::Overflow),
            // Delivered, perhaps without what was said of it.
            _ => None,
        },
    })
}

fn oom(it: &record::Oom) -> Event {
    let known = |pages: u64| Some(pages).filter(|pages| *pages != u64::MAX);
    let memory = known(it.virtual_pages).map(|virtual_pages| VictimMemory {
        virtual_pages,
        resident: known(it.resident_pages[0]).map(|file| {
            let [_, anon, _, shmem] = it.resident_pages;
            ResidentPages { anon, file, shmem }
        }),
    });
    let victim = process(&it.victim);
    let victim = if memory.is_some() {
        victim
    } else {
        // Such a kernel tells only the number.
        Process { ppid: None, uid: None, ..victim }
    };
    Event::Oom(Oom { victim, memory })
}

fn process(it: &record::Process) -> Process {
    Process {
        pid: it.pid,
        ppid: Some(it.ppid),
        uid: Some(it.uid),
        comm: text(&it.comm),
        cgroup: Some(it.cgroup).filter(|cgroup| *cgroup != 0),
    }
}

/// `None` for no process.
pub(super) fn some(it: &record::Process) -> Option<Process> {
    (it.pid != 0).then(|| process(it))
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as the programs write it: words of four bytes.
    fn words(kind: u32, rest: &[u32]) -> Vec<u8> {
        let header = [7, 0, kind, 0];
        header.iter().chain(rest).flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A process with its number, parent and user.
    const PROCESS: [u32; 10] = [9, 0, 100, 1, 1000, 0, u32::from_ne_bytes(*b"sh\0x"), 0, 0, 0];

    #[test]
    fn what_is_not_ours_or_not_whole_is_nothing() {
        let whole = words(kind::EXIT, &[&PROCESS[..], &[5, 0, 0, 0]].concat());
        assert!(Traced::decode(&whole).is_some());
        assert_eq!(Traced::decode(&whole[..whole.len() - 1]), None);
        assert_eq!(Traced::decode(&words(99, &[0; 40])), None);
        assert_eq!(Traced::decode(b""), None);
        // A path that is longer than the record.
        let open = words(kind::OPEN, &[&PROCESS[..], &[0, 0, 0, 5, 0, 0]].concat());
        assert_eq!(Traced::decode(&open), None);
    }

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        for (status, expected) in [
            (0, (Some(0), None, false)),
            (0x1_ff00, (Some(255), None, false)),
            (0x000f, (None, Some(15), false)),
            (0x008b, (None, Some(11), true)),
        ] {
            let record = words(kind::EXIT, &[&PROCESS[..], &[5, 0, status, 0]].concat());
            let Some(Traced { boot_ns: 7, event: Event::Exit(exit) }) = Traced::decode(&record)
            else {
                panic!("{status:#x}");
            };
            assert_eq!((exit.code, exit.signal, exit.core_dumped), expected, "{status:#x}");
            assert_eq!((exit.lifetime_ns, &exit.process.comm[..]), (2, &b"sh"[..]));
            assert_eq!((exit.process.pid, exit.process.cgroup), (100, Some(9)));
        }
    }

    #[test]
    fn of_a_victim_that_only_has_a_number_nothing_else_is_said() {
        let nobody = [0, 0, 100, 0, 0, 0, 0, 0, 0, 0];
        let record = words(kind::OOM, &[&nobody[..], &[u32::MAX; 10]].concat());
        let expected = Process { pid: 100, ppid: None, uid: None, comm: Vec::new(), cgroup: None };
        let event = Traced::decode(&record).map(|traced| traced.event);
        assert_eq!(event, Some(Event::Oom(Oom { victim: expected, memory: None })));
    }

    #[test]
    fn no_arguments_are_not_one_empty_argument() {
        let exec = |args: &[u8]| {
            let length = u32::try_from(args.len()).expect("short");
            let mut record =
                words(kind::EXEC, &[&PROCESS[..], &[0; 4], &[1, length, length, 0]].concat());
            record.push(b'p');
            record.extend(args);
            match Traced::decode(&record).map(|traced| traced.event) {
                Some(Event::Exec(exec)) => exec.argv,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(exec(b""), Vec::<Vec<u8>>::new());
        assert_eq!(exec(b"\0"), [b""]);
        assert_eq!(exec(b"a\0\0"), [&b"a"[..], b""]);
    }
}
