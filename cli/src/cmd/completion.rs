//! `completion`: what makes a shell complete kctl's command lines. The shell asks kctl itself what may come
//! next, and kctl asks the controller for names.

use super::{ask, hosts};
use crate::{
    args::{Cli, Global, env},
    config::Config,
    connect::Target,
    exit::Exit,
    output,
};
use clap::{Args, CommandFactory as _, FromArgMatches as _, ValueEnum};
use clap_complete::{ArgValueCandidates, CompleteEnv, CompletionCandidate, env::Shells};
use kctl_proto::controller::v1::{
    ListFeedsRequest, ListTokensRequest, ListUsersRequest,
    blocklist_service_client::BlocklistServiceClient, token_service_client::TokenServiceClient,
    user_service_client::UserServiceClient,
};
use std::{fs::File, time::Duration};
use tokio::time::timeout;

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    // Plain comments, as above formats: clap would print doc comments as a list.
    // source <(kctl completion bash)
    Bash,
    // source <(kctl completion zsh), after compinit
    Zsh,
    // kctl completion fish | source
    Fish,
}

/// A shell that asks says its name in it.
const ASKED_BY: &str = "KCTL_COMPLETE";
/// Somebody waits in front of a key that seems to do nothing, unless `KCTL_TIMEOUT` allows more.
const PATIENCE: Duration = Duration::from_millis(800);

/// In a folder of functions the script is the body of `_kctl`, which zsh runs when it first completes: what
/// it has just registered would be asked the next time only.
const ZSH_FROM_A_FOLDER: &str = r#"
if [[ "$funcstack[1]" == _kctl ]]; then
    _clap_dynamic_completer_kctl
fi
"#;

/// Runs `completion`: prints what the shell is to read.
pub(crate) fn run(args: &CompletionArgs) -> anyhow::Result<Exit> {
    let name = args.shell.to_possible_value().map(|it| it.get_name().to_owned());
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&name.unwrap_or_default()) {
        shell.write_registration(ASKED_BY, "kctl", "kctl", "kctl", &mut script)?;
    }
    if let Shell::Zsh = args.shell {
        script.extend(ZSH_FROM_A_FOLDER.as_bytes());
    }
    output::print(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}

/// Answers a shell that asks what may come next, and ends; does nothing when none asks.
pub(crate) fn answer() {
    if env(ASKED_BY).is_none() {
        return;
    }
    // Whatever is said on the way would stand in the middle of somebody's command line.
    if let Ok(nowhere) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stderr(&nowhere);
    }
    CompleteEnv::with_factory(Cli::command).var(ASKED_BY).complete();
}

/// Names that complete an argument's value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Names {
    Contexts,
    Feeds,
    Hosts,
    Tokens,
    Users,
}

impl Names {
    /// For `#[arg(add = …)]`: looked up when a shell asks.
    pub(crate) fn candidates(self) -> ArgValueCandidates {
        ArgValueCandidates::new(move || {
            let names = self.known().unwrap_or_default();
            // Whatever a controller says, nothing that a shell would read as more than a word.
            let is_word = |name: &String| {
                name.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '-' | '.' | '_'))
            };
            names.into_iter().filter(is_word).map(CompletionCandidate::new).collect::<Vec<_>>()
        })
    }

    fn known(self) -> anyhow::Result<Vec<String>> {
        let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
        let given = Cli::command().ignore_errors(true).try_get_matches_from(words)?;
        let global = Global::from_arg_matches(&given)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let patience = global.timeout()?.unwrap_or(PATIENCE);
        let known = runtime.block_on(async { timeout(patience, self.ask(&global)).await });
        // A name that is still being resolved keeps nobody waiting.
        runtime.shutdown_background();
        known?
    }

    async fn ask(self, global: &Global) -> anyhow::Result<Vec<String>> {
        if let Self::Contexts = self {
            let config = Config::read(&Config::path()?)?.unwrap_or_default();
            return Ok(config.contexts.into_keys().collect());
        }
        let target = &Target::of(global)?;
        Ok(match self {
            Self::Contexts => Vec::new(),
            Self::Hosts => {
                let hosts = hosts::rows(global, target, None).await?;
                hosts.into_iter().map(|it| it.name).collect()
            }
            Self::Feeds => {
                let feeds = ask(global, target, async |channel| {
                    BlocklistServiceClient::new(channel).list_feeds(ListFeedsRequest {}).await
                });
                feeds.await?.feeds.into_iter().filter_map(|it| Some(it.head?.name)).collect()
            }
            Self::Tokens => {
                let tokens = ask(global, target, async |channel| {
                    TokenServiceClient::new(channel).list_tokens(ListTokensRequest {}).await
                });
                tokens.await?.tokens.into_iter().map(|it| it.id).collect()
            }
            Self::Users => {
                let users = ask(global, target, async |channel| {
                    UserServiceClient::new(channel).list_users(ListUsersRequest {}).await
                });
                users.await?.users.into_iter().map(|it| it.name).collect()
            }
        })
    }
}
