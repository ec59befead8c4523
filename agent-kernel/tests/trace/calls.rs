//! What processes ask the kernel for: files, BPF programs, and to trace others.

use crate::support::{Cgroup, World, config, events, one, open};
use agent_kernel::trace::{
    Bpf, Event, Open, Ptrace, PtraceRequest, Scope, Source, Traced, TracerConfig, bpf_type,
};
use std::os::unix::ffi::OsStrExt as _;

fn opens(events: &[Traced]) -> Vec<&Open> {
    let open = |traced: &'_ Traced| matches!(traced.event, Event::Open(_));
    let opens = events.iter().filter(|traced| open(traced));
    opens
        .map(|traced| match &traced.event {
            Event::Open(open) => open,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// A tracer of opened files whose paths begin so.
fn of_paths(cgroup: &Cgroup, paths: &[&[u8]]) -> TracerConfig {
    let sources = [Source::Open, Source::Exec];
    TracerConfig {
        open_paths: paths.iter().map(|path| path.to_vec()).collect(),
        ..config(&sources, Scope::Cgroup(cgroup.path.clone()))
    }
}

#[tokio::test]
async fn each_way_of_opening_a_file_is_told_with_what_came_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let cgroup = Cgroup::new();
    let prefix = folder.path().as_os_str().as_bytes();
    let mut tracer = open(&of_paths(&cgroup, &[prefix]));
    // open, creat, openat, openat2, and one of nothing.
    let script = r#"
        my $d = $ARGV[0];
        my ($p2, $p85, $p257, $p437, $none) = map { "$d/$_" } qw(open creat openat openat2 none);
        my $how = pack("QQQ", 02101, 0600, 0);
        print join " ", map { $_ < 0 ? $!+0 : 0 } (
            syscall(2, $p2, 0101, 0600), syscall(85, $p85, 0600), syscall(257, -100, $p257, 0102, 0600),
            syscall(437, -100, $p437, $how, 24), syscall(257, -100, $none, 0, 0));
    "#;
    let (pid, said) = cgroup.says("perl", &["-e", script, &folder.path().to_string_lossy()]);
    assert_eq!(said, "0 0 0 0 2");
    let told = events(&mut tracer, &cgroup).await;
    let opens = opens(&told);
    let seen: Vec<_> =
        opens.iter().map(|it| (&it.path[prefix.len()..], it.flags, it.error)).collect();
    let expected = [
        (&b"/open"[..], 0o101, None),
        (b"/creat", 0o1101, None),
        (b"/openat", 0o102, None),
        (b"/openat2", 0o2101, None),
        (b"/none", 0, Some(2)),
    ];
    assert_eq!(seen, expected);
    for open in opens {
        assert_eq!((open.process.pid, open.process.ppid), (pid, Some(std::process::id())));
        assert_eq!(open.process.comm, b"perl");
        assert_eq!(open.process.cgroup, Some(cgroup.id()));
        assert!(!open.path_truncated);
    }
}

#[tokio::test]
async fn only_paths_with_the_prefixes_are_told() {
    let cgroup = Cgroup::new();
    let mut tracer = open(&of_paths(&cgroup, &[b"/nowhere/a", b"/nowhere/b/"]));
    let odd = "/nowhere/b/\u{e4} \n";
    let script = r#"
        open(my $f, "<", $_) for @ARGV;
    "#;
    let paths =
        ["/nowhere/a", "/nowhere/ab", "/nowhere/b", "/nowhere", "nowhere/a", "/nowhere/b/c", odd];
    cgroup.says("perl", &[&["-e", script], &paths[..]].concat());
    let told = events(&mut tracer, &cgroup).await;
    let seen: Vec<_> = opens(&told).iter().map(|open| open.path.as_slice()).collect();
    let expected = ["/nowhere/a", "/nowhere/ab", "/nowhere/b/c", odd].map(str::as_bytes);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_path_is_told_whole_or_said_to_be_cut() {
    let cgroup = Cgroup::new();
    let mut tracer = open(&of_paths(&cgroup, &[b"/nowhere"]));
    let script = r#"
        for my $length (4000, 4094, 4095, 5000) { open(my $f, "<", "/nowhere" . "x" x ($length - 8)) }
    "#;
    cgroup.says("perl", &["-e", script]);
    let told = events(&mut tracer, &cgroup).await;
    let seen: Vec<_> = opens(&told)
        .iter()
        .map(|open| (open.path.len(), open.path_truncated, open.error))
        .collect();
    // A component is too long, as is, with the zero, a whole path of more than 4096.
    let too_long = Some(36);
    let expected = [
        (4_000, false, too_long),
        (4_094, false, too_long),
        (4_095, true, too_long),
        (4_095, true, too_long),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn without_prefixes_every_path_is_told_and_one_that_cannot_be_read() {
    let mut world = World::new(&[Source::Open]);
    let script = r#"
        my $relative = "no/such/file";
        syscall(257, -100, 1, 0, 0);
        syscall(257, -100, $relative, 0, 0);
    "#;
    let (pid, _) = world.cgroup.says("perl", &["-e", script]);
    let told = world.events().await;
    let opens = opens(&told);
    let bad: Vec<_> = opens.iter().filter(|open| open.error == Some(14)).collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(
        (&bad[0].path[..], bad[0].path_truncated, bad[0].process.pid),
        (&b""[..], true, pid)
    );
    assert!(opens.iter().any(|open| open.path == b"no/such/file"));
    assert!(opens.iter().any(|open| open.path.ends_with(b"/libc.so.6") && open.error.is_none()));
}

#[tokio::test]
async fn a_thread_opens_as_its_process() {
    let cgroup = Cgroup::new();
    let mut tracer = open(&of_paths(&cgroup, &[b"/nowhere"]));
    let script = r#"
import ctypes, threading
def run():
    ctypes.CDLL(None).prctl(15, b"thread")
    try: open("/nowhere")
    except OSError: pass
thread = threading.Thread(target=run)
thread.start()
thread.join()
"#;
    let (pid, status) = cgroup.run("python3", &["-c", script]);
    assert!(status.success());
    let told = events(&mut tracer, &cgroup).await;
    let open = opens(&told)[0];
    assert_eq!((open.process.pid, &open.process.comm[..]), (pid, &b"python3"[..]));
    assert_eq!(open.process.ppid, Some(std::process::id()));
}

#[tokio::test]
async fn a_loaded_bpf_program_is_told_with_its_id() {
    let mut world = World::new(&[Source::Bpf]);
    // A map, a program that is refused, and two that are not: "return 0".
    let script = r#"
        my $map = pack("LLLLL", 2, 4, 4, 1, 0);
        syscall(321, 0, $map, 20) >= 0 or die "map: $!";
        my ($licence, $nothing) = ("GPL\0", pack("CCSL", 0x95, 0, 0, 0));
        my $good = pack("CCSL", 0xb7, 0, 0, 0) . $nothing;
        sub load {
            my ($type, $code, $name) = @_;
            my $attr = pack("LLPPLLQLLa16", $type, length($code) / 8, $code, $licence, 0, 0, 0, 0, 0, $name);
            my $fd = syscall(321, 5, $attr, length($attr));
            return "refused" if $fd < 0;
            open(my $info, "<", "/proc/self/fdinfo/$fd") or die;
            my ($id) = map { /^prog_id:\s*(\d+)/ ? $1 : () } <$info>;
            return $id;
        }
        print join " ", load(1, $nothing, "bad"), load(1, $good, "kctl_test_one"), load(5, $good, "");
    "#;
    let (pid, said) = world.cgroup.says("perl", &["-e", script]);
    let told = world.events().await;
    let programs: Vec<&Bpf> = told
        .iter()
        .filter_map(|traced| match &traced.event {
            Event::Bpf(bpf) => Some(bpf),
            _ => None,
        })
        .collect();
    let ids: Vec<_> = said.split(' ').skip(1).map(|id| id.parse::<u32>().ok()).collect();
    let expected = [(ids[0], &b"kctl_test_one"[..], "socket_filter"), (ids[1], b"", "tracepoint")];
    let seen: Vec<_> = programs
        .iter()
        .map(|it| (it.id, &it.name[..], it.program_type.and_then(bpf_type).expect("a name")))
        .collect();
    assert_eq!(seen, expected, "{said}");
    assert!(programs.iter().all(|it| it.process.pid == pid && it.process.comm == b"perl"));
}

fn traced_by(events: &[Traced], pid: u32) -> &Ptrace {
    one(events, |event| match event {
        Event::Ptrace(ptrace) if ptrace.process.pid == pid => Some(ptrace),
        _ => None,
    })
}

#[tokio::test]
async fn a_tracer_is_told_with_the_process_that_it_traces() {
    let mut world = World::new(&[Source::Ptrace]);
    let elsewhere = Cgroup::new();
    // A process with a second thread, which is the one that is traced.
    let threads = r#"
import os, threading, time
threading.Thread(target=lambda: print(threading.get_native_id(), flush=True) or time.sleep(1000)).start()
"#;
    let mut target = elsewhere
        .command("python3")
        .args(["-c", threads])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let mut thread = String::new();
    let pipe = target.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(pipe), &mut thread).expect("a number");
    let thread = thread.trim();
    assert_ne!(thread, target.id().to_string());
    for (request, number) in [(PtraceRequest::Attach, "16"), (PtraceRequest::Seize, "16902")] {
        for tid in [thread, &target.id().to_string()] {
            let script = "exit(syscall(101, $ARGV[0] + 0, $ARGV[1] + 0, 0, 0) == 0 ? 0 : 1)";
            let (pid, status) = world.cgroup.run("perl", &["-e", script, number, tid]);
            assert!(status.success(), "{request:?} {tid}");
            let told = world.events().await;
            let ptrace = traced_by(&told, pid);
            assert_eq!((ptrace.request, &ptrace.process.comm[..]), (request, &b"perl"[..]));
            let traced = ptrace.target.as_ref().expect("it lives");
            assert_eq!((traced.pid, &traced.comm[..]), (target.id(), &b"python3"[..]));
            assert_eq!(traced.ppid, Some(std::process::id()));
            assert_eq!(traced.cgroup, Some(elsewhere.id()));
        }
    }
    target.kill().expect("it lives");
    target.wait().expect("it ends");

    // Refused requests and others are nothing.
    let script = "syscall(101, 16, 0x3fffffff, 0, 0); syscall(101, 24, $$, 0, 0);";
    world.cgroup.says("perl", &["-e", script]);
    assert!(!world.events().await.iter().any(|it| matches!(it.event, Event::Ptrace(_))));
}

#[tokio::test]
async fn a_process_that_asks_to_be_traced_is_told_with_its_parent() {
    let mut world = World::new(&[Source::Ptrace]);
    let script = r#"
        my $child = fork() // die;
        if (!$child) { syscall(101, 0, 0, 0, 0) == 0 or die; exit }
        waitpid $child, 0;
        print $child;
    "#;
    let (pid, said) = world.cgroup.says("perl", &["-e", script]);
    let told = world.events().await;
    let ptrace = traced_by(&told, pid);
    assert_eq!(ptrace.request, PtraceRequest::Traceme);
    let target = ptrace.target.as_ref().expect("it lives");
    assert_eq!((target.pid.to_string(), target.ppid), (said, Some(pid)));
}

#[tokio::test]
async fn in_a_pid_namespace_the_target_has_the_hosts_number() {
    let mut world = World::new(&[Source::Ptrace]);
    // The tracer knows it as 2; /proc here is still the host's.
    let script = r#"
        my $child = fork() // die;
        if (!$child) { $0 = "kctl-tracee"; sleep 1000; exit }
        syscall(101, 16, $child, 0, 0) == 0 or die;
        open(my $stat, "<", "/proc/self/status") or die;
        my ($line) = grep { /^NSpid/ } <$stat>;
        my ($own) = $line =~ /^NSpid:\s*(\d+)/;
        opendir(my $all, "/proc") or die;
        for my $pid (grep { /^\d+$/ } readdir $all) {
            open(my $status, "<", "/proc/$pid/status") or next;
            my $text = join "", <$status>;
            print "$child $pid" if $text =~ /^PPid:\s*$own$/m;
        }
        kill 9, $child;
    "#;
    let (_, said) = world.cgroup.says("unshare", &["--pid", "--fork", "perl", "-e", script]);
    let (inner, outer) = said.split_once(' ').expect("two numbers");
    assert_ne!(inner, outer);
    let told = world.events().await;
    let target = one(&told, |event| match event {
        Event::Ptrace(ptrace) => Some(ptrace.target.as_ref().expect("it lives").pid),
        _ => None,
    });
    assert_eq!(target.to_string(), outer);
}
