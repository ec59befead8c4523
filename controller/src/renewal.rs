//! New certificates for hosts, over the connection that they have: when they ask, and they are told to
//! ask while the CA is being replaced.

use crate::{
    audit::Audited,
    authority::{Ca, Trust},
    pki::Signed,
    store::{Model, Store, Write},
};
use kctl_proto::agent::v1 as pb;
use kctl_rpc::Identity;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// The certificates of one connected host.
pub(crate) struct Renewal {
    host: String,
    /// With which it is connected.
    certificate: Signed,
    ca: Ca,
    trust: watch::Receiver<Trust>,
    store: Store,
    requests: mpsc::Sender<pb::SessionRequest>,
    /// Requests that are being answered.
    tasks: TaskTracker,
}

impl Renewal {
    pub(crate) fn new(
        host: String,
        certificate: Signed,
        ca: Ca,
        store: Store,
        requests: mpsc::Sender<pb::SessionRequest>,
    ) -> Self {
        let mut trust = ca.watch();
        // It is looked at once for the certificate that the host comes with.
        trust.mark_changed();
        Self { host, certificate, ca, trust, store, requests, tasks: TaskTracker::new() }
    }

    /// Tells the host to ask when another CA signs than the one of its certificate. Cancel safe.
    pub(crate) async fn watch(&mut self) {
        if self.trust.changed().await.is_err() {
            return std::future::pending().await;
        }
        let behind = self.trust.borrow_and_update().signing.sha256() != self.certificate.issuer;
        if behind {
            let ask = pb::SessionRequest { renew: true, ..pb::SessionRequest::default() };
            // With eight answers waiting it asks by itself later.
            let _ = self.requests.try_send(ask);
        }
    }

    /// Answers a request of the host.
    pub(crate) fn ask(&self, csr: Vec<u8>) {
        let (host, ca, store) = (self.host.clone(), self.ca.clone(), self.store.clone());
        let (requests, old) = (self.requests.clone(), self.certificate.sha256);
        self.tasks.spawn(async move {
            let renewed = match renew(&host, &ca, &store, &csr, old).await {
                Ok(renewed) => renewed,
                Err(error) => {
                    tracing::warn!(%host, %error, "host: its certificate is not renewed");
                    pb::Renewed { error: error.to_string(), ..pb::Renewed::default() }
                }
            };
            let renewed = Some(renewed);
            let _ = requests.send(pb::SessionRequest { renewed, ..Default::default() }).await;
        });
    }
}

async fn renew(
    host: &str,
    ca: &Ca,
    store: &Store,
    csr: &[u8],
    old: crate::store::Fingerprint,
) -> Result<pb::Renewed, crate::status::Error> {
    let identity = Identity::Host(host.to_owned());
    let (certificate, signed) = ca.sign(&identity, csr, ca.life)?;
    let name = host.to_owned();
    let issued = move |model: &Model| {
        let known = model.records.hosts.contains_key(&name);
        if !known || model.records.revoked.contains(&old) {
            return Err(crate::status::Error::Denied(format!("host {name:?}: revoked")));
        }
        Ok((vec![Write::issued(&identity, &signed)], ()))
    };
    Audited::of_host(host, "renew its certificate").write(store, issued).await?;
    let ca = ca.trust().bundle();
    Ok(pb::Renewed { certificate, ca, error: String::new() })
}
