//! The audit log: every call that changes something, who made it from where, and what came of it.

use crate::{
    auth::Caller,
    status::Error,
    store::{AuditRecord, Committed, Model, Store, Write},
};
use kctl_blocklist::now_unix_ms;
use kctl_proto::agent::v1 as pb;
use kctl_rpc::{Identity, Peer};

/// A request that changes something on hosts.
pub(crate) trait Audit {
    /// Whether it is only for one host at a time.
    const ONE_HOST: bool = false;

    /// The call with its arguments, as one would type it.
    fn what(&self) -> String;
}

impl Audit for pb::SignalProcessRequest {
    const ONE_HOST: bool = true;

    fn what(&self) -> String {
        let Self { pid, signal, start_unix_ms, comm } = self;
        let mut what = format!("signal {pid} {}", part(signal));
        if *start_unix_ms != 0 {
            what.push_str(&format!(" started {start_unix_ms}"));
        }
        if !comm.is_empty() {
            what.push_str(&format!(" named {}", part(comm)));
        }
        what
    }
}

impl Audit for pb::SetValueRequest {
    fn what(&self) -> String {
        format!("set {}={}", part(&self.path), part(&self.value))
    }
}

impl Audit for pb::SetCpufreqRequest {
    fn what(&self) -> String {
        use pb::set_cpufreq_request::Target;
        let target = match &self.target {
            Some(Target::Governor(governor)) => format!("governor {}", part(governor)),
            Some(Target::FrequencyHz(hz)) => format!("frequency {hz} Hz"),
            None => "nothing".to_owned(),
        };
        match self.cpus.as_slice() {
            [] => format!("cpufreq {target}"),
            cpus => format!("cpufreq {target} on processors {}", list(cpus)),
        }
    }
}

/// Longer texts of a caller are cut, characters.
const LONGEST_PART: usize = 256;

/// Text of a caller for the log, bounded and in one line.
fn part(text: &str) -> String {
    text.chars().take(LONGEST_PART).collect::<String>().escape_debug().to_string()
}

/// A call that changes something.
pub(crate) struct Audited {
    who: String,
    from: String,
    what: String,
    hosts: String,
}

impl Audited {
    /// By an API user. `what` is the call with its arguments, `hosts` whom it is about.
    pub(crate) fn of_user(caller: &Caller, what: String, hosts: String) -> Self {
        let from = caller.address.map(|address| address.to_string()).unwrap_or_default();
        Self { who: caller.source(), from, what, hosts }
    }

    /// By the controller, of what a host's detection found.
    pub(crate) fn of_detection(host: &str, source: &str, what: String) -> Self {
        Self { who: source.to_owned(), from: host.to_owned(), what, hosts: "all".to_owned() }
    }

    /// Of a call that the gate refuses, by its path; its arguments are not known yet.
    pub(crate) fn of_call(peer: &Peer, path: &str) -> Self {
        let who = match &peer.identity {
            Some(Identity::User(name)) => format!("user:{name}"),
            Some(Identity::Host(name)) => format!("host:{name}"),
            Some(Identity::Controller(name)) => format!("controller:{name}"),
            None => String::new(),
        };
        let from = peer.address.map(|address| address.ip().to_canonical().to_string());
        let what = path.rsplit('/').next().unwrap_or(path).to_owned();
        Self { who, from: from.unwrap_or_default(), what, hosts: String::new() }
    }

    /// By a host over its connection.
    pub(crate) fn of_host(host: &str, what: &str) -> Self {
        let (who, hosts) = (format!("host:{host}"), host.to_owned());
        Self { who, from: String::new(), what: what.to_owned(), hosts }
    }

    /// By a host that joins.
    pub(crate) fn of_join(host: &str, from: String, token: &str) -> Self {
        Self {
            who: format!("host:{host}"),
            from,
            what: format!("join with token {token}"),
            hosts: host.to_owned(),
        }
    }

    /// Writes a decision with its line in the log under one commit; a refusal is logged as well.
    pub(crate) async fn write<T: Send + 'static>(
        self,
        store: &Store,
        decide: impl FnOnce(&Model) -> Result<(Vec<Write>, T), Error> + Send + 'static,
    ) -> Result<Committed<T>, Error> {
        let done = self.line("ok".to_owned());
        let committed = store
            .write(move |model| {
                let (mut writes, value) = decide(model)?;
                writes.push(Write::Audit(done));
                Ok((writes, value))
            })
            .await;
        match &committed {
            Ok(committed) => self.log("ok", Some(committed.revision)),
            Err(error) => self.refused(store, error).await,
        }
        committed
    }

    /// Logs what was refused before there was anything to write.
    pub(crate) async fn refused(&self, store: &Store, error: &Error) {
        self.ended(store, error.to_string()).await;
    }

    /// Writes that hosts are about to be asked; without it they are not.
    pub(crate) async fn begun(&self, store: &Store) -> Result<(), Error> {
        let line = self.line("asked".to_owned());
        store.write(move |_| Ok((vec![Write::Audit(line)], ()))).await.map(drop)
    }

    /// Writes what came of asking them.
    pub(crate) async fn ended(&self, store: &Store, outcome: String) {
        self.log(&outcome, None);
        let line = self.line(outcome);
        if let Err(error) = store.write(move |_| Ok((vec![Write::Audit(line)], ()))).await {
            tracing::warn!(%error, "audit: an outcome is not in the store");
        }
    }

    /// Writes what came of something that is not a change of the store.
    pub(crate) async fn settled(&self, store: &Store, result: &Result<(), Error>) {
        let outcome = result.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned());
        self.ended(store, outcome).await;
    }

    fn line(&self, outcome: String) -> AuditRecord {
        AuditRecord {
            time_unix_ms: now_unix_ms(),
            who: self.who.clone(),
            from: self.from.clone(),
            what: self.what.clone(),
            hosts: self.hosts.clone(),
            outcome,
        }
    }

    fn log(&self, outcome: &str, revision: Option<u64>) {
        let Self { who, from, what, hosts } = self;
        tracing::info!(target: "audit", %who, %from, %what, %hosts, %outcome, revision);
    }
}

/// A list for the log, bounded.
pub(crate) fn list<T: ToString>(items: &[T]) -> String {
    let mut text = items.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if items.len() > 20 {
        text.push_str(&format!(" and {} more", items.len() - 20));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_as_it_was_asked_for_in_one_line() {
        let comm = format!("x\n{}", "y".repeat(300));
        let mut request =
            pb::SignalProcessRequest { pid: 7, signal: "TERM".to_owned(), comm, start_unix_ms: 5 };
        let named = format!("x\\n{}", "y".repeat(254));
        assert_eq!(request.what(), format!("signal 7 TERM started 5 named {named}"));
        (request.comm, request.start_unix_ms) = (String::new(), 0);
        assert_eq!(request.what(), "signal 7 TERM");
    }
}
