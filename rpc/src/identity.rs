//! Who somebody is, as a certificate says it: one URI in the subject alternative name.

use rustls_pki_types::CertificateDer;
use std::{fmt, str::FromStr};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// The one identity that a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `kctl://host/NAME`: an agent.
    Host(String),
    /// `kctl://user/NAME`: a person or a script.
    User(String),
    /// `kctl://controller/NAME`: the only one that agents obey.
    Controller(String),
}

/// Why a certificate or a text is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("certificate: not X.509 in DER form")]
    Malformed,
    /// No URI, or several.
    #[error("certificate: names {0} kctl identities instead of one")]
    NotOne(usize),
    /// Not `kctl://ROLE/NAME`.
    #[error(
        "identity {0:?}: not like kctl://host/NAME, kctl://user/NAME or kctl://controller/NAME"
    )]
    Unknown(String),
}

impl Identity {
    /// Reads the URI subject alternative name (RFC 5280 section 4.2.1.6).
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|_| IdentityError::Malformed)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| IdentityError::Malformed)?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.count()) {
            (Some(uri), 0) => uri.parse(),
            (None, _) => Err(IdentityError::NotOne(0)),
            (Some(_), more) => Err(IdentityError::NotOne(more + 1)),
        }
    }

    /// The name without the role.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::User(name) | Self::Controller(name) => name,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self {
            Self::Host(_) => "host",
            Self::User(_) => "user",
            Self::Controller(_) => "controller",
        };
        write!(f, "kctl://{role}/{}", self.name())
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let unknown = || IdentityError::Unknown(uri.to_owned());
        let (role, name) = uri
            .strip_prefix("kctl://")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(_, name)| valid_name(name))
            .ok_or_else(unknown)?;
        let name = name.to_owned();
        match role {
            "host" => Ok(Self::Host(name)),
            "user" => Ok(Self::User(name)),
            "controller" => Ok(Self::Controller(name)),
            _ => Err(unknown()),
        }
    }
}

/// Whether a name can be that of a host, user or controller: 1 to 253 of a-z, 0-9, `-`, `.`, beginning
/// and ending with a letter or digit (the form of host names, RFC 1123 section 2.1).
pub fn valid_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 253 && end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|&b| inner(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_read_back() {
        for uri in ["kctl://host/web-1", "kctl://user/admin", "kctl://controller/c.example"] {
            assert_eq!(uri.parse::<Identity>().expect(uri).to_string(), uri);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for uri in [
            "",
            "kctl://host/",
            "kctl://host/A",
            "kctl://root/x",
            "http://host/x",
            "kctl://host/a/b",
            "kctl://host/-a",
            "kctl://host/a b",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?}");
        }
    }
}
