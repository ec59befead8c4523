//! What reading costs, beside what else an operator could use and beside the least that it can cost.
//! `cargo xtask bench` runs it, as root, and prints the ratios.

mod changes;
mod counters;
mod processes;
mod routes;
mod tasks;

use criterion::Criterion;
use nix::sched::{CloneFlags, unshare};
use std::time::Duration;

fn main() {
    // Routes of its own, and ports that nobody has taken.
    unshare(CloneFlags::CLONE_NEWNET).expect("root: a network namespace");
    run("ip", &["link", "set", "lo", "up"]);
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    processes::bench(&mut criterion);
    counters::bench(&mut criterion);
    changes::bench(&mut criterion);
    routes::bench(&mut criterion);
    changes::bench_resync(&mut criterion);
    criterion.final_summary();
}

/// Runs a program to its end and throws away what it says.
fn run(program: &str, args: &[&str]) {
    let mut command = std::process::Command::new(program);
    let status = command.args(args).stdout(std::process::Stdio::null()).status();
    assert!(status.expect(program).success(), "{program} failed");
}
