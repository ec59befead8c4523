//! What kctl, the controller and the join refuse, each with a clear error and with nothing changed.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, CONTROLLER, Lab, Layout, WORKSTATION, ping, until, with_lab};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn malformed_and_misdirected_blocks_are_refused() -> Result<()> {
    with_lab(1, |lab| {
        let empty = file(lab, "empty", "# nothing\n\n")?;
        let bad = file(lab, "bad", "10.0.0.1\n10.0.0.5/33 # too long\n\nnonsense\n")?;
        let usage = [
            (&["not-an-ip", "--all-hosts"][..], "not-an-ip"),
            (&["10.0.0.5/33", "--all-hosts"], "10.0.0.5/33"),
            (&["10.0.0.1", "fd00::/129", "--all-hosts"], "fd00::/129"),
            (&["10.0.0.5/33", "--all-hosts", "--force"], "10.0.0.5/33"),
            (&["--file", &empty, "--all-hosts"], "no prefix"),
            (&["--file", &bad, "--all-hosts"], "2"),
            (&["--file", &bad, "--all-hosts"], "4"),
            (&["10.0.0.1"], "--all-hosts"),
            (&["10.0.0.1", "--all-hosts", "--host", "web-1"], "--host"),
            (&["10.0.0.1", "--all-hosts", "--ttl", "0s"], "ttl"),
            (&["10.0.0.1", "--all-hosts", "--port", "70000"], "70000"),
            (&["--all-hosts"], "prefix"),
        ];
        for (args, says) in usage {
            refused(lab, args, 2, says)?;
        }
        refused(lab, &["10.0.0.1", "--host", "nobody"], 1, "nobody")?;
        refused(lab, &["10.0.0.1", "--host", "web-1,nobody"], 1, "nobody")?;
        refused(lab, &["10.0.0.1", "-l", "role=db"], 1, "role=db")?;
        // A selector without hosts is fine when it is meant.
        lab.kctl(&["block", "10.0.0.1", "-l", "role=db", "--allow-empty"])?.code(0)?;
        Ok(())
    })
}

#[test]
fn addresses_that_must_stay_reachable_are_refused_without_force() -> Result<()> {
    with_lab(2, |lab| {
        let address = |place: &str| -> Result<[String; 2]> {
            Ok(lab.place(place)?.addresses().map(|address| address.to_string()))
        };
        let [controller, _] = address(CONTROLLER)?;
        let [caller, _] = address(WORKSTATION)?;
        let [own_v4, own_v6] = address("web-2")?;
        for prefix in [&*controller, &caller, &own_v4, &own_v6, "10.77.0.0/24", "fd77::/64"] {
            refused(lab, &[prefix, "--all-hosts"], 1, prefix)?;
        }
        for prefix in ["127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0/0", "::/0"] {
            refused(lab, &[prefix, "--all-hosts"], 1, prefix)?;
        }
        // web-1 does not have web-2's address.
        lab.kctl(&["block", &own_v4, "--host", "web-1"])?.code(0)?;
        lab.kctl(&["unblock", &own_v4, "--host", "web-1"])?.code(0)?;

        lab.kctl(&["protect", "add", "10.99.0.1", "--all-hosts"])?.code(0)?;
        refused(lab, &["10.99.0.0/24", "--all-hosts"], 1, "10.99.0.0/24")?;
        lab.kctl(&["protect", "remove", "10.99.0.1", "--all-hosts"])?.code(0)?;
        lab.kctl(&["block", "10.99.0.0/24", "--all-hosts"])?.code(0)?;
        Ok(())
    })
}

#[test]
fn everything_can_be_blocked_by_force_and_unblocked_again() -> Result<()> {
    with_lab(3, |lab| {
        let all = ["0.0.0.0/0", "::/0"];
        lab.kctl(&[&["block", "--force", "--all-hosts"][..], &all].concat())?.code(0)?;
        let attacker = &lab.place(ATTACKER)?.namespace;
        let replies = |lab: &Lab| -> Result<Vec<u32>> {
            let mut replies = Vec::new();
            for host in lab.hosts() {
                for address in lab.place(host)?.addresses() {
                    replies.push(ping(attacker, None, address, 3)?);
                }
            }
            Ok(replies)
        };
        assert_eq!(replies(lab)?, [0; 6]);
        // Not only the connections that are there: new ones pass the guard as well.
        lab.wait_in_sync(SOON)?;
        let answer = lab.json(&["block", "10.99.0.1", "--all-hosts"])?;
        let hosts = answer["hosts"].as_array().context("hosts")?;
        ensure!(hosts.iter().all(|host| host["status"] == "applied"), "{answer}");
        lab.kctl(&[&["unblock", "--all-hosts"][..], &all].concat())?.code(0)?;
        assert_eq!(replies(lab)?, [3; 6]);
        Ok(())
    })
}

#[test]
fn a_host_blocked_from_everything_finds_its_controller_again() -> Result<()> {
    with_lab(1, |lab| {
        lab.kctl(&["block", "0.0.0.0/0", "::/0", "--force", "--all-hosts"])?.code(0)?;
        lab.agent_mut("web-1")?.daemon.kill9()?;
        until("the controller has noticed", SOON, || {
            Ok(lab.host("web-1")?["state"] == "disconnected")
        })?;
        lab.agent_mut("web-1")?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        lab.kctl(&["unblock", "0.0.0.0/0", "::/0", "--all-hosts"])?.code(0)?;
        Ok(())
    })
}

#[test]
fn tokens_that_no_longer_work_and_taken_names_join_nobody() -> Result<()> {
    with_lab(1, |lab| {
        let used_up = lab.token(&["--uses", "1"])?;
        lab.add_host(&used_up)?.daemon.start()?;
        lab.wait_in_sync(SOON)?;
        let known = lab.json(&["hosts"])?.as_array().map(Vec::len);

        let expired = lab.token(&["--ttl", "50ms"])?;
        let revoked = lab.token(&[])?;
        let id = revoked.split('.').nth(1).context("a token has an id")?;
        lab.kctl(&["token", "revoke", id])?.code(0)?;
        // One token under the id of another.
        let (token, other) = (lab.token(&[])?, lab.token(&[])?);
        let [id, other_id] = [&token, &other].map(|token| token.split('.').nth(1));
        let forged = token.replace(id.context("an id")?, other_id.context("an id")?);
        let for_another = lab.token(&["--host", "db-1"])?;
        let tokens = [
            (used_up, "used up"),
            (expired, "expired"),
            (revoked, "revoked"),
            (forged, "unknown"),
            (for_another, "another host"),
        ];
        for (token, says) in tokens {
            let agent = lab.add_host(&token)?;
            agent.daemon.start()?;
            let said = until(&format!("the agent says {says:?}"), SOON, || {
                Ok(agent.daemon.log().to_lowercase().contains(says))
            });
            said.with_context(|| agent.daemon.log())?;
            assert_eq!(agent.daemon.wait(SOON)?.code(), Some(1), "{says}");
        }
        // A good token does not give somebody else's name away.
        let token = lab.token(&[])?;
        let thief = lab.add_agent(ATTACKER, "web-1", &token)?;
        thief.daemon.start()?;
        let said = until("the agent says that the name is taken", SOON, || {
            Ok(thief.daemon.log().to_lowercase().contains("web-1\\\": "))
        });
        said.with_context(|| thief.daemon.log())?;
        assert_eq!(thief.daemon.wait(SOON)?.code(), Some(1), "the name is taken");
        assert_eq!(lab.json(&["hosts"])?.as_array().map(Vec::len), known);
        assert_eq!(lab.host("web-1")?["state"], "connected");
        Ok(())
    })
}

#[test]
fn kctl_gets_nowhere_with_a_foreign_or_a_hosts_certificate() -> Result<()> {
    with_lab(1, |lab| {
        let other = foreign_admin()?;
        let foreign = config_with(lab, "foreign", &other)?;
        lab.kctl_as(&foreign, &["hosts"])?.code(1)?.stderr_says("certificate")?;

        let host = host_credentials(lab, "web-1")?;
        let host = config_with(lab, "host", &host)?;
        lab.kctl_as(&host, &["hosts"])?.code(1)?.stderr_says("web-1")?;
        lab.kctl_as(&host, &["block", "10.99.0.1", "--all-hosts"])?.code(1)?;

        // A controller of another CA is not trusted either.
        let mut config: toml::Table = fs::read_to_string(lab.admin_config())?.parse()?;
        config["contexts"]["default"]["ca"] = other.ca.into();
        let stranger = file(lab, "stranger.toml", &config.to_string())?;
        lab.kctl_as(Path::new(&stranger), &["hosts"])?.code(1)?.stderr_says("certificate")?;
        assert_eq!(lab.json(&["blocklist"])?, json!([]));
        Ok(())
    })
}

/// The oracle is OpenSSL: what it is told by the server's TLS alerts.
#[test]
fn the_agents_door_wants_a_hosts_certificate_of_our_ca() -> Result<()> {
    with_lab(1, |lab| {
        let admin = Credentials::of_config(&lab.admin_config())?;
        let other = foreign_admin()?;
        let host = host_credentials(lab, "web-1")?;
        let knock = |alpn: &str, credentials: Option<&Credentials>| -> Result<String> {
            let mut command = Command::new("timeout");
            command.args(["5", "openssl", "s_client", "-tls1_3", "-ign_eof", "-alpn", alpn]);
            command.args(["-connect", &lab.server()?.to_string()]);
            if let Some(credentials) = credentials {
                command.args(["-cert", &file(lab, "s.pem", &credentials.certificate)?]);
                command.args(["-key", &file(lab, "s.key", &credentials.key)?]);
            }
            let output = lab.place(WORKSTATION)?.namespace.output(command)?;
            ensure!(output.code != 124, "{output}the controller kept the connection open");
            Ok(output.stderr.to_lowercase() + &output.stdout.to_lowercase())
        };
        for (alpn, credentials) in [
            ("kctl-agent/1", Some(&admin)),
            ("kctl-agent/1", Some(&other)),
            ("kctl-agent/1", None),
            ("h2", Some(&other)),
            ("h2", None),
            ("something-else", Some(&admin)),
        ] {
            let said = knock(alpn, credentials)?;
            ensure!(said.contains("alert") || said.contains("unexpected eof"), "{alpn}: {said}");
        }
        lab.kctl(&["hosts", "remove", "web-1"])?.code(0)?;
        let said = knock("kctl-agent/1", Some(&host))?;
        ensure!(said.contains("revoked"), "{said}");
        Ok(())
    })
}

#[test]
fn garbage_on_the_port_is_closed_and_harms_nobody() -> Result<()> {
    with_lab(1, |lab| {
        let server = lab.server()?;
        let workstation = &lab.place(WORKSTATION)?.namespace;
        let knock = |bytes: &[u8]| -> Result<Vec<u8>> {
            let mut stream = workstation.within(|| TcpStream::connect(server))??;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(bytes)?;
            let mut answer = Vec::new();
            // A reset is as good as an end.
            match stream.read_to_end(&mut answer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    Err(error).context("the controller kept the connection open")
                }
                _ => Ok(answer),
            }
        };
        let random: Vec<u8> =
            (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let inputs: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: controller\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"\x16\x03\x01\xff\xff\x01",
            &[0; 4096],
            &random,
        ];
        for bytes in inputs {
            let answer = knock(bytes)?;
            // Nothing but a TLS alert record, if anything.
            ensure!(answer.first().is_none_or(|first| *first == 21), "{answer:?}");
        }
        assert_eq!(lab.host("web-1")?["state"], "connected");
        lab.controller().check_running()
    })
}

/// A block that must be refused with this code and word, and change nothing.
fn refused(lab: &Lab, args: &[&str], code: i32, says: &str) -> Result<()> {
    let before = (lab.json(&["blocklist"])?, revision(lab)?);
    let answer = lab.kctl(&[&["block"], args].concat())?.code(code)?.stderr_says(says)?;
    ensure!(answer.stdout.is_empty(), "{answer}an error belongs to stderr");
    let after = (lab.json(&["blocklist"])?, revision(lab)?);
    ensure!(before == after, "{answer}changed {before:?} to {after:?}");
    Ok(())
}

fn revision(lab: &Lab) -> Result<Value> {
    Ok(lab.host("web-1")?["filter"]["revision"].clone())
}

fn file(lab: &Lab, name: &str, text: &str) -> Result<String> {
    let path = lab.scratch().join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// What a kctl configuration proves itself with.
struct Credentials {
    ca: String,
    certificate: String,
    key: String,
}

impl Credentials {
    fn of_config(path: &Path) -> Result<Self> {
        let config: toml::Table = fs::read_to_string(path)?.parse()?;
        Self::of_table(&config["contexts"]["default"])
    }

    fn of_table(table: &toml::Value) -> Result<Self> {
        let text = |key: &str| table[key].as_str().map(str::to_owned).context("a PEM text");
        Ok(Self { ca: text("ca")?, certificate: text("certificate")?, key: text("key")? })
    }
}

/// The admin of another controller, which has another CA.
fn foreign_admin() -> Result<Credentials> {
    let mut other = Lab::lay_out(&Layout::of_tests(0)?)?;
    other.start_controller()?;
    Credentials::of_config(&other.admin_config())
}

/// The admin's configuration with other credentials.
fn config_with(lab: &Lab, name: &str, credentials: &Credentials) -> Result<PathBuf> {
    let mut config: toml::Table = fs::read_to_string(lab.admin_config())?.parse()?;
    let context = &mut config["contexts"]["default"];
    context["certificate"] = credentials.certificate.clone().into();
    context["key"] = credentials.key.clone().into();
    Ok(file(lab, name, &config.to_string())?.into())
}

/// What a host's agent proves itself with.
fn host_credentials(lab: &Lab, host: &str) -> Result<Credentials> {
    let identity = fs::read_to_string(lab.agent(host)?.state_dir.join("identity.toml"))?;
    Credentials::of_table(&toml::Value::Table(identity.parse()?))
}
