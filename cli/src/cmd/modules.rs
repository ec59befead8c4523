//! `modules`: kernel modules.

use super::read::{self, ReadArgs, reads};
use crate::{args::Global, exit::Exit, view::module::ModuleView};
use clap::Args;
use kctl_proto::agent::v1 as agent;

/// Arguments of `modules`.
#[derive(Debug, Args)]
pub(crate) struct ModulesArgs {
    /// Only this module
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Also those that are part of the kernel and have parameters
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    read: ReadArgs,
}

/// Runs `modules`.
pub(crate) async fn run(global: &Global, args: ModulesArgs) -> anyhow::Result<Exit> {
    let name = args.name.unwrap_or_default();
    let request = agent::ListModulesRequest { name, all: args.all };
    read::run(global, &args.read, &request).await
}

reads! { module_service_client ModuleServiceClient
    ListModulesRequest ListModulesResponse modules list_modules ModuleView,
}
