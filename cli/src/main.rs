//! `kctl`, the command line: arguments in, one call to the controller or an agent, output and an exit
//! code out. It keeps no state but the contexts in its configuration file, and knows no kernel.

mod args;
mod cmd;
mod config;
mod connect;
mod exit;
mod output;
mod time;
mod view;
mod watch;
mod witness;

use args::Cli;
use clap::{CommandFactory as _, FromArgMatches as _};
use exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    cmd::completion::answer();
    let given = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    // One thread: a command waits for one connection, and starting more would cost it milliseconds.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let own_end = cli.command.ends_with_ctrl_c() || cli.global.watch.is_some();
            let outcome = runtime.block_on(async {
                tokio::select! {
                    biased;
                    Ok(()) = tokio::signal::ctrl_c(), if !own_end => Ok(Exit::Interrupted),
                    outcome = watch::run(cli, &given) => outcome,
                }
            });
            // A read of standard input can't be cancelled; nobody waits for it any more.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(anyhow::Error::new(error).context("can't start")),
    };
    outcome.unwrap_or_else(|error| exit::report(&error)).into()
}
