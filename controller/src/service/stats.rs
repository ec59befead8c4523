//! `kctl.controller.v1.StatsService`.

use super::{Answers, Api, READ_WAIT, read_selection, wait};
use crate::{
    auth::{Caller, asked},
    fanout::ask,
};
use futures_util::StreamExt as _;
use kctl_proto::{
    agent::v1::{self as pb, stats_service_client::StatsServiceClient},
    controller::v1::{
        GetStatsRequest, GetStatsResponse, get_stats_response, stats_service_server::StatsService,
    },
};
use kctl_rpc::Channel;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl StatsService for Api {
    type GetStatsStream = Answers<GetStatsResponse>;

    async fn get_stats(
        &self,
        request: Request<GetStatsRequest>,
    ) -> Result<Response<Self::GetStatsStream>, Status> {
        let caller = Caller::of(&request)?;
        let GetStatsRequest { selection, top, timeout_ms } = request.into_inner();
        let hosts = caller.scope.read(&self.registry, &read_selection(selection)?)?;
        let role = caller.role;
        let call = move |channel: Channel| async move {
            let mut client = StatsServiceClient::new(channel);
            let answer = client.get_stats(asked(pb::GetStatsRequest { top }, role)).await?;
            Ok(answer.into_inner().stats.unwrap_or_default())
        };
        let answers = ask(hosts, wait(timeout_ms, READ_WAIT), call).map(|answer| {
            let result = match answer.result {
                Ok(stats) => get_stats_response::Result::Stats(stats),
                Err(error) => get_stats_response::Result::Error(error),
            };
            Ok(GetStatsResponse { host: answer.host, result: Some(result) })
        });
        Ok(Response::new(answers.boxed()))
    }
}
