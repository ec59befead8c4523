//! `kctl.controller.v1.AuditService`.

use super::{Answers, Api};
use crate::{
    status::Error,
    store::{Head, Line, Query, Store},
};
use futures_util::{StreamExt as _, stream};
use kctl_proto::controller::v1::{self as api, audit_service_server::AuditService};
use tonic::{Request, Response, Status};

/// Lines of one message.
const CHUNK: u64 = 500;

#[tonic::async_trait]
impl AuditService for Api {
    type ListAuditStream = Answers<api::ListAuditResponse>;

    async fn list_audit(
        &self,
        request: Request<api::ListAuditRequest>,
    ) -> Result<Response<Self::ListAuditStream>, Status> {
        let request = request.into_inner();
        let mut reader = Reader {
            store: self.store.clone(),
            query: Query {
                limit: CHUNK,
                since_unix_ms: request.since_unix_ms,
                until_unix_ms: request.until_unix_ms,
                who: request.who,
                ..Query::default()
            },
            follow: request.follow,
        };
        if request.last > 0 {
            reader.begin(request.last).await?;
        }
        let pages = stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(lines)) => Some((Ok(api::ListAuditResponse { lines }), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        Ok(Response::new(pages.boxed()))
    }

    async fn verify_audit(
        &self,
        request: Request<api::VerifyAuditRequest>,
    ) -> Result<Response<api::VerifyAuditResponse>, Status> {
        let noted = request.into_inner();
        let (end, problem) = self.verify(&noted).await?;
        let (count, hash) = (end.count, end.hash.to_vec());
        Ok(Response::new(api::VerifyAuditResponse { count, hash, problem }))
    }
}

impl Api {
    /// Follows the chain from its first line to the head of this moment.
    async fn verify(&self, noted: &api::VerifyAuditRequest) -> Result<(Head, String), Error> {
        let (mut at, mut end) = (Head::default(), None);
        loop {
            let query = Query { after: at.count, limit: CHUNK, ..Query::default() };
            let page = self.store.audit(query).await?;
            let end = *end.get_or_insert(page.head);
            for line in page.lines.iter().filter(|line| line.number <= end.count) {
                if let Err(problem) = at.follow(line) {
                    return Ok((end, problem));
                }
                if noted.number == line.number && noted.hash != line.hash {
                    let problem = format!(
                        "line {}: its hash is not the one that was noted; the log was rewritten",
                        line.number
                    );
                    return Ok((end, problem));
                }
            }
            if at.count >= end.count {
                break;
            }
            if page.lines.is_empty() {
                let problem = format!("line {}: missing, and all after it", at.count + 1);
                return Ok((end, problem));
            }
        }
        let end = end.unwrap_or_default();
        let problem = if at != end {
            format!("line {}: is not the one that the log ended with", end.count)
        } else if noted.number > end.count {
            format!("line {}: was noted, and the log has only {} lines", noted.number, end.count)
        } else {
            String::new()
        };
        Ok((end, problem))
    }
}

/// Reads the log page by page.
struct Reader {
    store: Store,
    query: Query,
    follow: bool,
}

impl Reader {
    /// Begins so that `last` lines come.
    async fn begin(&mut self, last: u64) -> Result<(), Error> {
        // Numbers alone would do; lines are short.
        let limit = last.min(i64::MAX.cast_unsigned());
        let newest = Query { newest: true, limit, ..self.query.clone() };
        let page = self.store.audit(newest).await?;
        self.query.after = page.lines.first().map_or(page.head.count, |line| line.number - 1);
        Ok(())
    }

    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<api::AuditLine>>, Error> {
        let mut head = self.store.audit_head();
        loop {
            let seen = head.borrow_and_update().count;
            let page = self.store.audit(self.query.clone()).await?;
            if let Some(last) = page.lines.last() {
                self.query.after = last.number;
                return Ok(Some(page.lines.into_iter().map(to_proto).collect()));
            }
            if !self.follow {
                return Ok(None);
            }
            self.query.after = self.query.after.max(seen);
            if head.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

fn to_proto(line: Line) -> api::AuditLine {
    let Line { number, record, hash } = line;
    api::AuditLine {
        number,
        time_unix_ms: record.time_unix_ms,
        who: record.who,
        from: record.from,
        what: record.what,
        hosts: record.hosts,
        outcome: record.outcome,
        hash,
    }
}
