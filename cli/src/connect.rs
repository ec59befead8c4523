//! The way to a controller or to one agent: where it is, a channel to it, and errors that say what to
//! do next. It knows no command and no output.

use crate::{
    args::{Global, env, parse_agent},
    config::{Config, Context, NO_CONFIG},
    witness::{Cause, Witness},
};
use anyhow::{Context as _, anyhow};
use kctl_rpc::{ALPN_API, Channel, Credentials, DialError, Identity, VERSION, unknown_call};
use std::{error::Error as _, future::Future, io::ErrorKind, path::PathBuf, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Code, Response, Status, Streaming};

/// The port of a controller where none is named.
const PORT: u16 = 7443;

/// What a command speaks to.
#[derive(Debug)]
pub(crate) enum Target {
    /// The fleet.
    Controller(Box<Context>),
    /// One host, by its agent's socket.
    Agent(PathBuf),
}

/// The other end, for errors.
struct Peer {
    /// What errors call it.
    name: String,
    cause: Cause,
}

/// A connected target.
pub(crate) struct Connection {
    /// For the generated clients.
    pub(crate) channel: Channel,
    peer: Peer,
    /// What `--timeout` said.
    pub(crate) timeout: Option<Duration>,
}

/// The connection ended, or nobody answered: whether the call was heard is open.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Lost(String);

/// Nobody is there now, or has time; somebody may be later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Away(String);

/// How long hosts are waited for in a read where nobody said otherwise.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// And in a change.
pub(crate) const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);
/// What the controller itself may take, beyond its wait for hosts.
const GRACE: Duration = Duration::from_secs(5);

impl Target {
    /// What flags, environment and configuration name; flags win.
    pub(crate) fn of(global: &Global) -> anyhow::Result<Self> {
        let agent = match (&global.agent, &global.server) {
            (Some(agent), _) => Some(agent.clone()),
            (None, Some(_)) => None,
            (None, None) => env("KCTL_AGENT"),
        };
        if let Some(agent) = agent {
            return Ok(Self::Agent(parse_agent(&agent)?));
        }
        let path = Config::path()?;
        let config = Config::read(&path)?
            .ok_or_else(|| anyhow!("{}: does not exist; {NO_CONFIG}", path.display()))?;
        let name = global.context.clone().or_else(|| env("KCTL_CONTEXT"));
        let (_, context) = config.context(name.as_deref())?;
        let mut context = context.clone();
        if let Some(server) = global.server.clone().or_else(|| env("KCTL_SERVER")) {
            context.server = server;
        }
        context.server = with_port(&context.server);
        Ok(Self::Controller(Box::new(context)))
    }

    /// HOST:PORT of the controller.
    pub(crate) fn server(&self) -> Option<&str> {
        match self {
            Self::Controller(context) => Some(&context.server),
            Self::Agent(_) => None,
        }
    }

    /// Connects.
    pub(crate) async fn connect(&self, global: &Global) -> anyhow::Result<Connection> {
        let timeout = global.timeout()?;
        let limit = timeout.unwrap_or(READ_TIMEOUT);
        match self {
            Self::Controller(context) => {
                let stream = dial(context, limit).await?;
                connection(format!("controller {}", context.server), stream, timeout).await
            }
            Self::Agent(path) => {
                let name = format!("agent {}", path.display());
                let stream = tokio::net::UnixStream::connect(path).await.map_err(|error| {
                    let why = format!(
                        "{name}: can't connect; is kctl-agent running, and may you use it?"
                    );
                    match error.kind() {
                        ErrorKind::PermissionDenied => anyhow::Error::new(error).context(why),
                        _ => anyhow::Error::new(error).context(Away(why)),
                    }
                })?;
                connection(name, stream, timeout).await
            }
        }
    }
}

async fn dial(context: &Context, limit: Duration) -> anyhow::Result<impl Stream> {
    let identity: Identity = context.controller.parse().context("context: controller")?;
    let credentials = Credentials::from_pem(&context.ca, &context.certificate, &context.key)
        .context("context")?;
    let config = kctl_rpc::client_config(&credentials, &identity, ALPN_API)
        .context("context: certificate and key")?;
    kctl_rpc::dial(&context.server, config, limit)
        .await
        .map_err(|error| unreachable(&error, &context.server, &context.controller))
}

async fn connection(
    name: String,
    stream: impl Stream,
    timeout: Option<Duration>,
) -> anyhow::Result<Connection> {
    let (stream, cause) = Witness::new(stream);
    let peer = Peer { name, cause };
    let limit = timeout.unwrap_or(READ_TIMEOUT);
    match tokio::time::timeout(limit, kctl_rpc::channel_over(stream)).await {
        Ok(Ok(channel)) => Ok(Connection { channel, peer, timeout }),
        Ok(Err(error)) => Err(peer.broken(&error)),
        Err(_) => Err(peer.silent(limit)),
    }
}

/// What a channel goes over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// `HOST` gets the controller's port.
fn with_port(server: &str) -> String {
    let bare_v6 = server.matches(':').count() > 1 && !server.contains(']');
    if bare_v6 {
        format!("[{server}]:{PORT}")
    } else if server.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')) {
        server.to_owned()
    } else {
        format!("{server}:{PORT}")
    }
}

fn unreachable(error: &DialError, server: &str, controller: &str) -> anyhow::Error {
    let text = error.to_string();
    let next = match error {
        DialError::Resolve { .. } => "check the name, or name another with --server",
        DialError::Connect { .. } => "is kctl-controller running there, and is the port open?",
        DialError::Timeout { .. } => "is it up and reachable, and is it a kctl controller?",
        // CAs of two controllers can have the same name: then only the signature tells.
        DialError::Handshake { .. }
            if text.contains("UnknownIssuer") || text.contains("BadSignature") =>
        {
            "this is not the controller of the context: its certificate comes from another CA; \
             import the context of this controller, or a new one where its CA was replaced"
        }
        DialError::Handshake { .. } if error.is_of_time() => {
            "its certificate is over or has not begun by the clock of this machine: is the clock right, \
             and that of the controller?"
        }
        DialError::Handshake { .. } if text.contains("ApplicationVerificationFailure") => {
            return anyhow!(
                "controller {server}: its certificate does not name {controller}, as the context \
                 says; check --server and --context"
            );
        }
        DialError::Handshake { source, .. } => {
            if let Some(why) = refused(&text) {
                return anyhow!("controller {server}: {why}");
            }
            let why = format!("controller {text}; is this a kctl controller?");
            let hung_up = [
                ErrorKind::UnexpectedEof,
                ErrorKind::ConnectionReset,
                ErrorKind::ConnectionAborted,
                ErrorKind::BrokenPipe,
            ];
            // One that is about to stop does so, too.
            return if hung_up.contains(&source.kind()) { Away(why).into() } else { anyhow!(why) };
        }
    };
    let why = format!("controller {text}; {next}");
    match error {
        DialError::Handshake { .. } => anyhow!(why),
        _ => Away(why).into(),
    }
}

/// What a TLS alert of the controller means. It comes after the client's side of a TLS 1.3 handshake is
/// done, so it shows as the end of the connection.
fn refused(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase().replace([' ', '_'], "");
    [
        (
            "certificaterevoked",
            "it refuses our certificate: revoked; ask an administrator for a new context",
        ),
        (
            "certificateexpired",
            "it refuses our certificate: expired by its clock; ask an administrator for \"kctl user renew\" with \
             your name",
        ),
        (
            "unknownca",
            "it refuses our certificate: it comes from another CA; use the context of this controller",
        ),
        ("accessdenied", "it refuses our certificate: a user certificate is wanted"),
        ("receivedfatalalert", "it refuses our certificate; use the context of this controller"),
    ]
    .into_iter()
    .find_map(|(alert, why)| text.contains(alert).then_some(why))
}

impl Peer {
    fn silent(&self, limit: Duration) -> anyhow::Error {
        Lost(format!("{}: no answer within {} ms", self.name, limit.as_millis())).into()
    }

    /// An error of the connection, as the stream told it or else the deepest cause.
    fn broken(&self, error: &dyn std::error::Error) -> anyhow::Error {
        let mut deepest = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        let why = self.cause.told().map_or_else(|| deepest.to_string(), str::to_owned);
        match refused(&why) {
            Some(why) => anyhow!("{}: {why}", self.name),
            None => Lost(format!("{}: connection lost: {why}", self.name)).into(),
        }
    }
}

impl Connection {
    /// How long hosts are waited for.
    pub(crate) fn wait(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }

    /// Waits for an answer, `wait` for the hosts and a little more for the other end itself.
    pub(crate) async fn call<T>(
        &self,
        wait: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        match tokio::time::timeout(wait + GRACE, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(self.peer.silent(wait + GRACE)),
        }
    }

    /// Waits for the next message of a stream.
    pub(crate) async fn next<T>(
        &self,
        wait: Duration,
        stream: &mut Streaming<T>,
    ) -> anyhow::Result<Option<T>> {
        match tokio::time::timeout(wait + GRACE, stream.message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(self.peer.silent(wait + GRACE)),
        }
    }

    /// Begins a stream. An error that may pass is [`Lost`] or [`Away`].
    pub(crate) async fn stream<T>(
        &self,
        wait: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        match tokio::time::timeout(wait + GRACE, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.passing(&status)),
            Err(_) => Err(self.peer.silent(wait + GRACE)),
        }
    }

    /// Waits for the next message of a stream, for ever without a limit. An error that may pass is
    /// [`Lost`] or [`Away`]. Cancel safe.
    pub(crate) async fn next_of<T>(
        &self,
        limit: Option<Duration>,
        stream: &mut Streaming<T>,
    ) -> anyhow::Result<Option<T>> {
        let message = stream.message();
        let told = match limit {
            None => message.await,
            Some(limit) => match tokio::time::timeout(limit + GRACE, message).await {
                Ok(told) => told,
                Err(_) => return Err(self.peer.silent(limit + GRACE)),
            },
        };
        told.map_err(|status| self.passing(&status))
    }

    fn passing(&self, status: &Status) -> anyhow::Error {
        let error = self.error(status);
        match status.code() {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
                if status.source().is_none() =>
            {
                Away(format!("{error:#}")).into()
            }
            _ => error,
        }
    }

    /// What the other end said, or what became of the connection.
    fn error(&self, status: &Status) -> anyhow::Error {
        if status.source().is_some() {
            return self.peer.broken(status);
        }
        let peer = &self.peer.name;
        if let Some(call) = unknown_call(status) {
            return anyhow!(
                "{peer}: does not know {call} of kctl {VERSION}; is it older? upgrade it"
            );
        }
        match (status.code(), status.message()) {
            (code, "") => anyhow!("{peer}: {}", code.description()),
            (Code::Unauthenticated | Code::PermissionDenied, why) => anyhow!("{peer}: {why}"),
            (_, why) => anyhow!("{why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_has_a_default() {
        for (given, dialed) in [
            ("ctl", "ctl:7443"),
            ("ctl:1", "ctl:1"),
            ("10.0.0.1", "10.0.0.1:7443"),
            ("[2001:db8::1]", "[2001:db8::1]:7443"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("2001:db8::1", "[2001:db8::1]:7443"),
        ] {
            assert_eq!(with_port(given), dialed);
        }
    }

    #[test]
    fn alerts_are_explained() {
        for (text, word) in [
            ("received fatal alert: CertificateRevoked", "revoked"),
            ("received fatal alert: UnknownCA", "another CA"),
            ("received fatal alert: the certificate_expired", "expired"),
            ("received fatal alert: AccessDenied", "user certificate"),
        ] {
            assert!(refused(text).expect(text).contains(word), "{text}");
        }
        assert_eq!(refused("connection refused"), None);
    }
}
