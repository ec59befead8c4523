//! One module a noun: its arguments, and what it asks of the controller or an agent.

pub(crate) mod audit;
pub(crate) mod block;
pub(crate) mod blocklist;
pub(crate) mod ca;
pub(crate) mod cat;
mod change;
pub(crate) mod completion;
pub(crate) mod context;
pub(crate) mod cpufreq;
pub(crate) mod disks;
pub(crate) mod events;
mod feed;
pub(crate) mod hosts;
mod input;
pub(crate) mod ipc;
pub(crate) mod man;
pub(crate) mod modules;
pub(crate) mod net;
pub(crate) mod perf;
mod prefixes;
pub(crate) mod proc;
pub(crate) mod protect;
pub(crate) mod ps;
mod read;
pub(crate) mod signal;
pub(crate) mod stats;
pub(crate) mod sysctl;
pub(crate) mod sysinfo;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod user;
pub(crate) mod version;

use crate::{
    args::{Cli, Command, Global},
    connect::{READ_TIMEOUT, Target},
    exit::{Exit, usage},
    output,
};
use kctl_rpc::Channel;
use tonic::{Response, Status};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let global = &cli.global;
    if !matches!(cli.command, Command::Events(_) | Command::Audit(_)) {
        global.format()?;
    }
    match cli.command {
        Command::Hosts(args) => hosts::run(global, args).await,
        Command::Block(args) => block::block(global, args).await,
        Command::Unblock(args) => block::unblock(global, args).await,
        Command::Blocklist(args) => blocklist::run(global, args).await,
        Command::Protect(args) => protect::run(global, args).await,
        Command::Stats(args) => stats::run(global, &args).await,
        Command::Events(args) => events::run(global, args).await,
        Command::Ps(args) => ps::run(global, args).await,
        Command::Proc(args) => proc::run(global, args).await,
        Command::Signal(args) => signal::run(global, args).await,
        Command::Sysinfo(args) => sysinfo::run(global, args).await,
        Command::Cat(args) => cat::run(global, args).await,
        Command::Sysctl(args) => sysctl::sysctl(global, args).await,
        Command::Sys(args) => sysctl::sys(global, args).await,
        Command::Cpufreq(args) => cpufreq::run(global, args).await,
        Command::Disks(args) => disks::run(global, args).await,
        Command::Modules(args) => modules::run(global, args).await,
        Command::Ipc(args) => ipc::run(global, args).await,
        Command::Perf(args) => perf::run(global, args).await,
        Command::Top(args) => top::run(global, args).await,
        Command::Net(args) => net::run(global, args).await,
        Command::Token(args) => token::run(global, args).await,
        Command::User(args) => user::run(global, args).await,
        Command::Audit(args) => audit::run(global, args).await,
        Command::Ca(args) => ca::run(global, args).await,
        Command::Context(args) => context::run(global, args).await,
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Version(args) => version::run(global, &args).await,
    }
}

/// For a command that one agent can't answer.
fn wants_controller(target: &Target, command: &str) -> anyhow::Result<()> {
    match target {
        Target::Controller(_) => Ok(()),
        Target::Agent(_) => {
            Err(usage(format!("{command} is about a fleet: it wants a controller, not --agent")))
        }
    }
}

/// One call of the controller, and its answer.
async fn ask<T>(
    global: &Global,
    target: &Target,
    call: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    let connection = target.connect(global).await?;
    let call = call(connection.channel.clone());
    connection.call(connection.wait(READ_TIMEOUT), call).await
}

/// Says that a thing counts no longer, by what it goes by.
fn revoked(global: &Global, thing: &str, key: &str, name: &str) -> anyhow::Result<Exit> {
    let told = serde_json::json!({ key: name, "revoked": true });
    output::object(global.format()?, &told, || format!("{thing} {name} revoked\n"))?;
    Ok(Exit::Done)
}
