//! Changes of the blocklist: what a request asks for, and what is to be written for it.
//!
//! Pure: decisions on a model and on hosts as they are. It knows neither connections nor the store.

pub(crate) mod block;
pub(crate) mod forecast;
pub(crate) mod import;
pub(crate) mod recover;
mod room;
pub(crate) mod unblock;

use crate::{registry::HostView, status::Error};
use ipnet::IpNet;
use kctl_blocklist::{Selection, parse_prefix};
use kctl_proto::agent::v1 as pb;
use std::collections::HashSet;

/// Lines in an answer that names many things.
const NAMED: usize = 20;
/// Longer reasons belong into a ticket.
const REASON_BYTES: usize = 1_024;

/// Canonical prefixes in the order given, without repeats. Names every bad one, up to a bound.
fn prefixes(texts: &[String]) -> Result<Vec<IpNet>, Error> {
    if texts.is_empty() {
        return Err(Error::Invalid("prefixes: none given".to_owned()));
    }
    let mut seen = HashSet::new();
    let (mut prefixes, mut bad) = (Vec::new(), Vec::new());
    for text in texts {
        match parse_prefix(text) {
            Ok(prefix) if seen.insert(prefix) => prefixes.push(prefix),
            Ok(_) => {}
            Err(error) => bad.push(error.to_string()),
        }
    }
    if bad.is_empty() { Ok(prefixes) } else { Err(Error::Invalid(few(bad))) }
}

/// At most [`NAMED`] lines, and how many more there are.
fn first(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(NAMED);
    lines.truncate(NAMED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// The same in one line.
fn few(lines: Vec<String>) -> String {
    first(lines).join("; ")
}

fn check_reason(reason: &str) -> Result<(), Error> {
    if reason.len() <= REASON_BYTES && !reason.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::Invalid(format!("reason: must be one line of at most {REASON_BYTES} bytes")))
}

/// The selection of a change, which always names one.
pub(crate) fn selection(selection: Option<pb::Selection>) -> Result<Selection, Error> {
    let missing = || Error::Invalid("selection: is missing; name the hosts".to_owned());
    Selection::try_from(selection.ok_or_else(missing)?)
        .map_err(|error| Error::Invalid(error.to_string()))
}

/// Refuses a selection that concerns nobody, unless that is meant.
fn want_hosts(selection: &Selection, hosts: &[HostView], allow_empty: bool) -> Result<(), Error> {
    if !hosts.is_empty() || allow_empty {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "selection {:?}: matches no known host; nothing was changed; use --allow-empty to record it \
         for hosts that join later",
        selection.to_string()
    )))
}
