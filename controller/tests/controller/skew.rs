//! Agents of other versions: one minor version older, which lack calls, and newer, which say more than this
//! controller understands.

use crate::support::{Controller, agent::Agent, all, block, events::exec, stream::follow};
use axum::body::Body;
use http_body::Frame;
use kctl_proto::{
    agent::v1 as pb,
    agent::v1::{
        blocklist_service_server::BlocklistServiceServer, host_service_server::HostServiceServer,
    },
    controller::v1::{self as api, netlink_service_client::NetlinkServiceClient},
};
use kctl_rpc::VERSION;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::service::Routes;
use tower::util::MapResponseLayer;

/// A version so many minor versions away.
fn version(minors: i64) -> String {
    let mut parts = VERSION.split('.').map(|part| part.parse::<i64>().unwrap_or_default());
    let (major, minor) = (parts.next().expect("major"), parts.next().expect("minor"));
    format!("{major}.{}.0", (minor + minors).max(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_agent_filters_and_says_what_it_does_not_know() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let agent = Agent::new(&controller, &admin, "web-1").await;
    agent.state().status.agent_version = version(-1);
    let routes = Routes::new(HostServiceServer::new(agent.clone()))
        .add_service(BlocklistServiceServer::new(agent.clone()));
    let _connected = agent.connect_serving(&controller, &admin, routes).await;
    let changed = admin.block(block("10.0.0.5", all())).await.expect("recorded");
    assert_eq!(changed.outcome("web-1"), api::host_result::Status::Applied);
    assert_eq!(agent.prefixes(), ["10.0.0.5/32"]);
    let host = admin.until_in_sync("web-1").await;
    assert_eq!(host.version_skew, "");

    let request = api::ListLinksRequest::default();
    let mut links = NetlinkServiceClient::new(admin.0.clone())
        .list_links(request)
        .await
        .expect("an answer of the fleet")
        .into_inner();
    let told = links.message().await.expect("told").expect("a row");
    let Some(api::list_links_response::Result::Error(error)) = told.result else {
        panic!("{told:?}")
    };
    assert_eq!(error.code, "UNIMPLEMENTED");
    let expected = format!("host \"web-1\": kctl-agent {} does not know", version(-1));
    assert!(error.message.starts_with(&expected), "{error:?}");
    assert!(error.message.ends_with("upgrade it"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_agent_says_more_than_is_understood_and_works() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let agent = Agent::new(&controller, &admin, "web-1").await;
    agent.state().status.agent_version = version(1);
    let newer = MapResponseLayer::new(|response: http::Response<Body>| {
        response.map(|body| tonic::body::Body::new(Newer { body, taken: Vec::new() }))
    });
    let routes = Routes::from(agent.routes().into_axum_router().layer(newer));
    let _connected = agent.connect_serving(&controller, &admin, routes).await;
    let changed = admin.block(block("10.0.0.5", all())).await.expect("recorded");
    assert_eq!(changed.outcome("web-1"), api::host_result::Status::Applied);
    let host = admin.until_in_sync("web-1").await;
    assert_eq!(host.version_skew, "");
    assert_eq!(host.status.expect("told").agent_version, version(1));

    // An event of a kind that is not known is one all the same.
    let mut reader = admin.watch(follow()).await.expect("follows");
    agent.teller.tell([None, Some(exec("/bin/true"))]);
    reader.until("both", |reader| reader.of_hosts().count() >= 2).await;
    let known: Vec<_> = reader.of_hosts().map(|told| told.event.payload.is_some()).collect();
    assert_eq!(known, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_too_far_away_is_told_and_works_all_the_same() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let agent = Agent::new(&controller, &admin, "web-1").await;
    agent.state().status.agent_version = version(2);
    let _connected = agent.connect(&controller, &admin).await;
    let host = admin.until("web-1", |host| !host.version_skew.is_empty()).await;
    assert!(host.version_skew.ends_with("upgrade kctl-controller"), "{host:?}");
    let changed = admin.block(block("10.0.0.5", all())).await.expect("recorded");
    assert_eq!(changed.outcome("web-1"), api::host_result::Status::Applied);
}

/// What a newer kctl asks for is refused where leaving it out would block something else.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_not_understood_are_refused_and_not_guessed() {
    let controller = Controller::start();
    let admin = controller.api().await;
    let agent = Agent::new(&controller, &admin, "web-1").await;
    let _connected = agent.connect(&controller, &admin).await;
    let action = api::BlockRequest { action: 77, ..block("10.0.0.5", all()) };
    let protocol = api::BlockRequest { port: 22, protocol: 77, ..block("10.0.0.5", all()) };
    for request in [action, protocol] {
        let refused = admin.block(request).await.expect_err("not known");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("not known to this version"), "{refused}");
    }
    assert!(agent.prefixes().is_empty());
    let known = pb::Action::Monitor.into();
    let request = api::BlockRequest { action: known, ..block("10.0.0.5", all()) };
    admin.block(request).await.expect("known");
}

/// Fields that this version does not have, behind those of every message that passes: number 2,000 with a
/// text, and 2,001 with a number (protobuf.dev, "Encoding").
const MORE: &[u8] = &[0x82, 0x7d, 3, b'n', b'e', b'w', 0x88, 0x7d, 77];

/// An answer of gRPC with these fields in each of its messages.
struct Newer {
    body: Body,
    /// Of a message that is not whole yet.
    taken: Vec<u8>,
}

impl Newer {
    /// Takes the messages that are whole: a byte that says whether it is compressed, the length, the bytes
    /// (grpc/doc/PROTOCOL-HTTP2.md).
    fn messages(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((&[compressed, a, b, c, d], rest)) = self.taken.split_first_chunk() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(message) = rest.get(..length) else { break };
            assert_eq!(compressed, 0, "nobody asked for compression");
            out.push(compressed);
            let longer = u32::try_from(length + MORE.len()).expect("messages are short");
            out.extend(longer.to_be_bytes());
            out.extend(message);
            out.extend(MORE);
            self.taken.drain(..5 + length);
        }
        out
    }
}

impl http_body::Body for Newer {
    type Data = <Body as http_body::Body>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.taken.extend(&data),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
            let messages = self.messages();
            if !messages.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(messages.into()))));
            }
        }
    }
}
