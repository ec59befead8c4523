//! The kernel's side of a host as bpftool and ip see it: an oracle that shares no code with the
//! agent.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    namespace::{Namespace, run},
    output::Output,
};

/// One IPv4 rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRule {
    /// "10.0.0.5/32".
    pub prefix: String,
    /// The key's bytes in the notation that bpftool wants back.
    key: Vec<String>,
}

/// Every IPv4 rule below an agent's bpffs folder, in order.
pub fn rules(bpffs: &Path) -> Result<Vec<KernelRule>> {
    let output = Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(rules_map(bpffs)?)
        .output()
        .context("bpftool")?;
    let dump: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let rows = dump.as_array().context("bpftool dumps an array")?;
    let mut rules = rows.iter().map(rule).collect::<Result<Vec<_>>>()?;
    rules.sort();
    Ok(rules)
}

/// Deletes a rule behind the agent's back.
pub fn delete_rule(bpffs: &Path, rule: &KernelRule) -> Result<()> {
    let map = rules_map(bpffs)?;
    run(Command::new("bpftool")
        .args(["map", "delete", "pinned"])
        .arg(map)
        .arg("key")
        .args(&rule.key))
}

/// Ids of the XDP programs on a namespace's links.
pub fn xdp_programs(namespace: &Namespace) -> Result<Vec<u64>> {
    let mut command = Command::new("ip");
    command.args(["-j", "link"]);
    let links: Output = namespace.output(command)?;
    let links = links.json()?;
    let links = links.as_array().context("ip answers an array")?;
    Ok(links.iter().filter_map(|link| link["xdp"]["prog"]["id"].as_u64()).collect())
}

/// The map lies in the folder of the layout version, the only one there.
fn rules_map(bpffs: &Path) -> Result<PathBuf> {
    let layout = fs::read_dir(bpffs)
        .with_context(|| bpffs.display().to_string())?
        .next()
        .with_context(|| format!("{}: nothing is pinned", bpffs.display()))??;
    Ok(layout.path().join("rules4"))
}

/// A key is the address in host byte order, the port, the protocol and the prefix length.
fn rule(row: &Value) -> Result<KernelRule> {
    let key: Vec<String> = row["key"]
        .as_array()
        .with_context(|| row.to_string())?
        .iter()
        .filter_map(|byte| byte.as_str().map(str::to_owned))
        .collect();
    let bytes: Vec<u8> = key
        .iter()
        .map(|byte| u8::from_str_radix(byte.trim_start_matches("0x"), 16))
        .collect::<Result<_, _>>()?;
    let (address, rest) = bytes.split_first_chunk().with_context(|| row.to_string())?;
    let length = rest.last().with_context(|| row.to_string())?;
    let prefix = format!("{}/{length}", Ipv4Addr::from(u32::from_ne_bytes(*address)));
    Ok(KernelRule { prefix, key })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_of_bpftool_is_a_prefix() -> Result<()> {
        let row = json!({"key": ["0x00", "0x01", "0x4e", "0x0a", "0x00", "0x00", "0x00", "0x18"]});
        assert_eq!(rule(&row)?.prefix, "10.78.1.0/24");
        Ok(())
    }
}
