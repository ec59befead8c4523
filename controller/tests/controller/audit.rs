//! The audit log: what is in it, and that a change behind the controller's back shows.

use crate::support::{Api, Controller, LIMIT, all, block};
use kctl_proto::controller::v1::{
    BlockRequest, ListAuditRequest, VerifyAuditRequest, VerifyAuditResponse,
    audit_service_client::AuditServiceClient,
};
use rusqlite::Connection;
use tokio::time::timeout;

async fn verify(api: &Api, head: Option<&VerifyAuditResponse>) -> VerifyAuditResponse {
    let (number, hash) = head.map(|head| (head.count, head.hash.clone())).unwrap_or_default();
    let request = VerifyAuditRequest { number, hash };
    let answer = AuditServiceClient::new(api.0.clone()).verify_audit(request).await;
    answer.expect("looks").into_inner()
}

/// Makes lines, more than the controller reads at a time.
async fn lines(api: &Api, count: usize) {
    for at in 0..count {
        let prefix = format!("10.1.{}.{}", at / 250, 1 + at % 250);
        let request = BlockRequest { allow_empty: true, ..block(&prefix, all()) };
        api.block(request).await.expect("accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_listed_followed_and_chained() {
    let controller = Controller::start();
    let api = controller.api().await;
    let mut following = AuditServiceClient::new(api.0.clone())
        .list_audit(ListAuditRequest { follow: true, ..Default::default() })
        .await
        .expect("follows")
        .into_inner();
    lines(&api, 520).await;
    let mut followed = Vec::new();
    while followed.len() < 520 {
        let page = timeout(LIMIT, following.message()).await.expect("in time").expect("goes on");
        followed.extend(page.expect("a page").lines);
    }
    let listed = api.audit(ListAuditRequest::default()).await;
    assert_eq!(listed, followed);
    let numbers: Vec<u64> = listed.iter().map(|line| line.number).collect();
    assert_eq!(numbers, (1..=520).collect::<Vec<_>>());
    let line = &listed[0];
    assert_eq!((line.who.as_str(), line.outcome.as_str()), ("user:admin", "ok"));
    assert_eq!((line.what.as_str(), line.hosts.as_str()), ("block 10.1.0.1", "all"));
    assert_eq!(line.from, "127.0.0.1");
    let last = api.audit(ListAuditRequest { last: 3, ..Default::default() }).await;
    assert_eq!(last, listed[517..]);
    let since = Some(listed[519].time_unix_ms + 60_000);
    let none = api.audit(ListAuditRequest { since_unix_ms: since, ..Default::default() }).await;
    assert!(none.is_empty());
    let host = ListAuditRequest { who: "host:web-1".to_owned(), ..Default::default() };
    assert!(api.audit(host).await.is_empty());
    let head = verify(&api, None).await;
    assert_eq!((head.count, head.problem.as_str()), (520, ""));
    assert_eq!(head.hash, listed[519].hash);
    lines(&api, 1).await;
    assert_eq!(verify(&api, Some(&head)).await.problem, "", "a noted head stays good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_behind_the_controllers_back_shows() {
    let mut controller = Controller::start();
    let api = controller.api().await;
    lines(&api, 5).await;
    let noted = verify(&api, None).await;
    for (edit, says) in [
        ("UPDATE audit SET what = 'block 10.9.9.9' WHERE number = 2", "line 2: it or"),
        ("UPDATE audit SET who = 'user:eve' WHERE number = 5", "line 5: it or"),
        ("DELETE FROM audit WHERE number = 3", "line 3: missing"),
        ("DELETE FROM audit WHERE number >= 4", "line 4: missing"),
    ] {
        let (address, data_dir) = controller.kill();
        let path = data_dir.path().join("store.db");
        let rows = |edit: &str| {
            let connection = Connection::open(&path).expect("opens");
            connection.execute_batch(edit).expect("edits");
        };
        rows(&format!("CREATE TABLE kept AS SELECT * FROM audit; {edit};"));
        controller = Controller::start_in(data_dir, &address);
        let found = verify(&controller.api().await, None).await;
        assert!(found.problem.contains(says), "{edit}: {found:?}");
        let (address, data_dir) = controller.kill();
        let path = data_dir.path().join("store.db");
        let connection = Connection::open(&path).expect("opens");
        let mend = "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept; DROP TABLE kept;";
        connection.execute_batch(mend).expect("mends");
        drop(connection);
        controller = Controller::start_in(data_dir, &address);
        assert_eq!(verify(&controller.api().await, None).await.problem, "");
    }
    // Whoever rewrites the whole chain can't rewrite a head that was noted elsewhere.
    let (address, data_dir) = controller.kill();
    let connection = Connection::open(data_dir.path().join("store.db")).expect("opens");
    let empty = "DELETE FROM audit; UPDATE audit_head SET count = 0, hash = zeroblob(32);";
    connection.execute_batch(empty).expect("edits");
    drop(connection);
    let controller = Controller::start_in(data_dir, &address);
    let api = controller.api().await;
    assert_eq!(verify(&api, None).await.problem, "");
    assert!(verify(&api, Some(&noted)).await.problem.contains("only 0 lines"));
    lines(&api, 5).await;
    assert!(verify(&api, Some(&noted)).await.problem.contains("rewritten"));
}
