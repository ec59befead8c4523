//! What the controller must not forget, behind a small face: read, write with a revision, watch.
//!
//! One thread owns the database. A write is a decision on the state as it is; decisions that queue up
//! share one durable commit, and nobody sees or is told of a change before it is on disk. It knows
//! nothing of connections or requests.

mod chain;
mod database;
mod desired;
mod layout;
mod records;
mod rows;
mod write;

pub(crate) use chain::{Head, Line, Page, Query};
pub(crate) use database::OpenError;
pub(crate) use desired::{Changed, Desired, Epoch, FeedChange};
pub(crate) use records::{
    AuditRecord, Fingerprint, HostRecord, IssuedRecord, Records, TokenRecord, UserRecord,
};
pub(crate) use write::{Model, Write};

use crate::status::Error;
use database::Database;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

/// Decisions that wait for the owner; more make their callers wait.
const QUEUE: usize = 256;
/// Whoever asks more often whether it can write hears the last answer: each costs the disk a write.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// A decision: the writes to make, and whom to tell what became of them.
type Decision = Box<dyn FnOnce(&Model) -> (Vec<Write>, Reply) + Send>;
/// Called once the writes are durable and published, or with what failed.
type Reply = Box<dyn FnOnce(Result<Committed<()>, Error>) + Send>;

/// What the owner is asked for.
enum Job {
    Decide(Decision),
    /// To read the audit log, which is not held in memory.
    Audit(Query, oneshot::Sender<Result<Page, Error>>),
    /// Whether it can write.
    Probe(oneshot::Sender<Result<(), Error>>),
}

/// A decision that is durable and published.
#[derive(Debug)]
pub(crate) struct Committed<T> {
    /// The revision that has it.
    pub(crate) revision: u64,
    /// When it was published: the start of its fan-out.
    pub(crate) at: Instant,
    /// What the decision returned.
    pub(crate) value: T,
}

/// The face of the store. Its clones speak to the same owner.
#[derive(Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    desired: watch::Receiver<Desired>,
    records: watch::Receiver<Records>,
    head: watch::Receiver<Head>,
}

impl Store {
    /// Opens the store of a data directory, or makes one where there is none. The thread ends when
    /// the last clone is gone and everything queued is written.
    pub(crate) fn open(path: &Path) -> Result<(Self, thread::JoinHandle<()>), OpenError> {
        let (database, model) = Database::open(path)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (desired_sender, desired) = watch::channel(model.desired.clone());
        let (records_sender, records) = watch::channel(model.records.clone());
        let (head_sender, head) = watch::channel(database.head);
        let owner = Owner {
            database,
            model,
            queue,
            desired: desired_sender,
            records: records_sender,
            head: head_sender,
            probed: None,
        };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || owner.run())
            .map_err(OpenError::Thread)?;
        Ok((Self { jobs, desired, records, head }, thread))
    }

    /// Decides on the current model what to write, writes it durably and publishes it. An error of
    /// `decide` changes nothing.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Model) -> Result<(Vec<Write>, T), Error> + Send + 'static,
    ) -> Result<Committed<T>, Error> {
        let (sender, receiver) = oneshot::channel();
        let decision: Decision = Box::new(move |model| {
            let (writes, value) = match decide(model) {
                Ok((writes, value)) => (writes, Ok(value)),
                Err(error) => (Vec::new(), Err(error)),
            };
            let reply: Reply = Box::new(move |committed| {
                // Whoever asked may be gone; the change stands all the same.
                let _ = sender.send(value.and_then(|value| {
                    let Committed { revision, at, value: () } = committed?;
                    Ok(Committed { revision, at, value })
                }));
            });
            (writes, reply)
        });
        self.jobs.send(Job::Decide(decision)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }

    /// Lines of the audit log.
    pub(crate) async fn audit(&self, query: Query) -> Result<Page, Error> {
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job::Audit(query, sender)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }

    /// Whether changes can be made durable: writes what is there already. Many questions at a time are
    /// answered by one write.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job::Probe(sender)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }

    /// Where the audit log ends, as published last.
    pub(crate) fn audit_head(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    /// The blocklist, as published last.
    pub(crate) fn desired(&self) -> watch::Receiver<Desired> {
        self.desired.clone()
    }

    /// Hosts, tokens, users, revoked certificates, as published last.
    pub(crate) fn records(&self) -> watch::Receiver<Records> {
        self.records.clone()
    }
}

fn stopped() -> Error {
    Error::Store("stopped; the controller is shutting down".to_owned())
}

/// The thread that owns database and model.
struct Owner {
    database: Database,
    /// Ahead of what is published by the decisions of the running commit.
    model: Model,
    queue: mpsc::Receiver<Job>,
    desired: watch::Sender<Desired>,
    records: watch::Sender<Records>,
    head: watch::Sender<Head>,
    /// When it was seen last whether it can write, and what came of it.
    probed: Option<(Instant, Result<(), String>)>,
}

impl Owner {
    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let (mut group, mut asked, mut probes) = (Vec::new(), Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Decide(decision) => group.push(decision),
                    Job::Audit(query, reply) => asked.push((query, reply)),
                    Job::Probe(reply) => probes.push(reply),
                }
                next = if group.len() + asked.len() + probes.len() < QUEUE {
                    self.queue.try_recv().ok()
                } else {
                    None
                };
            }
            if !group.is_empty() {
                self.commit(group);
            }
            for (query, reply) in asked {
                let page = self.database.audit(&query);
                let page = page.map_err(|error| Error::Store(format!("audit log: {error}")));
                // Whoever asked may be gone.
                let _ = reply.send(page);
            }
            if !probes.is_empty() {
                let probed = self.probe();
                for reply in probes {
                    let _ = reply.send(probed.clone().map_err(Error::Store));
                }
            }
        }
    }

    /// Unless it was asked just now.
    fn probe(&mut self) -> Result<(), String> {
        if let Some((at, probed)) = &self.probed
            && at.elapsed() < PROBE_EVERY
        {
            return probed.clone();
        }
        let probed = self.database.probe(self.model.desired.revision);
        let probed = probed.map_err(|error| format!("can't be written: {error}"));
        self.probed = Some((Instant::now(), probed.clone()));
        probed
    }

    fn commit(&mut self, group: Vec<Decision>) {
        let mut decided = Vec::with_capacity(group.len());
        for decide in group {
            let (writes, reply) = decide(&self.model);
            self.model.apply(&writes);
            decided.push((writes, reply, self.model.desired.revision));
        }
        let writes = decided.iter().flat_map(|(writes, ..)| writes);
        match self.database.commit(writes, self.model.desired.revision) {
            Ok(()) => {
                let at = Instant::now();
                self.publish(&decided);
                if *self.head.borrow() != self.database.head {
                    self.head.send_replace(self.database.head);
                }
                for (_, reply, revision) in decided {
                    reply(Ok(Committed { revision, at, value: () }));
                }
            }
            Err(error) => {
                tracing::error!(%error, "store: commit failed; nothing was changed");
                self.model = Model {
                    desired: self.desired.borrow().clone(),
                    records: self.records.borrow().clone(),
                };
                let error = format!("{error}; nothing was changed, see the space on its disk");
                for (_, reply, _) in decided {
                    reply(Err(Error::Store(error.clone())));
                }
            }
        }
    }

    /// Shows readers what is now durable, write by write: handing out a clone of the model would copy
    /// every entry for each change.
    fn publish(&self, decided: &[(Vec<Write>, Reply, u64)]) {
        let groups = || decided.iter().map(|(writes, ..)| writes.as_slice());
        if groups().any(Write::change_entries) {
            self.desired.send_modify(|desired| groups().for_each(|writes| desired.apply(writes)));
        }
        if groups().flatten().any(Write::is_record) {
            self.records.send_modify(|records| groups().for_each(|writes| records.apply(writes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kctl_blocklist::{Action, Entry, EntryKey, Selection, parse_prefix};
    use std::sync::Arc;

    fn entry(prefix: &str) -> Write {
        Write::Upsert(Arc::new(Entry {
            key: EntryKey {
                prefix: parse_prefix(prefix).expect("valid"),
                service: None,
                interface: None,
                action: Action::Drop,
                source: "user:a".to_owned(),
                selection: Selection::Names(["web-1".to_owned(), "web-2".to_owned()].into()),
            },
            reason: "scanner".to_owned(),
            created_unix_ms: 7,
            expires_unix_ms: Some(i64::MAX),
            exceptions: vec![Selection::All],
        }))
    }

    fn token() -> TokenRecord {
        TokenRecord {
            id: "0000000a".to_owned(),
            secret_sha256: [3; 32],
            expires_unix_ms: 9,
            uses: Some(2),
            host: String::new(),
            revoked: false,
            created_by: "user:admin".to_owned(),
            created_unix_ms: 1,
        }
    }

    fn host() -> HostRecord {
        HostRecord {
            name: "web-1".to_owned(),
            joined_unix_ms: 1,
            since_unix_ms: 2,
            session: None,
            certificates: [[1; 32], [2; 32]].into(),
            status: Some(Arc::default()),
        }
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_there_after_reopening() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("store.db");
        let (store, thread) = Store::open(&path).expect("opens");
        let writes = vec![
            entry("10.0.0.1"),
            entry("10.0.0.2"),
            Write::Token(token()),
            Write::Host(host()),
            Write::Revoke([9; 32], "kctl://host/old".to_owned()),
        ];
        let committed = store.write(|_| Ok((writes, "value"))).await.expect("commits");
        assert_eq!((committed.revision, committed.value), (1, "value"));
        let Write::Upsert(gone) = entry("10.0.0.2") else { unreachable!("made above") };
        store
            .write(move |_| Ok((vec![Write::Remove(gone.key.clone())], ())))
            .await
            .expect("commits");
        let nothing = store.write(|model| Ok((Vec::new(), model.desired.revision))).await;
        assert_eq!(nothing.expect("no change is no revision").revision, 2);
        let refused =
            store.write::<()>(|_| Err(Error::Invalid("no".to_owned()))).await.expect_err("refused");
        assert_eq!(refused, Error::Invalid("no".to_owned()));
        let before = store.desired().borrow().clone();
        drop(store);
        thread.join().expect("ends");

        let (store, _thread) = Store::open(&path).expect("opens again");
        let after = store.desired().borrow().clone();
        assert_eq!((after.revision, &after.store_id), (2, &before.store_id));
        assert_eq!(after.entries().collect::<Vec<_>>(), before.entries().collect::<Vec<_>>());
        assert_ne!(after.epoch(), before.epoch());
        let ended = after.epochs.iter().find(|epoch| epoch.epoch == before.epoch());
        assert_eq!(ended.map(|epoch| (epoch.first, epoch.last)), Some((1, Some(2))));
        assert_eq!(after.epochs.last().map(|epoch| (epoch.first, epoch.last)), Some((3, None)));
        let records = store.records().borrow().clone();
        assert_eq!(records.hosts["web-1"], host());
        assert_eq!(records.tokens["0000000a"], token());
        assert!(records.revoked.contains(&[9; 32]) && records.users.contains_key("admin"));
    }

    #[tokio::test]
    async fn a_store_without_its_file_is_a_new_one_whatever_lies_beside_it() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("store.db");
        let id_of = |store: &Store| store.desired().borrow().store_id.clone();
        let (store, thread) = Store::open(&path).expect("opens");
        store.write(|_| Ok((vec![entry("10.0.0.1")], ()))).await.expect("commits");
        let first = id_of(&store);
        std::fs::copy(folder.path().join("store.db-wal"), folder.path().join("kept"))
            .expect("there");
        drop(store);
        thread.join().expect("ends");
        std::fs::remove_file(&path).expect("there");
        std::fs::copy(folder.path().join("kept"), folder.path().join("store.db-wal"))
            .expect("copies");
        let (store, _thread) = Store::open(&path).expect("opens");
        assert_ne!(id_of(&store), first);
        assert_eq!(store.desired().borrow().entries().len(), 0);
    }

    /// As a controller left it that had no feeds yet, or no chain of the audit log.
    fn older(path: &Path, layout: &str) {
        let older = rusqlite::Connection::open(path).expect("opens");
        older.execute_batch(layout::FIRST).expect("its tables");
        if layout == "2" {
            older.execute_batch(layout::FEEDS).expect("and feeds");
        }
        let rows = format!(
            "INSERT INTO meta VALUES('layout', '{layout}'), ('store_id', 'abc'), ('revision', '0');
             INSERT INTO users VALUES('admin', 'admin', 1);
             INSERT INTO audit VALUES(1, 5, 'user:admin', '::1', 'block 10.0.0.1', 'all', 'ok');
             INSERT INTO audit VALUES(2, 6, 'user:admin', '::1', 'unblock 10.0.0.1', 'all', 'ok');"
        );
        older.execute_batch(&rows).expect("and rows");
    }

    /// What is wrong with the audit log.
    async fn problem(store: &Store) -> Option<String> {
        let page = store.audit(Query { limit: 100, ..Query::default() }).await.expect("reads");
        let mut head = Head::default();
        let wrong = page.lines.iter().find_map(|line| head.follow(line).err());
        wrong.or_else(|| (head != page.head).then(|| "the end is missing".to_owned()))
    }

    #[tokio::test]
    async fn the_log_of_an_older_store_is_chained_and_goes_on() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("store.db");
        older(&path, "2");
        let (store, thread) = Store::open(&path).expect("opens");
        assert_eq!((problem(&store).await, store.audit_head().borrow().count), (None, 2));
        let record = AuditRecord {
            time_unix_ms: 9,
            who: "user:eve".to_owned(),
            from: String::new(),
            what: "token create".to_owned(),
            hosts: String::new(),
            outcome: "ok".to_owned(),
        };
        let line = Write::Audit(record);
        store.write(move |_| Ok((vec![line.clone(), line], ()))).await.expect("commits");
        let head = *store.audit_head().borrow();
        assert_eq!((problem(&store).await, head.count), (None, 4));
        let query = Query { limit: 1, newest: true, who: "eve".to_owned(), ..Query::default() };
        let page = store.audit(query).await.expect("reads");
        assert_eq!(page.lines.iter().map(|line| line.number).collect::<Vec<_>>(), [4]);
        assert!(store.records().borrow().users.contains_key("admin"));
        drop(store);
        thread.join().expect("ends");

        for (edit, says) in [
            ("UPDATE audit SET outcome = 'no' WHERE number = 1", "line 1"),
            ("DELETE FROM audit WHERE number = 4", "the end"),
            ("DELETE FROM audit WHERE number = 2", "line 2: missing"),
        ] {
            let copy = folder.path().join("copy.db");
            let _ = std::fs::remove_file(&copy);
            let original = rusqlite::Connection::open(&path).expect("opens");
            original.execute("VACUUM INTO ?1", [copy.to_str()]).expect("copies");
            rusqlite::Connection::open(&copy).expect("opens").execute(edit, []).expect(edit);
            let (store, _thread) = Store::open(&copy).expect("opens");
            let found = problem(&store).await.expect(edit);
            assert!(found.contains(says), "{edit}: {found}");
        }
    }

    #[tokio::test]
    async fn feeds_come_back_and_a_store_without_their_table_gets_it() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("store.db");
        older(&path, "1");
        let (store, thread) = Store::open(&path).expect("opens");
        let head = kctl_blocklist::FeedHead {
            name: "drop".to_owned(),
            action: Action::Drop,
            selection: Selection::All,
            reason: "listed".to_owned(),
            imported_unix_ms: 7,
            expires_unix_ms: Some(i64::MAX),
        };
        let prefixes = ["10.0.0.1", "2001:db8::/32"];
        let prefixes = prefixes.iter().map(|text| parse_prefix(text).expect("valid")).collect();
        let change = Arc::new(FeedChange::import(None, head, prefixes));
        let imported = Arc::clone(&change);
        let write = store.write(move |_| Ok((vec![Write::Feed(imported)], ()))).await;
        assert_eq!(write.expect("commits").revision, 1);
        drop(store);
        thread.join().expect("ends");
        let (store, _thread) = Store::open(&path).expect("opens again");
        let desired = store.desired().borrow().clone();
        assert_eq!(desired.feed("drop"), change.after.as_ref());
    }
}
