//! Processes, one after the other.
//!
//! A listing holds the numbers of the processes that it ranks and the text of none but the one at hand.
//! A process that ends meanwhile is left out, and so is one that took over its id.

use super::cgroup;
use super::clock::Clock;
use super::command::{LONGEST_COMMAND, program, split};
use super::file::{open_folder, read_at};
use super::process::{Order, Process, Query};
use super::stat::Stat;
use super::user::Names;
use crate::error::{Error, ErrorKind, named};
use nix::errno::Errno;
use rustix::fs::CWD;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

/// `stat` is a few hundred bytes, a cgroup's path at most `PATH_MAX` for each hierarchy.
const LONGEST_FILE: usize = 64 << 10;

/// The processes that a query is about, read while they are taken.
#[derive(Debug)]
pub struct Processes {
    folder: OwnedFd,
    clock: Clock,
    users: Names,
    query: Query,
    left: usize,
    candidates: std::vec::IntoIter<Candidate>,
    buffer: Vec<u8>,
}

/// Begins to list the processes below a procfs mount.
pub fn processes(root: &Path, query: Query) -> Result<Processes, Error> {
    let (folder, mut pids) = folder_and_pids(root)?;
    // After the pids, so that all of these are older.
    let clock = Clock::read(root)?;
    let mut buffer = Vec::new();
    let candidates = if query.order == Order::Pid {
        pids.sort_unstable();
        pids.into_iter().map(Candidate::Pid).collect()
    } else {
        ranked(&folder, pids, &query, &clock, &mut buffer)?
    };
    Ok(Processes {
        folder,
        clock,
        users: Names::of_users(root),
        left: query.limit.unwrap_or(usize::MAX),
        query,
        candidates: candidates.into_iter(),
        buffer,
    })
}

impl Iterator for Processes {
    type Item = Result<Process, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        loop {
            let candidate = self.candidates.next()?;
            match self.read(candidate) {
                Ok(None) => {}
                Ok(Some(process)) => return Some(Ok(process)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[derive(Debug)]
enum Candidate {
    Pid(u32),
    /// With the numbers that gave it its place.
    Ranked(Stat, f64),
}

/// Since the query's sample, or since the start.
fn cpu_percent(query: &Query, clock: &Clock, stat: &Stat) -> f64 {
    match &query.since {
        Some(sample) => sample.percent(stat, Instant::now()),
        None => clock.cpu_percent(stat),
    }
}

impl Processes {
    /// `None` for one that has ended or is not asked for.
    fn read(&mut self, candidate: Candidate) -> Result<Option<Process>, Error> {
        let pid = match &candidate {
            Candidate::Pid(pid) => *pid,
            Candidate::Ranked(stat, _) => stat.pid,
        };
        let Some(folder) = alive(pid, open_folder(&self.folder, pid.to_string()))? else {
            return Ok(None);
        };
        let Some(now) = read_stat(&folder, pid, &mut self.buffer)? else { return Ok(None) };
        let (mut stat, cpu_percent) = match candidate {
            Candidate::Pid(_) => {
                let percent = cpu_percent(&self.query, &self.clock, &now);
                (now, percent)
            }
            Candidate::Ranked(stat, percent) if stat.start_ticks == now.start_ticks => {
                (stat, percent)
            }
            Candidate::Ranked(..) => return Ok(None),
        };
        if self.query.order != Order::Rss {
            read_rss(&folder, &mut stat, &mut self.buffer)?;
        }
        let Some(owner) = alive(pid, nix::sys::stat::fstat(&folder).map_err(io::Error::from))?
        else {
            return Ok(None);
        };
        // The folder belongs to the effective user, also where the files in it belong to root because the
        // process may not be traced (the kernel's task_dump_owner): no need of the slow `status`.
        let uid = owner.st_uid;
        let user = self.users.name(uid);
        let wanted = &self.query.user;
        if !wanted.is_empty() && user.as_deref() != Some(wanted) && uid.to_string() != *wanted {
            return Ok(None);
        }
        let cgroup = match self.query.without_cgroup && self.query.cgroup.is_empty() {
            true => None,
            false => match read_cgroup(&folder, pid, &mut self.buffer)? {
                Some(cgroup) => cgroup,
                None => return Ok(None),
            },
        };
        if !contains(cgroup.as_deref().unwrap_or_default(), &self.query.cgroup) {
            return Ok(None);
        }
        let Some(CommandLine { args, truncated }) = self.command_line(&folder, &stat)? else {
            return Ok(None);
        };
        if !contains(&stat.comm, &self.query.name) && !contains(program(&args), &self.query.name) {
            return Ok(None);
        }
        let container = cgroup.as_deref().and_then(cgroup::container_id).map(str::to_owned);
        Ok(Some(Process {
            pid: stat.pid,
            ppid: stat.ppid,
            uid,
            user,
            state: stat.state,
            threads: stat.threads,
            cpu_percent,
            rss_bytes: stat.rss_pages.saturating_mul(self.clock.page_bytes),
            vsz_bytes: stat.vsz_bytes,
            start_unix_ms: self.clock.start_unix_ms(&stat),
            kernel_thread: stat.kernel_thread,
            cgroup,
            container_id: container,
            comm: stat.comm,
            args,
            args_truncated: truncated,
        }))
    }

    fn command_line(
        &mut self,
        folder: &OwnedFd,
        stat: &Stat,
    ) -> Result<Option<CommandLine>, Error> {
        if stat.kernel_thread {
            return Ok(Some(CommandLine { args: Vec::new(), truncated: false }));
        }
        let read = read_at(folder, "cmdline", &mut self.buffer, LONGEST_COMMAND);
        let truncated = alive(stat.pid, read)?;
        Ok(truncated.map(|truncated| CommandLine { args: split(&self.buffer), truncated }))
    }
}

struct CommandLine {
    args: Vec<Vec<u8>>,
    truncated: bool,
}

fn contains(text: &[u8], part: &str) -> bool {
    let part = part.as_bytes();
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// A procfs mount and the processes in it.
pub(super) fn folder_and_pids(root: &Path) -> Result<(OwnedFd, Vec<u32>), Error> {
    let both = || Ok((open_folder(CWD, root)?, pids(root)?));
    both().map_err(|error| Error::io(named("folder", root.display()), error))
}

fn pids(root: &Path) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(root)? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// Numbers of all processes, in order.
fn ranked(
    folder: &OwnedFd,
    pids: Vec<u32>,
    query: &Query,
    clock: &Clock,
    buffer: &mut Vec<u8>,
) -> Result<Vec<Candidate>, Error> {
    let order = query.order;
    let mut stats = Vec::with_capacity(pids.len());
    for pid in pids {
        let Some(folder) = alive(pid, open_folder(folder, pid.to_string()))? else { continue };
        let Some(mut stat) = read_stat(&folder, pid, buffer)? else { continue };
        if order == Order::Rss {
            read_rss(&folder, &mut stat, buffer)?;
        }
        let percent = cpu_percent(query, clock, &stat);
        stats.push((stat, percent));
    }
    stats.sort_unstable_by(|(a, a_percent), (b, b_percent)| {
        let first = match order {
            Order::Pid => std::cmp::Ordering::Equal,
            Order::Cpu => b_percent.total_cmp(a_percent),
            Order::Rss => b.rss_pages.cmp(&a.rss_pages),
            Order::Start => b.start_ticks.cmp(&a.start_ticks),
        };
        first.then(a.pid.cmp(&b.pid))
    });
    Ok(stats.into_iter().map(|(stat, percent)| Candidate::Ranked(stat, percent)).collect())
}

pub(super) fn read_stat(
    folder: &OwnedFd,
    pid: u32,
    buffer: &mut Vec<u8>,
) -> Result<Option<Stat>, Error> {
    if alive(pid, read_at(folder, "stat", buffer, LONGEST_FILE))?.is_none() {
        return Ok(None);
    }
    let unknown = "its stat file has another form";
    let stat = Stat::parse(buffer);
    stat.map(Some).ok_or_else(|| Error::new(ErrorKind::Unsupported, named("process", pid), unknown))
}

/// Takes the resident set from `statm`: since Linux 6.17 it is exact there, and in `stat` it may be off by
/// dozens of pages for each processor. One that has ended keeps what it had.
fn read_rss(folder: &OwnedFd, stat: &mut Stat, buffer: &mut Vec<u8>) -> Result<(), Error> {
    if stat.kernel_thread {
        return Ok(());
    }
    if alive(stat.pid, read_at(folder, "statm", buffer, LONGEST_FILE))?.is_some() {
        let resident = buffer.split(|&byte| byte == b' ').nth(1);
        let pages = resident.and_then(|pages| std::str::from_utf8(pages).ok()?.parse().ok());
        stat.rss_pages = pages.unwrap_or(stat.rss_pages);
    }
    Ok(())
}

/// The outer `None` for a process that has ended, the inner for a kernel without cgroups.
fn read_cgroup(
    folder: &OwnedFd,
    pid: u32,
    buffer: &mut Vec<u8>,
) -> Result<Option<Option<Vec<u8>>>, Error> {
    if alive(pid, read_at(folder, "cgroup", buffer, LONGEST_FILE))?.is_some() {
        return Ok(Some(cgroup::path(buffer).map(<[u8]>::to_vec)));
    }
    // Both leave no file; only a living process has a stat.
    Ok(read_stat(folder, pid, buffer)?.map(|_| None))
}

/// `None` when the process has ended, or is hidden from the agent (hidepid in proc(5)).
fn alive<T>(pid: u32, result: io::Result<T>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ESRCH | Errno::EPERM | Errno::EACCES) => Ok(None),
            _ => Err(Error::io(named("process", pid), error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::sysconf;
    use super::*;
    use std::fs;

    /// A procfs of files.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a folder");
            fs::write(root.path().join("uptime"), "100.00 50.00\n").expect("written");
            fs::write(root.path().join("stat"), "cpu  1 2 3 4\nbtime 1000\n").expect("written");
            Self(root)
        }

        fn process(&self, pid: u32, comm: &str, ticks: u64, start: u64, rss: u64) -> &Self {
            let line = format!(
                "{pid} ({comm}) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 2 0 {start} 8192 {rss} 0\n"
            );
            self.file(pid, "stat", line.as_bytes());
            self.file(pid, "cmdline", format!("/usr/bin/{comm}-long\0a b\0\0\0").as_bytes());
            self.file(pid, "cgroup", format!("0::/{comm}.slice\n").as_bytes())
        }

        fn file(&self, pid: u32, name: &str, content: &[u8]) -> &Self {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(name), content).expect("written");
            self
        }

        fn list(&self, query: Query) -> Vec<Process> {
            let listed = processes(self.0.path(), query).expect("a listing");
            listed.collect::<Result<_, _>>().expect("processes")
        }

        fn pids(&self, query: Query) -> Vec<u32> {
            self.list(query).iter().map(|process| process.pid).collect()
        }
    }

    #[test]
    fn numbers_become_units() {
        let fixture = Fixture::new();
        let hertz = sysconf(nix::unistd::SysconfVar::CLK_TCK, 100);
        // Half of its 50 seconds.
        fixture.process(7, "web", 25 * hertz, 50 * hertz, 3);
        let [process] = fixture.list(Query::default()).try_into().expect("one");
        assert_eq!((process.pid, process.ppid, process.state, process.threads), (7, 1, 'S', 2));
        assert!((process.cpu_percent - 50.0).abs() < 1e-9, "{process:?}");
        let page = sysconf(nix::unistd::SysconfVar::PAGE_SIZE, 4_096);
        assert_eq!((process.rss_bytes, process.vsz_bytes), (3 * page, 8_192));
        assert_eq!(process.start_unix_ms, 1_050_000);
        assert_eq!(process.cgroup.as_deref(), Some(&b"/web.slice"[..]));
        assert_eq!(process.args, [&b"/usr/bin/web-long"[..], b"a b"]);
        assert_eq!(process.uid, nix::unistd::geteuid().as_raw());
        fixture.file(7, "statm", b"9 4 1 1 0 1 0\n");
        assert_eq!(fixture.list(Query::default())[0].rss_bytes, 4 * page);
    }

    #[test]
    fn orders_filters_and_limits() {
        let fixture = Fixture::new();
        fixture.process(10, "web", 100, 1, 30).process(9, "db", 300, 500, 10);
        fixture.process(200, "web", 200, 100, 20);
        let order = |order| fixture.pids(Query { order, ..Query::default() });
        assert_eq!(order(Order::Pid), [9, 10, 200]);
        assert_eq!(order(Order::Cpu), [9, 200, 10]);
        assert_eq!(order(Order::Rss), [10, 200, 9]);
        assert_eq!(order(Order::Start), [9, 200, 10]);

        let named = |name: &str| fixture.pids(Query { name: name.into(), ..Query::default() });
        assert_eq!(named("we"), [10, 200]);
        assert_eq!(named("db-long"), [9]);
        // The folder of the program does not count.
        assert!(named("usr").is_empty());
        let cgroup = Query { cgroup: "db.slice".into(), ..Query::default() };
        assert_eq!(fixture.pids(cgroup.clone()), [9]);
        // It is left out only where nobody looks for it.
        assert_eq!(fixture.pids(Query { without_cgroup: true, ..cgroup }), [9]);
        let without = fixture.list(Query { without_cgroup: true, ..Query::default() });
        assert!(without.len() == 3 && without.iter().all(|it| it.cgroup.is_none()));
        let uid = nix::unistd::geteuid().to_string();
        assert_eq!(fixture.pids(Query { user: uid, ..Query::default() }), [9, 10, 200]);
        assert!(fixture.pids(Query { user: "nobody-like".into(), ..Query::default() }).is_empty());
        // The limit counts what the filter leaves.
        let first =
            Query { name: "web".into(), order: Order::Rss, limit: Some(1), ..Query::default() };
        assert_eq!(fixture.pids(first), [10]);
    }

    #[test]
    fn who_ends_while_read_is_left_out() {
        let fixture = Fixture::new();
        fixture.process(7, "web", 1, 1, 1).process(8, "gone", 1, 1, 1);
        fs::remove_file(fixture.0.path().join("8/cmdline")).expect("removed");
        fs::create_dir(fixture.0.path().join("9")).expect("a folder");
        assert_eq!(fixture.pids(Query::default()), [7]);
        // Another process took its id between ranking and reading.
        let query = Query { order: Order::Rss, ..Query::default() };
        let listed = processes(fixture.0.path(), query).expect("a listing");
        fixture.process(7, "new", 1, 2, 1);
        assert_eq!(listed.count(), 0);
    }

    #[test]
    fn whoever_is_gone_or_hidden_is_no_error() {
        // Of a folder that is gone, of a process that ended after it was opened, and of a hidden one.
        for gone in [Errno::ENOENT, Errno::ESRCH, Errno::EPERM, Errno::EACCES] {
            let read = alive(7, Err::<(), _>(gone.into())).expect("no error");
            assert!(read.is_none(), "{gone}");
        }
        let error = alive(7, Err::<(), _>(Errno::EIO.into())).expect_err("an error");
        assert!(error.to_string().starts_with("process \"7\""), "{error}");
    }

    #[test]
    fn odd_kernels_are_read() {
        let fixture = Fixture::new();
        fixture.process(7, "web", 1, 1, 1);
        // Without cgroups.
        fs::remove_file(fixture.0.path().join("7/cgroup")).expect("removed");
        assert_eq!(fixture.list(Query::default())[0].cgroup, None);
        // With fields that are not known yet, and as old as procfs is.
        let old = "7 (web) S 1 1 1 0 -1 0 0 0 0 0 1 0 0 0 20 0 2 0 1 8192 3";
        for line in [format!("{old}\n"), format!("{old}{}\n", " 18446744073709551615".repeat(60))] {
            fixture.file(7, "stat", line.as_bytes());
            assert_eq!(fixture.list(Query::default())[0].vsz_bytes, 8_192, "{line}");
        }
        // A statm that tells nothing leaves what stat says.
        let page = sysconf(nix::unistd::SysconfVar::PAGE_SIZE, 4_096);
        for statm in [&b""[..], b"odd\n", b"1 x 2\n"] {
            fixture.file(7, "statm", statm);
            assert_eq!(fixture.list(Query::default())[0].rss_bytes, 3 * page);
        }
        // A stat of another form is an error that names the process.
        fixture.file(7, "stat", b"7 web S\n");
        let mut listed = processes(fixture.0.path(), Query::default()).expect("a listing");
        let error = listed.next().expect("an answer").expect_err("no such form");
        assert!(error.to_string().starts_with("process \"7\""), "{error}");
        // No procfs at all.
        assert!(processes(Path::new("/nonexistent"), Query::default()).is_err());
    }

    #[test]
    fn long_command_lines_are_cut() {
        let fixture = Fixture::new();
        fixture.process(7, "web", 1, 1, 1).file(7, "cmdline", &[b'x'; LONGEST_COMMAND + 1]);
        let [process] = fixture.list(Query::default()).try_into().expect("one");
        assert!(process.args_truncated);
        assert_eq!(process.args[0].len(), LONGEST_COMMAND);
    }
}
