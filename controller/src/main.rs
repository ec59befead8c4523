//! The controller of kctl: which hosts exist, what should be blocked where, and making it so.
//!
//! It owns desired state and the certificate authority, and must not know the kernel: hosts are
//! reached only through `kctl.agent.v1`.

mod alerts;
mod args;
mod audit;
mod auth;
mod authority;
mod change;
mod check;
mod config;
mod data_dir;
mod events;
mod fanout;
mod follow;
mod join;
mod limits;
mod listen;
mod observed;
mod pki;
mod reachable;
mod registry;
mod renewal;
mod run;
mod scope;
mod service;
mod session;
mod severable;
mod standing;
mod status;
mod store;
mod sync;
mod token;

use anyhow::Context as _;
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    let mut args = args::Args::parse();
    match start(args.command.take(), args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kctl-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Option<args::Command>, args: args::Args) -> anyhow::Result<()> {
    let config = config::Config::load(args)?;
    match command {
        Some(args::Command::AdminConfig) => {
            let path = data_dir::admin_config_path(&config.data_dir);
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("{}: start the controller once to make it", path.display())
            })?;
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
        Some(args::Command::Check) => runtime()?.block_on(check::check(&config)),
        None => {
            kctl_rpc::init_logging();
            allow_connections();
            // Several cryptography providers in one process would each want to be the default.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            runtime()?.block_on(run::run(config))
        }
    }
}

/// As many open files as this process may have: each host and each user is one.
fn allow_connections() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, limit = limit.current, "controller: the limit of open files stays");
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("runtime")
}
