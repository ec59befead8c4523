//! Routing policy rules.

use super::{family_name, table_name};
use crate::view::{read::Record, some};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RuleView {
    family: &'static str,
    priority: u32,
    action: String,
    table: Option<u32>,
    goto: Option<u32>,
    inverted: bool,
    src: Option<String>,
    dst: Option<String>,
    iif: Option<String>,
    oif: Option<String>,
    fwmark: Option<u32>,
    fwmask: Option<u32>,
    tos: Option<u32>,
    ip_protocol: Option<u32>,
    sport: Option<RangeView>,
    dport: Option<RangeView>,
    uids: Option<RangeView>,
    l3mdev: bool,
    suppress_prefix_len: Option<u32>,
    protocol: String,
}

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct RangeView {
    first: u32,
    last: u32,
}

impl From<pb::rule::Range> for RangeView {
    fn from(range: pb::rule::Range) -> Self {
        Self { first: range.first, last: range.last }
    }
}

impl std::fmt::Display for RangeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl From<pb::Rule> for RuleView {
    fn from(rule: pb::Rule) -> Self {
        let number = |number: u32| (number != 0).then_some(number);
        Self {
            family: family_name(rule.family()),
            priority: rule.priority,
            action: rule.action,
            table: number(rule.table),
            goto: rule.goto,
            inverted: rule.inverted,
            src: some(rule.src),
            dst: some(rule.dst),
            iif: some(rule.iif),
            oif: some(rule.oif),
            fwmark: rule.fwmark,
            fwmask: rule.fwmask,
            tos: number(rule.tos),
            ip_protocol: number(rule.ip_protocol),
            sport: rule.sport.map(RangeView::from),
            dport: rule.dport.map(RangeView::from),
            uids: rule.uids.map(RangeView::from),
            l3mdev: rule.l3mdev,
            suppress_prefix_len: rule.suppress_prefix_len,
            protocol: rule.protocol,
        }
    }
}

impl Record for RuleView {
    const NOUN: &'static str = "rules";
    const COLUMNS: &'static [&'static str] = &["FAMILY", "PRIORITY", "MATCH", "ACTION", "PROTOCOL"];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.family.to_owned(),
            self.priority.to_string(),
            self.matches(),
            self.does(),
            self.protocol.clone(),
        ]
    }
}

impl RuleView {
    /// `from 10.0.0.0/8 fwmark 0x1/0xff`, in the words of ip-rule(8).
    fn matches(&self) -> String {
        let marked = self.fwmark.map(|mark| match self.fwmask {
            None | Some(u32::MAX) => format!("{mark:#x}"),
            Some(mask) => format!("{mark:#x}/{mask:#x}"),
        });
        let words = [
            ("from", Some(self.src.clone().unwrap_or_else(|| "all".to_owned()))),
            ("to", self.dst.clone()),
            ("iif", self.iif.clone()),
            ("oif", self.oif.clone()),
            ("fwmark", marked),
            ("tos", self.tos.map(|tos| format!("{tos:#x}"))),
            ("ipproto", self.ip_protocol.map(|number| number.to_string())),
            ("sport", self.sport.map(|ports| ports.to_string())),
            ("dport", self.dport.map(|ports| ports.to_string())),
            ("uidrange", self.uids.map(|uids| uids.to_string())),
        ];
        let words =
            words.into_iter().filter_map(|(word, value)| Some(format!("{word} {}", value?)));
        let not = self.inverted.then(|| "not".to_owned());
        not.into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }

    /// `lookup main`
    fn does(&self) -> String {
        let mut text = match (self.table, self.goto, self.l3mdev) {
            (_, _, true) => format!("{} l3mdev-table", self.action),
            (Some(table), _, _) => format!("{} {}", self.action, table_name(table)),
            (None, Some(goto), _) => format!("{} {goto}", self.action),
            _ => self.action.clone(),
        };
        if let Some(length) = self.suppress_prefix_len {
            text += &format!(" suppress_prefixlength {length}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_ip_rule_says_it() {
        let rule = pb::Rule {
            priority: 50,
            action: "lookup".to_owned(),
            table: 254,
            inverted: true,
            src: "10.0.0.0/8".to_owned(),
            fwmark: Some(16),
            fwmask: Some(255),
            dport: Some(pb::rule::Range { first: 80, last: 90 }),
            suppress_prefix_len: Some(0),
            ..pb::Rule::default()
        };
        let view = RuleView::from(rule);
        assert_eq!(view.matches(), "not from 10.0.0.0/8 fwmark 0x10/0xff dport 80-90");
        assert_eq!(view.does(), "lookup main suppress_prefixlength 0");
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!((&json["table"], &json["goto"]), (&254.into(), &serde_json::Value::Null));
    }
}
