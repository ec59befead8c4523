//! The certificate authority: its key, and what it signs. It knows neither files nor tokens.

use kctl_rpc::{Identity, Validity};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Clocks of a fleet differ a little.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const CA_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Why something can't be signed or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// Key or certificate in the wrong form.
    #[error(transparent)]
    Malformed(#[from] rcgen::Error),
    /// A certificate file without a certificate.
    #[error("not PEM with a certificate")]
    NotPem,
    /// A request that is not signed by its own key, or of a key that is not supported.
    #[error("not a certificate request (PKCS#10)")]
    NotRequest,
    /// The two files of the CA are not of one CA.
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

/// A certificate and its key, both PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What is to be remembered of a certificate that was signed.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    /// SHA-256 of its DER form.
    pub(crate) sha256: [u8; 32],
    /// SHA-256 of the CA's certificate; zeros where it is none that we have.
    pub(crate) issuer: [u8; 32],
    /// Milliseconds since 1970.
    pub(crate) not_after_unix_ms: i64,
}

/// The CA of one installation.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    /// Makes a new CA: certificate and key in PEM form.
    pub(crate) fn generate() -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        // CAs of two controllers must not share a name: a verifier finds the issuer by it.
        let mut params = params(&format!("kctl CA {:08x}", rand::random::<u32>()), CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// Reads a CA.
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let der = der_of(certificate)?;
        let key = KeyPair::from_pem(key)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| PkiError::NotPem)?;
        if parsed.public_key().subject_public_key.data != key.der_bytes() {
            return Err(PkiError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key)?;
        Ok(Self { issuer, pem: certificate.to_owned(), der })
    }

    /// The CA's certificate in PEM form.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the CA's certificate in DER form.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        kctl_rpc::ca_sha256(&self.der)
    }

    /// The same of a certificate in PEM form.
    pub(crate) fn sha256_of(pem: &str) -> Result<[u8; 32], PkiError> {
        Ok(kctl_rpc::ca_sha256(&der_of(pem)?))
    }

    /// A new key and a certificate for it.
    pub(crate) fn issue(&self, identity: &Identity, life: Duration) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let (certificate, _) = self.sign(identity, &key, life)?;
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// Signs the key of a certificate request (PKCS#10, DER), and nothing else of it.
    pub(crate) fn sign_request(
        &self,
        identity: &Identity,
        request: &[u8],
        life: Duration,
    ) -> Result<(String, Signed), PkiError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
                .map_err(|_| PkiError::NotRequest)?;
        self.sign(identity, &request.public_key, life)
    }

    fn sign(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        life: Duration,
    ) -> Result<(String, Signed), PkiError> {
        let mut params = params(identity.name(), life);
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        // What is served over HTTPS is checked by name. Ours look at the URI alone.
        if !matches!(identity, Identity::User(_)) {
            params.subject_alt_names.push(SanType::DnsName(identity.name().try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (client, server) =
            (ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
        params.extended_key_usages = match identity {
            // It serves its metrics.
            Identity::Host(_) => vec![client, server],
            Identity::User(_) => vec![client],
            Identity::Controller(_) => vec![server],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok((certificate.pem(), self.known(certificate.der())))
    }

    /// What is to be remembered of a certificate.
    pub(crate) fn known(&self, certificate: &CertificateDer<'_>) -> Signed {
        let not_after = Validity::of(certificate).map_or(UNIX_EPOCH, |it| it.not_after);
        let not_after = not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Signed {
            sha256: kctl_rpc::ca_sha256(certificate),
            issuer: if self.signed(certificate) { self.sha256() } else { [0; 32] },
            not_after_unix_ms: i64::try_from(not_after).unwrap_or(i64::MAX),
        }
    }

    /// Whether it signed a certificate.
    fn signed(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let Ok((_, ca)) = X509Certificate::from_der(&self.der) else { return false };
        parsed.verify_signature(Some(ca.public_key())).is_ok()
    }

    /// Whether a certificate is ours, names this identity, and is in the first two thirds of its life. One
    /// that begins later was made while the clock was ahead.
    pub(crate) fn still_good(
        &self,
        certificate: &str,
        identity: &Identity,
    ) -> Result<bool, PkiError> {
        let der = der_of(certificate)?;
        let validity = Validity::of(&der).ok_or(PkiError::NotPem)?;
        Ok(Identity::of_certificate(&der).as_ref() == Ok(identity)
            && !validity.is_due()
            && self.signed(&der))
    }
}

/// The first certificate of a PEM text.
pub(crate) fn der_of(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::NotPem)
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn params(common_name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // X.520 bounds a common name at 64 characters; the identity that counts is the URI.
    let common_name: String = common_name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = rcgen::date_time_ymd(1970, 1, 1) + unix_now();
    // A short life is not all past.
    params.not_before = now - BACKDATE.min(life / 10);
    params.not_after = now + life;
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn authority() -> Authority {
        let issued = Authority::generate().expect("generates");
        Authority::from_pem(&issued.certificate, &issued.key).expect("reads back")
    }

    #[test]
    fn certificates_name_one_identity() {
        let authority = authority();
        let controller = Identity::Controller("c-1".to_owned());
        let issued = authority.issue(&controller, LIFE).expect("issues");
        let der = der_of(&issued.certificate).expect("PEM");
        assert_eq!(Identity::of_certificate(&der), Ok(controller.clone()));
        let good = |identity| authority.still_good(&issued.certificate, identity).expect("reads");
        assert!(good(&controller));
        assert!(!good(&Identity::Controller("c-2".to_owned())));
        let over = authority.issue(&controller, Duration::ZERO).expect("issues").certificate;
        assert!(!authority.still_good(&over, &controller).expect("reads"));
        assert!(!self::authority().still_good(&issued.certificate, &controller).expect("reads"));
    }

    #[test]
    fn only_the_key_of_a_request_counts() {
        let key = KeyPair::generate().expect("generates");
        let mut wish = params("kctl://user/admin", LIFE);
        wish.subject_alt_names =
            vec![SanType::URI("kctl://user/admin".to_owned().try_into().expect("ASCII"))];
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = wish.serialize_request(&key).expect("signs");
        let host = Identity::Host("web-1".to_owned());
        let (pem, _) = authority().sign_request(&host, request.der(), LIFE).expect("signs");
        let der = der_of(&pem).expect("PEM");
        assert_eq!(Identity::of_certificate(&der), Ok(host.clone()));
        let (_, parsed) = X509Certificate::from_der(&der).expect("DER");
        assert!(!parsed.is_ca());
        assert!(authority().sign_request(&host, b"garbage", LIFE).is_err());
    }

    /// As Helm and openssl make them: keys in the form of SEC1 and PKCS#1, other curves and key sizes.
    #[test]
    fn a_ca_of_other_makers_signs_what_rustls_accepts() {
        use std::process::Command;
        for (algorithm, form) in [
            (&["ecparam", "-name", "prime256v1", "-genkey", "-noout"][..], "EC PRIVATE KEY"),
            (&["genrsa", "-traditional", "2048"], "RSA PRIVATE KEY"),
        ] {
            let key = Command::new("openssl").args(algorithm).output().expect("openssl runs");
            let key = String::from_utf8(key.stdout).expect("PEM");
            assert!(key.contains(form), "{key}");
            let folder = tempfile::tempdir().expect("temporary directory");
            let file = folder.path().join("ca.key");
            std::fs::write(&file, &key).expect("writes");
            let made = Command::new("openssl")
                .args(["req", "-x509", "-days", "3650", "-subj", "/CN=kctl CA", "-key"])
                .arg(&file)
                .output()
                .expect("openssl runs");
            let certificate = String::from_utf8(made.stdout).expect("PEM");
            let authority = Authority::from_pem(&certificate, &key).expect("reads");
            let host = Identity::Host("web-1".to_owned());
            let issued = authority.issue(&host, LIFE).expect("issues");
            assert!(authority.still_good(&issued.certificate, &host).expect("reads"));
        }
    }

    #[test]
    fn a_key_of_another_ca_is_noticed() {
        let (one, two) =
            (Authority::generate().expect("generates"), Authority::generate().expect("generates"));
        assert!(matches!(Authority::from_pem(&one.certificate, &two.key), Err(PkiError::Mismatch)));
    }
}
