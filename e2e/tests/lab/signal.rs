//! `kctl signal`: the one process that is meant gets it, and nobody else.

use std::{
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, Output, Spawned, until, with_lab};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A process of the test, killed at its end.
struct Sleeper(Spawned);

impl Sleeper {
    fn start() -> Result<Self> {
        let sleeper = Self(Spawned::start(Command::new("sleep").arg("1000").stdin(Stdio::null()))?);
        until("the process runs its program", SOON, || {
            Ok(fs::read(format!("/proc/{}/comm", sleeper.0.child.id()))? == b"sleep\n")
        })?;
        Ok(sleeper)
    }

    fn pid(&self) -> String {
        self.0.child.id().to_string()
    }

    /// Waits for the signal that ends it.
    fn ended_by(&mut self) -> Result<Option<i32>> {
        let mut status = None;
        until("the process ends", SOON, || {
            status = self.0.child.try_wait()?;
            Ok(status.is_some())
        })?;
        Ok(status.and_then(|status| status.signal()))
    }

    fn runs(&mut self) -> Result<bool> {
        Ok(self.0.child.try_wait()?.is_none())
    }
}

#[test]
fn the_process_that_is_meant_gets_it() -> Result<()> {
    with_lab(2, |lab| {
        let mut sleeper = Sleeper::start()?;
        let pid = sleeper.pid();
        let rows = lab.json(&["proc", &pid, "--host", "web-2"])?;
        let start = rows[0]["start_time"].as_str().context("a start")?;

        // Not this one: nothing is sent.
        let wrong = ["--start-time", "2026-01-02T03:04:05.670Z"];
        for check in [wrong, ["--comm", "slee"]] {
            let refused = signal(lab, &pid, "KILL", &check)?.code(1)?;
            let row = &refused.json()?[0];
            assert_eq!(
                (&row["host"], &row["error"]["code"]),
                (&"web-2".into(), &"FAILED_PRECONDITION".into())
            );
            let message = row["error"]["message"].as_str().unwrap_or_default();
            ensure!(message.starts_with(&format!("process \"{pid}\"")), "{refused}");
            ensure!(message.ends_with("nothing was sent"), "{refused}");
        }
        signal(lab, &pid, "0", &["--comm", "sleep"])?.code(0)?;
        ensure!(sleeper.runs()?, "it was hit");

        let sent = signal(lab, &pid, "SIGUSR1", &["--start-time", start, "--comm", "sleep"])?;
        let row = sent.code(0)?.json()?[0].clone();
        let expected = serde_json::json!({"host": "web-2", "pid": sleeper.0.child.id(), "signal": "USR1",
            "comm": "sleep", "start_time": start});
        assert_eq!(row, expected);
        assert_eq!(sleeper.ended_by()?, Some(10));
        let gone = signal(lab, &pid, "TERM", &["--comm", "sleep"])?.code(1)?.json()?;
        assert_eq!(gone[0]["error"]["code"], "NOT_FOUND", "{gone}");
        // Who did it is in the controller's log, before and after.
        let log = lab.controller().log();
        let line = format!("signal {pid} USR1 started");
        ensure!(log.contains(&line) && log.contains("named sleep"), "no {line:?} in {log}");

        // On the host itself, with no controller.
        let mut sleeper = Sleeper::start()?;
        let args = ["signal", &sleeper.pid(), "TERM", "--comm", "sleep"];
        lab.kctl_on("web-1", &args)?.code(0)?;
        assert_eq!(sleeper.ended_by()?, Some(15));
        let log = lab.agent("web-1")?.daemon.log();
        ensure!(log.contains("local:0") && log.contains("TERM"), "{log}");
        Ok(())
    })
}

#[test]
fn nobody_signals_these_and_everybody_says_whom_they_mean() -> Result<()> {
    with_lab(2, |lab| {
        let listed = lab.json(&["ps", "--name", "kctl-agent", "--host", "web-2"])?;
        let state_dir = lab.agent("web-2")?.state_dir.display().to_string();
        let is_agent = |it: &&Value| {
            it["args"].as_array().is_some_and(|args| args.contains(&state_dir.clone().into()))
        };
        let agents = listed[0]["processes"].as_array().context("processes")?;
        let agent = agents.iter().find(is_agent).context("the agent is listed")?["pid"].to_string();
        for (pid, why) in [("1", "first"), ("2", "kernel thread"), (&agent, "agent itself")] {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
            let refused = signal(lab, pid, "0", &["--comm", comm.trim_end()])?.code(1)?;
            let error = &refused.json()?[0]["error"];
            assert_eq!(error["code"], "FAILED_PRECONDITION", "{refused}");
            ensure!(error["message"].as_str().is_some_and(|it| it.contains(why)), "{refused}");
        }

        let mut sleeper = Sleeper::start()?;
        let pid = sleeper.pid();
        let usage = |args: &[&str]| {
            lab.kctl(&[&["signal", &pid, "KILL"], args].concat())?.code(2).map(drop)
        };
        usage(&["--comm", "sleep"])?;
        usage(&["--comm", "sleep", "--host", "web-1,web-2"])?;
        usage(&["--comm", "sleep", "--host", "web-1", "--host", "web-2"])?;
        usage(&["--comm", "sleep", "--all-hosts"])?;
        // There is no terminal to ask on.
        usage(&["--host", "web-1"])?;
        lab.kctl_on("web-1", &["signal", &pid, "KILL", "--host", "web-1"])?.code(2)?;
        lab.kctl(&["signal", &pid, "KILL", "--comm", "sleep", "--host", "web-9"])?.code(1)?;
        ensure!(sleeper.runs()?, "it was hit");

        // On a terminal a person is asked.
        let no = on_terminal(lab, &pid, "n\n")?;
        ensure!(no.contains("(sleep) of user root") && no.contains("nothing was sent"), "{no}");
        ensure!(sleeper.runs()?, "it was hit");
        let yes = on_terminal(lab, &pid, "y\n")?;
        assert_eq!(sleeper.ended_by()?, Some(9), "{yes}");
        Ok(())
    })
}

fn signal(lab: &Lab, pid: &str, signal: &str, checks: &[&str]) -> Result<Output> {
    let args = ["signal", pid, signal, "--host", "web-2", "-o", "json"];
    lab.kctl(&[&args, checks].concat())
}

/// kctl on a terminal of its own, with what somebody types; what is on the screen.
fn on_terminal(lab: &Lab, pid: &str, typed: &str) -> Result<String> {
    let socket = lab.agent("web-1")?.socket.display().to_string();
    let kctl = lab.binaries().join("kctl");
    let line = format!("{} --agent unix://{socket} signal {pid} KILL", kctl.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("script(1) makes the terminal")?;
    // The end of what is typed only comes with the child's own end.
    let mut input = child.stdin.take().context("piped")?;
    input.write_all(typed.as_bytes())?;
    let output = child.wait_with_output()?;
    drop(input);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
