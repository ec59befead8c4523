//! What the kernel's records say of processes, as events.

use super::Clock;
use crate::text::text;
use agent_kernel::proc::pid::capabilities;
use agent_kernel::trace::{
    self, CgroupPaths, Credentials, Event, Process, PtraceRequest, Records, Traced, Undelivered,
    bpf_type,
};
use kctl_proto::agent::v1::{self as pb, event::Payload};

/// A record that can't be read is an event without a payload, so that its number is not missed.
pub(super) fn events(records: &Records, cgroups: &CgroupPaths, clock: Clock) -> Vec<pb::Event> {
    let reader = Reader { cgroups };
    let events = records.iter().map(|record| match Traced::decode(record) {
        Some(Traced { boot_ns, event }) => pb::Event {
            time_unix_ns: clock.unix_ns(boot_ns),
            payload: Some(reader.payload(event)),
            ..pb::Event::default()
        },
        None => pb::Event::default(),
    });
    events.collect()
}

/// With what it takes to name cgroups.
struct Reader<'a> {
    cgroups: &'a CgroupPaths,
}

impl Reader<'_> {
    fn payload(&self, event: Event) -> Payload {
        match event {
            Event::Exec(it) => Payload::Exec(pb::ExecEvent {
                process: self.process(it.process),
                path: text(&it.path),
                argv: it.argv.iter().map(|argument| text(argument)).collect(),
                argv_truncated: it.argv_truncated,
                parent_comm: text(&it.parent_comm),
            }),
            Event::Exit(it) => Payload::Exit(pb::ExitEvent {
                process: self.process(it.process),
                code: it.code,
                signal: it.signal,
                core_dumped: it.core_dumped,
                lifetime_ns: Some(it.lifetime_ns),
            }),
            Event::Open(it) => Payload::Open(pb::OpenEvent {
                process: self.process(it.process),
                path: text(&it.path),
                path_truncated: it.path_truncated,
                // open(2) knows no flag beyond these bits.
                flags: u32::try_from(it.flags & u64::from(u32::MAX)).unwrap_or_default(),
                error: it.error,
            }),
            Event::Cred(it) => Payload::Cred(pb::CredEvent {
                process: self.process(it.process),
                old: Some(credentials(it.old)),
                new: Some(credentials(it.new)),
            }),
            Event::Module(it) => Payload::Module(pb::ModuleEvent {
                process: self.process(it.process),
                name: text(&it.name),
                action: if it.loaded { "load" } else { "unload" }.to_owned(),
            }),
            Event::Bpf(it) => Payload::Bpf(self.program(it)),
            Event::Ptrace(it) => Payload::Ptrace(pb::PtraceEvent {
                process: self.process(it.process),
                request: match it.request {
                    PtraceRequest::Attach => "attach",
                    PtraceRequest::Seize => "seize",
                    PtraceRequest::Traceme => "traceme",
                }
                .to_owned(),
                target: it.target.and_then(|target| self.process(target)),
            }),
            Event::Signal(it) => Payload::Signal(self.signal(it)),
            Event::Oom(it) => Payload::Oom(self.victim(it)),
        }
    }

    fn program(&self, it: trace::Bpf) -> pb::BpfEvent {
        let name = |number| bpf_type(number).map_or_else(|| number.to_string(), str::to_owned);
        pb::BpfEvent {
            process: self.process(it.process),
            action: "load".to_owned(),
            id: it.id,
            name: text(&it.name),
            r#type: it.program_type.map(name).unwrap_or_default(),
        }
    }

    fn signal(&self, it: trace::Signal) -> pb::SignalEvent {
        let undelivered = match it.undelivered {
            None => "",
            Some(Undelivered::Ignored) => "ignored",
            Some(Undelivered::AlreadyPending) => "already pending",
            Some(Undelivered::Overflow) => "overflow",
        };
        pb::SignalEvent {
            process: it.process.and_then(|process| self.process(process)),
            signal: it.signal,
            code: it.code,
            target: self.process(it.target),
            undelivered: undelivered.to_owned(),
        }
    }

    fn victim(&self, it: trace::Oom) -> pb::OomEvent {
        let bytes = |pages: u64| pages.saturating_mul(trace::page_bytes() as u64);
        let resident = it.memory.and_then(|memory| memory.resident);
        pb::OomEvent {
            victim: self.process(it.victim),
            virtual_bytes: it.memory.map(|memory| bytes(memory.virtual_pages)),
            anon_bytes: resident.map(|pages| bytes(pages.anon)),
            file_bytes: resident.map(|pages| bytes(pages.file)),
            shmem_bytes: resident.map(|pages| bytes(pages.shmem)),
        }
    }

    fn process(&self, process: Process) -> Option<pb::EventProcess> {
        Some(self::process(process, self.cgroups))
    }
}

/// A process, with the names of its cgroup.
pub(super) fn process(process: Process, cgroups: &CgroupPaths) -> pb::EventProcess {
    let cgroup = process.cgroup.and_then(|id| cgroups.find(id));
    pb::EventProcess {
        pid: Some(process.pid),
        ppid: process.ppid,
        uid: process.uid,
        comm: text(&process.comm),
        cgroup: cgroup.as_ref().map(|it| text(&it.path)).unwrap_or_default(),
        container_id: cgroup.and_then(|it| it.container.clone()).unwrap_or_default(),
    }
}

fn credentials(it: Credentials) -> pb::cred_event::Credentials {
    pb::cred_event::Credentials {
        uid: it.uid,
        gid: it.gid,
        euid: it.euid,
        egid: it.egid,
        capabilities: capabilities(it.capabilities),
    }
}
