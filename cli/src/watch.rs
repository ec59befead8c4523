//! `--watch`: a read again and again. It knows which commands are reads, and none of them.

use crate::{
    args::Cli,
    cmd,
    exit::{self, Exit, Usage, usage},
    output,
};
use clap::{ArgMatches, FromArgMatches as _};

/// Commands that change nothing and end by themselves.
const READS: [&str; 31] = [
    "hosts",
    "hosts list",
    "hosts describe",
    "blocklist",
    "blocklist list",
    "blocklist feeds",
    "protect list",
    "stats",
    "ps",
    "proc",
    "sysinfo",
    "cat",
    "sysctl get",
    "sys get",
    "cpufreq",
    "disks",
    "modules",
    "ipc",
    "net links",
    "net addrs",
    "net routes",
    "net neigh",
    "net rules",
    "net sockets",
    "net conntrack",
    "net stats",
    "token list",
    "user list",
    "audit",
    "ca show",
    "version",
];

/// Does what the command line says, once or with `--watch` again and again.
pub(crate) async fn run(cli: Cli, given: &ArgMatches) -> anyhow::Result<Exit> {
    let Some(interval) = cli.global.watch else { return cmd::run(cli).await };
    let name = name(given);
    if matches!(name.as_str(), "events" | "perf" | "top") {
        return Err(usage(format!("{name} goes on by itself: leave --watch away")));
    }
    if !READS.contains(&name.as_str()) || sets(given) {
        return Err(usage(format!("--watch repeats reads, and \"kctl {name}\" is none")));
    }
    let mut next = tokio::time::interval(interval);
    // A read that takes longer is not repeated more often for it.
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut exit = Exit::Done;
    let mut has_answered = false;
    let mut cli = Some(cli);
    loop {
        let again = async {
            next.tick().await;
            output::in_place();
            match cli.take().map_or_else(|| Cli::from_arg_matches(given), Ok) {
                Ok(cli) => cmd::run(cli).await,
                Err(error) => Err(error.into()),
            }
        };
        let outcome = tokio::select! {
            biased;
            Ok(()) = tokio::signal::ctrl_c() => return Ok(exit),
            outcome = again => outcome,
        };
        match outcome {
            Ok(outcome) => (exit, has_answered) = (outcome, true),
            // Whoever answered may do so again.
            Err(error) if has_answered && !error.is::<Usage>() => exit = exit::report(&error),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a command that is a read otherwise is told to set something.
fn sets(given: &ArgMatches) -> bool {
    let cpufreq = given.subcommand_matches("cpufreq");
    cpufreq.is_some_and(|it| it.get_raw("governor").is_some() || it.get_raw("frequency").is_some())
}

/// A command's words, without arguments.
fn name(given: &ArgMatches) -> String {
    let mut words = Vec::new();
    let mut given = given.subcommand();
    while let Some((word, inner)) = given {
        words.push(word);
        given = inner.subcommand();
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory as _};

    #[test]
    fn every_read_is_a_command() {
        for read in READS {
            let mut command = &Cli::command();
            for word in read.split(' ') {
                let found = command.find_subcommand(word);
                command = found.unwrap_or_else(|| panic!("{read}: no such command"));
            }
        }
    }

    #[test]
    fn a_command_is_named_by_its_words() {
        let command: Command = Cli::command();
        let line = ["kctl", "net", "routes", "--watch", "--host", "a"];
        assert_eq!(name(&command.get_matches_from(line)), "net routes");
    }
}
