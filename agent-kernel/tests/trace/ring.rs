//! The ring: nothing is lost that is not counted, and what this kernel has not is said.

use crate::support::{Cgroup, config, decoded, events};
use agent_kernel::trace::{Event, Scope, Source, Tracer, TracerConfig};
use std::process::Command;
use std::time::{Duration, Instant};

const OPENS: usize = 100_000;

/// Opens nothing, many times.
const LOOP: &str = r#"my $p = "/nowhere/x"; syscall(257, -100, $p, 0, 0) for 1 .. $ARGV[0]"#;

fn of_opens(cgroup: &Cgroup, ring_bytes: u32) -> TracerConfig {
    TracerConfig {
        open_paths: vec![b"/nowhere".to_vec()],
        ring_bytes,
        ..config(&[Source::Open], Scope::Cgroup(cgroup.path.clone()))
    }
}

#[tokio::test]
async fn with_a_tiny_ring_and_nobody_reading_all_are_read_or_lost() {
    let cgroup = Cgroup::new();
    let (mut tracer, _) = Tracer::open(&of_opens(&cgroup, 1 << 14)).expect("root: the programs");
    cgroup.says("perl", &["-e", LOOP, &OPENS.to_string()]);
    let mut read = 0;
    loop {
        let records = tracer.drain();
        if records.is_empty() {
            break;
        }
        read += decoded(&records).len();
    }
    let lost = usize::try_from(tracer.lost()).expect("small");
    assert_eq!(read + lost, OPENS);
    assert!((100..1_000).contains(&read), "{read}");
    assert_eq!(tracer.lost(), 0, "it was told");
}

#[tokio::test]
async fn with_a_tiny_ring_and_a_slow_reader_all_are_read_or_lost() {
    let cgroup = Cgroup::new();
    let (mut tracer, _) = Tracer::open(&of_opens(&cgroup, 1 << 14)).expect("root: the programs");
    let mut children: Vec<_> =
        (0..2).map(|_| cgroup.spawn("perl", &["-e", LOOP, &(OPENS / 2).to_string()])).collect();
    let (mut read, mut lost) = (0, 0);
    let mut run = true;
    while run {
        run = children.iter_mut().any(|child| child.try_wait().expect("it runs").is_none());
        loop {
            let records = tracer.drain();
            read += decoded(&records).len();
            lost += usize::try_from(tracer.lost()).expect("small");
            if records.is_empty() {
                break;
            }
        }
    }
    assert_eq!(read + lost, OPENS);
    assert!(lost > 0 && read > 1_000, "{read} {lost}");
}

#[tokio::test]
async fn at_the_usual_size_a_reader_loses_nothing() {
    // The ring is full after some hundredths of a second: the reader must not wait that long for a processor.
    let thread = nix::unistd::gettid().to_string();
    let renice = ["-n", "-20", "-p", &thread];
    assert!(Command::new("renice").args(renice).status().expect("renice").success());
    let cgroup = Cgroup::new();
    let (mut tracer, _) = Tracer::open(&of_opens(&cgroup, 1 << 20)).expect("root: the programs");
    let mut child = cgroup.spawn("perl", &["-e", LOOP, &OPENS.to_string()]);
    let mut read = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while read + usize::try_from(tracer.lost()).expect("few") < OPENS && Instant::now() < deadline {
        let readable = tokio::time::timeout(Duration::from_secs(1), tracer.readable()).await;
        readable.unwrap_or(Ok(())).expect("readable");
        read += tracer.drain().len();
    }
    assert!(child.wait().expect("it ends").success());
    assert_eq!((read, tracer.lost()), (OPENS, 0));
    assert_eq!(tracer.drain().len(), 0);
}

#[tokio::test]
async fn a_lone_event_wakes_a_reader_that_sleeps() {
    let cgroup = Cgroup::new();
    let (mut tracer, _) = Tracer::open(&of_opens(&cgroup, 1 << 20)).expect("root: the programs");
    for _ in 0..50 {
        // Long enough for it to fall asleep.
        let silence = tokio::time::timeout(Duration::from_millis(20), tracer.readable()).await;
        assert!(silence.is_err(), "nothing was told");
        // A time of its own for each: perl tells when it was about to.
        let script = r#"
            my ($p, $t) = ("/nowhere/x", pack("QQ", 0, 0));
            syscall(228, 7, $t); syscall(257, -100, $p, 0, 0);
            my ($s, $n) = unpack "QQ", $t; print $s * 1_000_000_000 + $n;
        "#;
        let child = cgroup
            .command("perl")
            .args(["-e", script])
            .stdout(std::process::Stdio::piped())
            .spawn();
        let child = child.expect("perl");
        tokio::time::timeout(Duration::from_secs(20), tracer.readable())
            .await
            .expect("in time")
            .expect("readable");
        let woken = crate::support::boot_ns();
        let told = decoded(&tracer.drain());
        assert_eq!(told.len(), 1);
        let output = child.wait_with_output().expect("it ends");
        let about: u64 = String::from_utf8_lossy(&output.stdout).parse().expect("a time");
        assert!((about..woken).contains(&told[0].boot_ns), "{about} {told:?} {woken}");
    }
}

#[tokio::test]
async fn a_wait_may_be_given_up_at_any_time() {
    let cgroup = Cgroup::new();
    let (mut tracer, _) = Tracer::open(&of_opens(&cgroup, 1 << 20)).expect("root: the programs");
    let mut child = cgroup.spawn("perl", &["-e", LOOP, "20000"]);
    let (mut read, mut waits) = (0, 0_u32);
    let deadline = Instant::now() + Duration::from_secs(60);
    while read < 20_000 && Instant::now() < deadline {
        waits += 1;
        let patience = Duration::from_micros(u64::from(waits % 7) * 300);
        tokio::time::timeout(patience, tracer.readable()).await.ok();
        read += tracer.drain().len();
    }
    assert!(child.wait().expect("it ends").success());
    assert_eq!((read, tracer.lost()), (20_000, 0));
}

#[tokio::test]
async fn without_its_tracepoint_a_source_is_missing_and_the_rest_works() {
    let has_modules = std::path::Path::new("/proc/modules").exists();
    let cgroup = Cgroup::new();
    let all: Vec<_> = Source::all().collect();
    let config = config(&all, Scope::Cgroup(cgroup.path.clone()));
    let (mut tracer, missing) = Tracer::open(&config).expect("root: the programs");
    let sources: Vec<_> = missing.iter().map(|it| it.source).collect();
    assert_eq!(sources, if has_modules { vec![] } else { vec![Source::Module] });
    if let Some(module) = missing.first() {
        assert_eq!(module.why, "this kernel has no tracepoint module_load");
    }
    let (pid, _) = cgroup.run("true", &[]);
    let told = events(&mut tracer, &cgroup).await;
    let is_exec = |event: &Event| matches!(event, Event::Exec(it) if it.process.pid == pid);
    assert!(told.iter().any(|traced| is_exec(&traced.event)));
}

#[tokio::test]
async fn a_kernel_that_tells_nothing_of_its_types_is_an_error_with_the_file() {
    let sys = tempfile::tempdir().expect("a folder");
    let config =
        TracerConfig { sys_root: sys.path().to_owned(), ..config(&[Source::Exec], Scope::Host) };
    let error = Tracer::open(&config).expect_err("no BTF").to_string();
    assert!(error.contains("kernel/btf/vmlinux\": no such file"), "{error}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let good = config(&[Source::Open], Scope::Host);
    let cases = [
        (
            TracerConfig { ring_bytes: 5_000, ..good.clone() },
            "ring of events: 5000 bytes are no power",
        ),
        (
            TracerConfig { open_paths: vec![vec![b'a'; 257]], ..good.clone() },
            "paths of opened files: one of more than 256 bytes",
        ),
        (
            TracerConfig { scope: Scope::Cgroup("/no/such".into()), ..good.clone() },
            "cgroup \"/no/such\": no such file",
        ),
        (
            TracerConfig { scope: Scope::Cgroup("/a/../b".into()), ..good },
            "cgroup \"/a/../b\": leads upwards",
        ),
    ];
    for (config, expected) in cases {
        let error = Tracer::open(&config).expect_err("refused").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
