//! `kctl cat`, `sys` and `sysctl` over the fleet: what the kernels show, what can be set, what is
//! refused, and what cuts a host off.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, Output, Spawned, until, with_lab};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// The agent waits 10 s, and then the host connects again.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(30);

/// A process of the test, killed at its end.
struct Sleeper(Spawned);

impl Sleeper {
    fn start() -> Result<Self> {
        let mut command = Command::new("sleep");
        command.arg("1000").env("ODD", "a\n b").stdin(Stdio::null()).current_dir("/etc");
        let sleeper = Self(Spawned::start(&mut command)?);
        let environ = format!("/proc/{}/environ", sleeper.0.child.id());
        until("it runs its program", SOON, || {
            Ok(fs::read(&environ)?.windows(4).any(|window| window == b"ODD="))
        })?;
        Ok(sleeper)
    }
}

/// The value that a host's own sysctl(8) sees.
fn sysctl(lab: &Lab, host: &str, key: &str) -> Result<String> {
    let mut command = Command::new("sysctl");
    command.args(["-n", key]);
    let answer = lab.place(host)?.namespace.output(command)?.code(0)?;
    Ok(answer.stdout.trim_end().to_owned())
}

fn error(answer: &Output) -> Result<(String, String)> {
    let row = answer.json()?;
    let text = |key: &str| row[0]["error"][key].as_str().map(str::to_owned);
    text("code").zip(text("message")).with_context(|| answer.to_string())
}

#[test]
fn every_way_out_of_proc_and_sys_is_refused() -> Result<()> {
    with_lab(1, |lab| {
        let sleeper = Sleeper::start()?;
        let of = |name: &str| format!("/proc/{}/{name}", sleeper.0.child.id());
        for (path, why) in [
            (of("root/etc/shadow"), "a link to what a process has open"),
            (of("cwd/shadow"), "a link to what a process has open"),
            (of("exe"), "a link to what a process has open"),
            (of("fd/0"), "a link to what a process has open"),
            (of("task/../../1/mem"), "refused"),
            (of("mem"), "always refused"),
            ("/proc/self/cwd/..".to_owned(), "refused"),
            ("/proc/self/root".to_owned(), "a link to what a process has open"),
            ("/proc/../etc/shadow".to_owned(), "refused"),
            ("/sys/../etc/shadow".to_owned(), "refused"),
            ("/proc/kcore".to_owned(), "always refused"),
            ("/proc/kmsg".to_owned(), "always refused"),
            ("/proc/sys".to_owned(), "it is a folder"),
        ] {
            for read in [&["cat", &path][..], &["sys", "get", &path]] {
                if read[0] == "sys" && path == "/proc/sys" {
                    continue;
                }
                let answer = lab.kctl(&[read, &["-o", "json"]].concat())?.code(1)?;
                let (code, message) = error(&answer)?;
                ensure!(code == "INVALID_ARGUMENT", "{path}: {answer}");
                ensure!(message.contains(why), "{path}: {answer}");
            }
            let set = ["sys", "set", &path, "1", "--host", "web-1", "-o", "json"];
            let (code, _) = error(&lab.kctl(&set)?.code(1)?)?;
            ensure!(code == "INVALID_ARGUMENT", "{path}: {code}");
        }
        lab.kctl(&["cat", "/etc/shadow"])?.code(2)?;
        let none = error(&lab.kctl(&["cat", "/proc/none", "-o", "json"])?.code(1)?)?;
        ensure!(none.0 == "NOT_FOUND", "{none:?}");
        Ok(())
    })
}

#[test]
fn files_come_as_they_are() -> Result<()> {
    with_lab(2, |lab| {
        let sleeper = Sleeper::start()?;
        let environ = format!("/proc/{}/environ", sleeper.0.child.id());
        let bytes = fs::read(&environ)?;
        let one = lab.kctl(&["cat", &environ, "--host", "web-1"])?.code(0)?;
        ensure!(one.stdout.as_bytes() == bytes, "{one}");
        let local = lab.kctl_on("web-2", &["cat", &environ])?.code(0)?;
        ensure!(local.stdout.as_bytes() == bytes, "{local}");

        let version = fs::read_to_string("/proc/version")?;
        let both = lab.kctl(&["cat", "/proc/version"])?.code(0)?;
        for host in ["web-1", "web-2"] {
            ensure!(both.stdout.contains(&format!("==> {host} <==\n{version}")), "{both}");
        }
        let rows = lab.json(&["cat", "/proc/version", "--max-bytes", "5"])?;
        let row = |host| {
            json!({"host": host, "path": "/proc/version", "size_bytes": 5, "truncated": true,
                "secret": false, "content": &version[..5], "content_base64": null})
        };
        ensure!(rows == json!([row("web-1"), row("web-2")]), "{rows}");
        let cut = lab.kctl(&["cat", "/proc/version", "--max-bytes", "5", "--host", "web-1"])?;
        ensure!(cut.stdout == version[..5] && cut.stderr.contains("--max-bytes"), "{cut}");
        let secret = lab.json(&["cat", &environ, "--host", "web-1"])?;
        ensure!(secret[0]["secret"] == true, "{secret}");
        // Longer than one part, and written while it is read: but for programs that others load meanwhile.
        let large = lab.kctl(&["cat", "/proc/kallsyms", "--host", "web-1"])?.code(0)?;
        let expected = fs::read_to_string("/proc/kallsyms")?;
        ensure!(expected.len() > 1 << 20, "{} bytes", expected.len());
        ensure!(lasting(&large.stdout).eq(lasting(&expected)), "symbols of the kernel differ");
        Ok(())
    })
}

/// Symbols but those of what is loaded and made at run time.
fn lasting(symbols: &str) -> impl Iterator<Item = &str> {
    symbols.lines().filter(|line| !line.ends_with(']'))
}

#[test]
fn kernel_parameters_are_read_and_set() -> Result<()> {
    with_lab(2, |lab| {
        let key = "net.ipv4.ip_default_ttl";
        let before = sysctl(lab, "web-1", key)?;
        let path = "/proc/sys/net/ipv4/ip_default_ttl";
        let row = |host: &str, value: &str| json!({"host": host, "key": key, "path": path, "value": value, "secret": false});
        let read = lab.json(&["sysctl", "get", key])?;
        ensure!(read == json!([row("web-1", &before), row("web-2", &before)]), "{read}");

        let set = format!("{key}=77");
        let change = lab.json(&["sysctl", "set", &set, "--host", "web-1"])?;
        let expected = json!([{"host": "web-1", "key": key, "path": path, "old": before,
            "new": "77", "guarded_seconds": 10}]);
        ensure!(change == expected, "{change}");
        ensure!(sysctl(lab, "web-1", key)? == "77");
        ensure!(sysctl(lab, "web-2", key)? == before);
        let slashes = lab.json(&["sysctl", "get", "net/ipv4/ip_default_ttl", "--host", "web-1"])?;
        ensure!(slashes == json!([row("web-1", "77")]), "{slashes}");
        let log = lab.controller().log();
        ensure!(log.contains(&format!("set {path}=77")), "not in the audit log: {log}");

        // The same as sysctl(8) sees, for all of a pattern and several values.
        let pattern =
            lab.json(&["sysctl", "get", "net.ipv4.conf.*.rp_filter", "--host", "web-2"])?;
        let values = pattern[0]["values"].as_array().context("values")?;
        ensure!(values.len() >= 4, "{pattern}");
        for value in values {
            let key = value["key"].as_str().context("a key")?;
            ensure!(value["value"] == sysctl(lab, "web-2", key)?, "{value}");
        }
        let range = "net.ipv4.ip_local_port_range";
        lab.json(&["sysctl", "set", &format!("{range}=20000 30000"), "--host", "web-2"])?;
        ensure!(sysctl(lab, "web-2", range)? == "20000\t30000");
        let table = lab.kctl(&["sysctl", "get", range, "--host", "web-2"])?.code(0)?;
        ensure!(table.stdout.contains("20000 30000"), "{table}");
        let all = lab.json(&["sysctl", "get", "net.ipv4", "kernel.ostype", "--host", "web-1"])?;
        let all = all[0]["values"].as_array().context("values")?;
        ensure!(all.len() > 100 && all.iter().any(|it| it["value"] == "Linux"), "{}", all.len());

        // On the host itself the same, with no controller.
        lab.kctl_on("web-1", &["sysctl", "set", &format!("{key}=78")])?.code(0)?;
        ensure!(sysctl(lab, "web-1", key)? == "78");
        let log = lab.agent("web-1")?.daemon.log();
        ensure!(log.contains("local:0") && log.contains(&format!("{path}=78")), "{log}");
        Ok(())
    })
}

#[test]
fn what_must_not_be_set_is_refused_and_the_kernels_no_is_told() -> Result<()> {
    with_lab(1, |lab| {
        let set =
            |setting: &str| lab.kctl(&["sysctl", "set", setting, "--all-hosts", "-o", "json"]);
        let hostname = sysctl(lab, "web-1", "kernel.hostname")?;
        for (setting, why) in [
            ("kernel.hostname=odd", "not among what this agent may set"),
            ("kernel.core_pattern=|/bin/sh", "never set"),
            ("kernel.modprobe=/bin/sh", "never set"),
            ("kernel.unprivileged_bpf_disabled=1", "never set"),
            ("net.ipv4.ip_local_port_range=none", "invalid argument"),
            ("net.ipv4.tcp_congestion_control=no such", "no such file"),
        ] {
            let (code, message) = error(&set(setting)?.code(1)?)?;
            ensure!(message.contains(why), "{setting}: {message}");
            if !why.starts_with("no such") {
                ensure!(code == "INVALID_ARGUMENT", "{setting}: {code}");
            }
        }
        ensure!(sysctl(lab, "web-1", "kernel.hostname")? == hostname);
        lab.kctl(&["sysctl", "set", "vm.swappiness=1"])?.code(2)?;
        let none = lab.kctl(&["sysctl", "set", "net.ipv4.ip_default_ttl=70", "-l", "role=none"])?;
        ensure!(none.code(1)?.stderr.contains("no known host"));
        lab.kctl(&[
            "sysctl",
            "set",
            "net.ipv4.ip_default_ttl=70",
            "-l",
            "role=none",
            "--allow-empty",
        ])?
        .code(0)?;

        // A virtual machine has no frequencies, most hardware has.
        let frequencies = lab.kctl(&["cpufreq", "-o", "json"])?;
        if fs::exists("/sys/devices/system/cpu/cpu0/cpufreq")? {
            ensure!(frequencies.code(0)?.json()?[0]["cpus"][0]["governor"].is_string());
        } else {
            let (code, message) = error(&frequencies.code(1)?)?;
            ensure!(code == "FAILED_PRECONDITION", "{message}");
        }
        Ok(())
    })
}

#[test]
fn a_change_says_which_host_did_not_answer() -> Result<()> {
    with_lab(3, |lab| {
        lab.agent("web-2")?.daemon.stop()?;
        let outcome = with_one_frozen(lab);
        lab.agent("web-2")?.daemon.cont()?;
        outcome
    })
}

fn with_one_frozen(lab: &Lab) -> Result<()> {
    let set = ["sysctl", "set", "net.ipv4.ip_default_ttl=71", "--timeout", "1s", "-o", "jsonl"];
    let answer = lab.kctl(&[&set[..], &["--all-hosts"]].concat())?.code(3)?;
    let lines: Vec<Value> =
        answer.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 3, "{answer}");
    ensure!(lines[..2].iter().all(|row| row["new"] == "71"), "{answer}");
    ensure!(lines[2]["host"] == "web-2", "{answer}");
    ensure!(lines[2]["error"]["code"] == "DEADLINE_EXCEEDED", "{answer}");
    for host in ["web-1", "web-3"] {
        ensure!(sysctl(lab, host, "net.ipv4.ip_default_ttl")? == "71");
    }
    // Nobody knows whether the frozen host will do it: not "nothing changed".
    lab.kctl(&[&set[..], &["--host", "web-2"]].concat())?.code(3)?;

    let get = ["sysctl", "get", "net.ipv4.ip_default_ttl", "--timeout", "1s"];
    let read = lab.kctl(&get)?.code(0)?;
    ensure!(read.stdout.contains("no answer within"), "{read}");
    lab.kctl(&[&get[..], &["--strict"]].concat())?.code(3)?;
    Ok(())
}

#[test]
fn a_setting_that_cuts_the_host_off_is_put_back() -> Result<()> {
    with_lab(1, |lab| {
        lead_astray(lab)?;
        lab.wait_in_sync(SOON)?;
        let (key, path) =
            ("net.ipv4.conf.eth0.rp_filter", "/proc/sys/net/ipv4/conf/eth0/rp_filter");
        // Whether its answer still comes through is a matter of microseconds.
        lab.kctl(&["sysctl", "set", &format!("{key}=1"), "--all-hosts", "--timeout", "1s"])?;
        ensure!(sysctl(lab, "web-1", key)? == "1");
        // A read wants an answer through the filter: it is cut off.
        lab.kctl(&["sysctl", "get", key, "--timeout", "1s"])?.code(1)?;
        until("it is put back", PUT_BACK_WITHIN, || Ok(sysctl(lab, "web-1", key)? == "0"))?;
        lab.wait_in_sync(PUT_BACK_WITHIN)?;
        let told = lab.host("web-1")?["rolled_back"].clone();
        ensure!(told[0]["path"] == path && told[0]["value"] == "0", "{told}");
        ensure!(told[0]["error"].is_null() && told[1].is_null(), "{told}");
        let shown = lab.kctl(&["hosts", "describe", "web-1"])?.code(0)?;
        ensure!(shown.stdout.contains("it cut the host off"), "{shown}");

        // One that does no harm stays.
        lab.json(&["sysctl", "set", "net.ipv4.ip_default_ttl=79", "--all-hosts"])?;
        let mut log = String::new();
        until("nothing is put back", PUT_BACK_WITHIN, || {
            log = lab.agent("web-1")?.daemon.log();
            Ok(log.contains("the controller answers: kept"))
        })?;
        ensure!(sysctl(lab, "web-1", "net.ipv4.ip_default_ttl")? == "79");
        Ok(())
    })
}

/// What the host sends to the controller leaves by another link than what comes from there: that works
/// as long as nobody filters by the way back.
fn lead_astray(lab: &Lab) -> Result<()> {
    let run = |place: &str, line: &str| -> Result<Output> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().context("a program")?);
        command.args(words);
        lab.place(place)?.namespace.output(command)?.code(0)
    };
    let mac = |place: &str| -> Result<String> {
        let links = run(place, "ip -j link show eth0")?.json()?;
        Ok(links[0]["address"].as_str().context("a MAC")?.to_owned())
    };
    let (host, controller) = (lab.place("web-1")?.v4, lab.place("controller")?.v4);
    run("web-1", "ip link add link eth0 name out type macvlan mode bridge")?;
    for name in ["all", "eth0", "out"] {
        run("web-1", &format!("sysctl -w net.ipv4.conf.{name}.rp_filter=0"))?;
    }
    // Else the kernel does not look at the way of packets of a connection that it knows.
    run("web-1", "sysctl -w net.ipv4.tcp_early_demux=0")?;
    run("web-1", "ip link set out up")?;
    let (there, here) = (mac("controller")?, mac("web-1")?);
    run("web-1", &format!("ip neigh replace {controller} lladdr {there} dev out"))?;
    run("controller", &format!("ip neigh replace {host} lladdr {here} dev eth0"))?;
    run("web-1", &format!("ip route add {controller}/32 dev out src {host}"))?;
    Ok(())
}
