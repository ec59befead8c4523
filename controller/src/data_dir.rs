//! The data directory: its lock, the CA's files, the server's certificate, the admin context.

mod ca;

use crate::{
    authority::Trust,
    pki::{Authority, Issued},
    store::{OpenError, Store},
};
use anyhow::{Context as _, bail};
use kctl_rpc::{Credentials, Identity};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// A data directory that no other controller uses.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Unlocked by the kernel when the process ends, however it ends.
    _lock: File,
}

/// A kctl configuration with one context.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AdminConfig {
    current: String,
    contexts: BTreeMap<String, AdminContext>,
}

/// The administrator's configuration as it lies on disk.
pub(crate) struct Admin {
    pub(crate) path: PathBuf,
    /// PEM
    pub(crate) certificate: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AdminContext {
    server: String,
    controller: String,
    ca: String,
    certificate: String,
    key: String,
}

impl DataDir {
    /// Makes the directory if need be and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("data directory {path:?}"))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| format!("{lock_path:?}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("data directory {path:?}: another controller uses it; stop that one first")
            }
            Err(TryLockError::Error(error)) => Err(error).context("lock of the data directory"),
        }
    }

    /// The server's certificate, made anew when it ends soon or names another controller.
    pub(crate) fn server(
        &self,
        authority: &Authority,
        identity: &Identity,
        life: Duration,
    ) -> anyhow::Result<Credentials> {
        let (certificate, key) = (self.path.join("server.pem"), self.path.join("server.key"));
        let issued = match (read_if_there(&certificate)?, read_if_there(&key)?) {
            (Some(certificate_pem), Some(key_pem))
                if authority
                    .still_good(&certificate_pem, identity)
                    .with_context(|| format!("{certificate:?}"))? =>
            {
                Issued { certificate: certificate_pem, key: key_pem }
            }
            _ => {
                let issued = authority.issue(identity, life)?;
                write_private(&key, &issued.key)?;
                write_private(&certificate, &issued.certificate)?;
                issued
            }
        };
        Credentials::from_pem(authority.pem(), &issued.certificate, &issued.key)
            .with_context(|| format!("{certificate:?} and {key:?}"))
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<(Store, thread::JoinHandle<()>), OpenError> {
        Store::open(&self.store_path())
    }

    /// Where the history of events is.
    pub(crate) fn events_path(&self) -> PathBuf {
        self.path.join("events.db")
    }

    /// Where the store is.
    pub(crate) fn store_path(&self) -> PathBuf {
        self.path.join("store.db")
    }

    /// Writes the administrator's kctl configuration, or brings the one that is there up to date.
    pub(crate) fn admin_config(
        &self,
        trust: &Trust,
        controller: &Identity,
        server: String,
        life: Duration,
    ) -> anyhow::Result<Admin> {
        let path = admin_config_path(&self.path);
        let admin = Identity::User("admin".to_owned());
        let known = match read_if_there(&path)? {
            Some(text) => {
                let mut config: AdminConfig =
                    toml::from_str(&text).with_context(|| format!("{path:?}"))?;
                config.contexts.remove("default")
            }
            None => None,
        };
        let kept = match &known {
            Some(context) if trust.signing.still_good(&context.certificate, &admin)? => {
                Some((context.certificate.clone(), context.key.clone()))
            }
            _ => None,
        };
        let (certificate, key) = match kept {
            Some(kept) => kept,
            None => {
                let issued = trust.signing.issue(&admin, life)?;
                (issued.certificate, issued.key)
            }
        };
        let (ca, controller) = (trust.bundle(), controller.to_string());
        let certificate_pem = certificate.clone();
        let context = AdminContext { server, controller, ca, certificate, key };
        if known.as_ref() != Some(&context) {
            let config = AdminConfig {
                current: "default".to_owned(),
                contexts: [("default".to_owned(), context)].into(),
            };
            write_private(&path, &toml::to_string_pretty(&config)?)?;
        }
        Ok(Admin { path, certificate: certificate_pem })
    }
}

/// The credentials of the administrator, and the controller that they are for.
pub(crate) fn admin(data_dir: &Path) -> anyhow::Result<(Credentials, Identity)> {
    let path = admin_config_path(data_dir);
    let text = fs::read_to_string(&path).with_context(|| format!("{path:?}"))?;
    // The text holds the key: an error must not quote it.
    let mut config: AdminConfig =
        toml::from_str(&text).map_err(|_| anyhow::anyhow!("{path:?}: can't be read"))?;
    let context = config.contexts.remove("default").with_context(|| format!("{path:?}"))?;
    let credentials = Credentials::from_pem(&context.ca, &context.certificate, &context.key)
        .with_context(|| format!("{path:?}"))?;
    Ok((credentials, context.controller.parse().with_context(|| format!("{path:?}"))?))
}

/// Where the administrator's kctl configuration is.
pub(crate) fn admin_config_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.toml")
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{path:?}")),
    }
}

/// Replaces a file that only its owner may read; readers see the old or the new one, never half.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("{path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

    const LIFE: Duration = Duration::from_secs(3600);

    #[test]
    fn first_start_makes_everything_and_the_next_keeps_it() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("data");
        let controller = Identity::Controller("c".to_owned());
        let start = |server: &str| {
            let data = Arc::new(DataDir::open(&path).expect("opens"));
            let (ca, _) = data.authorities(None).expect("CA");
            let ca = Arc::new(ca);
            let credentials = data.server(&ca, &controller, LIFE).expect("server certificate");
            let (signing, server_credentials) = (Arc::clone(&ca), Arc::new(credentials));
            let trust = Trust { signing, proving: Arc::clone(&ca), server: server_credentials };
            let admin = data
                .admin_config(&trust, &controller, server.to_owned(), LIFE)
                .expect("admin context");
            (ca.sha256(), fs::read_to_string(admin.path).expect("readable"))
        };
        let (ca, admin) = start("127.0.0.1:1");
        assert_eq!(start("127.0.0.1:1"), (ca, admin.clone()));
        let (_, moved) = start("127.0.0.1:2");
        assert_eq!(moved, admin.replace("127.0.0.1:1", "127.0.0.1:2"));
        let mode =
            |name: &str| fs::metadata(path.join(name)).expect(name).permissions().mode() & 0o777;
        assert_eq!(mode(""), 0o700);
        for name in ["ca.pem", "ca.key", "server.pem", "server.key", "admin.toml"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }

    #[test]
    fn a_second_controller_and_half_a_ca_are_refused() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let data = DataDir::open(folder.path()).expect("opens");
        let second = DataDir::open(folder.path()).err().expect("locked").to_string();
        assert!(second.contains("another controller"), "{second}");
        data.authorities(None).expect("CA");
        fs::remove_file(folder.path().join("ca.key")).expect("was there");
        let error = data.authorities(None).err().expect("half").to_string();
        assert!(error.contains("ca.key"), "{error}");
        fs::write(folder.path().join("ca.key"), "garbage").expect("writes");
        assert!(data.authorities(None).is_err());
    }
}
