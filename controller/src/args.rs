//! The command line.

use clap::{Parser, Subcommand};
use kctl_rpc::metrics::MetricsListen;
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

/// The controller of a kctl fleet: knows the hosts, keeps what should be blocked where, and makes it so.
#[derive(Debug, Parser)]
#[command(name = "kctl-controller", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Configuration file; flags and environment win over it [default: /etc/kctl/controller.toml]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) options: Options,
}

/// What can be set by flag or environment.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Where CA, keys and store live [default: /var/lib/kctl/controller]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Address and port to listen on, for agents and API alike [default: 0.0.0.0:7443]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Certificate of the CA, PEM; with --ca-key-file in place of a CA that the first start makes
    #[arg(long, global = true, env = "KCTL_CONTROLLER_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// Key of the CA, PEM
    #[arg(long, global = true, env = "KCTL_CONTROLLER_CA_KEY_FILE", value_name = "FILE")]
    pub(crate) ca_key_file: Option<PathBuf>,

    /// File with a join token, kctl1.ID.SECRET: any number of new hosts may join with it for as long as the
    /// controller is started with it
    #[arg(long, global = true, env = "KCTL_CONTROLLER_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) join_token_file: Option<PathBuf>,

    /// How clients reach this controller; the first goes into admin.toml. Repeatable
    #[arg(
        long,
        global = true,
        env = "KCTL_CONTROLLER_ADVERTISE",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    pub(crate) advertise: Vec<String>,

    /// Name in the controller's certificate [default: the host name]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_NAME")]
    pub(crate) name: Option<String>,

    /// How long certificates live that are signed from now on, of hosts, users and the controller itself:
    /// 365d, 30d, 12h [default: 365d]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_CERTIFICATE_LIFE", value_name = "AGE")]
    pub(crate) certificate_life: Option<String>,

    /// Calls that one user may make in a second; twice as many at once [default: 500]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_USER_REQUESTS_PER_SECOND", value_name = "N")]
    pub(crate) user_requests_per_second: Option<NonZeroU32>,

    /// Calls and streams of one user at the same time [default: 512]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_USER_STREAMS", value_name = "N")]
    pub(crate) user_streams: Option<NonZeroU32>,

    /// Connections of one user [default: 256]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_USER_CONNECTIONS", value_name = "N")]
    pub(crate) user_connections: Option<NonZeroU32>,

    /// Where desired state is kept: only "embedded" so far
    #[arg(long, global = true, env = "KCTL_CONTROLLER_STORE", value_name = "KIND")]
    pub(crate) store: Option<String>,

    /// Where /metrics, /healthz and /readyz are served, or "off"; outside of loopback over TLS with the
    /// controller's certificate [default: 127.0.0.1:7480]
    #[arg(
        long,
        global = true,
        env = "KCTL_CONTROLLER_METRICS_LISTEN",
        value_name = "ADDRESS:PORT|off"
    )]
    pub(crate) metrics_listen: Option<MetricsListen>,

    /// File with a bearer token that opens /metrics; outside of loopback the certificate of a user
    /// without a scope does too
    #[arg(long, global = true, env = "KCTL_CONTROLLER_METRICS_TOKEN_FILE", value_name = "FILE")]
    pub(crate) metrics_token_file: Option<PathBuf>,

    /// Block on every host what a host's detection blocked there, for as long; true without a value
    /// [default: false]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_DETECT_ESCALATE", num_args = 0..=1,
        require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) detect_escalate: Option<bool>,

    /// How many of these entries there are at a time, at most [default: 1000]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_DETECT_MAX_BLOCKS", value_name = "N")]
    pub(crate) detect_max_blocks: Option<u32>,

    /// How many new ones in a second, at most [default: 10]
    #[arg(
        long,
        global = true,
        env = "KCTL_CONTROLLER_DETECT_MAX_BLOCKS_PER_SECOND",
        value_name = "N"
    )]
    pub(crate) detect_max_blocks_per_second: Option<u32>,

    /// A threshold of alerts, or a time of them, for every host that says nothing of its own: "disk=95 clear
    /// 90", "cpu=off", "for=1m"; keys and values are those of [alerts] (docs/alerts.md). Repeatable
    #[arg(
        long = "alert",
        global = true,
        env = "KCTL_CONTROLLER_ALERTS",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub(crate) alerts: Vec<String>,

    /// Disk for the events of the past, all its files together; 0 switches the history off, else at least
    /// 16MiB [default: 256MiB]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_HISTORY_BYTES", value_name = "BYTES")]
    pub(crate) history_bytes: Option<String>,

    /// Events that are older are forgotten: 7d, 12h, 30m [default: 7d]
    #[arg(long, global = true, env = "KCTL_CONTROLLER_HISTORY_AGE", value_name = "AGE")]
    pub(crate) history_age: Option<String>,

    /// Types of events that agents send all the time and the history keeps; others travel only while
    /// somebody follows them [default: all]
    #[arg(
        long,
        global = true,
        env = "KCTL_CONTROLLER_HISTORY_TYPES",
        value_name = "TYPE",
        value_delimiter = ','
    )]
    pub(crate) history_types: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print DATA_DIR/admin.toml, a whole configuration for kctl
    AdminConfig,
    /// Ask the controller that runs here whether it serves, for a probe
    Check,
}
