//! Watches the host's network, shows it to the enforcer, and tells whoever waits for it to change.

use crate::enforcer::{Enforcer, Network};
use agent_kernel::{Error, netlink, sys};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Changes come in bursts; one look serves all that come within this time.
const BURST: Duration = Duration::from_millis(50);
/// Resolvers change without the kernel's knowing.
const REGULAR: Duration = Duration::from_secs(30);

/// Takes a first look, then goes on watching. The answer changes with every link, address or route.
pub(crate) async fn watch(
    enforcer: &Enforcer,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> watch::Receiver<u64> {
    // Subscribed before the first look, so that nothing falls between the two.
    let subscription = netlink::Watch::open();
    look(enforcer).await;
    let (nudge, nudges) = watch::channel(0);
    let (enforcer, cancel) = (enforcer.clone(), cancel.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow(&enforcer, subscription, &nudge) => {}
        }
    });
    nudges
}

async fn follow(
    enforcer: &Enforcer,
    mut subscription: Result<netlink::Watch, Error>,
    nudge: &watch::Sender<u64>,
) {
    loop {
        match &mut subscription {
            Ok(changes) => match timeout(REGULAR, changes.next()).await {
                Ok(Ok(_)) => {
                    nudge.send_modify(|count| *count += 1);
                    sleep(BURST).await;
                }
                Ok(Err(error)) => subscription = Err(error),
                Err(_) => {}
            },
            Err(error) => {
                tracing::error!(%error, "changes of the network can't be watched; looking every 30 s");
                sleep(REGULAR).await;
                subscription = netlink::Watch::open();
            }
        }
        look(enforcer).await;
    }
}

async fn look(enforcer: &Enforcer) {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(network)) => drop(enforcer.run(move |it| it.look(network)).await),
        Ok(Err(error)) => tracing::error!(%error, "the network can't be read"),
        Err(panicked) => tracing::error!(%panicked, "the network can't be read"),
    }
}

fn read() -> Result<Network, Error> {
    Ok(Network {
        interfaces: netlink::interfaces()?,
        gateways: netlink::default_gateways()?,
        resolvers: sys::resolvers(Path::new("/etc/resolv.conf"))?,
        ssh_ports: ssh_ports(Path::new("/etc/ssh")),
    })
}

/// The ports of sshd_config(5); 22 where none is set.
fn ssh_ports(folder: &Path) -> BTreeSet<u16> {
    let included = std::fs::read_dir(folder.join("sshd_config.d")).into_iter().flatten();
    let files = included
        .flatten()
        .map(|entry| entry.path())
        .chain(std::iter::once(folder.join("sshd_config")));
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    let ports: BTreeSet<u16> = texts.flat_map(|text| parse_ports(&text)).collect();
    if ports.is_empty() { [22].into() } else { ports }
}

fn parse_ports(text: &str) -> Vec<u16> {
    let words = text.lines().map(|line| {
        let mut words =
            line.split(|c: char| c.is_whitespace() || c == '=').filter(|it| !it.is_empty());
        (words.next(), words.next())
    });
    words
        .filter_map(|(key, value)| key.filter(|it| it.eq_ignore_ascii_case("port")).and(value))
        .filter_map(|value| value.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_ports_are_read_as_sshd_config_says() {
        assert_eq!(parse_ports("#Port 1\nPort 2222\n port=23\nPortable 5\nPort x\n"), [2222, 23]);
        let folder = tempfile::tempdir().expect("temp dir");
        assert_eq!(ssh_ports(folder.path()), [22].into());
        std::fs::create_dir(folder.path().join("sshd_config.d")).expect("creates");
        std::fs::write(folder.path().join("sshd_config.d/a.conf"), "Port 2022").expect("writes");
        assert_eq!(ssh_ports(folder.path()), [2022].into());
    }
}
