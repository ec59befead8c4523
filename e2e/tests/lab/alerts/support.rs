//! A host with thresholds, what is told of them, and a file system that is as full as a test says.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use kctl_e2e::{EventReader, Lab};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

/// Generous: debug builds, and a machine that may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const HOST: &str = "web-1";

/// The host's agent with these thresholds, which has no others.
pub(crate) fn with_thresholds(lab: &mut Lab, chosen: &[(&str, &str)], lasting: &str) -> Result<()> {
    let daemon = &mut lab.agent_mut(HOST)?.daemon;
    daemon.terminate()?;
    for (flag, level) in chosen {
        daemon.replace(flag, level)?;
    }
    daemon.arg(format!("--alert-for={lasting}"));
    daemon.arg("--alert-interval=100ms");
    daemon.start()?;
    lab.wait_in_sync(SOON).map(drop)
}

/// A reader of the alerts from now on.
pub(crate) fn follow(lab: &Lab) -> Result<EventReader> {
    let mut reader = lab.events(&["-f", "--last", "1", "--type", "alert"])?;
    // A host that connects is told in every stream.
    reader.wait_for("the stream", SOON, |lines| !lines.is_empty())?;
    Ok(reader)
}

/// The states that were told of a name and an object.
pub(crate) fn states<'a>(events: &'a [Value], name: &str, object: &Value) -> Vec<&'a str> {
    let alerts = events.iter().map(|event| &event["alert"]);
    let of = alerts.filter(|it| it["name"] == name && it["object"] == *object);
    of.filter_map(|it| it["state"].as_str()).collect()
}

/// What the controller says that fires.
pub(crate) fn firing(lab: &Lab) -> Result<Vec<Value>> {
    let host = lab.host(HOST)?;
    host["alerts"].as_array().cloned().with_context(|| host.to_string())
}

/// A small file system that the host sees.
pub(crate) struct Disk {
    path: PathBuf,
}

/// Of its 100 blocks of 64 KiB.
const BLOCK: usize = 64 << 10;

impl Disk {
    pub(crate) fn mount(lab: &Lab, name: &str) -> Result<Self> {
        let path = lab.scratch().join(name);
        fs::create_dir(&path)?;
        let size = format!("size={}", 100 * BLOCK);
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))?;
        Ok(Self { path })
    }

    pub(crate) fn fill(&self, percent: usize) -> Result<()> {
        let file = self.path.join("file");
        let bytes = u64::try_from(percent * BLOCK)?;
        let opened = fs::OpenOptions::new().create(true).truncate(false).write(true).open(file)?;
        opened.set_len(bytes)?;
        nix::fcntl::fallocate(
            &opened,
            nix::fcntl::FallocateFlags::empty(),
            0,
            i64::try_from(bytes.max(1))?,
        )?;
        Ok(())
    }

    pub(crate) fn object(&self) -> Value {
        self.path.display().to_string().into()
    }

    /// Waits until the agent has looked at everything after this call.
    pub(crate) fn wait_for_a_look(&self, events: &mut EventReader) -> Result<()> {
        let seen = states(&events.events()?, "disk", &self.object()).len();
        for (percent, count) in [(99, seen + 1), (1, seen + 2)] {
            self.fill(percent)?;
            let told = |events: &[Value]| states(events, "disk", &self.object()).len() == count;
            events.wait_for("a look", SOON, told)?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
