//! Kernel modules of a host.

use super::{cell, read::Record, size, some, system::TaintView};
use kctl_proto::agent::v1 as pb;
use serde::Serialize;
use std::collections::BTreeMap;

/// One module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ModuleView {
    name: String,
    size_bytes: u64,
    users: Option<u64>,
    used_by: Vec<String>,
    state: String,
    taint: Vec<TaintView>,
    version: Option<String>,
    srcversion: Option<String>,
    parameters: BTreeMap<String, Option<String>>,
    built_in: bool,
}

impl From<pb::Module> for ModuleView {
    fn from(module: pb::Module) -> Self {
        let parameters = module.parameters.into_iter();
        Self {
            name: module.name,
            size_bytes: module.size_bytes,
            users: module.users,
            used_by: module.used_by,
            state: module.state,
            taint: module.taint.into_iter().map(TaintView::from).collect(),
            version: some(module.version),
            srcversion: some(module.srcversion),
            parameters: parameters.map(|parameter| (parameter.name, parameter.value)).collect(),
            built_in: module.built_in,
        }
    }
}

impl Record for ModuleView {
    const NOUN: &'static str = "modules";
    const COLUMNS: &'static [&'static str] =
        &["NAME", "SIZE", "USERS", "STATE", "TAINT", "USED BY"];
    const WIDE_COLUMNS: &'static [&'static str] = &["VERSION", "PARAMETERS"];

    fn cells(&self) -> Vec<String> {
        let parameter = |(name, value): (&String, &Option<String>)| match value {
            Some(value) => format!("{name}={value}"),
            None => format!("{name}=?"),
        };
        vec![
            self.name.clone(),
            if self.built_in { "built-in".to_owned() } else { size(self.size_bytes) },
            cell(self.users),
            self.state.clone(),
            self.taint.iter().map(|taint| taint.letter.as_str()).collect(),
            self.used_by.join(","),
            self.version.clone().unwrap_or_default(),
            self.parameters.iter().map(parameter).collect::<Vec<_>>().join(" "),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let parameter = |name: &str, value: Option<&str>| pb::module::Parameter {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        let taint = pb::Taint { letter: "O".to_owned(), meaning: "out-of-tree module".to_owned() };
        let module = pb::Module {
            name: "own".to_owned(),
            size_bytes: 16_384,
            users: Some(1),
            used_by: vec!["other".to_owned()],
            state: "live".to_owned(),
            taint: vec![taint],
            version: "1.2".to_owned(),
            srcversion: String::new(),
            parameters: vec![parameter("n", Some("7")), parameter("hidden", None)],
            built_in: false,
        };
        let view = ModuleView::from(module);
        let expected = json!({
            "name": "own", "size_bytes": 16_384, "users": 1, "used_by": ["other"],
            "state": "live", "taint": [{"letter": "O", "meaning": "out-of-tree module"}],
            "version": "1.2", "srcversion": null, "parameters": {"n": "7", "hidden": null},
            "built_in": false,
        });
        assert_eq!(serde_json::to_value(&view).expect("json"), expected);
        let cells = view.cells();
        assert_eq!(cells, ["own", "16K", "1", "live", "O", "other", "1.2", "hidden=? n=7"]);
        assert_eq!(cells.len(), ModuleView::COLUMNS.len() + ModuleView::WIDE_COLUMNS.len());
    }
}
