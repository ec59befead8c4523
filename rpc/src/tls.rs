//! TLS configurations. TLS 1.3 only; both sides show a certificate, except when a host joins.
//!
//! Names in certificates are `kctl://` URIs, so peers are told apart by identity and never by DNS
//! name: a port-forward or a changed address breaks nothing.

use crate::{Credentials, Identity};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use std::{fmt, sync::Arc};

/// Agents that serve their host's kernel.
pub const ALPN_AGENT: &[u8] = b"kctl-agent/1";
/// Hosts that have no certificate yet.
pub const ALPN_JOIN: &[u8] = b"kctl-join/1";
/// Clients of the controller's API: plain gRPC.
pub const ALPN_API: &[u8] = b"h2";

/// SHA-256 of a certificate's DER form, as join tokens carry it for the CA.
pub fn ca_sha256(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// For a client of `controller`: trusts its CA alone and accepts that identity alone.
pub fn client_config(
    credentials: &Credentials,
    controller: &Identity,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = ControllerVerifier {
        trust: Trust::Roots(Arc::new(roots(&credentials.ca)?)),
        expected: Some(controller.clone()),
        algorithms: provider().signature_verification_algorithms,
    };
    let mut config = client_builder(verifier)?
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    finish_client(&mut config, alpn);
    Ok(Arc::new(config))
}

/// For a host that joins: it knows nothing but the SHA-256 of the CA certificate, which the server
/// must show at the end of its chain.
pub fn join_config(ca_sha256: [u8; 32]) -> Result<Arc<ClientConfig>, Error> {
    let verifier = ControllerVerifier {
        trust: Trust::Hash(ca_sha256),
        expected: None,
        algorithms: provider().signature_verification_algorithms,
    };
    let mut config = client_builder(verifier)?.with_no_client_auth();
    finish_client(&mut config, ALPN_JOIN);
    Ok(Arc::new(config))
}

/// For a server whose clients must show a certificate of our CA that passes `check`. What `check`
/// refuses reaches the client as a TLS alert: `Revoked` as certificate_revoked,
/// `ApplicationVerificationFailure` as access_denied.
pub fn server_config(
    credentials: &Credentials,
    alpn: &[u8],
    check: impl Fn(&CertificateDer<'_>, &Identity) -> Result<(), CertificateError>
    + Send
    + Sync
    + 'static,
) -> Result<Arc<ServerConfig>, Error> {
    checked_server(credentials, alpn, true, Box::new(check))
}

/// For a server that speaks HTTP/1.1 with clients that may show a certificate: what they show must pass
/// as above.
pub fn metrics_config(
    credentials: &Credentials,
    check: impl Fn(&CertificateDer<'_>, &Identity) -> Result<(), CertificateError>
    + Send
    + Sync
    + 'static,
) -> Result<Arc<ServerConfig>, Error> {
    checked_server(credentials, b"http/1.1", false, Box::new(check))
}

fn checked_server(
    credentials: &Credentials,
    alpn: &[u8],
    mandatory: bool,
    check: Box<Check>,
) -> Result<Arc<ServerConfig>, Error> {
    let roots = Arc::new(roots(&credentials.ca)?);
    let mut chain = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if !mandatory {
        chain = chain.allow_unauthenticated();
    }
    let chain = chain.build().map_err(|error| Error::General(error.to_string()))?;
    let verifier = Arc::new(IdentityVerifier { chain, check });
    let config = server_builder()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    Ok(finish_server(config, alpn))
}

/// For the join service: no client certificate, and the CA certificate at the end of the chain.
pub fn join_server_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, Error> {
    let mut chain = credentials.chain.clone();
    chain.extend(credentials.ca.iter().cloned());
    let config = server_builder()?
        .with_no_client_auth()
        .with_single_cert(chain, credentials.key.clone_key())?;
    Ok(finish_server(config, ALPN_JOIN))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

fn client_builder(
    verifier: ControllerVerifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn finish_client(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
}

fn server_builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, Error> {
    ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])
}

fn finish_server(mut config: ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session would not look at the certificate again, so a revoked one would go on.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// Accepts a server that the CA signed and that is the expected controller.
#[derive(Debug)]
struct ControllerVerifier {
    trust: Trust,
    /// `None` while joining: any controller of that CA.
    expected: Option<Identity>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Trust {
    Roots(Arc<RootCertStore>),
    /// SHA-256 of the CA certificate.
    Hash([u8; 32]),
}

impl ControllerVerifier {
    fn roots(&self, shown: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        match &self.trust {
            Trust::Roots(roots) => Ok(Arc::clone(roots)),
            Trust::Hash(hash) => shown
                .iter()
                .find(|certificate| ca_sha256(certificate) == *hash)
                .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))
                .and_then(|ca| roots(&[ca.clone().into_owned()]))
                .map(Arc::new),
        }
    }
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &*self.roots(intermediates)?,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let refused =
            || Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let identity = Identity::of_certificate(end_entity).map_err(|_| refused())?;
        let accepted = match &self.expected {
            Some(expected) => identity == *expected,
            None => matches!(identity, Identity::Controller(_)),
        };
        if accepted { Ok(ServerCertVerified::assertion()) } else { Err(refused()) }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

type Check = dyn Fn(&CertificateDer<'_>, &Identity) -> Result<(), CertificateError> + Send + Sync;

/// Accepts a client that the CA signed and that passes a check of its identity.
struct IdentityVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    check: Box<Check>,
}

impl fmt::Debug for IdentityVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityVerifier").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for IdentityVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        Identity::of_certificate(end_entity)
            .map_err(|_| CertificateError::ApplicationVerificationFailure)
            .and_then(|identity| (self.check)(end_entity, &identity))
            .map_err(Error::InvalidCertificate)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
