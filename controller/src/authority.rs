//! Which CA signs, which are trusted, and what the controller itself shows: one place, watched by
//! whoever depends on it.
//!
//! While a CA is being replaced there are two. The new one signs; the old one goes on proving the
//! controller, since everybody trusts it already; both are trusted. When the change is finished the new
//! one does both. So nobody meets a controller that he can't verify, if he has heard of the new CA before
//! the end.

use crate::{
    config::CaFiles,
    data_dir::{Admin, DataDir},
    pki::{Authority, Issued, PkiError, Signed},
    status::Error,
    store::{Fingerprint, Model, Store, Write},
};
use anyhow::Context as _;
use kctl_rpc::{Credentials, Identity, Validity};
use rustls_pki_types::CertificateDer;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The longest time without a look at the certificates' ends; clocks jump.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What counts at one moment.
#[derive(Clone)]
pub(crate) struct Trust {
    /// Signs certificates.
    pub(crate) signing: Arc<Authority>,
    /// Signed what the controller shows; another one than `signing` while that is replacing it.
    pub(crate) proving: Arc<Authority>,
    /// What the controller shows, and both CAs.
    pub(crate) server: Arc<Credentials>,
}

impl Trust {
    /// Whether a CA is being replaced.
    pub(crate) fn is_changing(&self) -> bool {
        self.signing.sha256() != self.proving.sha256()
    }

    /// The CAs that sign controllers now and soon, PEM.
    pub(crate) fn bundle(&self) -> String {
        match self.is_changing() {
            true => format!("{}{}", self.proving.pem(), self.signing.pem()),
            false => self.signing.pem().to_owned(),
        }
    }

    /// What is to be remembered of a certificate.
    pub(crate) fn known(&self, certificate: &CertificateDer<'_>) -> Signed {
        let known = self.signing.known(certificate);
        if known.issuer == [0; 32] { self.proving.known(certificate) } else { known }
    }
}

/// The CA of one installation. Its clones share it all.
#[derive(Clone)]
pub(crate) struct Ca {
    data_dir: Arc<DataDir>,
    /// Somebody else keeps it.
    given: bool,
    identity: Identity,
    /// For admin.toml.
    server: Arc<str>,
    /// Of certificates, unless somebody says otherwise.
    pub(crate) life: Duration,
    trust: Arc<watch::Sender<Trust>>,
    /// Held by whoever changes files and trust.
    changing: Arc<Mutex<()>>,
}

impl Ca {
    /// Reads what is in the data directory, and makes what is not.
    pub(crate) fn open(
        data_dir: Arc<DataDir>,
        given: Option<&CaFiles>,
        identity: Identity,
        server: String,
        life: Duration,
    ) -> anyhow::Result<Self> {
        let (signing, proving) = data_dir.authorities(given)?;
        let trust = trust(&data_dir, &identity, life, Arc::new(signing), proving.map(Arc::new))?;
        let trust = Arc::new(watch::Sender::new(trust));
        let given = given.is_some();
        let (server, changing) = (server.into(), Arc::default());
        Ok(Self { data_dir, given, identity, server, life, trust, changing })
    }

    /// What counts now.
    pub(crate) fn trust(&self) -> Trust {
        self.trust.borrow().clone()
    }

    /// Told of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<Trust> {
        self.trust.subscribe()
    }

    /// The controller's name in certificates.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Signs the key of a certificate request. `life` is never longer than the CA's own.
    pub(crate) fn sign(
        &self,
        identity: &Identity,
        csr: &[u8],
        life: Duration,
    ) -> Result<(String, Signed), Error> {
        let signed = self.trust.borrow().signing.sign_request(identity, csr, life);
        signed.map_err(|error: PkiError| {
            Error::Invalid(format!("certificate request of {identity}: {error}"))
        })
    }

    /// Makes a new CA that signs from now on.
    pub(crate) async fn rotate(&self) -> Result<(), Error> {
        self.change(|ca, before| {
            if ca.given {
                return Err(Error::Precondition(
                    "CA: it is kept elsewhere, as --ca-file says, and can't be replaced from here"
                        .to_owned(),
                ));
            }
            if before.is_changing() {
                return Err(Error::Precondition(
                    "CA: it is being replaced already; see `kctl ca show`, and finish it with `kctl ca \
                     finish`"
                        .to_owned(),
                ));
            }
            let Issued { certificate, key } = Authority::generate().map_err(broken)?;
            ca.data_dir.begin_rotation(&certificate, &key).map_err(broken)?;
            let signing = Authority::from_pem(&certificate, &key).map_err(broken)?;
            Ok((Arc::new(signing), Some(Arc::clone(&before.proving))))
        })
        .await
    }

    /// Drops the old CA.
    pub(crate) async fn finish(&self) -> Result<(), Error> {
        self.change(|ca, before| {
            if !before.is_changing() {
                return Err(Error::Precondition(
                    "CA: it is not being replaced; begin with `kctl ca rotate`".to_owned(),
                ));
            }
            ca.data_dir.finish_rotation().map_err(broken)?;
            Ok((Arc::clone(&before.signing), None))
        })
        .await
    }

    async fn change(
        &self,
        change: impl FnOnce(&Self, &Trust) -> Result<(Arc<Authority>, Option<Arc<Authority>>), Error>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let ca = self.clone();
        let changed = tokio::task::spawn_blocking(move || {
            // Two at once would write the same files, and a panic leaves nothing half done in memory.
            let _alone = ca.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let before = ca.trust();
            let (signing, proving) = change(&ca, &before)?;
            let new =
                trust(&ca.data_dir, &ca.identity, ca.life, signing, proving).map_err(broken)?;
            ca.trust.send_replace(new);
            Ok(())
        });
        changed.await.map_err(broken)?
    }

    /// Writes admin.toml where it is not as it should be, and makes the store know its certificate.
    /// `None` when there is no user of that name any more.
    pub(crate) async fn admin(&self, store: &Store) -> anyhow::Result<Option<Admin>> {
        if !store.records().borrow().users.contains_key(ADMIN) {
            return Ok(None);
        }
        let trust = self.trust();
        let server = self.server.to_string();
        let admin = self.data_dir.admin_config(&trust, &self.identity, server, self.life)?;
        let signed = trust.known(&crate::pki::der_of(&admin.certificate)?);
        let known = move |model: &Model| {
            let known = model.records.issued.contains_key(&signed.sha256);
            let write = || Write::issued(&Identity::User(ADMIN.to_owned()), &signed);
            Ok((if known { Vec::new() } else { vec![write()] }, ()))
        };
        store.write(known).await?;
        Ok(Some(admin))
    }

    /// Renews what the controller shows and admin.toml at two thirds of their lives, and forgets
    /// certificates that are over.
    pub(crate) async fn keep(self, store: Store, cancel: CancellationToken) {
        let mut changes = self.watch();
        let mut chores = Chores::default();
        loop {
            chores.tell_of_end(&self);
            if let Err(error) = self.renew().await {
                tracing::error!(%error, "controller: its certificate can't be renewed");
            }
            let admin = self.admin(&store).await.unwrap_or_else(|error| {
                let error = format!("{error:#}");
                tracing::error!(error, "controller: admin.toml can't be renewed");
                None
            });
            if let Err(error) = chores.forget_ended(&store).await {
                tracing::warn!(%error, "store: certificates that are over stay known");
            }
            changes.mark_unchanged();
            let admin = admin.and_then(|admin| crate::pki::der_of(&admin.certificate).ok());
            let own = self.trust().server.chain.first().and_then(Validity::of);
            let due = own.into_iter().chain(admin.as_ref().and_then(Validity::of));
            let left = due.map(|it| it.renew_at().duration_since(SystemTime::now()));
            let wait = left.map(Result::unwrap_or_default).min().unwrap_or(LONGEST_WAIT);
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)) => {}
            }
        }
    }

    async fn renew(&self) -> Result<(), Error> {
        let trust = self.trust();
        let over = trust
            .server
            .chain
            .first()
            .and_then(Validity::of)
            .is_none_or(|validity| validity.is_due());
        if !over {
            return Ok(());
        }
        tracing::info!("controller: renewing its certificate");
        self.change(|_, before| {
            let proving = before.is_changing().then(|| Arc::clone(&before.proving));
            Ok((Arc::clone(&before.signing), proving))
        })
        .await
    }
}

/// The shortest, when something can't be renewed.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// The user of admin.toml.
const ADMIN: &str = "admin";

const DAY: Duration = Duration::from_secs(86_400);
/// So long before its end somebody has to think of another CA.
const NOTICE: Duration = Duration::from_secs(90 * 86_400);

/// What is done now and then, by a clock that does not jump.
#[derive(Default)]
struct Chores {
    /// Certificates that are over, and since when they were seen so.
    over: BTreeMap<Fingerprint, Instant>,
    told_of_end: Option<Instant>,
}

impl Chores {
    /// Says once a day that the CA ends, when it does so soon.
    fn tell_of_end(&mut self, ca: &Ca) {
        let trust = ca.trust();
        let end = crate::pki::der_of(trust.signing.pem()).ok().as_ref().and_then(Validity::of);
        let Some(Validity { not_after, .. }) = end else { return };
        let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        if left > NOTICE || self.told_of_end.is_some_and(|told| told.elapsed() < DAY) {
            return;
        }
        self.told_of_end = Some(Instant::now());
        let days = left.as_secs() / DAY.as_secs();
        let next = match ca.given {
            true => {
                "it is that of --ca-file: see \"A certificate authority of your own\" in docs/deploy.md"
            }
            false => "replace it, beginning with `kctl ca rotate`",
        };
        tracing::warn!(days, "CA: it ends in so many days; {next}");
    }

    /// Forgets certificates that have been over for a day of this process: a clock that is ahead for a while
    /// makes nobody unknown.
    async fn forget_ended(&mut self, store: &Store) -> Result<(), Error> {
        let now = kctl_blocklist::now_unix_ms();
        let records = store.records();
        let over: BTreeSet<_> = {
            let records = records.borrow();
            let issued = records.issued.iter().filter(|(_, it)| it.not_after_unix_ms < now);
            issued.map(|(sha256, _)| *sha256).collect()
        };
        self.over.retain(|sha256, _| over.contains(sha256));
        for sha256 in over {
            self.over.entry(sha256).or_insert_with(Instant::now);
        }
        let long = self.over.iter().filter(|(_, since)| since.elapsed() >= DAY);
        let forgotten: Vec<_> = long.map(|(sha256, _)| Write::ForgetIssued(*sha256)).collect();
        if forgotten.is_empty() {
            return Ok(());
        }
        store.write(move |_| Ok((forgotten, ()))).await.map(drop)
    }
}

fn trust(
    data_dir: &DataDir,
    identity: &Identity,
    life: Duration,
    signing: Arc<Authority>,
    proving: Option<Arc<Authority>>,
) -> anyhow::Result<Trust> {
    let proving = proving.unwrap_or_else(|| Arc::clone(&signing));
    let mut server = data_dir.server(&proving, identity, life)?;
    if signing.sha256() != proving.sha256() {
        server.ca.push(crate::pki::der_of(signing.pem()).context("CA")?);
    }
    Ok(Trust { signing, proving, server: Arc::new(server) })
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Store(format!("CA: {error:#}"))
}
