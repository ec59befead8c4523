//! `man`: the manual pages, made from the same words as `--help`.

use crate::{args::Cli, exit::Exit};
use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use std::path::PathBuf;

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder to write them into; it is made where it is missing
    folder: PathBuf,
}

/// Runs `man`: one page for each command.
pub(crate) fn run(args: &ManArgs) -> anyhow::Result<Exit> {
    let write = || {
        std::fs::create_dir_all(&args.folder)?;
        clap_mangen::generate_to(Cli::command(), &args.folder)
    };
    write().with_context(|| format!("{}: can't be written", args.folder.display()))?;
    Ok(Exit::Done)
}
