//! `kctl proc` over the fleet. The hosts of the lab share one /proc, which the test reads as well.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, Output, Spawned, until, with_lab};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const SECRET: &str = "s3cret\u{1b}[31m";

/// A process of the test, killed at its end.
struct Sleeper(Spawned);

impl Sleeper {
    fn start() -> Result<Self> {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=100:200", "sleep", "1000"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TOKEN", SECRET);
        let sleeper = Self(Spawned::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?);
        // Until it sleeps its memory and counters change.
        until("the process runs its program, and sleeps", SOON, || {
            let folder = format!("/proc/{}", sleeper.0.child.id());
            let place = fs::read_to_string(format!("{folder}/wchan"))?;
            Ok(fs::read(format!("{folder}/comm"))? == b"sleep\n" && place.contains("nanosleep"))
        })?;
        Ok(sleeper)
    }
}

#[test]
fn every_noun_of_a_process_is_as_proc_tells() -> Result<()> {
    with_lab(2, |lab| {
        let sleeper = Sleeper::start()?;
        let pid = sleeper.0.child.id().to_string();
        let proc = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let ask = |what: &str| lab.json(&["proc", &pid, what]);

        let rows = lab.json(&["proc", &pid])?;
        let names: Vec<_> =
            rows.as_array().context("rows")?.iter().map(|row| &row["host"]).collect();
        assert_eq!(names, ["web-1", "web-2"]);
        let row = &rows[0];
        assert_eq!((&row["comm"], &row["state_name"]), (&"sleep".into(), &"sleeping".into()));
        assert_eq!(
            (&row["ppid"], &row["command"]),
            (&std::process::id().into(), &"sleep 1000".into())
        );
        assert_eq!(row["uids"]["effective"], serde_json::json!({"id": 0, "name": "root"}));
        let exe = fs::read_link(format!("/proc/{pid}/exe"))?;
        assert_eq!(row["exe"], exe.to_string_lossy().as_ref(), "{row}");
        let status = proc("status")?;
        let told = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(|rest| rest.trim_start_matches(':').trim().to_owned()).context(key.to_owned())
        };
        let rss = row["memory"]["rss_bytes"].as_u64().context("rss")?;
        assert_eq!(told("VmRSS")?, format!("{} kB", rss / 1_024));
        assert_eq!(row["cpus_allowed"], told("Cpus_allowed_list")?);
        // ps tells the same start: it is what signals are checked by.
        let listed = lab.json(&["ps", "--name", "sleep", "--host", "web-1"])?;
        let listed = listed[0]["processes"].as_array().context("processes")?.iter();
        let listed = listed.clone().find(|it| it["pid"] == row["pid"]).context("it is listed")?;
        assert_eq!(listed["start_time"], row["start_time"]);

        let fds = ask("fds")?;
        let ours: BTreeMap<_, _> = list(&fds[1], "fds")
            .map(|fd| (fd["fd"].to_string(), fd["target"].as_str().unwrap_or_default().to_owned()))
            .collect();
        let ls = Command::new("ls").args(["-l", &format!("/proc/{pid}/fd")]).output()?;
        let theirs: BTreeMap<_, _> = String::from_utf8(ls.stdout)?
            .lines()
            .filter_map(|line| {
                let (head, target) = line.split_once(" -> ")?;
                Some((head.split_whitespace().next_back()?.to_owned(), target.to_owned()))
            })
            .collect();
        ensure!(theirs.len() >= 3 && ours == theirs, "{ours:?}\n{theirs:?}");
        assert_eq!(list(&fds[0], "fds").nth(1).context("stdout")?["type"], "pipe");

        let maps = ask("maps")?;
        let starts: Vec<_> = list(&maps[0], "maps").map(|map| map["start"].clone()).collect();
        let lines = proc("maps")?;
        let expected: Vec<Value> = lines
            .lines()
            .filter_map(|line| Some(format!("0x{}", line.split_once('-')?.0).into()))
            .collect();
        assert_eq!(starts, expected);
        ensure!(list(&maps[0], "maps").all(|map| map["usage"].is_null()), "{maps}");
        let used = lab.json(&["proc", &pid, "maps", "--usage", "--host", "web-2"])?;
        let resident = list(&used[0], "maps").filter_map(|it| it["usage"]["rss_bytes"].as_u64());
        ensure!(resident.sum::<u64>() > 0, "{used}");

        let env = ask("env")?;
        let token = list(&env[0], "env").find(|it| it["name"] == "TOKEN").context("TOKEN")?;
        assert_eq!((&token["value"], &token["pid"]), (&SECRET.into(), &row["pid"]));
        let table = lab.kctl(&["proc", &pid, "env"])?.code(0)?;
        ensure!(
            table.stdout.contains("\\u{1b}[31m") && !table.stdout.contains('\u{1b}'),
            "{table}"
        );

        let limits = ask("limits")?;
        let files = list(&limits[0], "limits").find(|it| it["name"] == "open_files");
        let files = files.context("open_files")?;
        assert_eq!((&files["soft"], &files["hard"]), (&100.into(), &200.into()));
        let io = ask("io")?;
        ensure!(io[0]["syscr"].as_u64() > Some(0) && io[0]["pid"] == row["pid"], "{io}");
        let cgroups = ask("cgroup")?;
        assert_eq!(list(&cgroups[0], "cgroups").count(), proc("cgroup")?.lines().count());
        let namespaces = ask("ns")?;
        let net = list(&namespaces[0], "namespaces").find(|it| it["kind"] == "net");
        let link = fs::read_link(format!("/proc/{pid}/ns/net"))?;
        let inode = net.context("net")?["inode"].to_string();
        assert_eq!(link.to_string_lossy(), format!("net:[{inode}]"));
        lab.kctl(&["proc", &pid, "fds", "--usage"])?.code(2)?;
        Ok(())
    })
}

#[test]
fn who_is_gone_is_a_row_and_secrets_are_for_admins() -> Result<()> {
    with_lab(1, |lab| {
        let sleeper = Sleeper::start()?;
        let pid = sleeper.0.child.id().to_string();
        let gone = lab.kctl(&["proc", "4194305", "-o", "json"])?.code(1)?.json()?;
        assert_eq!(gone[0]["error"]["code"], "NOT_FOUND", "{gone}");
        let message = "process \"4194305\": no such process";
        assert_eq!(gone[0]["error"]["message"], message, "{gone}");

        // root on the host itself
        let local = lab.kctl_on("web-1", &["proc", &pid, "env", "-o", "json"])?.code(0)?.json()?;
        ensure!(list(&local[0], "env").any(|it| it["value"] == SECRET), "{local}");
        // somebody else whom the socket lets in
        for what in ["env", "maps"] {
            let refused = as_nobody(lab, &["proc", &pid, what])?.code(1)?;
            let refused = refused.stderr_says("admin")?;
            ensure!(!refused.to_string().contains("s3cret"), "{refused}");
        }
        for what in ["status", "fds", "limits", "io", "cgroup", "ns"] {
            as_nobody(lab, &["proc", &pid, what])?.code(0)?;
        }
        Ok(())
    })
}

/// Runs kctl on web-1 as nobody, with a socket that lets them in, as it does the group kctl.
fn as_nobody(lab: &Lab, args: &[&str]) -> Result<Output> {
    let open =
        |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let socket = &lab.agent("web-1")?.socket;
    open(lab.scratch(), 0o755)?;
    open(socket, 0o666)?;
    // The workspace may be closed to others. Copied by another process: this one may start others for
    // other tests while it is open for writing, and then it is "busy".
    let binary = lab.scratch().join("kctl");
    if !binary.exists() {
        let mut install = Command::new("install");
        install.args(["--mode=755"]).arg(lab.binaries().join("kctl")).arg(&binary);
        ensure!(install.status()?.success(), "install(1) fails");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary);
    command.arg("--agent").arg(format!("unix://{}", socket.display()));
    command.args(args).env("KCTL_CONFIG", "/nonexistent");
    lab.place("web-1")?.namespace.output(command)
}

fn list<'a>(row: &'a Value, noun: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    row[noun].as_array().into_iter().flatten()
}
