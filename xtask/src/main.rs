//! Tasks of the kctl project: `cargo xtask TASK`. One file a task; no task knows another.

mod bench;
mod cargo;
mod chart;
mod debs;
mod demo;
mod ebpf;
mod images;
mod interrupt;
mod kernels;
mod packages;
mod pages;
mod pods;
mod test;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the kctl project")]
enum Task {
    /// Measure what reading costs, beside other tools and the least that it can cost (root)
    ///
    /// It builds with optimization. It installs prometheus-node-exporter where that is missing, which
    /// Debian starts as a service on port 9100.
    Bench {
        /// Only benchmarks with this text in their name: processes, counters, routes, changes, catching up;
        /// or one of events, flow, feeds, filter, fleet, which take some minutes each and run by name alone
        filter: Option<String>,
    },
    /// Lint, render and check the Helm chart; cargo xtask test does it too
    Chart,
    /// Build the Debian packages, and install, upgrade and purge them in a fresh Debian (root)
    ///
    /// It builds with optimization, and installs debootstrap where it is missing.
    Debs,
    /// Show the main job for real: block an attacker on three hosts in network namespaces (root)
    Demo {
        /// Leave everything up, and print commands to play with, until Enter or Ctrl-C
        #[arg(long)]
        keep: bool,
        /// Build with optimization, which takes some minutes more, and show times worth quoting
        #[arg(long)]
        release: bool,
    },
    /// Build the eBPF object that the agent embeds
    Ebpf {
        /// Only compare what the source builds with what is committed
        #[arg(long)]
        check: bool,
    },
    /// Build the images of agent, controller and kctl, with static binaries and without a registry
    ///
    /// It builds with optimization. podman and buildah find them afterwards.
    Images,
    /// Boot Debian's kernels 6.1 and 6.12 in virtual machines, and see whether they take the agent's programs
    ///
    /// It builds with optimization, and installs QEMU where it is missing.
    Kernels,
    /// Run the chart's own pods with the images on hosts in network namespaces, and block an attacker (root)
    ///
    /// It builds with optimization, and installs buildah and podman where they are missing.
    Pods,
    /// Run every check and test: format, lints, unit, kernel and end-to-end tests (root)
    Test {
        /// Only what needs no root: leave the kernel and end-to-end tests out
        #[arg(long)]
        unprivileged: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Bench { filter } => bench::run(filter.as_deref()).map(|()| ExitCode::SUCCESS),
        Task::Chart => chart::run().map(|(passed, failed)| {
            println!("{passed} passed, {failed} failed");
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }),
        Task::Debs => debs::run().map(|()| ExitCode::SUCCESS),
        Task::Demo { keep, release } => demo::run(keep, release).map(|()| ExitCode::SUCCESS),
        Task::Ebpf { check } => ebpf::build(check).map(|()| ExitCode::SUCCESS),
        Task::Images => images::run().map(|()| ExitCode::SUCCESS),
        Task::Kernels => kernels::run().map(|()| ExitCode::SUCCESS),
        Task::Pods => pods::run().map(|()| ExitCode::SUCCESS),
        Task::Test { unprivileged } => test::run(unprivileged),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
