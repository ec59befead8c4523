//! The hosts that somebody sees and changes: all, or those that match the labels of a scope.

use crate::{
    registry::{HostView, Registry},
    status::Error,
};
use kctl_blocklist::{Selection, Selector};
use std::collections::BTreeMap;

/// A user's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope(Selection);

impl Scope {
    /// Of a user; `None` means every host.
    pub(crate) fn new(selector: Option<Selector>) -> Self {
        Self(selector.map_or(Selection::All, Selection::Selector))
    }

    /// Whether it is every host.
    pub(crate) fn is_all(&self) -> bool {
        self.0 == Selection::All
    }

    /// As a selection.
    pub(crate) fn selection(&self) -> &Selection {
        &self.0
    }

    /// Whether a host of this name and these labels is in it.
    pub(crate) fn contains(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(name, labels)
    }

    /// The hosts of a read: those selected that are in the scope. Refused: the name of one that is not.
    pub(crate) fn read(
        &self,
        registry: &Registry,
        selection: &Selection,
    ) -> Result<Vec<HostView>, Error> {
        let mut hosts = registry.select(selection)?;
        if let Selection::Names(_) = selection {
            self.permit(registry, selection)?;
        }
        hosts.retain(|host| self.contains(&host.name, &host.labels()));
        Ok(hosts)
    }

    /// The hosts of a change, all of which must be in the scope, those that join later too.
    pub(crate) fn change(
        &self,
        registry: &Registry,
        selection: &Selection,
    ) -> Result<Vec<HostView>, Error> {
        let hosts = registry.select(selection)?;
        self.permit(registry, selection)?;
        Ok(hosts)
    }

    /// Refuses a selection that goes beyond the scope.
    pub(crate) fn permit(&self, registry: &Registry, selection: &Selection) -> Result<(), Error> {
        let Selection::Selector(scope) = &self.0 else { return Ok(()) };
        let beyond = |what: String, next: String| {
            Err(Error::Denied(format!("{what}: beyond your scope, {scope}; use {next}")))
        };
        match selection {
            Selection::All => beyond("all hosts".to_owned(), format!("-l {scope}")),
            Selection::Selector(selector) if selector.implies(scope) => Ok(()),
            Selection::Selector(selector) => {
                beyond(format!("hosts {selector}"), format!("-l {}", selector.and(scope)))
            }
            Selection::Names(names) => {
                let outside: Vec<String> = names
                    .iter()
                    .filter(|name| !registry.is_selected(&self.0, name))
                    .map(|name| format!("{name:?}"))
                    .collect();
                match outside.is_empty() {
                    true => Ok(()),
                    false => beyond(format!("host {}", outside.join(", ")), format!("-l {scope}")),
                }
            }
        }
    }
}
