//! `kctl-agent check`: what this kernel and these privileges allow, line by line.

use crate::config::Config;
use crate::counters;
use crate::enforcer::is_suitable;
use crate::events;
use agent_kernel::filter::{self, Filter, FilterConfig};
use agent_kernel::{Error, netlink, sys};
use kctl_proto::agent::v1 as pb;
use std::process::ExitCode;

/// Prints a line a thing, and fails when the host can't filter.
pub(crate) fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report { failed: false };
    report.line("kernel", sys::kernel_release());
    report.line("boot id", sys::boot_id(&config.proc_root));
    report.line("filter", load(config));
    let interfaces = netlink::interfaces();
    report.line("netlink", interfaces.as_ref().map(|all| format!("{} interfaces", all.len())));
    for interface in interfaces.iter().flatten() {
        let chosen = config.interfaces.names.contains(&interface.name)
            || (config.interfaces.auto && is_suitable(interface));
        if chosen {
            let program = match interface.xdp_program {
                None => "no XDP program yet".to_owned(),
                Some(id) => format!("XDP program {id} is on it"),
            };
            report.line(&format!("interface {}", interface.name), Ok::<_, &Error>(program));
        }
    }
    // Within the runtime that their rings want.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let missing = runtime.block_on(async { events::check(config) });
    report.optional("events", "every kind that is configured can be made", &missing);
    let missing = counters::check(config);
    report.optional("counters", "all that are configured can be had", &missing);
    report.line("agent", Ok::<_, &Error>(agent(config)));
    report.line("joined", Ok::<_, &Error>(joined(config)));
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Loads the program beside the running one, in a folder of its own, and takes it away again.
fn load(config: &Config) -> Result<String, Error> {
    let name = config.bpffs.file_name().map_or("kctl".into(), |it| it.to_string_lossy());
    let bpffs = config.bpffs.with_file_name(format!("{name}-check-{}", std::process::id()));
    let opened = Filter::open(&FilterConfig { bpffs: bpffs.clone(), max_entries: 16 });
    let loaded = opened.map(|_| "its program loads".to_owned());
    filter::detach(&bpffs)?;
    loaded
}

fn agent(config: &Config) -> String {
    match std::os::unix::net::UnixStream::connect(&config.socket) {
        Ok(_) => format!("runs and answers on {}", config.socket.display()),
        Err(error) => format!("does not answer on {}: {error}", config.socket.display()),
    }
}

fn joined(config: &Config) -> String {
    let path = config.state_dir.join("identity.toml");
    if path.exists() {
        format!("has an identity in {}", path.display())
    } else {
        "not yet; make a token with \"kctl token create\" and give it with --token-file".to_owned()
    }
}

struct Report {
    failed: bool,
}

impl Report {
    /// What the host filters without.
    fn optional(&self, what: &str, all: &str, missing: &[pb::Missing]) {
        if missing.is_empty() {
            println!("ok      {what}: {all}");
        }
        for pb::Missing { what, why, remedy } in missing {
            println!("missing {what}: {why}");
            if !remedy.is_empty() {
                println!("        remedy: {remedy}");
            }
        }
    }

    fn line<T: std::fmt::Display, E: std::borrow::Borrow<Error>>(
        &mut self,
        what: &str,
        result: Result<T, E>,
    ) {
        match result {
            Ok(value) => println!("ok      {what}: {value}"),
            Err(error) => {
                self.failed = true;
                let error = error.borrow();
                println!("missing {what}: {error}");
                if let Some(remedy) = error.remedy() {
                    println!("        remedy: {remedy}");
                }
            }
        }
    }
}
