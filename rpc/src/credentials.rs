//! Certificates and keys in PEM form.

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

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

/// Whether a certificate's time is over. One that can't be read counts as over.
pub fn is_expired(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::prelude::FromDer as _;
    x509_parser::certificate::X509Certificate::from_der(certificate).map_or(true, |(_, parsed)| {
        parsed.validity().not_after < x509_parser::time::ASN1Time::now()
    })
}
