//! What a record means. It must not know who reads it.

use super::event::{
    Bpf, Cred, Credentials, Event, Exec, Exit, Module, Oom, Open, Process, Ptrace, PtraceRequest,
    ResidentPages, Signal, Traced, Undelivered, VictimMemory,
};
use agent_records::trace::{self as record, Header, kind};
use aya::Pod;

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
