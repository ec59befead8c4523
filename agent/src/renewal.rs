//! A new certificate well before the old one ends, over the connection that there is.

use crate::identity::{self, Proof};
use crate::service::Lifeline;
use anyhow::{Context as _, bail};
use kctl_rpc::{Validity, new_key_and_csr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::sleep;

/// How long the controller may take to sign.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest time without a look at the clock, which may jump.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The shortest time between two tries.
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
/// Hosts that joined together don't ask all at once: later by up to this part of the certificate's life.
const SPREAD: f64 = 0.05;

/// Renews at two thirds of each certificate's life, and when the controller asks for it. The uplink takes
/// the new one from `proof`.
pub(crate) async fn run(state_dir: PathBuf, proof: watch::Sender<Proof>, lifeline: Lifeline) {
    let mut asked = lifeline.asked_to_renew();
    loop {
        let validity = proof.borrow().credentials.chain.first().and_then(Validity::of);
        let Some(validity) = validity else { return };
        let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
        let due = validity.renew_at() + life.mul_f64(rand::random_range(0.0..SPREAD));
        tokio::select! {
            changed = asked.changed() => if changed.is_err() { return },
            () = until(due) => {}
        }
        while let Err(error) = renew(&state_dir, &proof, &lifeline).await {
            tracing::warn!("the certificate is not renewed: {error:#}; trying again");
            let wait = (life / 30).clamp(SHORTEST_WAIT, LONGEST_WAIT);
            sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }
}

/// Waits for a moment of the clock, also when that jumps.
async fn until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        sleep(left.min(LONGEST_WAIT).max(Duration::from_millis(10))).await;
    }
}

async fn renew(
    state_dir: &std::path::Path,
    proof: &watch::Sender<Proof>,
    lifeline: &Lifeline,
) -> anyhow::Result<()> {
    if !lifeline.is_connected() {
        bail!("the controller is not connected");
    }
    let (key, csr) = new_key_and_csr()?;
    let renewed = lifeline.renew(csr, ANSWER).await.context("the controller did not answer")?;
    if !renewed.error.is_empty() {
        bail!("the controller refuses: {}", renewed.error);
    }
    let old = proof.borrow().clone();
    let new = identity::renewed(state_dir, &old, key, renewed.certificate, renewed.ca)?;
    tracing::info!("the certificate is renewed");
    proof.send_replace(new);
    Ok(())
}
