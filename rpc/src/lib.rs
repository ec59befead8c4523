//! What every kctl daemon and client needs and no noun of ours: identities, mutual TLS, channels and
//! servers over streams that are already connected, logging.
//!
//! It knows neither hosts nor blocklists nor configuration files.

mod access;
mod channel;
mod code;
mod connection;
mod credentials;
mod identity;
mod logging;
pub mod metrics;
mod role;
mod server;
mod strangers;
mod tls;
mod version;

pub use access::{Access, unknown_call};
pub use channel::{Channel, DialError, channel_over, dial};
pub use code::code_name;
pub use connection::{Peer, UnixPeer, configure_tcp};
pub use credentials::{
    Credentials, CredentialsError, Validity, is_early, is_expired, new_key_and_csr,
};
pub use identity::{Identity, IdentityError, valid_name};
pub use logging::init_logging;
pub use role::{ROLE_METADATA, Role};
pub use server::{MAX_MESSAGE_BYTES, serve_over, serve_until};
pub use strangers::{Stranger, Strangers};
pub use tls::{
    ALPN_AGENT, ALPN_API, ALPN_JOIN, ca_sha256, client_config, join_config, join_server_config,
    metrics_config, server_config,
};
pub use version::{VERSION, version_skew};
