//! Certificates and keys in PEM form.

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What one side of a connection proves itself with, and whom it trusts.
#[derive(Debug)]
pub struct Credentials {
    /// The CAs whose certificates count.
    pub ca: Vec<CertificateDer<'static>>,
    /// Own certificate, then what links it to the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the own certificate.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { ca: self.ca.clone(), chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Which of the three PEM texts can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The CA certificates.
    #[error("CA certificate: not PEM with at least one certificate")]
    Ca,
    /// The own certificate.
    #[error("certificate: not PEM with at least one certificate")]
    Certificate,
    /// The private key. Its content is never part of an error.
    #[error("private key: not PEM with one PKCS#8, SEC1 or PKCS#1 key")]
    Key,
    /// Key generation failed.
    #[error("key generation: {0}")]
    Generate(#[from] rcgen::Error),
}

impl Credentials {
    /// Reads three PEM texts.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, CredentialsError> {
        Ok(Self {
            ca: certificates(ca).ok_or(CredentialsError::Ca)?,
            chain: certificates(certificate).ok_or(CredentialsError::Certificate)?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| CredentialsError::Key)?,
        })
    }
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// A new ECDSA P-256 key in PEM form, and a certificate request (PKCS#10, DER) signed by it. Who signs
/// the request decides what the certificate says.
pub fn new_key_and_csr() -> Result<(String, Vec<u8>), CredentialsError> {
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

/// When a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not earlier.
    pub not_before: SystemTime,
    /// Not later.
    pub not_after: SystemTime,
}

impl Validity {
    /// Of a certificate; `None` for what is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        use x509_parser::prelude::FromDer as _;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
        let time = |time: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        let validity = parsed.validity();
        Some(Self { not_before: time(validity.not_before), not_after: time(validity.not_after) })
    }

    /// After two thirds of its life: time enough for many tries.
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * 2 / 3
    }

    /// Whether it is time for another one: also when it has not begun yet, since it was made by a clock that
    /// was ahead.
    pub fn is_due(&self) -> bool {
        let now = SystemTime::now();
        now < self.not_before || self.renew_at() <= now
    }
}

/// Whether a certificate has not begun to count. One that can't be read never does.
pub fn is_early(certificate: &CertificateDer<'_>) -> bool {
    Validity::of(certificate).is_none_or(|validity| SystemTime::now() < validity.not_before)
}

/// Whether a certificate's time is over. One that can't be read counts as over.
pub fn is_expired(certificate: &CertificateDer<'_>) -> bool {
    Validity::of(certificate).is_none_or(|validity| validity.not_after < SystemTime::now())
}
