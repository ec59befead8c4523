//! How full file systems are. The server of a network file system may be gone, and whoever asks for
//! its files then hangs in the kernel for good: threads of their own ask, and are left behind.

use super::{Mount, Mounts};
use nix::fcntl::{OFlag, open};
use nix::sys::{stat::Mode, statvfs::fstatvfs};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A file system that does not answer within this time hangs.
const PATIENCE: Duration = Duration::from_millis(500);
/// All of them together: a call of kctl waits for 5 s.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(2);
/// At most so many threads are left behind.
const MOST_HUNG: usize = 16;

/// How full a file system is, as in statvfs(3) and df(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All its room.
    pub total_bytes: u64,
    /// Room in use.
    pub used_bytes: u64,
    /// Room for users who are not root.
    pub available_bytes: u64,
    /// All its inodes; 0 where it has no fixed number.
    pub inodes_total: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

type Answer = Result<Usage, String>;

/// Asks file systems how full they are, and remembers which of them hang.
#[derive(Debug, Clone, Default)]
pub struct Usages {
    /// One caller at a time, so that a mount that hangs holds one thread and not one for each caller.
    turn: Arc<Mutex<()>>,
    /// Numbers of the mounts that a thread waits for.
    hung: Arc<Mutex<HashSet<u32>>>,
}

/// A thread that asks one mount after the other.
struct Worker {
    asked: Sender<(u32, PathBuf)>,
    answers: Receiver<Answer>,
}

impl Usages {
    /// How full each of some mounts is, or why that is not told; a mount that hangs costs half a
    /// second once, and all of them together two seconds at most.
    pub fn ask<'a>(
        &self,
        seen: &Mounts,
        mounts: impl IntoIterator<Item = &'a Mount>,
    ) -> Vec<Answer> {
        let _turn = held(&self.turn);
        let until = Instant::now() + PATIENCE_FOR_ALL;
        let mounts: Vec<_> = mounts.into_iter().collect();
        // Those with a device first: they answer.
        let mut order: Vec<_> = (0..mounts.len()).collect();
        order.sort_by_key(|&at| mounts[at].major == 0);
        let mut answers = vec![Err(String::new()); mounts.len()];
        let mut worker = None;
        for at in order {
            answers[at] = self.one(&mut worker, seen, mounts[at], until);
        }
        answers
    }

    fn one(
        &self,
        worker: &mut Option<Worker>,
        seen: &Mounts,
        mount: &Mount,
        until: Instant,
    ) -> Answer {
        {
            let hung = held(&self.hung);
            if hung.contains(&mount.id) {
                return Err("it does not answer, and an earlier question still waits".to_owned());
            }
            if hung.len() >= MOST_HUNG {
                return Err(format!("not asked: {MOST_HUNG} other mounts do not answer"));
            }
        }
        if Instant::now() >= until {
            return Err("not asked: other mounts took too long; ask again".to_owned());
        }
        let at_work = match worker.take() {
            Some(worker) => worker,
            None => self.worker().map_err(|error| format!("no thread to ask it: {error}"))?,
        };
        let gone = || "the thread that asked it ended".to_owned();
        at_work.asked.send((mount.id, inside(&seen.root, &mount.path))).map_err(|_| gone())?;
        match at_work.answers.recv_timeout(PATIENCE) {
            Ok(answer) => {
                *worker = Some(at_work);
                answer
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                held(&self.hung).insert(mount.id);
                // It may have answered just now, and taken its number away before it was put there.
                if let Ok(answer) = at_work.answers.try_recv() {
                    held(&self.hung).remove(&mount.id);
                    return answer;
                }
                Err(format!("it does not answer within {} ms", PATIENCE.as_millis()))
            }
        }
    }

    fn worker(&self) -> std::io::Result<Worker> {
        let (asked, questions) = channel::<(u32, PathBuf)>();
        let (answered, answers) = channel();
        let hung = Arc::clone(&self.hung);
        thread::Builder::new().name("usage".to_owned()).spawn(move || {
            for (id, path) in questions {
                // Nobody may wait any more.
                let _ = answered.send(usage(id, &path));
                held(&hung).remove(&id);
            }
        })?;
        Ok(Worker { asked, answers })
    }
}

/// Nothing that is guarded here can be left half done.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path of a process, seen through its root.
fn inside(root: &Path, path: &[u8]) -> PathBuf {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    // The root of a process is a link: only something after it makes the kernel follow it.
    root.join(".").join(OsStr::from_bytes(path))
}

fn usage(id: u32, path: &Path) -> Answer {
    let why = |error: nix::Error| error.desc().to_lowercase();
    // A path alone is opened: it wakes no automount and needs no right to read.
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let folder = open(path, flags, Mode::empty()).map_err(why)?;
    if mount_id(&folder).is_some_and(|there| there != id) {
        return Err("another mount covers it".to_owned());
    }
    let told = fstatvfs(&folder).map_err(why)?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size());
    Ok(Usage {
        total_bytes: bytes(told.blocks()),
        used_bytes: bytes(told.blocks().saturating_sub(told.blocks_free())),
        available_bytes: bytes(told.blocks_available()),
        inodes_total: told.files(),
        inodes_used: told.files().saturating_sub(told.files_free()),
    })
}

/// The number of the mount that a file lies on, as in proc_pid_fdinfo(5).
fn mount_id(file: &OwnedFd) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}
