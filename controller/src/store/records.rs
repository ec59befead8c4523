//! What the store keeps beside the blocklist: hosts, tokens, users, revoked certificates, the audit log.

use super::Write;
use kctl_blocklist::Selector;
use kctl_proto::agent::v1::HostStatus;
use kctl_rpc::{Identity, Role};
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

/// Somebody who may use the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserRecord {
    /// Its unique name.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The only hosts that it sees and changes; `None` means all.
    pub(crate) scope: Option<Selector>,
    /// An admin said when its certificate ends, so it can't renew it.
    pub(crate) limited: bool,
    /// The user who made it.
    pub(crate) created_by: String,
    /// Milliseconds since 1970.
    pub(crate) created_unix_ms: i64,
}

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssuedRecord {
    /// The URI that it names.
    pub(crate) identity: String,
    /// SHA-256 of the CA's certificate.
    pub(crate) issuer: Fingerprint,
    /// Milliseconds since 1970.
    pub(crate) not_after_unix_ms: i64,
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
    /// By name.
    pub(crate) users: BTreeMap<String, UserRecord>,
    /// Certificates that were signed and are not over: those of users, which must be among these, and
    /// those of hosts since this is kept.
    pub(crate) issued: BTreeMap<Fingerprint, IssuedRecord>,
    /// Certificates of our CA that no longer count.
    pub(crate) revoked: BTreeSet<Fingerprint>,
}

impl Records {
    /// The certificates of somebody that may still count.
    pub(crate) fn certificates(&self, identity: &Identity) -> BTreeSet<Fingerprint> {
        let uri = identity.to_string();
        let issued = self.issued.iter().filter(|(_, issued)| issued.identity == uri);
        let mut certificates: BTreeSet<Fingerprint> = issued.map(|(sha256, _)| *sha256).collect();
        if let Identity::Host(name) = identity {
            // Those from before what is issued was kept.
            let host = self.hosts.get(name);
            certificates.extend(host.into_iter().flat_map(|host| &host.certificates));
        }
        certificates
    }

    /// The writes that make all certificates of somebody useless.
    pub(crate) fn revocation(&self, identity: &Identity) -> Vec<Write> {
        let uri = identity.to_string();
        let revoke = |sha256| [Write::Revoke(sha256, uri.clone()), Write::ForgetIssued(sha256)];
        self.certificates(identity).into_iter().flat_map(revoke).collect()
    }

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
                Write::User(user) => {
                    self.users.insert(user.name.clone(), user.clone());
                }
                Write::ForgetUser(name) => {
                    self.users.remove(name);
                }
                Write::Issue(fingerprint, issued) => {
                    self.issued.insert(*fingerprint, issued.clone());
                }
                Write::ForgetIssued(fingerprint) => {
                    self.issued.remove(fingerprint);
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
