//! Processes that change their credentials.

use crate::support::{World, output};
use agent_kernel::trace::{Cred, Credentials, Event, Source, Traced};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn changes(events: &[Traced]) -> Vec<&Cred> {
    events
        .iter()
        .filter_map(|traced| match &traced.event {
            Event::Cred(cred) => Some(cred),
            _ => None,
        })
        .collect()
}

/// What /proc tells: `Uid`, `Gid` and `CapEff` of a status, as the scripts print it.
fn credentials(line: &str) -> Credentials {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |at: usize| words[at].parse().expect("a number");
    let capabilities = u64::from_str_radix(words[4], 16).expect("a mask");
    Credentials { uid: number(0), euid: number(1), gid: number(2), egid: number(3), capabilities }
}

const SHOW: &str = r#"
    sub show {
        open(my $status, "<", "/proc/thread-self/status") or die;
        my $text = join "", <$status>;
        my ($uid, $euid) = $text =~ /^Uid:\s*(\d+)\s+(\d+)/m;
        my ($gid, $egid) = $text =~ /^Gid:\s*(\d+)\s+(\d+)/m;
        my ($caps) = $text =~ /^CapEff:\s*(\S+)/m;
        print "$uid $euid $gid $egid $caps\n";
    }
"#;

#[tokio::test]
async fn each_change_is_told_with_what_was_before_and_after() {
    let mut world = World::new(&[Source::Cred]);
    // Nothing; then groups, all capabilities but one, users, back by the saved one, and for good.
    let script = r#"
        my ($head, $none) = (pack("LL", 0x20080522, 0), pack("L6", (0) x 6));
        show();
        syscall(105, 0) == 0 or die;                      # setuid
        syscall(119, 11, 12, 13) == 0 or die; show();     # setresgid
        syscall(117, 21, 22, 0) == 0 or die; show();      # setresuid
        syscall(117, -1, 0, -1) == 0 or die; show();
        my $one = pack("L6", 0x80, 0x80, 0, 0, 0, 0);     # CAP_SETUID
        syscall(126, $head, $one) == 0 or die; show();    # capset
        syscall(113, 31, 32) == 0 or die; show();         # setreuid
        syscall(117, 0, 0, 0) < 0 or die;
    "#;
    let (pid, said) = world.cgroup.says("perl", &["-e", &format!("{SHOW} {script}")]);
    let told = world.events().await;
    let steps: Vec<_> = said.lines().map(credentials).collect();
    assert_eq!(steps.len(), 6);
    let seen: Vec<_> = changes(&told).iter().map(|cred| (cred.old, cred.new)).collect();
    let expected: Vec<_> = steps.windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!(seen, expected);
    for cred in changes(&told) {
        assert_eq!((cred.process.pid, cred.process.uid), (pid, Some(cred.new.uid)));
        assert_eq!(
            (&cred.process.comm[..], cred.process.cgroup),
            (&b"perl"[..], Some(world.cgroup.id()))
        );
    }
}

#[tokio::test]
async fn a_program_that_makes_root_of_its_user_is_told() {
    let mut world = World::new(&[Source::Cred]);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("open to all");
    let program = folder.path().join("cat");
    let program = program.to_str().expect("text");
    // Written by a process of its own: what other tests start meanwhile would hold ours open for writing, and
    // nobody can run it then.
    let install = ["-m", "4755", "/bin/cat", program];
    let installed = Command::new("install").args(install).status().expect("install");
    assert!(installed.success());
    let script = "syscall(119, (2345) x 3); syscall(117, (1234) x 3); exec @ARGV";
    let args = ["-e", script, program, "/proc/self/status"];
    let (pid, status) = world.cgroup.says("perl", &args);
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(2).map_or_else(String::new, str::to_owned)
    };
    assert_eq!(field("Uid:"), "0", "it is set-user-ID");
    let told = world.events().await;
    let last = *changes(&told).last().expect("a change");
    let (old, new) = (last.old, last.new);
    assert_eq!(
        (old.uid, old.euid, old.gid, old.egid, old.capabilities),
        (1234, 1234, 2345, 2345, 0)
    );
    assert_eq!((new.uid, new.euid, new.gid, new.egid), (1234, 0, 2345, 2345));
    let mask = status.lines().find(|line| line.starts_with("CapEff:")).expect("CapEff");
    let mask = mask.split_whitespace().nth(1).map(|mask| u64::from_str_radix(mask, 16));
    assert_eq!(mask, Some(Ok(new.capabilities)));
    assert_eq!((last.process.pid, &last.process.comm[..]), (pid, &b"cat"[..]));
}

#[tokio::test]
async fn threads_that_follow_are_one_change() {
    let mut world = World::new(&[Source::Cred]);
    // The C library makes every thread change.
    let script = r#"
import os, threading, time
for _ in range(5):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
def change():
    os.setresuid(1234, 1234, 0)
    os.setresuid(-1, 0, -1)
    os.setresuid(-1, 1234, -1)
thread = threading.Thread(target=change)
thread.start()
thread.join()
assert set(os.listdir("/proc/self/task")).__len__() >= 6
os._exit(0)
"#;
    let (pid, status) = world.cgroup.run("python3", &["-c", script]);
    assert!(status.success());
    let told = world.events().await;
    let euids: Vec<_> = changes(&told)
        .iter()
        .map(|cred| (cred.process.pid, cred.old.euid, cred.new.euid))
        .collect();
    assert_eq!(euids, [(pid, 0, 1234), (pid, 1234, 0), (pid, 0, 1234)]);
}

#[tokio::test]
async fn what_changes_nothing_is_not_told() {
    let mut world = World::new(&[Source::Cred]);
    world
        .cgroup
        .says("perl", &["-e", "syscall(105, 0); syscall(106, 0); syscall(119, -1, -1, -1);"]);
    assert!(output("true", &[]).status.success());
    let told = world.events().await;
    assert_eq!(changes(&told), Vec::<&Cred>::new());
}
