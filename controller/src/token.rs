//! Join tokens: `kctl1.ID.SECRET.CA-HASH`, without the last part where hosts are told the CA otherwise. It
//! owns their form and whether one may be used; it knows neither the store nor the wire.

use crate::store::TokenRecord;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// Why a host may not join with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Not in the form of a token.
    #[error("token: not like kctl1.ID.SECRET.HASH; copy it whole from `kctl token create`")]
    Malformed,
    /// No such id, or another secret: nobody learns which.
    #[error("token: unknown; make one with `kctl token create`")]
    Unknown,
    /// Taken back.
    #[error("token: revoked; make another with `kctl token create`")]
    Revoked,
    /// Too old.
    #[error("token: expired; make another with `kctl token create`")]
    Expired,
    /// Used as often as it may be.
    #[error("token: used up; make another with `kctl token create`")]
    UsedUp,
    /// Names another host.
    #[error("token: made for another host; make one with `kctl token create`")]
    OtherHost,
}

/// The id and the hash of the secret of a token that somebody shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its public part.
    pub(crate) id: String,
    secret_sha256: [u8; 32],
}

/// Makes a token: its text, which is told once, then its id and the hash that is kept.
pub(crate) fn make(ca_sha256: &[u8; 32]) -> (String, Shown) {
    let id = format!("{:08x}", rand::random::<u32>());
    let secret: [u8; 32] = rand::random();
    let encode = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
    let text = format!("kctl1.{id}.{}.{}", encode(&secret), encode(ca_sha256));
    (text, Shown { id, secret_sha256: Sha256::digest(secret).into() })
}

impl Shown {
    /// Reads a token.
    pub(crate) fn parse(text: &str) -> Result<Self, Refused> {
        let mut parts = text.trim().split('.');
        let (Some("kctl1"), Some(id), Some(secret), _hash, None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::Malformed);
        };
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| Refused::Malformed)?;
        Ok(Self { id: id.to_owned(), secret_sha256: Sha256::digest(secret).into() })
    }

    /// The hash to keep.
    pub(crate) fn secret_sha256(&self) -> [u8; 32] {
        self.secret_sha256
    }

    /// Whether the host may join with it now. `record` is the token of this id, if there is one.
    pub(crate) fn check<'a>(
        &self,
        record: Option<&'a TokenRecord>,
        host: &str,
        now_unix_ms: i64,
    ) -> Result<&'a TokenRecord, Refused> {
        let record = record
            .filter(|record| same(&record.secret_sha256, &self.secret_sha256))
            .ok_or(Refused::Unknown)?;
        if record.revoked {
            Err(Refused::Revoked)
        } else if record.expires_unix_ms <= now_unix_ms {
            Err(Refused::Expired)
        } else if record.uses == Some(0) {
            Err(Refused::UsedUp)
        } else if !record.host.is_empty() && record.host != host {
            Err(Refused::OtherHost)
        } else {
            Ok(record)
        }
    }
}

/// Compares in a time that does not tell where two hashes differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(shown: &Shown) -> TokenRecord {
        TokenRecord {
            id: shown.id.clone(),
            secret_sha256: shown.secret_sha256(),
            expires_unix_ms: 1_000,
            uses: Some(1),
            host: String::new(),
            revoked: false,
            created_by: "user:admin".to_owned(),
            created_unix_ms: 0,
        }
    }

    #[test]
    fn a_token_reads_back_and_works_until_it_ends() {
        let (text, made) = make(&[7; 32]);
        let shown = Shown::parse(&format!(" {text}\n")).expect("valid");
        assert_eq!(shown, made);
        let record = record(&made);
        assert!(shown.check(Some(&record), "web-1", 999).is_ok());
        assert_eq!(shown.check(Some(&record), "web-1", 1_000), Err(Refused::Expired));
        assert_eq!(shown.check(None, "web-1", 0), Err(Refused::Unknown));
    }

    #[test]
    fn each_refusal_says_which_it_is() {
        let (_, shown) = make(&[7; 32]);
        let fresh = record(&shown);
        let check = |record: &TokenRecord| shown.check(Some(record), "web-1", 0).map(drop);
        let used = TokenRecord { uses: Some(0), ..fresh.clone() };
        assert_eq!(check(&used), Err(Refused::UsedUp));
        let revoked = TokenRecord { revoked: true, ..fresh.clone() };
        assert_eq!(check(&revoked), Err(Refused::Revoked));
        let other = TokenRecord { host: "web-2".to_owned(), ..fresh.clone() };
        assert_eq!(check(&other), Err(Refused::OtherHost));
        let foreign = TokenRecord { secret_sha256: [0; 32], ..fresh };
        assert_eq!(check(&foreign), Err(Refused::Unknown));
        for text in ["", "kctl1.a", "kctl2.a.YQ.c", "kctl1.a.!!.c", "kctl1.a.YQ.c.d"] {
            assert_eq!(Shown::parse(text), Err(Refused::Malformed), "{text:?}");
        }
    }
}
