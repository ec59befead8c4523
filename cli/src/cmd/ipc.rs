//! `ipc`: shared memory, semaphores and message queues.

use super::read::{self, ReadArgs, reads};
use crate::{args::Global, exit::Exit, view::ipc::IpcView};
use clap::Args;
use kctl_proto::agent::v1 as agent;

/// Arguments of `ipc`.
#[derive(Debug, Args)]
pub(crate) struct IpcArgs {
    #[command(flatten)]
    read: ReadArgs,
}

/// Runs `ipc`.
pub(crate) async fn run(global: &Global, args: IpcArgs) -> anyhow::Result<Exit> {
    read::run(global, &args.read, &agent::ListIpcRequest {}).await
}

reads! { ipc_service_client IpcServiceClient
    ListIpcRequest ListIpcResponse ipc list_ipc IpcView,
}
