//! `kctl.controller.v1.HostsService`.

use super::{Api, READ_WAIT, named, read_selection};
use crate::{
    audit::{Audited, list},
    auth::Caller,
    fanout::{ask, collected},
    registry::HostView,
    status::Error,
    store::Write,
};
use kctl_proto::{
    agent::v1::{DetachRequest, host_service_client::HostServiceClient},
    controller::v1::{
        self as api, hosts_service_server::HostsService, remove_hosts_response::Removed,
    },
};
use kctl_rpc::{Channel, Identity};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl HostsService for Api {
    async fn list_hosts(
        &self,
        request: Request<api::ListHostsRequest>,
    ) -> Result<Response<api::ListHostsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let selection = read_selection(request.into_inner().selection)?;
        let hosts = caller.scope.read(&self.registry, &selection)?;
        let desired = self.store.desired();
        let desired = desired.borrow();
        let hosts = hosts.iter().map(|host| host.to_proto(&desired)).collect();
        Ok(Response::new(api::ListHostsResponse { hosts, escalates: self.escalates }))
    }

    async fn remove_hosts(
        &self,
        request: Request<api::RemoveHostsRequest>,
    ) -> Result<Response<api::RemoveHostsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let api::RemoveHostsRequest { names, detach } = request.into_inner();
        let verb = if detach { "hosts remove with detach" } else { "hosts remove" };
        let audited = Audited::of_user(&caller, verb.to_owned(), list(&names));
        let chosen = named(names).and_then(|named| caller.scope.change(&self.registry, &named));
        let hosts = match chosen {
            Ok(hosts) => hosts,
            Err(error) => {
                audited.refused(&self.store, &error).await;
                return Err(error.into());
            }
        };
        let removed = if detach {
            detached(hosts).await
        } else {
            hosts
                .into_iter()
                .map(|host| Removed { host: host.name, ..Removed::default() })
                .collect()
        };
        let gone: Vec<String> = removed
            .iter()
            .filter(|removed| removed.error.is_none())
            .map(|removed| removed.host.clone())
            .collect();
        self.forget(audited, gone).await?;
        Ok(Response::new(api::RemoveHostsResponse { hosts: removed }))
    }

    async fn adopt_hosts(
        &self,
        request: Request<api::AdoptHostsRequest>,
    ) -> Result<Response<api::AdoptHostsResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.adopt(&caller, request.into_inner()).await?))
    }
}

impl Api {
    /// Revokes and forgets hosts, which cuts them off.
    async fn forget(&self, audited: Audited, names: Vec<String>) -> Result<(), Error> {
        audited
            .write(&self.store, move |model| {
                let mut writes = Vec::new();
                for name in names {
                    writes.extend(model.records.revocation(&Identity::Host(name.clone())));
                    writes.push(Write::ForgetHost(name));
                }
                Ok((writes, ()))
            })
            .await
            .map(drop)
    }
}

async fn detached(hosts: Vec<HostView>) -> Vec<Removed> {
    let call = |channel: Channel| async move {
        let detached = HostServiceClient::new(channel).detach(DetachRequest {}).await?;
        Ok(detached.into_inner().removed)
    };
    collected(ask(hosts, READ_WAIT, call))
        .await
        .into_iter()
        .map(|answer| match answer.result {
            Ok(detached) => Removed { host: answer.host, detached, error: None },
            Err(error) => Removed { host: answer.host, detached: Vec::new(), error: Some(error) },
        })
        .collect()
}
