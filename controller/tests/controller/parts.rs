//! Reads whose answers come in parts: each host ends with `end` or with one error, whatever becomes
//! of it midway.

use crate::support::{Api, Controller, agent::Agent, agent::Connected, all};
use kctl_proto::{
    Piece, Twin as _,
    controller::v1::{ListRulesRequest, netlink_service_client::NetlinkServiceClient},
};
use std::collections::BTreeMap;

/// The priorities that each host told, and how it ended: "" or the code of its error.
type Told = BTreeMap<String, (Vec<u32>, Option<String>)>;

async fn rules(api: &Api, timeout_ms: u64, mut dies: Option<Connected>) -> Told {
    let request = ListRulesRequest { selection: Some(all()), timeout_ms, request: None };
    let mut client = NetlinkServiceClient::new(api.0.clone());
    let mut answers = client.list_rules(request).await.expect("asked").into_inner();
    let mut told = Told::new();
    while let Some(message) = answers.message().await.expect("goes on") {
        let (host, piece) = message.into_piece();
        let (priorities, ended) = told.entry(host.clone()).or_default();
        assert_eq!(*ended, None, "{host} said more after its end");
        match piece.expect("known") {
            Piece::Part(part) => priorities.extend(part.rules.iter().map(|rule| rule.priority)),
            Piece::End => *ended = Some(String::new()),
            Piece::Error(error) => *ended = Some(error.code),
        }
        if host == "dies" {
            drop(dies.take());
        }
    }
    told
}

#[tokio::test]
async fn every_host_ends_once_whatever_becomes_of_it() {
    let controller = Controller::start();
    let api = controller.api().await;
    Agent::new(&controller, &api, "away").await;
    let mut connected = BTreeMap::new();
    for name in ["whole", "breaks", "refuses", "stalls", "dies"] {
        let agent = Agent::new(&controller, &api, name).await;
        connected.insert(name, agent.connect(&controller, &api).await);
    }
    let told = rules(&api, 1_000, connected.remove("dies")).await;
    let expected = [
        ("away", vec![], "UNAVAILABLE"),
        ("breaks", vec![1], "INTERNAL"),
        ("dies", vec![1], "UNAVAILABLE"),
        ("refuses", vec![], "NOT_FOUND"),
        ("stalls", vec![1], "DEADLINE_EXCEEDED"),
        ("whole", vec![1, 2, 3], ""),
    ];
    let expected = expected
        .map(|(host, priorities, end)| (host.to_owned(), (priorities, Some(end.to_owned()))));
    assert_eq!(told, BTreeMap::from(expected));
}
