//! Who this host is: its key and certificate, and how it gets them with a join token.

use crate::config::{Config, Token};
use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use kctl_proto::controller::v1::{JoinRequest, join_service_client::JoinServiceClient};
use kctl_rpc::{
    ALPN_AGENT, Credentials, DialError, Identity, channel_over, client_config, dial, join_config,
    new_key_and_csr,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// What proves this host to its controller.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) credentials: Credentials,
    /// The only controller that is obeyed.
    pub(crate) controller: Identity,
}

/// In the state folder.
const FILE: &str = "identity.toml";

/// What is in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    controller: String,
    ca: String,
    certificate: String,
    key: String,
}

/// The stored proof, or a new one for a token.
///
/// A host that was in before, whose certificate is over, waits for what brings it back: a clock that is set
/// right, or a token. Until then it filters as it was told last.
pub(crate) async fn obtain(
    config: &Config,
    controller: &str,
    cancel: &CancellationToken,
) -> anyhow::Result<Proof> {
    let path = config.state_dir.join(FILE);
    let (mut delay, mut told) = (Duration::from_millis(200), String::new());
    loop {
        let stored = stored(&path)?;
        let is_over = match stored {
            Some(proof) if !kctl_rpc::is_expired(&proof.credentials.chain[0]) => return Ok(proof),
            over => over.is_some(),
        };
        let error = match join_anew(config, controller, &path).await {
            Ok(proof) => return Ok(proof),
            Err(error) if !is_over && !may_pass(&error) => return Err(error),
            Err(error) if is_over => error.context(
                "the stored certificate is over, by this host's clock; set the clock right, or put a token of \
                 \"kctl token create --host NAME\" into the --token-file",
            ),
            Err(error) => error,
        };
        let error = format!("{error:#}");
        if error != told {
            tracing::warn!(path = %path.display(), error, "not joined; trying again");
            told = error;
        }
        tokio::select! {
            () = cancel.cancelled() => bail!("stopped before joining"),
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(Duration::from_secs(5));
    }
}

/// Gets a certificate for the token, and stores it.
async fn join_anew(config: &Config, controller: &str, path: &Path) -> anyhow::Result<Proof> {
    let token = match &config.token {
        Some(Token::Text(token)) => token.clone(),
        Some(Token::File(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("token file {}", path.display()))?,
        None => bail!(
            "this host has no certificate of a controller; make a token with \"kctl token create\" and give it with --token-file"
        ),
    };
    let token = token.trim().to_owned();
    let ca = pinned_ca(&token, config.ca_file.as_deref())?;
    let new = join(config, controller, &token, ca)
        .await
        .with_context(|| format!("joining {controller} as {:?}", config.name))?;
    write(path, &new)?;
    tracing::info!(controller = new.controller, name = config.name, "joined");
    stored(path)?.context("the stored identity can't be read back")
}

/// Stores a new certificate for a new key, when it is one for this host that counts.
pub(crate) fn renewed(
    state_dir: &Path,
    old: &Proof,
    key: String,
    certificate: String,
    ca: String,
) -> anyhow::Result<Proof> {
    let controller = old.controller.to_string();
    let new = Stored { controller, ca, certificate, key };
    let credentials = Credentials::from_pem(&new.ca, &new.certificate, &new.key)?;
    let own = |credentials: &Credentials| Identity::of_certificate(&credentials.chain[0]);
    if own(&credentials)? != own(&old.credentials)? {
        bail!("the controller signed for another host");
    }
    if kctl_rpc::is_expired(&credentials.chain[0]) {
        bail!("the new certificate is over by this host's clock; set it right");
    }
    if kctl_rpc::is_early(&credentials.chain[0]) {
        bail!(
            "the new certificate does not count yet by this host's clock; set it right, or that of the controller"
        );
    }
    // Certificate and key fit together.
    client_config(&credentials, &old.controller, ALPN_AGENT)?;
    let path = state_dir.join(FILE);
    write(&path, &new)?;
    stored(&path)?.context("the stored identity can't be read back")
}

/// Whether trying again can help: the controller did not answer no, and is ours.
fn may_pass(error: &anyhow::Error) -> bool {
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return !matches!(
            status.code(),
            Code::Unauthenticated
                | Code::AlreadyExists
                | Code::InvalidArgument
                | Code::PermissionDenied
        );
    }
    error.is::<DialError>() || error.is::<tonic::transport::Error>()
}

async fn join(
    config: &Config,
    controller: &str,
    token: &str,
    ca: [u8; 32],
) -> anyhow::Result<Stored> {
    let (key, csr) = new_key_and_csr()?;
    let stream = dial(controller, join_config(ca)?, Duration::from_secs(5)).await?;
    let mut client = JoinServiceClient::new(channel_over(stream).await?);
    let request = JoinRequest { token: token.to_owned(), name: config.name.clone(), csr };
    let joined = client.join(request).await?.into_inner();
    Ok(Stored {
        controller: joined.controller,
        ca: joined.ca,
        certificate: joined.certificate,
        key,
    })
}

/// The SHA-256 of the CA's certificate that the controller must show: from the file, or the last part of
/// `kctl1.ID.SECRET.CA-HASH`. Where both say one they must agree.
fn pinned_ca(token: &str, ca_file: Option<&Path>) -> anyhow::Result<[u8; 32]> {
    let parts: Vec<_> = token.split('.').collect();
    let in_token = match parts.as_slice() {
        ["kctl1", _, _] => None,
        ["kctl1", _, _, hash] => {
            let hash = BASE64_URL_SAFE_NO_PAD.decode(hash).ok().and_then(|it| it.try_into().ok());
            Some(hash.context(
                "token: its last part is no SHA-256; copy it whole from \"kctl token create\"",
            )?)
        }
        _ => {
            bail!("token: not like kctl1.ID.SECRET.HASH; copy it whole from \"kctl token create\"")
        }
    };
    let in_file = ca_file.map(ca_of_file).transpose()?;
    match (in_token, in_file) {
        (Some(token), Some(file)) if token != file => bail!(
            "token: made by a controller of another CA than that of --ca-file; use a token of its own"
        ),
        (Some(ca), _) | (None, Some(ca)) => Ok(ca),
        (None, None) => bail!(
            "token: has no hash of the CA; copy it whole from \"kctl token create\", or give --ca-file"
        ),
    }
}

fn ca_of_file(path: &Path) -> anyhow::Result<[u8; 32]> {
    let pem = std::fs::read(path).with_context(|| format!("CA file {}", path.display()))?;
    let certificate = CertificateDer::from_pem_slice(&pem)
        .ok()
        .with_context(|| format!("CA file {}: not PEM with a certificate", path.display()))?;
    Ok(kctl_rpc::ca_sha256(&certificate))
}

/// The stored proof; none when there is none. Its certificate may be over.
fn stored(path: &Path) -> anyhow::Result<Option<Proof>> {
    let context = || format!("identity {}", path.display());
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(context),
    };
    // The text holds the key: an error must not quote it.
    let Ok(stored) = toml::from_str::<Stored>(&text) else {
        bail!("identity {}: can't be read; remove it and join again", path.display());
    };
    let credentials = Credentials::from_pem(&stored.ca, &stored.certificate, &stored.key)
        .with_context(context)?;
    let controller = stored.controller.parse().with_context(context)?;
    Ok(Some(Proof { credentials, controller }))
}

fn write(path: &Path, identity: &Stored) -> anyhow::Result<()> {
    let context = || format!("identity {}", path.display());
    let new: PathBuf = path.with_extension("toml.new");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .with_context(context)?;
    file.write_all(toml::to_string(identity)?.as_bytes()).with_context(context)?;
    file.sync_all().with_context(context)?;
    std::fs::rename(&new, path).with_context(context)
}

/// Overwrites the value of `--token` in this process's command line, which every user can read.
pub(crate) fn blank_token_argument() {
    if !std::env::args().any(|it| it == "--token" || it.starts_with("--token=")) {
        return;
    }
    if let Err(error) = blank() {
        eprintln!("the token can't be blanked in the command line: {error}; use --token-file");
    }
}

fn blank() -> std::io::Result<()> {
    let malformed = || std::io::Error::other("/proc/self/stat: malformed");
    // proc_pid_stat(5): arg_start is field 48; fields after the command's ")" begin with the third.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or_else(malformed)?;
    let start: u64 = fields
        .split_whitespace()
        .nth(48 - 3)
        .and_then(|field| field.parse().ok())
        .ok_or_else(malformed)?;
    let mut line = Vec::new();
    std::fs::File::open("/proc/self/cmdline")?.read_to_end(&mut line)?;
    for (offset, length) in token_values(&line) {
        let mut memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
        memory.seek(std::io::SeekFrom::Start(start + offset as u64))?;
        memory.write_all(&vec![b'*'; length])?;
    }
    Ok(())
}

/// Where the values of `--token` stand in a command line whose arguments end with zero bytes.
fn token_values(line: &[u8]) -> Vec<(usize, usize)> {
    let (mut values, mut offset, mut is_value) = (Vec::new(), 0, false);
    for argument in line.split(|&byte| byte == 0) {
        if is_value {
            values.push((offset, argument.len()));
        } else if let Some(value) = argument.strip_prefix(b"--token=") {
            values.push((offset + 8, value.len()));
        }
        is_value = argument == b"--token";
        offset += argument.len() + 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_token_flag_are_found() {
        assert_eq!(token_values(b"kctl-agent\0--token\0abc\0--name\0x\0"), [(19, 3)]);
        assert_eq!(token_values(b"kctl-agent\0--token=abc\0"), [(19, 3)]);
        assert_eq!(token_values(b"kctl-agent\0--token-file\0f\0"), []);
    }

    #[test]
    fn a_token_or_a_file_says_which_ca_is_meant() {
        let whole =
            |hash: [u8; 32]| format!("kctl1.id.secret.{}", BASE64_URL_SAFE_NO_PAD.encode(hash));
        assert_eq!(pinned_ca(&whole([7; 32]), None).expect("valid"), [7; 32]);
        for bad in ["", "kctl1.id.secret", "kctl2.a.b.c", "kctl1.a.b.c"] {
            let error = pinned_ca(bad, None).expect_err(bad).to_string();
            assert!(error.contains("kctl token create"), "{error}");
        }

        let folder = tempfile::tempdir().expect("temp dir");
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n")
            .expect("writes");
        let in_file = kctl_rpc::ca_sha256(&[0, 1, 2][..].into());
        let pinned = |token: &str| pinned_ca(token, Some(&file));
        assert_eq!(pinned("kctl1.id.secret").expect("valid"), in_file);
        assert_eq!(pinned(&whole(in_file)).expect("they agree"), in_file);
        let error = pinned(&whole([7; 32])).expect_err("another CA").to_string();
        assert!(error.contains("--ca-file"), "{error}");
        std::fs::write(&file, "garbage").expect("writes");
        let error = pinned("kctl1.id.secret").expect_err("no certificate").to_string();
        assert!(error.contains("ca.pem"), "{error}");
    }

    #[test]
    fn an_unreadable_identity_is_an_error_that_quotes_nothing() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("identity.toml");
        assert!(stored(&path).expect("none").is_none());
        std::fs::write(&path, "key = \"SECRET\"\nodd").expect("writes");
        let error = format!("{:#}", stored(&path).expect_err("malformed"));
        assert!(!error.contains("SECRET") && error.contains("identity.toml"), "{error}");
    }
}
