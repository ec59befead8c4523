//! System calls: none is missed, and none is counted twice.

use super::support::{Actor, World, calls, calls_of};
use agent_kernel::counters::{Abi, Source};
use std::process::Stdio;

const SYSCALLS: [Source; 3] = [Source::Syscalls, Source::BySyscall, Source::ByProcess];
/// getppid(2)
const GETPPID: &str = "syscall(110) for 1 .. 1_000_000";
const COMPAT_CALLS: u32 = 5_000;

#[test]
fn a_million_calls_are_a_million_on_both_processors_at_once() {
    let mut world = World::new(&SYSCALLS);
    let mut actors = [Actor::new(&world.cgroup), Actor::new(&world.cgroup)];
    for (cpu, actor) in actors.iter().enumerate() {
        let cpus = std::thread::available_parallelism().expect("processors").get();
        let cpu = (cpu % cpus).to_string();
        let pid = actor.pid().to_string();
        let set = std::process::Command::new("taskset").args(["-pc", &cpu, &pid]).output();
        assert!(set.expect("taskset").status.success());
    }
    let counted = world.of(|| {
        actors.iter_mut().for_each(|actor| actor.begins(GETPPID));
        actors.iter_mut().for_each(Actor::ends);
        actors.iter().for_each(Actor::rests);
    });
    assert_eq!(calls(&counted, "getppid"), 2_000_000);
    let processes = &counted.processes.as_ref().expect("counted").processes;
    // Beside those it reads what it is told, and says that it is done.
    let own = actors.each_ref().map(|actor| processes[&actor.pid()].syscalls);
    assert!(own.iter().all(|own| (1_000_002..1_000_010).contains(own)), "{own:?}");
    assert_eq!(counted.syscalls, Some(own.iter().sum()));
    let all = counted.calls.expect("counted");
    assert_eq!(all.calls.values().sum::<u64>() + all.other, own.iter().sum::<u64>());
}

#[test]
fn threads_are_summed_under_their_process() {
    let mut world = World::new(&SYSCALLS);
    let script = "import os, sys, threading\n\
        def work():\n\
        \tfor _ in range(20000): os.getpriority(0, 0)\n\
        threads = [threading.Thread(target=work) for _ in range(4)]\n\
        [it.start() for it in threads]; [it.join() for it in threads]\n\
        print('done', flush=True); sys.stdin.read()";
    let before = world.read();
    let mut command = world.cgroup.command("python3");
    let mut child = command
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("text");
    assert_eq!(line, "done\n");
    let counted = world.read().since(&before).1;
    assert_eq!(calls(&counted, "getpriority"), 80_000);
    let processes = counted.processes.expect("counted").processes;
    let busy: Vec<_> = processes.iter().filter(|(_, it)| it.syscalls >= 80_000).collect();
    assert_eq!(busy.len(), 1, "{processes:?}");
    assert_eq!(*busy[0].0, child.id());
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    // It has left, and what it did is still in the sums.
    let after = world.read();
    assert!(!after.counted.processes.expect("counted").processes.contains_key(&child.id()));
    let whole = after.counted.syscalls.expect("counted");
    assert!(whole >= before.counted.syscalls.expect("counted") + 80_000);
}

#[test]
fn calls_of_the_32_bit_table_are_told_apart() {
    let mut world = World::new(&SYSCALLS);
    let program = std::env::current_exe().expect("this program");
    let before = world.read();
    let args = ["calls::compat_actor", "--exact", "--ignored"];
    let (_, status) = world.cgroup.run(program, &args);
    assert!(status.success());
    let counted = world.read().since(&before).1;
    assert_eq!(calls_of(&counted, Abi::Ia32, "getpid"), u64::from(COMPAT_CALLS));
    // Of the same number in the other table.
    assert!(calls(&counted, "writev") < u64::from(COMPAT_CALLS));
}

/// Makes calls by the 32-bit table.
#[test]
#[ignore = "what another test runs"]
#[expect(unsafe_code, reason = "a system call by hand")]
fn compat_actor() {
    for _ in 0..COMPAT_CALLS {
        let mut number = 20_u64;
        // SAFETY: getpid(2) touches no memory.
        unsafe {
            std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
        };
        assert_eq!(number, u64::from(std::process::id()));
    }
}

#[test]
fn what_is_no_number_of_a_call_is_counted_apart() {
    let mut world = World::new(&SYSCALLS);
    let mut actor = Actor::new(&world.cgroup);
    let counted = world.of(|| actor.does("syscall(100_000) for 1 .. 1_000"));
    assert_eq!(counted.calls.expect("counted").other, 1_000);
}
