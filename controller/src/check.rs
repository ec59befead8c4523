//! `kctl-controller check`: whether the controller that runs here serves, for a probe.

use crate::{config::Config, config::from_here, data_dir};
use anyhow::{Context as _, ensure};
use kctl_rpc::{ALPN_API, channel_over, client_config, dial};
use std::time::Duration;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A probe's patience.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks over the port that agents and people use, as the administrator: handshake, store of users and
/// API answer, or it fails.
pub(crate) async fn check(config: &Config) -> anyhow::Result<()> {
    let server = from_here(config.listen).to_string();
    let (credentials, controller) = data_dir::admin(&config.data_dir)?;
    let tls = client_config(&credentials, &controller, ALPN_API).context("admin context")?;
    let asked = async {
        let stream = dial(&server, tls, ANSWER_WITHIN).await?;
        let mut health = HealthClient::new(channel_over(stream).await?);
        let answer = health.check(HealthCheckRequest::default()).await?.into_inner();
        ensure!(answer.status() == ServingStatus::Serving, "it says {:?}", answer.status());
        anyhow::Ok(())
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
    let who = || format!("controller on {server}: does not serve");
    answer.with_context(who)?.with_context(who)?;
    println!("ok      controller: serves on {server}");
    Ok(())
}
