//! What Prometheus and probes are told, as curl and raw sockets see it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{
    ATTACKER, Answer, CONTROLLER, Daemon, Foreign, Lab, WORKSTATION, block_attacker, curl, metrics,
    metrics_url, ping, sample, until, with_lab,
};

const SOON: Duration = Duration::from_secs(60);

/// Types by name.
fn told(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Types by name, as the tables of the document have them that stand below a word.
fn documented(parts: &[&str]) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(repository("docs/metrics.md"))?;
    let mut part = "";
    let mut all = BTreeMap::new();
    for line in text.lines() {
        if line.ends_with(':') {
            part = line;
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, name, kind, ..] = cells[..]
            && let Some(name) = name.strip_prefix('`').and_then(|it| it.strip_suffix('`'))
            && parts.contains(&part)
        {
            all.insert(name.to_owned(), kind.to_owned());
        }
    }
    Ok(all)
}

#[test]
fn what_is_served_is_what_is_documented_and_counts_what_happens() -> Result<()> {
    with_lab(1, |lab| {
        let before = metrics(lab, "web-1")?;
        assert_eq!(told(&before), documented(&["Both:", "The agent:"])?);
        let controller = metrics(lab, CONTROLLER)?;
        assert_eq!(told(&controller), documented(&["Both:", "The controller:"])?);
        for text in [&before, &controller] {
            ensure!(text.ends_with("# EOF\n"), "{text}");
            // Unix time in seconds is beyond 2026, and the certificate's end is after now.
            let end =
                sample(text, "kctl_certificate_expiry_timestamp_seconds{certificate=\"own\"}")?;
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64();
            ensure!(end > now, "{end} is over");
        }
        drops_are_those_that_ping_lost(lab)?;

        let controller = metrics(lab, CONTROLLER)?;
        assert_eq!(sample(&controller, "kctl_controller_hosts{state=\"connected\"}")?, 1.0);
        assert_eq!(sample(&controller, "kctl_controller_host_in_sync{host=\"web-1\"}")?, 1.0);
        let revision = sample(&controller, "kctl_controller_revision")?;
        assert_eq!(revision, sample(&metrics(lab, "web-1")?, "kctl_agent_revision")?);
        let of_store = sample(&controller, "kctl_controller_disk_bytes{file=\"store\"}")?;
        ensure!(of_store >= fs::metadata(lab.data_dir().join("store.db"))?.len() as f64);
        let block = "method=\"kctl.controller.v1.BlocklistService/Block\",code=\"OK\"";
        let count = format!("kctl_rpc_duration_seconds_count{{{block}}}");
        assert_eq!(sample(&controller, &count)?, 1.0);

        lab.cut("web-1")?;
        until("the host is told as disconnected", SOON, || {
            let page = metrics(lab, CONTROLLER)?;
            Ok(sample(&page, "kctl_controller_host_connected{host=\"web-1\"}")? == 0.0)
        })?;
        Ok(())
    })
}

fn drops_are_those_that_ping_lost(lab: &Lab) -> Result<()> {
    block_attacker(lab)?;
    let dropped = || -> Result<(f64, f64)> {
        let page = metrics(lab, "web-1")?;
        Ok((
            sample(&page, "kctl_agent_filter_packets_total{verdict=\"dropped\"}")?,
            sample(&page, "kctl_agent_filter_bytes_total{verdict=\"dropped\"}")?,
        ))
    };
    let (host, attacker) = (lab.place("web-1")?, lab.place(ATTACKER)?);
    let before = dropped()?;
    assert_eq!(ping(&attacker.namespace, None, host.v4.into(), 20)?, 0);
    let after = dropped()?;
    // An echo request of ping: 56 bytes of data, 8 of ICMP, 20 of IP, 14 of Ethernet.
    assert_eq!((after.0 - before.0, after.1 - before.1), (20.0, 20.0 * 98.0));
    // Of IPv6 the attempts to find the neighbour are dropped too, and there may be nothing else.
    assert_eq!(ping(&attacker.namespace, None, host.v6.into(), 3)?, 0);
    ensure!(dropped()?.0 > after.0);
    Ok(())
}

#[test]
fn probes_say_what_is_and_only_get_is_served() -> Result<()> {
    with_lab(0, |lab| {
        let token = lab.token(&[])?;
        lab.add_host(&token)?;
        let foreign = Foreign::attach(lab, "web-1")?;
        let agent = &mut lab.agent_mut("web-1")?.daemon;
        agent.arg("--mode");
        agent.arg("xdp-native");
        agent.start()?;
        let probe = |lab: &Lab, path: &str| {
            curl(lab, "web-1", &[&format!("{}/{path}", metrics_url("web-1"))])
        };
        until("the agent is alive", SOON, || Ok(probe(lab, "healthz")?.status == 200))?;
        let ready = probe(lab, "readyz")?;
        ensure!(ready.status == 503 && ready.body.contains("XDP program"), "{ready:?}");
        drop(foreign);
        until("the agent is ready", SOON, || Ok(probe(lab, "readyz")?.status == 200))?;

        for path in ["healthz", "readyz"] {
            let answer = curl(lab, CONTROLLER, &[&format!("{}/{path}", metrics_url(CONTROLLER))])?;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer =
                curl(lab, "web-1", &["-X", method, &format!("{}/metrics", metrics_url("web-1"))])?;
            assert_eq!(answer.status, 405, "{method}");
        }
        assert_eq!(probe(lab, "")?.status, 404);
        assert_eq!(probe(lab, "metrics/")?.status, 404);

        // A stopped store thread would look like this: nothing answers.
        lab.agent_mut("web-1")?.daemon.terminate()?;
        assert_eq!(probe(lab, "healthz")?.status, 0);
        Ok(())
    })
}

/// Files with a certificate and key of the admin, and the CA.
fn identity(lab: &Lab) -> Result<[String; 3]> {
    let config: toml::Value = toml::from_str(&fs::read_to_string(lab.admin_config())?)?;
    let mut files = Vec::new();
    for field in ["ca", "certificate", "key"] {
        let text = config["contexts"]["default"][field].as_str().context("text")?;
        let path = lab.scratch().join(format!("admin.{field}"));
        fs::write(&path, text)?;
        files.push(path.display().to_string());
    }
    files.try_into().ok().context("three files")
}

fn listen_everywhere(daemon: &mut Daemon, port: u16, token: &Path) {
    let (listen, token) = (format!("0.0.0.0:{port}"), token.display().to_string());
    for arg in ["--metrics-listen", &listen, "--metrics-token-file", &token] {
        daemon.arg(arg);
    }
}

#[test]
fn outside_of_loopback_it_is_tls_and_metrics_want_a_certificate_or_a_token() -> Result<()> {
    with_lab(0, |lab| {
        let token_file = lab.scratch().join("metrics.token");
        fs::write(&token_file, "first\n")?;
        lab.controller().terminate()?;
        listen_everywhere(lab.controller(), 7480, &token_file);
        lab.controller().arg("--name");
        lab.controller().arg("ctl");
        fs::remove_file(lab.admin_config())?;
        lab.start_controller()?;
        let token = lab.token(&[])?;
        listen_everywhere(&mut lab.add_host(&token)?.daemon, 7481, &token_file);
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let [ca, certificate, key] = identity(lab)?;
        for (name, place, port) in [("web-1", "web-1", 7481), ("ctl", CONTROLLER, 7480)] {
            let address = lab.place(place)?.v4;
            let resolve = format!("{name}:{port}:{address}");
            let get = |path: &str, more: &[&str]| {
                let url = format!("https://{name}:{port}/{path}");
                let args = ["--resolve", &resolve, "--cacert", &ca, &url];
                curl(lab, WORKSTATION, &[&args, more].concat())
            };
            assert_eq!(get("healthz", &[])?.status, 200, "{name}");
            assert_eq!(get("readyz", &[])?.status, 200, "{name}");
            assert_eq!(get("metrics", &[])?.status, 401, "{name}");
            let shown = ["--cert", &certificate, "--key", &key];
            assert_eq!(get("metrics", &shown)?.status, 200, "{name}");
            let bearer = |token: &str| format!("Authorization: Bearer {token}");
            assert_eq!(get("metrics", &["-H", &bearer("first")])?.status, 200, "{name}");
            assert_eq!(get("metrics", &["-H", &bearer("firs")])?.status, 401, "{name}");
            fs::write(&token_file, "second\n")?;
            assert_eq!(get("metrics", &["-H", &bearer("first")])?.status, 401, "{name}");
            assert_eq!(get("metrics", &["-H", &bearer("second")])?.status, 200, "{name}");
            fs::write(&token_file, "first\n")?;
            let clear = curl(lab, WORKSTATION, &[&format!("http://{address}:{port}/healthz")])?;
            assert_eq!(clear.status, 0, "{clear:?}");
            assert_eq!(stranger(lab, &resolve, &ca, name, port)?.status, 0, "{name}");
        }
        Ok(())
    })
}

/// With a certificate of another CA.
fn stranger(lab: &Lab, resolve: &str, ca: &str, name: &str, port: u16) -> Result<Answer> {
    let [key, certificate] = ["key", "pem"].map(|it| lab.scratch().join(format!("stranger.{it}")));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", "/CN=admin", "-addext", "subjectAltName=URI:kctl://user/admin"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
    let url = format!("https://{name}:{port}/metrics");
    let args = ["--resolve", resolve, "--cacert", ca, "--cert", &certificate, "--key", &key, &url];
    curl(lab, WORKSTATION, &args)
}

#[test]
fn a_taken_port_is_a_warning_and_off_is_off() -> Result<()> {
    with_lab(0, |lab| {
        let token = lab.token(&[])?;
        lab.add_host(&token)?;
        let namespace = &lab.place("web-1")?.namespace;
        let taken = namespace.within(|| TcpListener::bind("127.0.0.1:7481"))??;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let log = lab.agent("web-1")?.daemon.log();
        let line =
            log.lines().find(|line| line.contains("metrics: not served")).context("a line")?;
        ensure!(line.contains("127.0.0.1:7481") && line.contains("--metrics-listen"), "{line}");
        // Nobody looks at it as at a terminal.
        serde_json::from_str::<serde_json::Value>(line)?;
        drop(taken);

        let agent = &mut lab.agent_mut("web-1")?.daemon;
        agent.terminate()?;
        agent.arg("--metrics-listen");
        agent.arg("off");
        agent.start()?;
        lab.wait_in_sync(SOON)?;
        assert_eq!(curl(lab, "web-1", &[&format!("{}/healthz", metrics_url("web-1"))])?.status, 0);

        let agent = &mut lab.agent_mut("web-1")?.daemon;
        agent.terminate()?;
        agent.replace("--metrics-listen", "everywhere")?;
        agent.start()?;
        ensure!(!agent.wait(SOON)?.success());
        ensure!(agent.log().contains("metrics-listen \"everywhere\""), "{}", agent.log());
        Ok(())
    })
}

#[test]
fn connections_that_say_nothing_are_bounded_and_in_nobodys_way() -> Result<()> {
    with_lab(1, |lab| {
        let pid = lab.agent("web-1")?.daemon.pid()?;
        let open = || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
        let before = open()?;
        let namespace = &lab.place("web-1")?.namespace;
        let slow = namespace.within(|| -> Result<Vec<TcpStream>> {
            (0..300)
                .map(|number| {
                    let mut stream = TcpStream::connect("127.0.0.1:7481")?;
                    if number % 2 == 0 {
                        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ")?;
                    }
                    Ok(stream)
                })
                .collect()
        })??;
        metrics(lab, "web-1")?;
        // 64 of them, and whatever the agent does besides.
        let now = open()?;
        ensure!(now < before + 100, "{before} files, then {now}");
        for mut stream in slow {
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            let mut answer = Vec::new();
            // A reset is an end too.
            if let Err(error) = stream.read_to_end(&mut answer) {
                ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
            }
            ensure!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        }
        until("all of them are gone", SOON, || Ok(open()? < before + 20)).map(drop)
    })
}

#[test]
fn the_alert_rules_are_good_and_ask_for_metrics_that_there_are() -> Result<()> {
    let rules = repository("charts/kctl/alert-rules.yaml");
    promtool("check", &rules)?;
    let all = documented(&["Both:", "The agent:", "The controller:"])?;
    let text = fs::read_to_string(rules)?;
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut seen = 0;
    for word in words.filter(|it| it.starts_with("kctl_")) {
        let name = ["_total", "_count", "_sum", "_bucket"]
            .iter()
            .find_map(|suffix| word.strip_suffix(suffix))
            .unwrap_or(word);
        ensure!(all.contains_key(name), "{word}: not in docs/metrics.md");
        seen += 1;
    }
    ensure!(seen > 5, "{seen}");
    Ok(())
}

#[test]
fn every_alert_fires_when_it_should_and_not_otherwise() -> Result<()> {
    let tests = repository("charts/kctl/ci/alert-rules.test.yaml");
    promtool("test", &tests)?;
    let (tests, rules) = (fs::read_to_string(tests)?, repository("charts/kctl/alert-rules.yaml"));
    let rules = fs::read_to_string(rules)?;
    let names: Vec<_> =
        rules.lines().filter_map(|it| it.trim().strip_prefix("- alert: ")).collect();
    ensure!(names.len() > 5, "{names:?}");
    let cases: Vec<_> = tests.split("alertname: ").skip(1).collect();
    for name in names {
        let of = |fires: bool| {
            let own = |case: &&&str| case.starts_with(name) && case.contains("exp_labels") == fires;
            cases.iter().filter(own).count()
        };
        ensure!(of(true) > 0 && of(false) > 0, "{name}: wants a case that fires and a quiet one");
    }
    Ok(())
}

/// The queries of the dashboard, as rules.
#[test]
fn the_dashboard_asks_what_prometheus_understands() -> Result<()> {
    let dashboard = fs::read_to_string(repository("charts/kctl/dashboard.json"))?;
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|it| it["targets"].as_array()).flatten();
    let queries = targets.filter_map(|it| it["expr"].as_str());
    let rules: Vec<_> = queries
        .map(|it| it.replace("$__rate_interval", "5m"))
        .enumerate()
        .map(|(at, expr)| serde_json::json!({"record": format!("query_{at}"), "expr": expr}))
        .collect();
    ensure!(rules.len() > 10, "{rules:?}");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rules.yaml");
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&file, groups.to_string())?;
    promtool("check", &file)
}

fn promtool(what: &str, rules: &Path) -> Result<()> {
    let checked = Command::new("promtool").args([what, "rules"]).arg(rules).output();
    let checked = checked.context("promtool: install the package prometheus")?;
    ensure!(checked.status.success(), "{checked:?}");
    Ok(())
}
