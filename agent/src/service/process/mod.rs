//! `ProcessService`: what procfs tells of this host's processes, and signals to them.

mod convert;
mod detail;

use super::blocking::blocking;
use super::chunks::{Chunks, chunks};
use super::interval::interval;
use crate::access;
use crate::status::kernel;
use crate::text::text;
use agent_kernel::proc::pid::{self, Expected, Signal};
use agent_kernel::proc::{Order, Query, cpu_sample, processes};
use futures_util::stream;
use kctl_proto::agent::v1::{self as pb, process_service_server::ProcessService};
use std::path::{Path, PathBuf};
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

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Path) -> Result<T, agent_kernel::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let root = self.proc_root.clone();
        blocking(move || read(&root)).await
    }
}

/// A list that is there already, in parts.
fn listed<T: Send + 'static, M: Send + 'static>(
    objects: Vec<T>,
    message: fn(Vec<T>) -> M,
) -> Response<Chunks<M>> {
    let objects = objects.into_iter().map(Ok::<_, agent_kernel::Error>);
    Response::new(chunks(objects, message, kernel))
}

/// One message: a stream, as every read is.
fn single<M: Send + 'static>(message: M) -> Response<Chunks<M>> {
    Response::new(Box::pin(stream::iter([Ok(message)])))
}

#[tonic::async_trait]
impl ProcessService for Processes {
    type ListProcessesStream = Chunks<pb::ListProcessesResponse>;

    async fn list_processes(
        &self,
        request: Request<pb::ListProcessesRequest>,
    ) -> Result<Response<Self::ListProcessesStream>, Status> {
        let arguments = access::shows_arguments(&request);
        let request = request.into_inner();
        let since = match request.interval_ms {
            0 => None,
            ms => {
                let interval = interval(ms)?;
                let sample = self.read(cpu_sample).await?;
                tokio::time::sleep(interval).await;
                Some(sample)
            }
        };
        let query = Query { since, ..query(request) };
        let listed = self.read(move |root| processes(root, query)).await?;
        let listed = listed.map(move |process| process.map(|it| convert::process(it, arguments)));
        let message = |processes| pb::ListProcessesResponse { processes };
        Ok(Response::new(chunks(listed, message, kernel)))
    }

    type GetProcessStatusStream = Chunks<pb::GetProcessStatusResponse>;

    async fn get_process_status(
        &self,
        request: Request<pb::GetProcessStatusRequest>,
    ) -> Result<Response<Self::GetProcessStatusStream>, Status> {
        let arguments = access::shows_arguments(&request);
        let pid = request.into_inner().pid;
        let status = self.read(move |root| pid::status(root, pid)).await?;
        let status = Some(convert::status(status, arguments));
        Ok(single(pb::GetProcessStatusResponse { status }))
    }

    type ListMapsStream = Chunks<pb::ListMapsResponse>;

    async fn list_maps(
        &self,
        request: Request<pb::ListMapsRequest>,
    ) -> Result<Response<Self::ListMapsStream>, Status> {
        let pb::ListMapsRequest { pid, usage } = request.into_inner();
        let maps = self.read(move |root| pid::maps(root, pid, usage)).await?;
        let maps = maps.map(move |map| map.map(|map| detail::map(pid, map)));
        Ok(Response::new(chunks(maps, |maps| pb::ListMapsResponse { maps }, kernel)))
    }

    type ListFdsStream = Chunks<pb::ListFdsResponse>;

    async fn list_fds(
        &self,
        request: Request<pb::ListFdsRequest>,
    ) -> Result<Response<Self::ListFdsStream>, Status> {
        let pid = request.into_inner().pid;
        let fds = self.read(move |root| pid::fds(root, pid)).await?;
        let fds = fds.map(move |fd| fd.map(|fd| detail::fd(pid, fd)));
        Ok(Response::new(chunks(fds, |fds| pb::ListFdsResponse { fds }, kernel)))
    }

    type ListEnvironmentStream = Chunks<pb::ListEnvironmentResponse>;

    async fn list_environment(
        &self,
        request: Request<pb::ListEnvironmentRequest>,
    ) -> Result<Response<Self::ListEnvironmentStream>, Status> {
        let pid = request.into_inner().pid;
        let environment = self.read(move |root| pid::environment(root, pid)).await?;
        let env = detail::environment(pid, environment);
        Ok(listed(env, |env| pb::ListEnvironmentResponse { env }))
    }

    type ListLimitsStream = Chunks<pb::ListLimitsResponse>;

    async fn list_limits(
        &self,
        request: Request<pb::ListLimitsRequest>,
    ) -> Result<Response<Self::ListLimitsStream>, Status> {
        let pid = request.into_inner().pid;
        let limits = self.read(move |root| pid::limits(root, pid)).await?;
        let limits = limits.into_iter().map(|limit| detail::limit(pid, limit)).collect();
        Ok(listed(limits, |limits| pb::ListLimitsResponse { limits }))
    }

    type GetProcessIoStream = Chunks<pb::GetProcessIoResponse>;

    async fn get_process_io(
        &self,
        request: Request<pb::GetProcessIoRequest>,
    ) -> Result<Response<Self::GetProcessIoStream>, Status> {
        let pid = request.into_inner().pid;
        let io = self.read(move |root| pid::io(root, pid)).await?;
        Ok(single(pb::GetProcessIoResponse { io: Some(detail::io(pid, io)) }))
    }

    type ListCgroupsStream = Chunks<pb::ListCgroupsResponse>;

    async fn list_cgroups(
        &self,
        request: Request<pb::ListCgroupsRequest>,
    ) -> Result<Response<Self::ListCgroupsStream>, Status> {
        let pid = request.into_inner().pid;
        let cgroups = self.read(move |root| pid::cgroups(root, pid)).await?;
        let cgroups = cgroups.into_iter().map(|cgroup| detail::cgroup(pid, cgroup)).collect();
        Ok(listed(cgroups, |cgroups| pb::ListCgroupsResponse { cgroups }))
    }

    type ListNamespacesStream = Chunks<pb::ListNamespacesResponse>;

    async fn list_namespaces(
        &self,
        request: Request<pb::ListNamespacesRequest>,
    ) -> Result<Response<Self::ListNamespacesStream>, Status> {
        let pid = request.into_inner().pid;
        let found = self.read(move |root| pid::namespaces(root, pid)).await?;
        let namespaces = found.into_iter().map(|it| detail::namespace(pid, it)).collect();
        Ok(listed(namespaces, |namespaces| pb::ListNamespacesResponse { namespaces }))
    }

    type SignalProcessStream = Chunks<pb::SignalProcessResponse>;

    async fn signal_process(
        &self,
        request: Request<pb::SignalProcessRequest>,
    ) -> Result<Response<Self::SignalProcessStream>, Status> {
        let local = access::local(&request);
        let request = request.into_inner();
        let signal = Signal::parse(&request.signal).map_err(kernel)?;
        let pid = request.pid;
        let expected = Expected {
            start_unix_ms: Some(request.start_unix_ms).filter(|ms| *ms != 0),
            comm: Some(request.comm).filter(|comm| !comm.is_empty()),
        };
        let send = move |root: &Path| {
            pid::signal(root, pid, signal, &expected, |comm, wanted| text(comm) == *wanted)
        };
        let sent = self.read(send).await;
        let what = format!("signal {pid} {}", signal.name());
        access::audit(local.as_deref(), &what, sent.as_ref().err());
        let sent = sent?;
        let signalled = Some(pb::Signalled {
            pid,
            signal: signal.name(),
            comm: text(&sent.comm),
            start_unix_ms: sent.start_unix_ms,
        });
        Ok(single(pb::SignalProcessResponse { signalled }))
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
        without_cgroup: request.without_cgroup,
        order,
        limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
        since: None,
    }
}
