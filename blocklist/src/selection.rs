//! Which hosts an entry or a request is about.

use std::{collections::BTreeMap, collections::BTreeSet, fmt, str::FromStr};

/// A set of hosts, said by rule. Equal rules are equal selections, whatever hosts exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selection {
    /// Every host, also one that joins later.
    All,
    /// Exactly these hosts.
    Names(BTreeSet<String>),
    /// Hosts whose labels match.
    Selector(Selector),
}

impl Selection {
    /// Whether a host of this name and these labels is selected.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.contains(name),
            Self::Selector(selector) => selector.matches(labels),
        }
    }
}

/// `all`, `web-1,web-2` or `role=web`.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Names(names) => {
                for (i, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Selector(selector) => selector.fmt(f),
        }
    }
}

/// Label terms that must all hold: `role=web,zone!=b`. A host without the label differs from every
/// value, as in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(BTreeSet<Term>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    key: String,
    equal: bool,
    value: String,
}

/// What is wrong with a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector {0:?}: every term must be key=value or key!=value")]
pub struct InvalidSelector(String);

impl Selector {
    /// Whether every host that it selects is one that `other` selects, whatever labels hosts have.
    pub fn implies(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    /// What both select.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| (labels.get(&term.key) == Some(&term.value)) == term.equal)
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let term = |term: &str| {
            let (key, value) = term.split_once('=')?;
            let (key, equal) = match key.strip_suffix('!') {
                Some(key) => (key, false),
                None => (key, true),
            };
            // "key==value" is Kubernetes' other spelling of "key=value".
            let value = if equal { value.strip_prefix('=').unwrap_or(value) } else { value };
            let (key, value) = (key.trim(), value.trim());
            (valid_label(key) && !key.is_empty() && valid_label(value)).then(|| Term {
                key: key.to_owned(),
                equal,
                value: value.to_owned(),
            })
        };
        text.split(',')
            .map(term)
            .collect::<Option<BTreeSet<_>>>()
            .map(Self)
            .ok_or_else(|| InvalidSelector(text.to_owned()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Term { key, equal, value }) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{key}{}{value}", if *equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

fn valid_label(text: &str) -> bool {
    text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_term_must_hold() {
        let selector: Selector = "role=web,zone!=b".parse().expect("valid");
        assert!(selector.matches(&labels(&[("role", "web"), ("zone", "a")])));
        assert!(selector.matches(&labels(&[("role", "web")])));
        assert!(!selector.matches(&labels(&[("role", "web"), ("zone", "b")])));
        assert!(!selector.matches(&labels(&[])));
    }

    #[test]
    fn the_order_of_terms_does_not_matter() {
        let one: Selector = "zone!=b,role=web".parse().expect("valid");
        let two: Selector = " role == web , zone!=b".parse().expect("valid");
        assert_eq!(one, two);
        assert_eq!(one.to_string(), "role=web,zone!=b");
    }

    #[test]
    fn more_terms_select_less() {
        let read = |text: &str| text.parse::<Selector>().expect("valid");
        let (web, narrow) = (read("role=web"), read("zone!=b,role=web"));
        assert!(narrow.implies(&web) && web.implies(&web) && !web.implies(&narrow));
        assert!(!read("role!=web").implies(&web));
        assert_eq!(web.and(&read("zone!=b")), narrow);
    }

    #[test]
    fn refuses_malformed_terms() {
        for text in ["", "role", "=web", "role=web,", "ro le=web", "role=we b", "a!b"] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
