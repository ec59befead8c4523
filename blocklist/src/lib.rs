//! The blocklist as data: prefixes, entries, selections, digests, and what `block` refuses.
//!
//! It owns the rules that controller, agent and CLI must agree on, and converts them from and to
//! `kctl.agent.v1`. It does no I/O and knows neither kernel nor store.

mod convert;
mod digest;
mod entry;
mod feed;
mod prefix;
mod prefixes;
mod refusal;
mod selection;

pub use convert::{InvalidEntry, interface_from_proto, now_unix_ms};
pub use digest::Digest;
pub use entry::{AUTO_SOURCE, Action, Entry, EntryKey, Protocol, Service, more};
pub use feed::{FEED_NAME, FEED_SOURCE, Feed, FeedHead, MAX_FEED_ENTRIES, valid_feed_name};
pub use prefix::{InvalidPrefix, parse_prefix};
pub use prefixes::{Cursor, Difference, InvalidPacked, Prefixes, pack, unpack};
pub use refusal::{Protected, Refusal, loopback_of, refusal};
pub use selection::{InvalidSelector, Selection, Selector};
