//! The host's own door: a unix socket for `kctl --agent`.

use anyhow::{Context as _, bail};
use kctl_rpc::{Peer, serve_over};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// Binds the socket: uid 0 and the group `kctl`, if there is one, may use it.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let context = || format!("socket {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("socket {}: another agent answers there; stop it or choose --socket", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    // Nobody else can reach the socket between bind and chmod.
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path).with_context(context);
    nix::sys::stat::umask(old);
    let listener = listener?;
    if let Some(group) = nix::unistd::Group::from_name("kctl").ok().flatten() {
        nix::unistd::chown(path, None, Some(group.gid)).with_context(context)?;
        let mode = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(path, mode).with_context(context)?;
    }
    Ok(listener)
}

/// Serves every connection until cancelled.
pub(crate) async fn serve(listener: UnixListener, routes: Routes, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let (routes, cancel) = (routes.clone(), cancel.clone());
        connections.spawn(async move {
            let served = serve_over(stream, Arc::new(peer), routes, crate::access::authorize);
            tokio::select! {
                () = cancel.cancelled() => {}
                ended = served => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a local connection ended");
                    }
                }
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> Option<(UnixStream, Peer, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    let accepted = async {
        let (stream, _) = listener.accept().await?;
        let peer = Peer::of_unix(&stream)?;
        std::io::Result::Ok((stream, peer))
    };
    match accepted.await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Most often out of descriptors: give others time to close theirs.
            tracing::warn!(%error, "a local connection can't be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
