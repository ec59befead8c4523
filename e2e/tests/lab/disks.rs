//! `kctl disks` over the fleet. The hosts of the lab share one kernel, which the test asks as well.

use std::{collections::BTreeSet, fs, os::fd::AsRawFd as _, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::with_lab;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

/// A loop device of the test, detached at its end.
struct Loop {
    device: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn attach() -> Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(1 << 20)?;
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show", "--read-only"]).arg(file.path()).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(Self { device: String::from_utf8(output.stdout)?.trim().to_owned(), _file: file })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

#[test]
fn every_host_tells_its_devices_and_their_numbers() -> Result<()> {
    with_lab(2, |lab| {
        let looped = Loop::attach()?;
        let name = looped.device.strip_prefix("/dev/").context("a device")?;
        lab.agent_mut("web-2")?.daemon.kill9()?;
        let rows = lab.json(&["disks", "--name", &looped.device])?;
        assert_eq!(rows[1]["error"]["code"], "UNAVAILABLE", "{rows}");
        let disk = &rows[0]["disks"][0];
        assert_eq!(rows[0]["host"], "web-1");
        assert_eq!(disk["name"], name, "{rows}");
        assert_eq!(disk["type"], "loop");
        assert_eq!((&disk["size_bytes"], &disk["read_only"]), (&(1 << 20).into(), &true.into()));
        let stats = fs::read_to_string("/proc/diskstats")?;
        let line = stats.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
        let reads = line.and_then(|line| line.split_whitespace().nth(3)).context("a line")?;
        assert_eq!(disk["io"]["reads"]["count"].to_string(), reads, "{rows}");
        assert_eq!(disk["rates"], Value::Null);

        // On the host itself, with no controller, watched for a while.
        let args = ["disks", "--name", name, "--interval", "100ms", "-o", "json"];
        let local = lab.kctl_on("web-1", &args)?.code(0)?.json()?;
        ensure!(local[0]["disks"][0]["rates"]["writes_per_second"] == 0.0, "{local}");
        let table = lab.kctl(&["disks", "-o", "wide"])?.code(0)?;
        ensure!(table.stdout.starts_with("HOST") && table.stdout.contains("SCHEDULER"), "{table}");
        ensure!(table.stdout.contains(name), "{table}");
        let none = lab.kctl_on("web-1", &["disks", "--name", "nosuch"])?.code(1)?;
        ensure!(none.to_string().contains("disk \"nosuch\": no such block device"), "{none}");
        let jsonl = lab.kctl(&["disks", "-o", "jsonl", "--strict"])?.code(3)?;
        ensure!(jsonl.stdout.lines().count() == 2, "{jsonl}");
        Ok(())
    })
}

#[test]
fn mounts_are_shown_with_how_full_they_are() -> Result<()> {
    with_lab(1, |lab| {
        let rows = lab.json(&["disks", "--mounts", "--all"])?;
        let mounts = rows[0]["mounts"].as_array().context("mounts")?;
        let root: Vec<_> = mounts.iter().filter(|mount| mount["path"] == "/").collect();
        ensure!(root.len() == 1, "{rows}");
        let df = Command::new("df").args(["-B1", "--output=size,itotal", "/"]).output()?;
        let df = String::from_utf8(df.stdout)?;
        let told: Vec<u64> = df.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let ours = (root[0]["total_bytes"].as_u64(), root[0]["inodes_total"].as_u64());
        assert_eq!(ours, (Some(told[0]), Some(told[1])), "{rows}");
        let kinds: BTreeSet<_> =
            mounts.iter().filter_map(|mount| mount["fs_type"].as_str()).collect();
        ensure!(kinds.contains("proc") && kinds.contains("sysfs"), "{rows}");
        let usual = lab.kctl(&["disks", "--mounts"])?.code(0)?;
        ensure!(usual.stdout.starts_with("HOST") && !usual.stdout.contains("sysfs"), "{usual}");
        Ok(())
    })
}

#[test]
fn a_server_that_is_gone_costs_its_own_mount_alone() -> Result<()> {
    // The lab inherits the mounts of this thread: nobody else shall meet a file system that hangs.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    with_lab(2, |lab| {
        let folder = lab.scratch().join("gone");
        fs::create_dir(&folder)?;
        // A FUSE file system whose daemon never answers.
        let server = fs::File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("gone"), &folder, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        let answer = lab.kctl(&["disks", "--mounts", "-o", "json"]);
        let again = lab.kctl(&["disks", "--mounts", "-o", "json"]);
        // Before anything can fail: the end of the lab would wait for it.
        drop(server);
        nix::mount::umount2(&folder, nix::mount::MntFlags::MNT_DETACH)?;
        for (answer, why) in [(answer?, "within 500 ms"), (again?, "earlier question")] {
            let answer = answer.code(0)?;
            ensure!(answer.elapsed < Duration::from_secs(4), "{answer}");
            let rows = answer.json()?;
            for host in [0, 1] {
                let mounts = rows[host]["mounts"].as_array().context("mounts")?;
                let find = |path: &str| mounts.iter().find(|mount| mount["path"] == path);
                let gone = find(folder.to_str().context("text")?).context("not shown")?;
                ensure!(gone["error"].as_str().is_some_and(|error| error.contains(why)), "{gone}");
                let root = find("/").context("no root")?;
                ensure!(root["total_bytes"].as_u64() > Some(0), "{root}");
            }
        }
        Ok(())
    })
}
