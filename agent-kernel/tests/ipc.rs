//! Objects of inter-process communication against what the system calls tell, in an IPC namespace of
//! the test's own, which takes them along when it ends.
#![expect(unsafe_code, reason = "nobody wraps shmget(2) and its kind")]

use agent_kernel::proc::{Id, Ipc, IpcRoots, Kind, ipc};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Namespaces of this thread alone.
fn own_namespaces() {
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS)
        .expect("this test needs root: namespaces");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
}

/// Lists on this thread: /proc/sysvipc is about the namespace of whoever reads it.
fn list(shm: &Path, mqueue: &Path) -> Vec<Ipc> {
    ipc(IpcRoots { proc: Path::new("/proc"), shm, mqueue }).expect("a listing")
}

fn nowhere() -> &'static Path {
    Path::new("/nonexistent")
}

/// What a system call answered, which must not be an error.
fn checked(answer: i32) -> i32 {
    assert!(answer >= 0, "{}", std::io::Error::last_os_error());
    answer
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    i64::try_from(now.as_secs()).expect("this age")
}

/// The ids that ipcs(1) shows for `-m`, `-s` or `-q`.
fn ipcs(kind: &str) -> Vec<i32> {
    let output = Command::new("ipcs").arg(kind).output().expect("ipcs");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .filter(|line| line.starts_with("0x"))
        .map(|line| line.split_whitespace().nth(1).expect("an id").parse().expect("a number"))
        .collect()
}

fn ids(all: &[Ipc], id: fn(&Kind) -> Option<Id>) -> Vec<i32> {
    all.iter().filter_map(|object| id(&object.kind)).map(|id| id.id).collect()
}

#[test]
fn shared_memory_is_as_shmctl_tells() {
    own_namespaces();
    assert!(list(nowhere(), nowhere()).is_empty());
    let begun = now();
    // SAFETY: no pointer is involved.
    let private = checked(unsafe { libc::shmget(libc::IPC_PRIVATE, 10_000, 0o600) });
    let key = 0x9abc_def0_u32.cast_signed();
    // SAFETY: no pointer is involved.
    let keyed = checked(unsafe { libc::shmget(key, 8_192, libc::IPC_CREAT | 0o642) });
    // SAFETY: the kernel chooses the address.
    let attached = unsafe { libc::shmat(keyed, std::ptr::null(), 0) };
    assert_ne!(attached.addr(), usize::MAX, "{}", std::io::Error::last_os_error());
    // SAFETY: one byte of the 8,192 that were attached for writing.
    unsafe { attached.cast::<u8>().write_volatile(7) };
    // SAFETY: removing it only marks it while it is attached.
    checked(unsafe { libc::shmctl(keyed, libc::IPC_RMID, std::ptr::null_mut()) });

    let all = list(nowhere(), nowhere());
    let id = |kind: &Kind| match kind {
        Kind::Shm(id, _) => Some(*id),
        _ => None,
    };
    assert_eq!(ids(&all, id), ipcs("-m"));
    assert_eq!(all.len(), 2);
    for object in &all {
        let Kind::Shm(id, shm) = &object.kind else { panic!("{object:?}") };
        // SAFETY: all zeros is a valid value of this plain C structure.
        let mut told: libc::shmid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is there to be filled.
        checked(unsafe { libc::shmctl(id.id, libc::IPC_STAT, &raw mut told) });
        let owner = &object.owner;
        let perm = &told.shm_perm;
        assert_eq!((owner.uid, owner.gid), (perm.uid, perm.gid));
        assert_eq!((owner.creator_uid, owner.creator_gid), (Some(perm.cuid), Some(perm.cgid)));
        assert_eq!(owner.permissions, u32::from(perm.mode) & 0o777);
        assert_eq!(owner.user.as_deref(), Some("root"));
        assert_eq!(shm.size_bytes, u64::try_from(told.shm_segsz).expect("a size"));
        assert_eq!(shm.attached, told.shm_nattch);
        assert_eq!(shm.creator_pid, told.shm_cpid.cast_unsigned());
        assert_eq!(shm.last_pid, told.shm_lpid.cast_unsigned());
        assert_eq!(shm.attached_unix.unwrap_or(0), told.shm_atime);
        assert_eq!(shm.detached_unix.unwrap_or(0), told.shm_dtime);
        assert_eq!(object.changed_unix, Some(told.shm_ctime));
        assert!((begun..=now()).contains(&told.shm_ctime), "{object:?}");
        // The key of one that is removed is given back.
        let expected = (id.id == private, if id.id == private { 0 } else { shm.attached });
        assert_eq!((!shm.removed, shm.attached), expected, "{object:?}");
    }
    let keyed_one = all.iter().find_map(|object| match &object.kind {
        Kind::Shm(id, shm) if id.id == keyed => Some(*shm),
        _ => None,
    });
    let shm = keyed_one.expect("it lives while it is attached");
    assert_eq!((shm.attached, shm.rss_bytes, shm.detached_unix), (1, 4_096, None));
    assert_eq!((shm.creator_pid, shm.last_pid), (std::process::id(), std::process::id()));
    // SAFETY: it was attached there and nothing points into it.
    checked(unsafe { libc::shmdt(attached) });
    assert_eq!(ids(&list(nowhere(), nowhere()), id), [private]);
}

#[test]
fn semaphores_and_queues_are_as_their_system_calls_tell() {
    own_namespaces();
    let key = 0x9abc_def1_u32;
    let flags = libc::IPC_CREAT | 0o620;
    // SAFETY: no pointer is involved.
    let sem = checked(unsafe { libc::semget(key.cast_signed(), 3, flags) });
    // SAFETY: no pointer is involved.
    let msg = checked(unsafe { libc::msgget(key.cast_signed(), flags) });
    let of = |all: &[Ipc]| {
        let sem = all.iter().find_map(|object| match &object.kind {
            Kind::Sem(id, sem) => Some((*id, *sem, object.clone())),
            _ => None,
        });
        let msg = all.iter().find_map(|object| match &object.kind {
            Kind::Msg(id, msg) => Some((*id, *msg, object.clone())),
            _ => None,
        });
        (sem.expect("semaphores"), msg.expect("a queue"))
    };
    let ((sem_id, fresh_sem, _), (msg_id, fresh_msg, _)) = of(&list(nowhere(), nowhere()));
    assert_eq!((sem_id, msg_id), (Id { id: sem, key }, Id { id: msg, key }));
    assert_eq!((ipcs("-s"), ipcs("-q")), (vec![sem], vec![msg]));
    assert_eq!((fresh_sem.semaphores, fresh_sem.used_unix), (3, None));
    assert_eq!((fresh_msg.messages, fresh_msg.sent_unix, fresh_msg.send_pid), (0, None, 0));

    let mut up = libc::sembuf { sem_num: 1, sem_op: 2, sem_flg: 0 };
    // SAFETY: one operation, which outlives the call.
    checked(unsafe { libc::semop(sem, &raw mut up, 1) });
    // By another process, so that sender and receiver differ.
    let send = "msgsnd($ARGV[0], pack('l! a*', 1, 'x' x $_), 0) or die $! for 16, 5";
    let mut sender =
        Command::new("perl").args(["-e", send, &msg.to_string()]).spawn().expect("perl");
    assert!(sender.wait().expect("an end").success());
    let mut taken: [u64; 3] = [0; 3];
    let room = 16;
    // SAFETY: there is room for a type and so many bytes.
    let got = unsafe { libc::msgrcv(msg, taken.as_mut_ptr().cast(), room, 0, 0) };
    assert_eq!(got, 16);

    let ((_, used, sem_object), (_, queue, msg_object)) = of(&list(nowhere(), nowhere()));
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut told: libc::semid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is there to be filled.
    checked(unsafe { libc::semctl(sem, 0, libc::IPC_STAT, &raw mut told) });
    assert_eq!(used.used_unix, Some(told.sem_otime));
    assert_eq!(sem_object.changed_unix, Some(told.sem_ctime));
    assert_eq!(used.semaphores, told.sem_nsems);
    // SAFETY: as above.
    let mut told: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is there to be filled.
    checked(unsafe { libc::msgctl(msg, libc::IPC_STAT, &raw mut told) });
    assert_eq!((queue.messages, queue.bytes), (1, 5));
    assert_eq!(queue.messages, told.msg_qnum);
    let pids = (told.msg_lspid.cast_unsigned(), told.msg_lrpid.cast_unsigned());
    assert_eq!((queue.send_pid, queue.receive_pid), pids);
    assert_eq!((queue.send_pid, queue.receive_pid), (sender.id(), std::process::id()));
    assert_eq!(queue.sent_unix, Some(told.msg_stime));
    assert_eq!(queue.received_unix, Some(told.msg_rtime));
    assert_eq!(msg_object.changed_unix, Some(told.msg_ctime));
    assert_eq!(msg_object.owner.permissions, 0o620);
}

#[test]
fn posix_objects_are_the_files_of_their_folders() {
    own_namespaces();
    let folder = tempfile::tempdir().expect("a folder");
    let (shm, mqueue) = (folder.path().join("shm"), folder.path().join("mqueue"));
    for path in [&shm, &mqueue] {
        std::fs::create_dir(path).expect("a folder");
    }
    let none = None::<&str>;
    mount(Some("shm"), &shm, Some("tmpfs"), MsFlags::empty(), none).expect("mounted");
    mount(Some("mq"), &mqueue, Some("mqueue"), MsFlags::empty(), none).expect("mounted");
    let file = shm.join("pool");
    std::fs::write(&file, [1; 100]).expect("written");
    std::fs::File::options().write(true).open(&file).expect("open").set_len(1 << 20).expect("set");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).expect("a mode");
    nix::unistd::chown(&file, Some(33.into()), Some(7.into())).expect("an owner");
    symlink("/etc/shadow", shm.join("link")).expect("a link");
    // Making a file there makes a queue (mq_overview(7)).
    drop(std::fs::File::create(mqueue.join("jobs")).expect("a queue"));
    // SAFETY: a name that ends with NUL.
    let queue = checked(unsafe { libc::mq_open(c"/jobs".as_ptr(), libc::O_WRONLY) });
    // SAFETY: 5 bytes are there.
    checked(unsafe { libc::mq_send(queue, c"12345".as_ptr(), 5, 0) });
    // SAFETY: it is open and nobody else has it.
    checked(unsafe { libc::mq_close(queue) });

    let all = list(&shm, &mqueue);
    assert_eq!(all.len(), 2, "{all:?}");
    let expected = Kind::PosixShm { name: b"pool".to_vec(), size_bytes: 1 << 20, rss_bytes: 4_096 };
    assert_eq!(all[0].kind, expected);
    let owner = &all[0].owner;
    assert_eq!((owner.uid, owner.gid, owner.permissions), (33, 7, 0o604));
    assert_eq!((owner.creator_uid, owner.user.as_deref()), (None, Some("www-data")));
    assert!(all[0].changed_unix.is_some_and(|time| (time - now()).abs() < 60), "{all:?}");
    assert_eq!(all[1].kind, Kind::PosixMq { name: b"jobs".to_vec(), bytes: 5 });
    assert_eq!(all[1].owner.uid, 0);
}
