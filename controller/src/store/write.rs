//! The changes that the store knows.

use super::{
    AuditRecord, Desired, Epoch, FeedChange, Fingerprint, HostRecord, IssuedRecord, Records,
    TokenRecord, UserRecord,
};
use crate::pki::Signed;
use kctl_blocklist::{Entry, EntryKey};
use kctl_rpc::Identity;
use std::sync::Arc;

/// Everything that the store holds.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// The blocklist.
    pub(crate) desired: Desired,
    /// The rest.
    pub(crate) records: Records,
}

impl Model {
    /// Makes the writes of one decision. All its changes of entries are one revision.
    pub(super) fn apply(&mut self, writes: &[Write]) {
        self.desired.apply(writes);
        self.records.apply(writes);
    }
}

/// One change of the model.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// Adds an entry or replaces the one of its key.
    Upsert(Arc<Entry>),
    /// Removes an entry.
    Remove(EntryKey),
    /// Replaces a feed as it is, or removes it.
    Feed(Arc<FeedChange>),
    /// Goes on as another store from a revision on; the decision's changes of entries belong to it.
    Identity {
        /// Name of that store.
        store_id: String,
        /// Its epochs, the last being the running one.
        epochs: Vec<Epoch>,
        /// The revision that it is at afterwards.
        revision: u64,
    },
    /// Adds or replaces a host.
    Host(HostRecord),
    /// Removes a host.
    ForgetHost(String),
    /// Adds or replaces a token.
    Token(TokenRecord),
    /// Removes a token.
    ForgetToken(String),
    /// Adds or replaces a user.
    User(UserRecord),
    /// Removes a user.
    ForgetUser(String),
    /// A certificate that was signed.
    Issue(Fingerprint, IssuedRecord),
    /// A certificate that is over or revoked need not be known as signed.
    ForgetIssued(Fingerprint),
    /// A certificate that no longer counts, and whose it was.
    Revoke(Fingerprint, String),
    /// Adds a line to the audit log.
    Audit(AuditRecord),
}

impl Write {
    /// That a certificate was signed for somebody.
    pub(crate) fn issued(identity: &Identity, signed: &Signed) -> Self {
        let issued = IssuedRecord {
            identity: identity.to_string(),
            issuer: signed.issuer,
            not_after_unix_ms: signed.not_after_unix_ms,
        };
        Self::Issue(signed.sha256, issued)
    }

    /// Whether a decision makes a new revision.
    pub(super) fn change_entries(writes: &[Self]) -> bool {
        writes.iter().any(|write| {
            matches!(
                write,
                Self::Upsert(_) | Self::Remove(_) | Self::Feed(_) | Self::Identity { .. }
            )
        })
    }

    /// Whether it changes [`Records`].
    pub(super) fn is_record(&self) -> bool {
        match self {
            Self::Upsert(_)
            | Self::Remove(_)
            | Self::Feed(_)
            | Self::Identity { .. }
            | Self::Audit(_) => false,
            Self::Host(_)
            | Self::ForgetHost(_)
            | Self::Token(_)
            | Self::ForgetToken(_)
            | Self::User(_)
            | Self::ForgetUser(_)
            | Self::Issue(..)
            | Self::ForgetIssued(_)
            | Self::Revoke(..) => true,
        }
    }
}
