//! The kernel's side of a host as bpftool and ip see it: an oracle that shares no code with the
//! agent.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    namespace::{Namespace, run},
    output::Output,
};

/// Bytes of a record: address, service, prefix length and IP version; what it says; and padding.
const RECORD_BYTES: usize = 48;
/// What each element of a map begins with in what bpftool tells.
const ROW: &str = "{\"key\":";
/// Where a record's IP version is in what it tells of a value: the byte at 20, each of seven characters.
const VERSION_AT: usize = 20 * 7;

/// One IPv4 rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRule {
    /// "10.0.0.5/32".
    pub prefix: String,
    /// Where its record is.
    record: u32,
}

/// Every IPv4 rule below an agent's bpffs folder, in order.
pub fn rules(bpffs: &Path) -> Result<Vec<KernelRule>> {
    let output = Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(rules_map(bpffs)?)
        .output()
        .context("bpftool")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rules = Vec::new();
    // Nearly all records are empty, and there are many: only the others are worth parsing.
    for row in std::str::from_utf8(&output.stdout)?.split(ROW).skip(1) {
        let (_, value) = row.split_once("\"value\":[").context("bpftool tells values")?;
        if value.get(VERSION_AT..).is_some_and(|rest| rest.starts_with("\"0x04\"")) {
            let row = format!("{ROW}{}", row.trim_end_matches([',', ']']));
            rules.extend(rule(&serde_json::from_str(&row)?)?);
        }
    }
    rules.sort();
    Ok(rules)
}

/// Wipes a rule's record behind the agent's back.
pub fn delete_rule(bpffs: &Path, rule: &KernelRule) -> Result<()> {
    let map = rules_map(bpffs)?;
    run(Command::new("bpftool")
        .args(["map", "update", "pinned"])
        .arg(map)
        .arg("key")
        .args(rule.record.to_ne_bytes().map(|byte| byte.to_string()))
        .arg("value")
        .args(["0"; RECORD_BYTES]))
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
    Ok(layout.path().join("records"))
}

/// A record of an IPv4 rule begins with its address in host byte order, and has at 19 the length of its
/// prefix and at 20 its IP version. Bit 3 of 18 says that it lets pass, the highest of 23 that its rule is gone.
fn rule(row: &Value) -> Result<Option<KernelRule>> {
    let (key, value) = (bytes(&row["key"])?, bytes(&row["value"])?);
    let guards = value.get(18).is_some_and(|byte| byte & 8 != 0);
    let gone = value.get(23).is_some_and(|byte| byte & 0x80 != 0);
    if guards || gone || value.get(20) != Some(&4) {
        return Ok(None);
    }
    let record = key.try_into().ok().with_context(|| row.to_string())?;
    let (address, _) = value.split_first_chunk().with_context(|| row.to_string())?;
    let prefix = format!("{}/{}", Ipv4Addr::from(u32::from_ne_bytes(*address)), value[19]);
    Ok(Some(KernelRule { prefix, record: u32::from_ne_bytes(record) }))
}

fn bytes(list: &Value) -> Result<Vec<u8>> {
    let list = list.as_array().with_context(|| list.to_string())?;
    let numbers = list.iter().filter_map(Value::as_str);
    Ok(numbers
        .map(|byte| u8::from_str_radix(byte.trim_start_matches("0x"), 16))
        .collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_of_bpftool_is_a_prefix() -> Result<()> {
        let mut value = vec!["0x00"; RECORD_BYTES];
        value[..4].copy_from_slice(&["0x00", "0x01", "0x4e", "0x0a"]);
        (value[19], value[20]) = ("0x18", "0x04");
        let row = json!({"key": ["0x07", "0x00", "0x00", "0x00"], "value": value});
        let found = rule(&row)?.context("a rule")?;
        assert_eq!((found.prefix.as_str(), found.record), ("10.78.1.0/24", 7));
        Ok(())
    }
}
