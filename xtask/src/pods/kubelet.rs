//! What Kubernetes does between a workload and its pods: takes the template, fills in the node, lays secrets
//! and config maps out as files. What the chart says of containers stays as it is.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// The objects of a rendered chart.
pub(crate) struct Objects(Vec<Value>);

/// One machine of a cluster.
pub(crate) struct Node {
    /// Its name, which is also the pod's.
    pub(crate) name: String,
    /// Its files that are not shared with the other nodes of this kernel.
    pub(crate) folder: PathBuf,
    /// Folders of the host that are elsewhere on this one.
    pub(crate) moved: BTreeMap<String, PathBuf>,
    /// Names of services, and the address behind them.
    pub(crate) services: (Vec<String>, String),
}

/// A pod to play, and what its kubelet would ask it.
pub(crate) struct Pod {
    pub(crate) manifest: Value,
    /// Commands of the probes of its first container.
    pub(crate) probes: Vec<Vec<String>>,
}

impl Objects {
    /// Reads what `helm template` printed.
    pub(crate) fn read(yaml: &str) -> Result<Self> {
        let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("rendered chart")?;
        Ok(Self(all.into_iter().filter(|object| !object.is_null()).collect()))
    }

    fn find(&self, kind: &str, name: &str) -> Result<&Value> {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.0.iter().find(is_it).with_context(|| format!("{kind} {name}: not in the chart"))
    }

    /// The pod of a workload on a node.
    pub(crate) fn pod(&self, kind: &str, name: &str, node: &Node) -> Result<Pod> {
        let workload = self.find(kind, name)?;
        let mut template = workload["spec"]["template"].clone();
        let claims = workload["spec"]["volumeClaimTemplates"].as_array();
        let claims = claims.into_iter().flatten().map(
            |claim| json!({"name": claim["metadata"]["name"], "emptyDir": {}, "isClaim": true}),
        );
        let spec = &mut template["spec"];
        let owner = spec["securityContext"]["fsGroup"].as_u64().unwrap_or(0);
        let owner = u32::try_from(owner).context("fsGroup")?;
        let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        volumes.extend(claims);
        for volume in &mut volumes {
            *volume = self.laid_out(volume, node, owner)?;
        }
        volumes.push(hosts(node)?);
        spec["volumes"] = volumes.into();
        // The pod's network is there: the namespace that podman itself is started in.
        spec["hostNetwork"] = true.into();
        // This podman would start init containers again and again, also after success.
        spec["restartPolicy"] = "OnFailure".into();
        let probes = probes(&spec["containers"][0]);
        let mut annotations = serde_json::Map::new();
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                settle(container, node);
                let container = container["name"].as_str().context("container without a name")?;
                // This podman reads the annotation that came before the field.
                annotations.insert(
                    format!("container.seccomp.security.alpha.kubernetes.io/{container}"),
                    "localhost/seccomp.json".into(),
                );
            }
        }
        let labels = &template["metadata"]["labels"];
        let metadata = json!({"name": node.name, "labels": labels, "annotations": annotations});
        let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        Ok(Pod { manifest, probes })
    }

    /// A volume as a folder of this machine.
    fn laid_out(&self, volume: &Value, node: &Node, owner: u32) -> Result<Value> {
        let name = volume["name"].as_str().context("volume without a name")?;
        let folder = node.folder.join(name);
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            let path = node.moved.get(path).map_or(Path::new(path), PathBuf::as_path);
            return Ok(
                json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}),
            );
        }
        fs::create_dir_all(&folder)?;
        chown(&folder, Some(owner), Some(owner))?;
        let (kind, object) =
            match (volume["secret"]["secretName"].as_str(), volume["configMap"]["name"].as_str()) {
                (Some(object), _) => ("Secret", object),
                (_, Some(object)) => ("ConfigMap", object),
                _ => {
                    return Ok(
                        json!({"name": name, "hostPath": {"path": folder, "type": "Directory"}}),
                    );
                }
            };
        let data = &self.find(kind, object)?["data"];
        let source = if kind == "Secret" { &volume["secret"] } else { &volume["configMap"] };
        for item in source["items"].as_array().context("a volume names its files")? {
            let (key, path) = (item["key"].as_str(), item["path"].as_str());
            let (key, path) = key.zip(path).context("an item has key and path")?;
            let text = data[key].as_str().with_context(|| format!("{kind} {object}: no {key}"))?;
            let content = match kind {
                "Secret" => BASE64_STANDARD.decode(text)?,
                _ => text.as_bytes().to_vec(),
            };
            let file = folder.join(path);
            fs::write(&file, content)?;
            chown(&file, Some(owner), Some(owner))?;
        }
        Ok(json!({"name": name, "hostPath": {"path": folder, "type": "Directory"}}))
    }
}

/// The file that a kubelet mounts over /etc/hosts; it stands for the cluster's resolver as well.
fn hosts(node: &Node) -> Result<Value> {
    let (names, address) = &node.services;
    fs::create_dir_all(&node.folder)?;
    let file = node.folder.join("hosts");
    fs::write(&file, format!("127.0.0.1 localhost\n{address} {}\n", names.join(" ")))?;
    Ok(json!({"name": "hosts", "hostPath": {"path": file, "type": "File"}}))
}

/// Fills in what only the node knows, and takes the probes out, which the caller asks itself.
fn settle(container: &mut Value, node: &Node) {
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        if variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName" {
            *variable = json!({"name": variable["name"], "value": node.name});
        }
    }
    if let Some(mounts) = container["volumeMounts"].as_array_mut() {
        mounts.push(json!({"name": "hosts", "mountPath": "/etc/hosts", "readOnly": true}));
    }
    if let Some(fields) = container.as_object_mut() {
        // Ports only tell people something in a network that is there already.
        fields.retain(|field, _| !field.ends_with("Probe") && field != "ports");
    }
}

fn probes(container: &Value) -> Vec<Vec<String>> {
    let command = |probe: &Value| {
        let words = probe["exec"]["command"].as_array()?;
        Some(words.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect())
    };
    ["startupProbe", "readinessProbe", "livenessProbe"]
        .iter()
        .filter_map(|probe| command(&container[*probe]))
        .collect()
}
