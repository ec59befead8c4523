//! `context`: the controllers that the configuration file knows.

use super::{completion::Names, input};
use crate::{
    args::{Global, env},
    config::{Config, Context},
    exit::{Exit, usage},
    output::{self, Format, Table, note},
};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueHint};
use kctl_rpc::{Credentials, Identity};
use serde::Serialize;

/// Arguments of `context`.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// Every context
    List,
    /// Make a context the current one
    Use(NameArgs),
    /// The current context, without its key
    Show,
    /// Add the context of a file that the controller made (DATA_DIR/admin.toml)
    Import(ImportArgs),
    /// Forget a context
    Remove(NameArgs),
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The context
    #[arg(add = Names::Contexts.candidates())]
    name: String,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The file; - is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    file: String,
    /// Call it this, instead of its name in the file
    #[arg(long)]
    name: Option<String>,
}

/// Runs `context`. It makes no connection.
pub(crate) async fn run(global: &Global, args: ContextArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let path = Config::path()?;
    let mut config = Config::read(&path)?.unwrap_or_default();
    match args.command {
        ContextCommand::List => {
            let current = config.current.clone();
            let rows: Vec<_> = config
                .contexts
                .iter()
                .map(|(name, context)| ContextRow::of(name, context, current.as_deref()))
                .collect();
            output::rows(format, "contexts", &rows, || table(&rows))?;
        }
        ContextCommand::Show => {
            let name = global.context.clone().or_else(|| env("KCTL_CONTEXT"));
            let (name, context) = config.context(name.as_deref())?;
            let row = ContextRow::of(name, context, config.current.as_deref());
            output::object(format, &row, || table(std::slice::from_ref(&row)).to_string())?;
        }
        ContextCommand::Use(args) => {
            config.context(Some(&args.name))?;
            config.current = Some(args.name.clone());
            config.write(&path)?;
            done(format, &format!("current context is {:?}", args.name));
        }
        ContextCommand::Import(args) => {
            let name = import(&mut config, &args).await?;
            config.write(&path)?;
            done(format, &format!("imported context {name:?} into {}", path.display()));
        }
        ContextCommand::Remove(args) => {
            config.context(Some(&args.name))?;
            config.contexts.remove(&args.name);
            if config.current.as_deref() == Some(&args.name) {
                config.current = None;
            }
            config.write(&path)?;
            done(format, &format!("removed context {:?}", args.name));
        }
    }
    Ok(Exit::Done)
}

fn done(format: Format, text: &str) {
    if format.for_people() {
        note(text);
    }
}

/// Takes the file's current context; answers the name that it got.
async fn import(config: &mut Config, args: &ImportArgs) -> anyhow::Result<String> {
    let file = input::name(&args.file);
    let text = String::from_utf8(input::read(&args.file).await?)
        .with_context(|| format!("{file}: not text"))?;
    let other = Config::parse(&text).with_context(|| file.to_owned())?;
    if other.contexts.is_empty() {
        bail!("{file}: has no context");
    }
    let only = other.contexts.keys().next().filter(|_| other.contexts.len() == 1);
    let (name, context) = other.context(other.current.as_deref().or(only.map(String::as_str)))?;
    Credentials::from_pem(&context.ca, &context.certificate, &context.key)
        .with_context(|| format!("{file}: context {name:?}"))?;
    let name = args.name.clone().unwrap_or_else(|| name.to_owned());
    match config.contexts.get(&name) {
        Some(known) if known != context => {
            return Err(usage(format!(
                "context {name:?}: exists; give another --name, or \"kctl context remove {name}\" first"
            )));
        }
        _ => {}
    }
    config.contexts.insert(name.clone(), context.clone());
    config.current.get_or_insert_with(|| name.clone());
    Ok(name)
}

/// One context, without secrets.
#[derive(Debug, Serialize)]
struct ContextRow {
    name: String,
    current: bool,
    server: String,
    controller: String,
    /// Who we are to it.
    user: Option<String>,
}

impl ContextRow {
    fn of(name: &str, context: &Context, current: Option<&str>) -> Self {
        let credentials =
            Credentials::from_pem(&context.ca, &context.certificate, &context.key).ok();
        let user = credentials
            .and_then(|credentials| Identity::of_certificate(credentials.chain.first()?).ok());
        Self {
            name: name.to_owned(),
            current: current == Some(name),
            server: context.server.clone(),
            controller: context.controller.clone(),
            user: user.map(|identity| identity.to_string()),
        }
    }
}

fn table(rows: &[ContextRow]) -> Table {
    let mut table = Table::new(&["CURRENT", "NAME", "SERVER", "CONTROLLER", "USER"]);
    for row in rows {
        table.row([
            if row.current { "*".to_owned() } else { String::new() },
            row.name.clone(),
            row.server.clone(),
            row.controller.clone(),
            row.user.clone().unwrap_or_default(),
        ]);
    }
    table
}
