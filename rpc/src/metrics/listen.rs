//! Where metrics are served, and who may read them there.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The longest token that a file may hold, bytes.
const MAX_TOKEN_BYTES: u64 = 4 << 10;

/// `--metrics-listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum MetricsListen {
    /// Not at all.
    Off,
    /// On this address and port; in clear text on loopback alone.
    At(SocketAddr),
}

/// What is neither an address nor `off`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metrics-listen {0:?}: must be ADDRESS:PORT or off")]
pub struct InvalidListen(String);

impl FromStr for MetricsListen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| InvalidListen(text.to_owned())),
        }
    }
}

impl TryFrom<String> for MetricsListen {
    type Error = InvalidListen;

    fn try_from(text: String) -> Result<Self, InvalidListen> {
        text.parse()
    }
}

/// Where metrics are served, and who may read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where.
    pub listen: MetricsListen,
    /// A file with the bearer token that opens /metrics; read anew for each scrape.
    pub token_file: Option<PathBuf>,
}

impl MetricsConfig {
    /// Refuses a token file that can't be used, by name.
    pub fn new(listen: MetricsListen, token_file: Option<PathBuf>) -> Result<Self, TokenError> {
        if let Some(path) = &token_file {
            Token::read(path)?;
        }
        Ok(Self { listen, token_file })
    }
}

/// Why a token file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("metrics-token-file {path:?}: {why}")]
pub struct TokenError {
    path: PathBuf,
    why: io::Error,
}

/// A bearer token. What is kept of it is a hash, so that a comparison tells nothing of how far it agreed.
pub(super) struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The only line of a file.
    pub(super) fn read(path: &Path) -> Result<Self, TokenError> {
        use io::Read as _;
        let error = |why| TokenError { path: path.to_owned(), why };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(error)?;
        file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(error)?;
        let token = text.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(error(io::Error::other("must hold one token and nothing else")));
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Whether it is what an Authorization header says.
    pub(super) fn opens(&self, authorization: &[u8]) -> bool {
        let Some((scheme, token)) = authorization.split_at_checked(7) else { return false };
        let shown: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && shown == self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_off() {
        assert_eq!("off".parse(), Ok(MetricsListen::Off));
        let all = MetricsListen::At(SocketAddr::from(([0; 16], 7481)));
        assert_eq!("[::]:7481".parse(), Ok(all));
        for text in ["", "on", "7481", "localhost:7481", "127.0.0.1"] {
            let error = text.parse::<MetricsListen>().expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("off"), "{error}");
        }
    }

    #[test]
    fn a_token_is_one_word_and_opens_as_a_whole() {
        let folder = std::env::temp_dir().join(format!("kctl-token-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&folder, text).expect("writes");
            let token = Token::read(&folder);
            std::fs::remove_file(&folder).expect("removes");
            token
        };
        let token = read("s3cret\n").expect("a token");
        assert!(token.opens(b"Bearer s3cret") && token.opens(b"bearer s3cret "));
        for wrong in [&b"Bearer s3cre"[..], b"Bearer ", b"s3cret", b"Basic s3cret", b"", b"Bearer"]
        {
            assert!(!token.opens(wrong), "{wrong:?}");
        }
        for text in ["", " \n", "two words"] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains("kctl-token-"), "{error}");
        }
    }
}
