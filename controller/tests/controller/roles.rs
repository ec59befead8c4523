//! What each role and scope lets a user do, through real connections.

use crate::{
    events::fleet,
    support::{
        Api, Controller,
        agent::Agent,
        all, block,
        events::{exec, now_unix_ns},
        eventually, names, selector,
        stream::follow,
        unblock,
    },
};
use kctl_proto::{
    agent::v1::{EventFilter, event::Payload},
    controller::v1::{self as api, stats_service_client::StatsServiceClient},
};
use kctl_rpc::{Access, Role};
use std::collections::BTreeMap;
use tonic::{Code, Status};

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_open_to_those_whom_the_table_names_and_to_nobody_else() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let roles = [("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)];
    let mut apis = Vec::new();
    for (name, role) in roles {
        for scope in ["", "role=web"] {
            let user = format!("u-{name}{}", if scope.is_empty() { "" } else { "-scoped" });
            let credentials = admin.user(&user, name, scope).await.expect("made");
            apis.push((role, scope, controller.api_as(&credentials).await));
        }
    }
    let paths: Vec<String> =
        Access::paths().filter(|path| !path.starts_with("/kctl.agent.")).collect();
    for path in &paths {
        // A change of the CA makes the rest wait for new certificates; it has a test of its own.
        if path.ends_with("/RotateAuthority") {
            continue;
        }
        let access = Access::of(path).expect("in the table");
        for (role, scope, api) in &apis {
            let open = match access {
                Access::People { least, fleet, .. } => {
                    *role >= least && (!fleet || scope.is_empty())
                }
                Access::Join | Access::Controller => false,
            };
            let code = api.bare(path).await.map_or_else(|status| status.code(), |()| Code::Ok);
            let refused = [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented]
                .contains(&code);
            assert_eq!(open, !refused, "{path} as {role:?} on {scope:?}: {code:?}");
        }
    }
    // What was refused and would have changed something is in the log, what was a read is not.
    let refused = eventually("logged", async || {
        let request = api::ListAuditRequest { who: "u-viewer".to_owned(), ..Default::default() };
        let lines = admin.audit(request).await;
        let whats: Vec<String> = lines.into_iter().map(|line| line.what).collect();
        let changes = paths.iter().filter(|path| {
            Access::of(path).is_ok_and(|access| match access {
                Access::People { least, change, .. } => change && least > Role::Viewer,
                _ => false,
            }) && !path.ends_with("/RotateAuthority")
        });
        let missing = changes.filter(|path| {
            let method = path.rsplit('/').next().unwrap_or_default();
            !whats.iter().any(|what| what == method)
        });
        (missing.count() == 0).then_some(whats)
    })
    .await;
    assert!(!refused.iter().any(|what| what == "ListTokens"), "{refused:?}");
}

fn denied(status: &Status, parts: &[&str]) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    for part in parts {
        assert!(status.message().contains(part), "{status}");
    }
}

async fn labelled(controller: &Controller, api: &Api, name: &str, role: &str) -> Agent {
    let agent = Agent::new(controller, api, name).await;
    agent.state().status.labels = [("role".to_owned(), role.to_owned())].into();
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_all_that_a_user_sees_and_changes() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let web = labelled(&controller, &admin, "web-1", "web").await;
    let db = labelled(&controller, &admin, "db-1", "db").await;
    let _web = web.connect(&controller, &admin).await;
    let _db = db.connect(&controller, &admin).await;
    let credentials = admin.user("ann", "operator", "role=web").await.expect("made");
    let ann = controller.api_as(&credentials).await;

    assert_eq!(ann.hosts().await.into_keys().collect::<Vec<_>>(), ["web-1"]);
    let stats = async |selection| {
        let request = api::GetStatsRequest { selection, top: 0, timeout_ms: 0 };
        let mut answers =
            StatsServiceClient::new(ann.0.clone()).get_stats(request).await?.into_inner();
        let mut hosts = Vec::new();
        while let Some(answer) = answers.message().await? {
            hosts.push(answer.host);
        }
        Ok::<_, Status>(hosts)
    };
    assert_eq!(stats(None).await.expect("reads"), ["web-1"]);
    assert_eq!(stats(Some(all())).await.expect("reads"), ["web-1"]);
    let refused = stats(Some(names(&["db-1"]))).await.expect_err("outside");
    denied(&refused, &["db-1", "role=web", "-l role=web"]);

    for (selection, next) in [
        (all(), "-l role=web"),
        (selector("role=db"), "-l role=db,role=web"),
        (selector("zone=a"), "-l role=web,zone=a"),
        (names(&["web-1", "db-1"]), "db-1"),
    ] {
        let refused = ann.block(block("10.0.0.1", selection)).await.map(drop).expect_err("outside");
        denied(&refused, &["your scope, role=web", next]);
    }
    assert!(web.prefixes().is_empty() && db.prefixes().is_empty());
    let blocked = ann.block(block("10.0.0.1", selector("role=web"))).await.expect("inside");
    assert_eq!(blocked.outcome("web-1"), api::host_result::Status::Applied);
    ann.block(block("10.0.0.2", names(&["web-1"]))).await.expect("inside");
    assert!(db.prefixes().is_empty());

    // What an admin blocked everywhere a scoped user takes back only there.
    admin.block(block("10.0.0.9", all())).await.expect("accepted");
    let refused = ann.unblock(unblock("10.0.0.9", all())).await.map(drop).expect_err("outside");
    denied(&refused, &["role=web"]);
    ann.unblock(unblock("10.0.0.9", selector("role=web"))).await.expect("inside");
    assert_eq!(db.prefixes(), ["10.0.0.9/32"]);
    assert!(!web.prefixes().contains(&"10.0.0.9/32".to_owned()));

    let lines = admin.audit(api::ListAuditRequest { who: "ann".to_owned(), ..Default::default() });
    let outcomes: BTreeMap<String, usize> =
        lines.await.into_iter().fold(BTreeMap::new(), |mut counts, line| {
            let outcome = if line.outcome == "ok" { "ok" } else { "refused" };
            *counts.entry(outcome.to_owned()).or_default() += 1;
            counts
        });
    assert_eq!(outcomes, [("ok".to_owned(), 3), ("refused".to_owned(), 5)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_events_without_arguments_and_can_t_ask_for_them() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let [(web, _web)] = fleet(&controller, &admin, ["web-1"]).await;
    let viewer = admin.user("vic", "viewer", "").await.expect("made");
    let operator = admin.user("opal", "operator", "").await.expect("made");
    let (viewer, operator) = (controller.api_as(&viewer).await, controller.api_as(&operator).await);

    let filter = |expression: &str| api::WatchEventsRequest {
        filter: Some(EventFilter { expression: expression.to_owned(), ..Default::default() }),
        follow: true,
        ..api::WatchEventsRequest::default()
    };
    for expression in ["exec.argv.exists(it, it == 'secret')", "has(exec.argv)"] {
        let refused = viewer.watch(filter(expression)).await.map(drop).expect_err(expression);
        denied(&refused, &["argv", "role operator"]);
        operator.watch(filter(expression)).await.map(drop).expect(expression);
    }
    let before = now_unix_ns();
    let mut readers = Vec::new();
    for api in [&viewer, &operator] {
        readers.push(api.watch(follow()).await.expect("follows"));
    }
    web.teller.tell([exec("/bin/a")]);
    for reader in &mut readers {
        reader.until("told", |reader| reader.of_hosts().count() == 1).await;
    }
    // From the past as well.
    let past = || api::WatchEventsRequest { since_unix_ns: Some(before), ..Default::default() };
    for (api, shown) in [(&viewer, 0), (&operator, 2)] {
        let stored = eventually("stored", async || {
            let reader = api.past(past()).await;
            (reader.of_hosts().count() == 1).then_some(reader)
        })
        .await;
        readers.push(stored);
        let argv = |payload: &Option<Payload>| match payload {
            Some(Payload::Exec(exec)) => exec.argv.len(),
            other => panic!("{other:?}"),
        };
        let at = if shown == 0 { [0, 2] } else { [1, 3] };
        for reader in at.map(|at| &readers[at]) {
            let told: Vec<_> = reader.of_hosts().map(|told| argv(&told.event.payload)).collect();
            assert_eq!(told, [shown]);
        }
    }
}
