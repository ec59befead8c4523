//! What processes and hardware do to the kernel: modules, BPF programs, devices.

use super::{ProcessView, process::process, some};
use kctl_proto::agent::v1::{BpfEvent, ModuleEvent, UeventEvent};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// A kernel module came or went.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Module")]
pub struct ModuleView<'a> {
    /// Who did it.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// Of the module.
    pub name: &'a str,
    /// "load" or "unload".
    pub action: &'a str,
}

/// A BPF program came or went.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Bpf")]
pub struct BpfView<'a> {
    /// Who did it.
    #[serde(flatten)]
    pub process: ProcessView<'a>,
    /// "load" or "unload".
    pub action: &'a str,
    /// Of the program.
    pub id: Option<u32>,
    /// Of the program.
    pub name: Option<&'a str>,
    /// As in bpftool-prog(8): "xdp".
    #[serde(rename = "type")]
    pub kind: Option<&'a str>,
}

/// The kernel tells of a device.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Uevent")]
pub struct UeventView<'a> {
    /// "add", "remove", "change", "move", "online", "offline", "bind", "unbind".
    pub action: &'a str,
    /// Below /sys.
    pub devpath: &'a str,
    /// "net", "block"
    pub subsystem: Option<&'a str>,
    /// Its name below /dev.
    pub devname: Option<&'a str>,
    /// "disk", "partition"
    pub devtype: Option<&'a str>,
    /// Everything else that the kernel says.
    pub properties: BTreeMap<&'a str, &'a str>,
}

impl<'a> From<&'a ModuleEvent> for ModuleView<'a> {
    fn from(event: &'a ModuleEvent) -> Self {
        let process = process(&event.process);
        Self { process, name: &event.name, action: &event.action }
    }
}

impl<'a> From<&'a BpfEvent> for BpfView<'a> {
    fn from(event: &'a BpfEvent) -> Self {
        Self {
            process: process(&event.process),
            action: &event.action,
            id: event.id,
            name: some(&event.name),
            kind: some(&event.r#type),
        }
    }
}

impl<'a> From<&'a UeventEvent> for UeventView<'a> {
    fn from(event: &'a UeventEvent) -> Self {
        let pairs = event.properties.iter();
        Self {
            action: &event.action,
            devpath: &event.devpath,
            subsystem: some(&event.subsystem),
            devname: some(&event.devname),
            devtype: some(&event.devtype),
            properties: pairs.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        }
    }
}
