//! The tables of `/proc/sysvipc`.

use super::{Id, Ipc, Kind, MOST, Msg, Owner, Sem, Shm};
use crate::error::{Error, named};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// Of the mode of shared memory (linux/shm.h): it goes away with its last user, and it is locked.
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;

type Read = fn(&Row<'_>) -> Option<Ipc>;

/// Shared memory, semaphores and message queues, in this order.
pub(super) fn list(root: &Path) -> Result<Vec<Ipc>, Error> {
    let mut all = Vec::new();
    for (name, read) in [("shm", shm as Read), ("sem", sem), ("msg", msg)] {
        let path = root.join("sysvipc").join(name);
        let failed = |error| Error::io(named("file", path.display()), error);
        match File::open(&path) {
            Ok(file) => all.extend(table(BufReader::new(file), read).map_err(failed)?),
            // Built without it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(all)
}

fn table(file: impl io::BufRead, read: Read) -> io::Result<Vec<Ipc>> {
    let mut lines = file.lines();
    let Some(header) = lines.next().transpose()? else { return Ok(Vec::new()) };
    let columns: Vec<_> = header.split_whitespace().collect();
    let mut objects = Vec::new();
    for line in lines.take(MOST) {
        let line = line?;
        let cells: Vec<_> = line.split_whitespace().collect();
        objects.extend(read(&Row { columns: &columns, cells: &cells }));
    }
    Ok(objects)
}

/// One line; the header names its cells.
struct Row<'a> {
    columns: &'a [&'a str],
    cells: &'a [&'a str],
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| *name == column)?;
        self.cells.get(at).copied()
    }

    fn number<T: std::str::FromStr>(&self, column: &str) -> Option<T> {
        self.text(column)?.parse().ok()
    }

    /// 0 is never.
    fn time(&self, column: &str) -> Option<i64> {
        self.number(column).filter(|seconds| *seconds != 0)
    }

    fn id(&self, column: &str) -> Option<Id> {
        // The kernel prints the key as a signed number.
        Some(Id { id: self.number(column)?, key: self.number::<i32>("key")?.cast_unsigned() })
    }

    fn mode(&self) -> Option<u32> {
        u32::from_str_radix(self.text("perms")?, 8).ok()
    }

    fn object(&self, kind: Kind) -> Option<Ipc> {
        let owner = Owner {
            uid: self.number("uid")?,
            user: None,
            gid: self.number("gid")?,
            creator_uid: self.number("cuid"),
            creator_gid: self.number("cgid"),
            permissions: self.mode()? & 0o777,
        };
        Some(Ipc { owner, changed_unix: self.time("ctime"), kind })
    }
}

fn shm(row: &Row<'_>) -> Option<Ipc> {
    let mode = row.mode()?;
    let shm = Shm {
        size_bytes: row.number("size")?,
        attached: row.number("nattch")?,
        creator_pid: row.number("cpid")?,
        last_pid: row.number("lpid")?,
        removed: mode & SHM_DEST != 0,
        locked: mode & SHM_LOCKED != 0,
        rss_bytes: row.number("rss").unwrap_or(0),
        swap_bytes: row.number("swap").unwrap_or(0),
        attached_unix: row.time("atime"),
        detached_unix: row.time("dtime"),
    };
    row.object(Kind::Shm(row.id("shmid")?, shm))
}

fn sem(row: &Row<'_>) -> Option<Ipc> {
    let sem = Sem { semaphores: row.number("nsems")?, used_unix: row.time("otime") };
    row.object(Kind::Sem(row.id("semid")?, sem))
}

fn msg(row: &Row<'_>) -> Option<Ipc> {
    let msg = Msg {
        bytes: row.number("cbytes")?,
        messages: row.number("qnum")?,
        send_pid: row.number("lspid")?,
        receive_pid: row.number("lrpid")?,
        sent_unix: row.time("stime"),
        received_unix: row.time("rtime"),
    };
    row.object(Kind::Msg(row.id("msqid")?, msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
            \x20 -559038737          5  3640                  8192   700   701      2  1000    33     0     7 1767323045          0 1767323046                  4096                  1024\n\
            cut 7\n";
        let expected = Ipc {
            owner: Owner {
                uid: 1_000,
                user: None,
                gid: 33,
                creator_uid: Some(0),
                creator_gid: Some(7),
                permissions: 0o640,
            },
            changed_unix: Some(1_767_323_046),
            kind: Kind::Shm(
                Id { id: 5, key: 0xdead_beef },
                Shm {
                    size_bytes: 8_192,
                    attached: 2,
                    creator_pid: 700,
                    last_pid: 701,
                    removed: true,
                    locked: true,
                    rss_bytes: 4_096,
                    swap_bytes: 1_024,
                    attached_unix: Some(1_767_323_045),
                    detached_unix: None,
                },
            ),
        };
        assert_eq!(table(text.as_bytes(), shm).expect("a table"), [expected]);
        assert!(table(&b""[..], shm).expect("a table").is_empty());
    }

    #[test]
    fn a_kernel_without_it_has_none() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(list(root.path()).expect("a list").is_empty());
    }
}
