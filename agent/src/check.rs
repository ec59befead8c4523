//! `kctl-agent check`: what this kernel and these privileges allow, line by line.

use crate::config::Config;
use crate::counters;
use crate::events;
use agent_kernel::filter::{self, Filter, FilterConfig};
use agent_kernel::{Error, netlink, sys};
use anyhow::Context as _;
use kctl_proto::agent::v1::{self as pb, host_service_client::HostServiceClient};
use std::process::ExitCode;
use std::time::Duration;

/// A probe's patience: the enforcer may be busy with a million entries.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Prints a line a thing, and fails when the host can't filter.
pub(crate) fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report { failed: false };
    report.line("kernel", sys::kernel_release());
    report.line("boot id", sys::boot_id(&config.proc_root));
    report.line("filter", load(config));
    let tcx = filter::has_tcx();
    let hooks = if tcx { "XDP and tcx" } else { "XDP alone; tcx came with Linux 6.6" };
    report.line("hooks", Ok::<_, &Error>(hooks));
    let interfaces = netlink::interfaces();
    report.line("netlink", interfaces.as_ref().map(|all| format!("{} interfaces", all.len())));
    for interface in interfaces.iter().flatten() {
        if config.interfaces.takes(interface) {
            let what = format!("interface {}", interface.name);
            report.line(&what, Ok::<_, &Error>(said(interface, tcx)));
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

/// What is on an interface, and how it could be filtered.
fn said(interface: &netlink::Interface, tcx: bool) -> String {
    let instead = if tcx { "tcx filters in its place" } else { "this kernel has no tcx either" };
    match interface.xdp_program {
        Some(id) => format!("XDP program {id} is on it; where that is somebody else's, {instead}"),
        None if interface.ethernet => "no XDP program yet".to_owned(),
        None => format!("has no Ethernet header that an XDP program could read; {instead}"),
    }
}

/// Asks the agent behind the socket for its status, which its enforcer's thread tells: whoever answers
/// works. What the host can't do, or whether a controller is connected, is no reason to restart it.
pub(crate) fn live(config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asked = async {
            let stream = tokio::net::UnixStream::connect(&config.socket).await?;
            let mut host = HostServiceClient::new(kctl_rpc::channel_over(stream).await?);
            host.get_status(pb::GetStatusRequest {}).await?;
            anyhow::Ok(())
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
        let socket = || format!("agent on {}: does not answer", config.socket.display());
        answer.with_context(socket)?.with_context(socket)
    })?;
    println!("ok      agent: answers on {}", config.socket.display());
    Ok(ExitCode::SUCCESS)
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
