//! `kctl-agent`: one host's kernel, served to its controller and to people on the host. It knows no
//! other host.

mod access;
mod alerts;
mod check;
mod config;
mod counters;
mod enforcer;
mod events;
mod identity;
mod network;
mod observed;
mod renewal;
mod rollback;
mod run;
mod service;
mod set;
mod socket;
mod status;
mod store;
mod text;
mod uplink;

use clap::Parser as _;
use config::{Command, Task};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Command::parse();
    identity::blank_token_argument();
    kctl_rpc::init_logging();
    let result = command.options.resolve().and_then(|config| match command.task {
        None => run::run(&config).map(|()| ExitCode::SUCCESS),
        Some(Task::Check { live: false }) => check::check(&config),
        Some(Task::Check { live: true }) => check::live(&config),
        Some(Task::Detach { wait }) => run::detach(&config, wait).map(|()| ExitCode::SUCCESS),
    });
    result.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}
