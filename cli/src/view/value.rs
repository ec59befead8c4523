//! Files below /proc and /sys as values.

use super::{ErrorView, read::Record};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// A file's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ValueView {
    /// As sysctl(8) names it; `None` for what is not below /proc/sys.
    key: Option<String>,
    path: String,
    /// `None` when there is an error.
    value: Option<String>,
    /// It holds secrets.
    secret: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
    /// It is the one that was asked for by name.
    #[serde(skip)]
    whole: bool,
}

/// What a file held and holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ChangeView {
    key: Option<String>,
    path: String,
    /// `None` where it can't be shown, here and below.
    old: Option<String>,
    new: Option<String>,
    /// Within so many seconds it is put back if the host loses its controller; 0 for never.
    guarded_seconds: u32,
}

impl ValueView {
    pub(crate) fn new(value: pb::Value, whole: bool) -> Self {
        let error = value.error.map(ErrorView::from);
        Self {
            key: key(&value.path),
            path: value.path,
            value: error.is_none().then_some(value.value),
            secret: value.secret,
            error,
            whole,
        }
    }
}

impl From<pb::SetValueResponse> for ChangeView {
    fn from(change: pb::SetValueResponse) -> Self {
        Self {
            key: key(&change.path),
            path: change.path,
            old: change.old,
            new: change.new,
            guarded_seconds: change.guarded_seconds,
        }
    }
}

impl Record for ValueView {
    const NOUN: &'static str = "values";
    const COLUMNS: &'static [&'static str] = &["NAME", "VALUE"];
    const WIDE_COLUMNS: &'static [&'static str] = &["SECRET"];

    fn cells(&self) -> Vec<String> {
        let why = |error: &ErrorView| format!("({})", error.message);
        vec![
            self.key.as_ref().unwrap_or(&self.path).clone(),
            self.value
                .as_deref()
                .map(spaced)
                .or_else(|| self.error.as_ref().map(why))
                .unwrap_or_default(),
            if self.secret { "yes" } else { "" }.to_owned(),
        ]
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}

impl Record for ChangeView {
    const NOUN: &'static str = "values";
    const COLUMNS: &'static [&'static str] = &["NAME", "OLD", "NEW"];
    const WIDE_COLUMNS: &'static [&'static str] = &["GUARDED"];

    fn cells(&self) -> Vec<String> {
        let shown = |value: &Option<String>| value.as_deref().map_or("?".to_owned(), spaced);
        let guarded = match self.guarded_seconds {
            0 => String::new(),
            seconds => format!("{seconds}s"),
        };
        let name = self.key.as_ref().unwrap_or(&self.path).clone();
        vec![name, shown(&self.old), shown(&self.new), guarded]
    }

    fn is_whole(&self) -> bool {
        true
    }
}

/// The kernel has tabs between numbers.
fn spaced(value: &str) -> String {
    value.replace('\t', " ")
}

/// The key of a path as sysctl(8) writes it: dots between names, and slashes for dots in them.
fn key(path: &str) -> Option<String> {
    let swapped = |character| match character {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    Some(path.strip_prefix("/proc/sys/")?.chars().map(swapped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::read::{HostRow, table};
    use serde_json::json;

    fn value(path: &str, value: &str) -> pb::Value {
        pb::Value { path: path.to_owned(), value: value.to_owned(), ..pb::Value::default() }
    }

    #[test]
    fn a_value_asked_for_by_name_is_the_row_and_others_are_a_list() {
        let path = "/proc/sys/net/ipv4/conf/eth0.7/rp_filter";
        let row = |whole| HostRow {
            host: "web-1".to_owned(),
            result: Ok(vec![ValueView::new(value(path, "1"), whole)]),
        };
        let expected = json!({"host": "web-1", "key": "net.ipv4.conf.eth0/7.rp_filter",
            "path": path, "value": "1", "secret": false});
        assert_eq!(serde_json::to_value(row(true)).expect("json"), expected);
        let list = serde_json::to_value(row(false)).expect("json");
        assert_eq!(list["values"][0]["value"], "1");
        assert!(table(&[row(true)], false).to_string().contains("net.ipv4.conf.eth0/7.rp_filter"));
    }

    #[test]
    fn what_can_not_be_read_says_why_in_its_place() {
        let error = pb::Error { code: "INTERNAL".to_owned(), message: "no".to_owned() };
        let broken = pb::Value { error: Some(error), ..value("/sys/a", "") };
        let view = ValueView::new(broken, false);
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!((&json["value"], &json["key"]), (&json!(null), &json!(null)));
        assert_eq!(view.cells()[..2], ["/sys/a", "(no)"]);
    }

    #[test]
    fn a_change_shows_both_values() {
        let change = pb::SetValueResponse {
            path: "/proc/sys/vm/swappiness".to_owned(),
            old: Some("60".to_owned()),
            new: None,
            guarded_seconds: 0,
        };
        let view = ChangeView::from(change);
        assert_eq!(view.cells(), ["vm.swappiness", "60", "?", ""]);
        let expected = json!({"key": "vm.swappiness", "path": "/proc/sys/vm/swappiness",
            "old": "60", "new": null, "guarded_seconds": 0});
        assert_eq!(serde_json::to_value(&view).expect("json"), expected);
    }
}
