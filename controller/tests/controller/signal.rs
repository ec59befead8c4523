//! Signals go to exactly one host, and the audit log tells of them.

use crate::support::{Controller, agent::Agent, all, names, selector};
use kctl_proto::{
    Piece, Twin as _,
    agent::v1 as pb,
    controller::v1::{SignalProcessRequest, process_service_client::ProcessServiceClient},
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_for_exactly_one_host() {
    let controller = Controller::start();
    let api = controller.api().await;
    let mut connected = Vec::new();
    for name in ["web-1", "web-2"] {
        let agent = Agent::new(&controller, &api, name).await;
        connected.push(agent.connect(&controller, &api).await);
    }
    let mut client = ProcessServiceClient::new(api.0.clone());
    let mut ask = async |selection: Option<pb::Selection>| {
        let comm = "web".to_owned();
        let request =
            pb::SignalProcessRequest { pid: 7, signal: "TERM".to_owned(), comm, start_unix_ms: 0 };
        let request = Some(request);
        let request = SignalProcessRequest { selection, timeout_ms: 0, request };
        client.signal_process(request).await.map(tonic::Response::into_inner)
    };
    for selection in [None, Some(all()), Some(names(&["web-1", "web-2"])), Some(selector("a=b"))] {
        let shown = format!("{selection:?}");
        let status = ask(selection).await.map(drop).expect_err(&shown);
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}: {status}");
    }
    let unknown = ask(Some(names(&["web-9"]))).await.map(drop).expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);

    // These agents know no processes; that one is asked, and only one.
    let mut answers = ask(Some(names(&["web-2"]))).await.expect("asked");
    let (host, piece) = answers.message().await.expect("goes on").expect("a row").into_piece();
    assert_eq!(host, "web-2");
    assert!(matches!(piece, Some(Piece::Error(error)) if error.code == "UNIMPLEMENTED"));
    assert!(answers.message().await.expect("ends").is_none());
    controller.logged("signal 7 TERM named web");
}
