//! `CpufreqService`: how fast the processors run.

use super::blocking::blocking;
use crate::access;
use agent_kernel::cpufreq::{self, Target};
use agent_kernel::file::Writable;
use kctl_proto::agent::v1::{self as pb, cpufreq_service_server::CpufreqService};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_stream::{Once, once};
use tonic::{Request, Response, Status};

/// Answers for the processors of one sysfs mount.
#[derive(Debug)]
pub(super) struct Processors {
    sys_root: PathBuf,
    writable: Arc<Writable>,
}

impl Processors {
    pub(super) fn new(sys_root: PathBuf, writable: Arc<Writable>) -> Self {
        Self { sys_root, writable }
    }

    async fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(PathBuf) -> Result<T, agent_kernel::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let root = self.sys_root.clone();
        blocking(move || act(root)).await
    }
}

#[tonic::async_trait]
impl CpufreqService for Processors {
    type ListCpufreqStream = Once<Result<pb::ListCpufreqResponse, Status>>;

    async fn list_cpufreq(
        &self,
        request: Request<pb::ListCpufreqRequest>,
    ) -> Result<Response<Self::ListCpufreqStream>, Status> {
        let cpus = request.into_inner().cpus;
        let told = self.act(move |root| cpufreq::cpufreq(&root, &cpus)).await?;
        let cpus = told.into_iter().map(to_proto).collect();
        Ok(Response::new(once(Ok(pb::ListCpufreqResponse { cpus }))))
    }

    type SetCpufreqStream = Once<Result<pb::SetCpufreqResponse, Status>>;

    async fn set_cpufreq(
        &self,
        request: Request<pb::SetCpufreqRequest>,
    ) -> Result<Response<Self::SetCpufreqStream>, Status> {
        let local = access::local(&request);
        let pb::SetCpufreqRequest { cpus, target } = request.into_inner();
        let target = parse(target)?;
        let what = match &target {
            Target::Governor(governor) => format!("cpufreq governor {governor} on {cpus:?}"),
            Target::Frequency(hz) => format!("cpufreq frequency {hz} Hz on {cpus:?}"),
        };
        let writable = Arc::clone(&self.writable);
        let result =
            self.act(move |root| cpufreq::set_cpufreq(&root, &writable, &cpus, &target)).await;
        access::audit(local.as_deref(), &what, result.as_ref().err());
        let changes = result?.into_iter().map(|change| pb::set_cpufreq_response::Change {
            cpu: change.cpu,
            old_governor: change.old_governor,
            new_governor: change.new_governor,
            old_hz: change.old_hz,
            new_hz: change.new_hz,
        });
        Ok(Response::new(once(Ok(pb::SetCpufreqResponse { changes: changes.collect() }))))
    }
}

fn parse(target: Option<pb::set_cpufreq_request::Target>) -> Result<Target, Status> {
    use pb::set_cpufreq_request::Target as Asked;
    match target {
        Some(Asked::Governor(governor)) => Ok(Target::Governor(governor)),
        Some(Asked::FrequencyHz(hz)) => Ok(Target::Frequency(hz)),
        None => Err(Status::invalid_argument("target: a governor or a frequency is needed")),
    }
}

fn to_proto(told: cpufreq::Cpufreq) -> pb::Cpufreq {
    pb::Cpufreq {
        cpu: told.cpu,
        driver: told.driver,
        governor: told.governor,
        available_governors: told.available_governors,
        frequency_hz: told.frequency_hz,
        min_hz: told.min_hz,
        max_hz: told.max_hz,
        hardware_min_hz: told.hardware_min_hz,
        hardware_max_hz: told.hardware_max_hz,
        available_hz: told.available_hz,
    }
}
