//! `ProcessService`: what procfs tells of this host's processes.

use super::chunks::{Chunks, chunks};
use super::text::text;
use crate::status::kernel;
use agent_kernel::proc::{Order, Process, Query, processes};
use kctl_proto::agent::v1::{self as pb, process_service_server::ProcessService};
use std::path::PathBuf;
use tonic::{Request, Response, Status};

/// Answers for the processes of one procfs mount.
#[derive(Debug)]
pub(super) struct Processes {
    proc_root: PathBuf,
}

impl Processes {
    pub(super) fn new(proc_root: PathBuf) -> Self {
        Self { proc_root }
    }
}

#[tonic::async_trait]
impl ProcessService for Processes {
    type ListProcessesStream = Chunks<pb::ListProcessesResponse>;

    async fn list_processes(
        &self,
        request: Request<pb::ListProcessesRequest>,
    ) -> Result<Response<Self::ListProcessesStream>, Status> {
        let query = query(request.into_inner());
        let root = self.proc_root.clone();
        let begun = tokio::task::spawn_blocking(move || processes(&root, query)).await;
        let listed = begun.map_err(|error| Status::internal(error.to_string()))?;
        let listed = listed.map_err(kernel)?.map(|process| process.map(process_to_proto));
        let message = |processes| pb::ListProcessesResponse { processes };
        Ok(Response::new(chunks(listed, message, kernel)))
    }
}

fn query(request: pb::ListProcessesRequest) -> Query {
    let order = match request.order() {
        pb::ProcessOrder::Unspecified => Order::Pid,
        pb::ProcessOrder::Cpu => Order::Cpu,
        pb::ProcessOrder::Rss => Order::Rss,
        pb::ProcessOrder::Start => Order::Start,
    };
    Query {
        name: request.name,
        user: request.user,
        cgroup: request.cgroup,
        order,
        limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
    }
}

fn process_to_proto(process: Process) -> pb::Process {
    pb::Process {
        pid: process.pid,
        ppid: process.ppid,
        uid: process.uid,
        user: process.user.as_deref().unwrap_or_default().to_owned(),
        state: process.state.to_string(),
        threads: process.threads,
        cpu_percent: process.cpu_percent,
        rss_bytes: process.rss_bytes,
        vsz_bytes: process.vsz_bytes,
        start_unix_ms: process.start_unix_ms,
        kernel_thread: process.kernel_thread,
        cgroup: process.cgroup.as_deref().map(text).unwrap_or_default(),
        container_id: process.container_id.unwrap_or_default(),
        comm: text(&process.comm),
        args: process.args.iter().map(|arg| text(arg)).collect(),
        args_truncated: process.args_truncated,
    }
}
