//! Where the agent can be observed.

use clap::Args;
use kctl_rpc::metrics::{MetricsConfig, MetricsListen};
use serde::Deserialize;
use std::{net::Ipv4Addr, path::PathBuf};

/// Unless somebody says otherwise, on loopback.
const PORT: u16 = 7481;

/// The table `[metrics]` of the file, and its flags.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MetricsOptions {
    /// Where /metrics, /healthz and /readyz are served, or "off"; outside of loopback over TLS with the
    /// host's certificate [default: 127.0.0.1:7481]
    #[arg(
        id = "metrics-listen",
        long = "metrics-listen",
        env = "KCTL_AGENT_METRICS_LISTEN",
        value_name = "ADDRESS:PORT|off"
    )]
    listen: Option<MetricsListen>,
    /// File with a bearer token that opens /metrics; outside of loopback a client certificate of the CA
    /// does too
    #[arg(
        id = "metrics-token-file",
        long = "metrics-token-file",
        env = "KCTL_AGENT_METRICS_TOKEN_FILE",
        value_name = "FILE"
    )]
    token_file: Option<PathBuf>,
}

impl MetricsOptions {
    /// With what the file says, and the default.
    pub(super) fn resolve(self, file: Self) -> anyhow::Result<MetricsConfig> {
        let default = MetricsListen::At((Ipv4Addr::LOCALHOST, PORT).into());
        let listen = self.listen.or(file.listen).unwrap_or(default);
        Ok(MetricsConfig::new(listen, self.token_file.or(file.token_file))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_unless_somebody_says_where() {
        let resolve = |file: &str| {
            let file = toml::from_str(file).map_err(anyhow::Error::from)?;
            MetricsOptions::default().resolve(file)
        };
        let listen = |file: &str| resolve(file).expect(file).listen;
        assert_eq!(listen(""), "127.0.0.1:7481".parse().expect("valid"));
        assert_eq!(listen("listen = \"off\""), MetricsListen::Off);
        for (file, word) in
            [("listen = \"7481\"", "7481"), ("token-file = \"/no/such\"", "/no/such")]
        {
            let error = format!("{:#}", resolve(file).expect_err(file));
            assert!(error.contains(word), "{error}");
        }
    }
}
