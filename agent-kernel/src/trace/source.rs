//! What can be traced, and what each source of it needs of a kernel. It must not know how it is had.

use std::fmt;

/// What the programs can tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Source {
    /// A process runs another program.
    Exec,
    /// A process ends.
    Exit,
    /// A file is opened by open(2), openat(2), openat2(2) or creat(2); io_uring's are not seen. Of system
    /// calls, here and below, only those of the 64-bit table are seen.
    Open,
    /// A process changes its credentials by setuid(2) and its like, capset(2) or execve(2). A new user
    /// namespace is not told: what is held there counts only there.
    Cred,
    /// A kernel module is loaded or unloaded. A load is told before the module's own code runs; when that
    /// fails, an unload follows.
    Module,
    /// A BPF program is loaded by bpf(2).
    Bpf,
    /// A process traces another by ptrace(2).
    Ptrace,
    /// A signal is sent.
    Signal,
    /// A process is killed for want of memory.
    Oom,
}

const ALL: [Source; 9] = [
    Source::Exec,
    Source::Exit,
    Source::Open,
    Source::Cred,
    Source::Module,
    Source::Bpf,
    Source::Ptrace,
    Source::Signal,
    Source::Oom,
];

impl Source {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter()
    }

    /// As events call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Open => "open",
            Self::Cred => "cred",
            Self::Module => "module",
            Self::Bpf => "bpf",
            Self::Ptrace => "ptrace",
            Self::Signal => "signal",
            Self::Oom => "oom",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources(u16);

impl Sources {
    /// Whether the source is in it.
    pub fn contains(self, source: Source) -> bool {
        self.0 & 1 << source as u16 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its sources.
    pub fn iter(self) -> impl Iterator<Item = Source> {
        Source::all().filter(move |source| self.contains(*source))
    }

    pub(super) fn remove(&mut self, source: Source) {
        self.0 &= !(1 << source as u16);
    }
}

impl FromIterator<Source> for Sources {
    fn from_iter<I: IntoIterator<Item = Source>>(sources: I) -> Self {
        Self(sources.into_iter().fold(0, |bits, source| bits | 1 << source as u16))
    }
}

/// A source that was wanted and can't be had here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which one.
    pub source: Source,
    /// What this kernel has not, or refuses.
    pub why: String,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
}

/// A program of the object: its name, its tracepoint, and the sources that it serves.
pub(super) struct Probe {
    pub(super) program: &'static str,
    pub(super) tracepoint: &'static str,
    pub(super) serves: &'static [Source],
}

/// All of them.
pub(super) const PROBES: [Probe; 8] = [
    probe("exec", "sched_process_exec", &[Source::Exec]),
    probe("exit", "sched_process_exit", &[Source::Exit]),
    probe("sys_enter", "sys_enter", &[Source::Cred]),
    probe("sys_exit", "sys_exit", &[Source::Open, Source::Cred, Source::Bpf, Source::Ptrace]),
    probe("module_load", "module_load", &[Source::Module]),
    probe("module_free", "module_free", &[Source::Module]),
    probe("signal", "signal_generate", &[Source::Signal]),
    probe("oom", "mark_victim", &[Source::Oom]),
];

const fn probe(
    program: &'static str,
    tracepoint: &'static str,
    serves: &'static [Source],
) -> Probe {
    Probe { program, tracepoint, serves }
}

/// What every source reads.
pub(super) const PROCESS: &[(&str, &str)] = &[
    ("task_struct", "tgid"),
    ("task_struct", "group_leader"),
    ("task_struct", "real_parent"),
    ("task_struct", "cred"),
    ("task_struct", "comm"),
    ("cred", "uid"),
];

/// What narrowing to a cgroup reads.
pub(super) const SCOPE: &[(&str, &str)] = &[
    ("task_struct", "cgroups"),
    ("css_set", "dfl_cgrp"),
    ("cgroup", "level"),
    ("cgroup", "ancestors"),
    ("cgroup", "kn"),
    ("kernfs_node", "id"),
];

/// What is needed to keep paths of cgroups.
pub(super) const CGROUP_PATHS: &[(&str, &str)] =
    &[("cgroup", "root"), ("cgroup_root", "hierarchy_id"), ("cgroup", "kn"), ("kernfs_node", "id")];

/// What the system calls' arguments are read by; only x86-64 has such registers.
const CALL: &[(&str, &str)] = &[
    ("pt_regs", "orig_ax"),
    ("pt_regs", "di"),
    ("pt_regs", "si"),
    ("pt_regs", "dx"),
    ("task_struct", "thread_info"),
    ("thread_info", "status"),
];

/// What a source reads besides.
pub(super) fn members(source: Source) -> [&'static [(&'static str, &'static str)]; 2] {
    match source {
        Source::Exec => [
            &[],
            &[
                ("task_struct", "mm"),
                ("mm_struct", "arg_start"),
                ("mm_struct", "arg_end"),
                ("linux_binprm", "filename"),
            ],
        ],
        Source::Exit => [
            &[],
            &[
                ("task_struct", "signal"),
                ("task_struct", "exit_code"),
                ("task_struct", "start_boottime"),
                ("signal_struct", "live"),
                ("signal_struct", "flags"),
                ("signal_struct", "group_exit_code"),
            ],
        ],
        Source::Open => [CALL, &[]],
        Source::Cred => [
            CALL,
            &[
                ("task_struct", "start_boottime"),
                ("cred", "gid"),
                ("cred", "euid"),
                ("cred", "egid"),
                ("cred", "cap_effective"),
            ],
        ],
        Source::Module => [&[], &[("module", "name")]],
        Source::Bpf => [
            CALL,
            &[
                ("task_struct", "files"),
                ("files_struct", "fdt"),
                ("fdtable", "max_fds"),
                ("fdtable", "fd"),
                ("file", "private_data"),
                ("bpf_prog", "type"),
                ("bpf_prog", "aux"),
                ("bpf_prog_aux", "id"),
                ("bpf_prog_aux", "name"),
                ("bpf_prog_aux", "prog"),
            ],
        ],
        Source::Ptrace => [
            CALL,
            &[
                ("task_struct", "parent"),
                ("task_struct", "ptraced"),
                ("task_struct", "ptrace_entry"),
                ("task_struct", "thread_pid"),
                ("pid", "level"),
                ("pid", "numbers"),
            ],
        ],
        Source::Signal => [&[], &[]],
        Source::Oom => [&[], &[("task_struct", "mm"), ("mm_struct", "total_vm")]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_records::trace::MEMBERS;

    #[test]
    fn every_source_has_its_place_and_a_probe() {
        for (at, source) in Source::all().enumerate() {
            assert_eq!(source as usize, at);
            assert!(PROBES.iter().any(|probe| probe.serves.contains(&source)), "{source}");
        }
        let some: Sources = [Source::Exec, Source::Oom].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [Source::Exec, Source::Oom]);
    }

    #[test]
    fn whatever_is_needed_is_known_to_the_programs() {
        let of_sources = Source::all().flat_map(members).flatten();
        for member in of_sources.chain(PROCESS).chain(SCOPE).chain(CGROUP_PATHS) {
            assert!(MEMBERS.contains(member), "{member:?}");
        }
    }
}
