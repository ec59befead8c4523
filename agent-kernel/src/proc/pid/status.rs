//! `/proc/PID/status` and what goes with it, as in proc_pid_status(5).

use super::{Handle, LONGEST_FILE, entry, fields, hex, lines, number, words};
use crate::error::Error;
use crate::proc::cgroup;
use crate::proc::clock::Clock;
use crate::proc::command::{LONGEST_COMMAND, split};
use crate::proc::user::Names;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Supplementary groups that are told.
const MOST_GROUPS: usize = 1_000;

/// Everything that is told of every process.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Its id, or that of one of its threads.
    pub pid: u32,
    /// The process of that thread.
    pub tgid: u32,
    /// 0 for none.
    pub ppid: u32,
    /// Who traces it; 0 for nobody.
    pub tracer_pid: u32,
    /// The name that it goes by.
    pub comm: Vec<u8>,
    /// One letter, as in proc_pid_stat(5).
    pub state: char,
    /// Whether it is the kernel's own.
    pub kernel_thread: bool,
    /// Of its user; `None` where the kernel does not tell.
    pub uids: Option<Ids>,
    /// Of its group; `None` where the kernel does not tell.
    pub gids: Option<Ids>,
    /// Supplementary, 1,000 at most.
    pub groups: Vec<Id>,
    /// How many.
    pub threads: u32,
    /// `None` for those without memory: kernel threads, zombies.
    pub memory: Option<StatusMemory>,
    /// Slots for file descriptors.
    pub fd_slots: Option<u64>,
    /// `None` where the kernel does not tell.
    pub capabilities: Option<Capabilities>,
    /// `disabled`, `strict`, `filter`, another number; `None` where the kernel has none.
    pub seccomp: Option<String>,
    /// As in PR_SET_NO_NEW_PRIVS(2const).
    pub no_new_privs: Option<bool>,
    /// `0-3,8`
    pub cpus_allowed: Option<String>,
    /// Times it waited by itself.
    pub voluntary_switches: Option<u64>,
    /// Times another had the processor instead.
    pub involuntary_switches: Option<u64>,
    /// Milliseconds since 1970.
    pub start_unix_ms: i64,
    /// Its program's file; `None` where there is none or the kernel does not show it, as `cwd` and `root`.
    pub exe: Option<Vec<u8>>,
    /// Its working folder.
    pub cwd: Option<Vec<u8>>,
    /// Its root folder.
    pub root: Option<Vec<u8>>,
    /// Path of its cgroup.
    pub cgroup: Option<Vec<u8>>,
    /// Id of its container, as the cgroup's path tells it.
    pub container_id: Option<String>,
    /// The command line; none for kernel threads and zombies.
    pub args: Vec<Vec<u8>>,
    /// Whether the command line is longer than that.
    pub args_truncated: bool,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// Its number.
    pub id: u32,
    /// Its name, where it has one.
    pub name: Option<Arc<str>>,
}

/// As in credentials(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Who started it.
    pub real: Id,
    /// What it may do.
    pub effective: Id,
    /// What it may become again.
    pub saved: Id,
    /// What files it may use.
    pub fs: Id,
}

/// Bytes; `None` for what the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusMemory {
    /// Virtual memory.
    pub size_bytes: Option<u64>,
    /// The most that was.
    pub peak_bytes: Option<u64>,
    /// Resident set.
    pub rss_bytes: Option<u64>,
    /// The most that was.
    pub rss_peak_bytes: Option<u64>,
    /// Resident, of no file.
    pub rss_anon_bytes: Option<u64>,
    /// Resident, of files.
    pub rss_file_bytes: Option<u64>,
    /// Resident, shared memory.
    pub rss_shmem_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
    /// Data.
    pub data_bytes: Option<u64>,
    /// Stack.
    pub stack_bytes: Option<u64>,
    /// Program text.
    pub exe_bytes: Option<u64>,
    /// Text of libraries.
    pub lib_bytes: Option<u64>,
    /// Page tables.
    pub page_tables_bytes: Option<u64>,
    /// Locked by mlock(2).
    pub locked_bytes: Option<u64>,
}

/// Names, as in capabilities(7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Kept across execve(2) where the file says so.
    pub inheritable: Vec<String>,
    /// What it may make effective.
    pub permitted: Vec<String>,
    /// What it has now.
    pub effective: Vec<String>,
    /// What it can get at all.
    pub bounding: Vec<String>,
    /// Kept across execve(2).
    pub ambient: Vec<String>,
}

/// Reads it all.
pub fn status(root: &Path, pid: u32) -> Result<Status, Error> {
    let handle = Handle::open(root, pid)?;
    let clock = Clock::read(root)?;
    // The name is escaped in `status`, and whole here.
    let stat = handle.stat()?;
    let (text, _) = handle.read("status", LONGEST_FILE)?;
    let told = Told(lines(&text).filter_map(entry).collect());
    // A kernel without cgroups has no such file.
    let cgroups = handle.read("cgroup", LONGEST_FILE).map(|(text, _)| text).unwrap_or_default();
    let cgroup = cgroup::path(&cgroups).map(<[u8]>::to_vec);
    let (command, args_truncated) = handle.read("cmdline", LONGEST_COMMAND)?;
    let (mut users, mut groups) = (Names::of_users(root), Names::of_groups(root));
    Ok(Status {
        pid,
        tgid: told.number("Tgid").unwrap_or(pid),
        ppid: stat.ppid,
        tracer_pid: told.number("TracerPid").unwrap_or(0),
        state: stat.state,
        kernel_thread: stat.kernel_thread,
        uids: told.ids("Uid", &mut users),
        gids: told.ids("Gid", &mut groups),
        groups: told
            .fields("Groups")
            .filter_map(number)
            .take(MOST_GROUPS)
            .map(|id| Id { id, name: groups.name(id) })
            .collect(),
        threads: stat.threads,
        memory: told.memory(),
        fd_slots: told.number("FDSize"),
        capabilities: told.capabilities(),
        seccomp: told.number::<u32>("Seccomp").map(seccomp),
        no_new_privs: told.number::<u8>("NoNewPrivs").map(|value| value != 0),
        cpus_allowed: told.text("Cpus_allowed_list"),
        voluntary_switches: told.number("voluntary_ctxt_switches"),
        involuntary_switches: told.number("nonvoluntary_ctxt_switches"),
        start_unix_ms: clock.start_unix_ms(&stat),
        exe: handle.link("exe"),
        cwd: handle.link("cwd"),
        root: handle.link("root"),
        container_id: cgroup.as_deref().and_then(cgroup::container_id).map(str::to_owned),
        cgroup,
        args: split(&command),
        args_truncated,
        comm: stat.comm,
    })
}

fn seccomp(mode: u32) -> String {
    match mode {
        0 => "disabled".to_owned(),
        1 => "strict".to_owned(),
        2 => "filter".to_owned(),
        other => other.to_string(),
    }
}

/// The lines of `status` by their keys.
struct Told<'a>(HashMap<&'a [u8], &'a [u8]>);

impl<'a> Told<'a> {
    fn fields(&self, key: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        fields(self.0.get(key.as_bytes()).copied().unwrap_or_default())
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.fields(key).next().and_then(number)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Real, effective, saved, file system.
    fn ids(&self, key: &str, names: &mut Names) -> Option<Ids> {
        let mut ids = self.fields(key).map_while(number);
        let mut id = || ids.next().map(|id| Id { id, name: names.name(id) });
        Some(Ids { real: id()?, effective: id()?, saved: id()?, fs: id()? })
    }

    fn memory(&self) -> Option<StatusMemory> {
        let bytes = |key| self.number::<u64>(key).map(|kib| kib.saturating_mul(1_024));
        // Those without memory have none of these lines.
        bytes("VmSize")?;
        Some(StatusMemory {
            size_bytes: bytes("VmSize"),
            peak_bytes: bytes("VmPeak"),
            rss_bytes: bytes("VmRSS"),
            rss_peak_bytes: bytes("VmHWM"),
            rss_anon_bytes: bytes("RssAnon"),
            rss_file_bytes: bytes("RssFile"),
            rss_shmem_bytes: bytes("RssShmem"),
            swap_bytes: bytes("VmSwap"),
            data_bytes: bytes("VmData"),
            stack_bytes: bytes("VmStk"),
            exe_bytes: bytes("VmExe"),
            lib_bytes: bytes("VmLib"),
            page_tables_bytes: bytes("VmPTE"),
            locked_bytes: bytes("VmLck"),
        })
    }

    fn capabilities(&self) -> Option<Capabilities> {
        let set = |key| self.fields(key).next().and_then(hex).map(words::capabilities);
        Some(Capabilities {
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            // Younger than the others.
            ambient: set("CapAmb").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] =
        b"Name:\twe\\nb\nState:\tS (sleeping)\nTgid:\t6\nPid:\t7\nTracerPid:\t9\n\
        Uid:\t1\t4000000001\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 11 \n\
        VmSize:\t    8 kB\nVmRSS:\t    4 kB\nVmSwap:\t 0 kB\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000021\nCapEff:\t0000000000000001\n\
        CapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nCpus_allowed_list:\t0-3,8\n\
        voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\nNewer:\tx\n";

    #[test]
    fn a_process_is_told_in_full() {
        let files: [(&str, &[u8]); 3] =
            [("status", STATUS), ("cmdline", b"web\0a b\0"), ("cgroup", b"0::/web.slice\n")];
        let root = super::super::tests::fixture(&files);
        std::os::unix::fs::symlink("/bin/a b", root.path().join("7/exe")).expect("a link");
        let status = status(root.path(), 7).expect("a status");
        assert_eq!((status.pid, status.tgid, status.tracer_pid, status.ppid), (7, 6, 9, 1));
        assert_eq!((status.comm.as_slice(), status.state), (&b"we b"[..], 'S'));
        let uids = status.uids.expect("ids");
        let ids = [uids.real.id, uids.effective.id, uids.saved.id, uids.fs.id];
        assert_eq!(ids, [1, 4_000_000_001, 3, 4]);
        assert_eq!(status.groups.iter().map(|group| group.id).collect::<Vec<_>>(), [10, 11]);
        let memory = status.memory.expect("memory");
        assert_eq!((memory.size_bytes, memory.rss_bytes), (Some(8_192), Some(4_096)));
        assert_eq!((memory.swap_bytes, memory.data_bytes), (Some(0), None));
        let capabilities = status.capabilities.expect("capabilities");
        assert_eq!(capabilities.permitted, ["cap_chown", "cap_kill"]);
        assert_eq!((capabilities.bounding.len(), capabilities.ambient.len()), (41, 0));
        assert_eq!((status.seccomp.as_deref(), status.no_new_privs), (Some("filter"), Some(true)));
        assert_eq!(status.cpus_allowed.as_deref(), Some("0-3,8"));
        assert_eq!((status.voluntary_switches, status.involuntary_switches), (Some(12), Some(3)));
        assert_eq!(status.start_unix_ms, 1_001_000);
        assert_eq!((status.exe.as_deref(), status.cwd), (Some(&b"/bin/a b"[..]), None));
        assert_eq!(status.cgroup.as_deref(), Some(&b"/web.slice"[..]));
        assert_eq!(status.args, [&b"web"[..], b"a b"]);
    }

    #[test]
    fn what_an_odd_kernel_lacks_is_absent() {
        let root = super::super::tests::fixture(&[("status", b"Name:\tx\n"), ("cmdline", b"")]);
        let status = status(root.path(), 7).expect("a status");
        assert_eq!((status.tgid, status.tracer_pid, status.args.len()), (7, 0, 0));
        assert_eq!((status.uids, status.memory, status.capabilities), (None, None, None));
        assert_eq!((status.seccomp, status.no_new_privs, status.cgroup), (None, None, None));
    }
}
