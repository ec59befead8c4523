//! What the store keeps beside the blocklist: hosts, tokens, users, revoked certificates, the audit log.

use super::Write;
use kctl_proto::agent::v1::HostStatus;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// SHA-256 of a certificate in DER form.
pub(crate) type Fingerprint = [u8; 32];

/// A host that joined.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostRecord {
    /// Its unique name.
    pub(crate) name: String,
    /// Milliseconds since 1970.
    pub(crate) joined_unix_ms: i64,
    /// When it connected or disconnected last, milliseconds since 1970.
    pub(crate) since_unix_ms: i64,
    /// The session that is open, by its number in this run of the controller.
    pub(crate) session: Option<u64>,
    /// Its certificates that are not revoked.
    pub(crate) certificates: BTreeSet<Fingerprint>,
    /// As it told last; `None` when it never connected.
    pub(crate) status: Option<Arc<HostStatus>>,
}

/// A join token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRecord {
    /// The public part of the token: 8 hex digits.
    pub(crate) id: String,
    /// SHA-256 of the secret part.
    pub(crate) secret_sha256: [u8; 32],
    /// Milliseconds since 1970.
    pub(crate) expires_unix_ms: i64,
    /// Uses left; `None` means any number.
    pub(crate) uses: Option<u32>,
    /// The only host that may use it; empty means any new host.
    pub(crate) host: String,
    /// A revoked token is kept for a while so that its user is told what is wrong.
    pub(crate) revoked: bool,
    /// The user who made it.
    pub(crate) created_by: String,
    /// Milliseconds since 1970.
    pub(crate) created_unix_ms: i64,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditRecord {
    /// Milliseconds since 1970.
    pub(crate) time_unix_ms: i64,
    /// Identity of the caller.
    pub(crate) who: String,
    /// Address of the caller.
    pub(crate) from: String,
    /// The call and its arguments.
    pub(crate) what: String,
    /// The selection or names of hosts.
    pub(crate) hosts: String,
    /// "ok", or the error.
    pub(crate) outcome: String,
}

/// Everything but the blocklist. The audit log is only written, so it is not held in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    /// By name.
    pub(crate) hosts: BTreeMap<String, HostRecord>,
    /// By id.
    pub(crate) tokens: BTreeMap<String, TokenRecord>,
    /// Roles by name of the user.
    pub(crate) users: BTreeMap<String, String>,
    /// Certificates of our CA that no longer count.
    pub(crate) revoked: BTreeSet<Fingerprint>,
}

impl Records {
    /// Makes the changes of one decision.
    pub(super) fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Host(host) => {
                    self.hosts.insert(host.name.clone(), host.clone());
                }
                Write::ForgetHost(name) => {
                    self.hosts.remove(name);
                }
                Write::Token(token) => {
                    self.tokens.insert(token.id.clone(), token.clone());
                }
                Write::ForgetToken(id) => {
                    self.tokens.remove(id);
                }
                Write::Revoke(fingerprint, _) => {
                    self.revoked.insert(*fingerprint);
                }
                Write::Upsert(_)
                | Write::Remove(_)
                | Write::Feed(_)
                | Write::Identity { .. }
                | Write::Audit(_) => {}
            }
        }
    }
}
