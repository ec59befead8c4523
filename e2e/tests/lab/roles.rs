//! Users of the real kctl: what a role and a scope let them do, and how they are cut off.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{until, with_lab};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn an_operator_of_some_hosts_does_what_is_granted_until_revoked() -> Result<()> {
    with_lab(1, |lab| {
        let file = lab.scratch().join("ann.toml");
        let path = file.display().to_string();
        let made = lab.json(&[
            "user", "create", "ann", "--role", "operator", "--scope", "role=web", "--file", &path,
        ])?;
        ensure!(made["role"] == "operator" && made["scope"] == "role=web", "{made}");
        ensure!(made["config"].is_null(), "the key is in the file alone");
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        lab.kctl(&["user", "create", "bob", "--file", &path])?
            .code(1)?
            .stderr_says("can't be made")?;

        let ann = |args: &[&str]| lab.kctl_as(&file, args);
        let hosts = ann(&["hosts", "-o", "json"])?.code(0)?.json()?;
        ensure!(hosts[0]["name"] == "web-1", "{hosts}");
        ann(&["block", "10.99.0.1", "-l", "role=web", "--timeout", "10s"])?.code(0)?;
        ann(&["block", "10.99.0.2", "--all-hosts"])?.code(1)?.stderr_says("-l role=web")?;
        ann(&["user", "list"])?.code(1)?.stderr_says("role admin")?;
        ann(&["sysctl", "set", "net.core.somaxconn=4096", "-l", "role=web"])?
            .code(1)?
            .stderr_says("role admin")?;
        let environment = ann(&["proc", "1", "env", "--host", "web-1"])?;
        environment.code(1)?.stderr_says("role admin")?;

        // A viewer of the same hosts sees processes, and not how they were called.
        let viewer = lab.scratch().join("vic.toml");
        let path = viewer.display().to_string();
        lab.kctl(&["user", "create", "vic", "--file", &path])?.code(0)?;
        for (config, shown) in [(&file, true), (&viewer, false)] {
            let ps = lab.kctl_as(config, &["ps", "-o", "json"])?.code(0)?.json()?;
            let processes = ps[0]["processes"].as_array().context("processes")?;
            let args = |process: &serde_json::Value| {
                process["args"].as_array().is_some_and(|args| !args.is_empty())
            };
            ensure!(processes.iter().any(args) == shown, "{}", config.display());
            let line = lab.kctl_as(config, &["cat", "/proc/1/cmdline", "--host", "web-1"])?;
            ensure!((line.code == 0) == shown, "{line}");
        }

        // Everything of that is in the log, and the log is whole.
        let lines = lab.json(&["audit", "--user", "ann"])?;
        let lines = lines.as_array().context("lines")?;
        let find = |what: &str| lines.iter().find(|line| line["what"] == what);
        let blocked = find("block 10.99.0.1/32").context("the block")?;
        ensure!(blocked["outcome"] == "ok" && blocked["hosts"] == "role=web", "{blocked}");
        let beyond = find("block 10.99.0.2/32").context("what was refused")?;
        ensure!(beyond["outcome"].as_str().is_some_and(|it| it.contains("scope")), "{beyond}");
        find("SetValue").context("what the role does not allow")?;
        let csv = lab.kctl(&["audit", "--user", "ann", "-o", "csv"])?.code(0)?;
        ensure!(csv.stdout.lines().count() == lines.len() + 1, "{csv}");
        let verified = lab.json(&["audit", "--verify"])?;
        let head = verified["head"].as_str().context("a head")?;
        lab.kctl(&["audit", "--verify", "--head", head])?.code(0)?;
        let wrong = format!("1:{}", "00".repeat(32));
        lab.kctl(&["audit", "--verify", "--head", &wrong])?.code(1)?.stderr_says("rewritten")?;

        // An open stream ends with the user, and is not begun again.
        ann(&["user", "renew"])?.code(0)?;
        lab.kctl(&["context", "import", &file.display().to_string(), "--name", "ann"])?.code(0)?;
        let mut events = lab.events(&["-f", "--context", "ann"])?;
        let file_name = "/tmp";
        until("ann hears of a process", SOON, || {
            let mut ls = std::process::Command::new("ls");
            ls.arg(file_name);
            lab.on_host("web-1", &ls)?;
            Ok(!events.events()?.is_empty())
        })?;
        lab.kctl(&["user", "revoke", "ann"])?.code(0)?;
        let status = events.wait()?;
        ensure!(status.code() == Some(1), "{status}: {}", events.stderr()?);
        ensure!(events.stderr()?.contains("revoked"), "{}", events.stderr()?);
        ann(&["hosts"])?.code(1)?.stderr_says("revoked")?;
        Ok(())
    })
}

/// The lines of a key in PEM form, or the one word that a secret is.
fn lines_of(secret: &str) -> impl Iterator<Item = &str> {
    secret.lines().map(str::trim).filter(|line| line.len() > 20 && !line.starts_with("---"))
}

const NO_SECRET: &str = "notasecretthatworksbutlongenough";

#[test]
fn no_log_holds_a_secret() -> Result<()> {
    with_lab(0, |lab| {
        lab.controller().terminate()?;
        lab.controller().set(&["KCTL_LOG=debug"])?;
        lab.start_controller()?;
        let token = lab.token(&[])?;
        let agent = lab.add_host(&token)?;
        agent.daemon.set(&["KCTL_LOG=debug"])?;
        agent.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let ann = lab.scratch().join("ann.toml");
        lab.kctl(&["user", "create", "ann", "--file", &ann.display().to_string()])?.code(0)?;
        lab.kctl_as(&ann, &["hosts"])?.code(0)?;
        lab.kctl(&["ca", "rotate"])?.code(0)?;
        // One that does not work is told, and not shown.
        let parts: Vec<_> = token.split('.').collect();
        let wrong = [parts[0], parts[1], NO_SECRET, parts[3]].join(".");
        let refused = &mut lab.add_host(&wrong)?.daemon;
        refused.set(&["KCTL_LOG=debug"])?;
        refused.start()?;
        until("it is refused", SOON, || Ok(lab.agent("web-2")?.daemon.log().contains("token")))?;

        let mut secrets = vec![parts[2].to_owned(), NO_SECRET.to_owned()];
        for name in ["ca.key", "ca-next.key", "server.key"] {
            secrets.push(fs::read_to_string(lab.data_dir().join(name)).context(name)?);
        }
        for file in [lab.admin_config(), ann] {
            let config: toml::Value = toml::from_str(&fs::read_to_string(file)?)?;
            let contexts = config["contexts"].as_table().context("contexts")?;
            let keys = contexts.values().filter_map(|context| context["key"].as_str());
            secrets.extend(keys.map(str::to_owned));
        }
        let identity = fs::read_to_string(lab.agent("web-1")?.state_dir.join("identity.toml"))?;
        let identity: toml::Value = toml::from_str(&identity)?;
        secrets.push(identity["key"].as_str().context("a key")?.to_owned());

        let logs = [lab.agent("web-1")?.daemon.log(), lab.agent("web-2")?.daemon.log()];
        for log in logs.into_iter().chain([lab.controller().log()]) {
            ensure!(log.contains("DEBUG"), "there is little to see: {log}");
            ensure!(!log.contains("PRIVATE KEY"), "a key is in it");
            for line in secrets.iter().flat_map(|secret| lines_of(secret)) {
                ensure!(!log.contains(line), "{line:?} is in it");
            }
        }
        Ok(())
    })
}
