//! `FileService`: files below /proc and /sys.

use super::thread::{Answers, Parts, Threads};
use crate::access;
use crate::rollback::{GUARDED, Rollback};
use crate::status::{as_data, kernel};
use crate::text::text;
use agent_kernel::file::{self, Holds, Roots, Setting, Writable};
use kctl_proto::agent::v1::{self as pb, file_service_server::FileService};
use kctl_rpc::Role;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// One part of a file.
const PART: usize = 64 << 10;
/// Where a file ends when nobody says otherwise.
const USUAL_END: u64 = 16 << 20;
/// Where it ends whatever anybody says.
const LAST_END: u64 = 256 << 20;
/// Values in one message.
const CHUNK: usize = 500;
/// Patterns in one call.
const MOST_PATTERNS: usize = 100;
/// What can cut the host off is below it.
const NETWORK: &str = "/proc/sys/net/";

/// Answers for the files of one host.
#[derive(Debug)]
pub(super) struct Files {
    roots: Arc<Roots>,
    writable: Arc<Writable>,
    rollback: Rollback,
    threads: Threads,
}

impl Files {
    pub(super) fn new(roots: Roots, writable: Arc<Writable>, rollback: Rollback) -> Self {
        Self { roots: Arc::new(roots), writable, rollback, threads: Threads::new() }
    }
}

#[tonic::async_trait]
impl FileService for Files {
    type ReadFileStream = Answers<pb::ReadFileResponse>;

    async fn read_file(
        &self,
        request: Request<pb::ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let role = access::role(&request);
        let pb::ReadFileRequest { path, max_bytes } = request.into_inner();
        let end = end(max_bytes)?;
        let roots = Arc::clone(&self.roots);
        self.threads.answer(move |parts| read(&roots, &path, end, role, parts))
    }

    type ListValuesStream = Answers<pb::ListValuesResponse>;

    async fn list_values(
        &self,
        request: Request<pb::ListValuesRequest>,
    ) -> Result<Response<Self::ListValuesStream>, Status> {
        let role = access::role(&request);
        let patterns = request.into_inner().patterns;
        if !(1..=MOST_PATTERNS).contains(&patterns.len()) {
            let why = format!("patterns: must be 1 to {MOST_PATTERNS}");
            return Err(Status::invalid_argument(why));
        }
        let roots = Arc::clone(&self.roots);
        self.threads.answer(move |parts| list(&roots, &patterns, role, parts))
    }

    type SetValueStream = Answers<pb::SetValueResponse>;

    async fn set_value(
        &self,
        request: Request<pb::SetValueRequest>,
    ) -> Result<Response<Self::SetValueStream>, Status> {
        let local = access::local(&request);
        let pb::SetValueRequest { path, value } = request.into_inner();
        // Asked for before: afterwards there may be none any more.
        let guarded = path.starts_with(NETWORK) && self.rollback.has_controller().await;
        let rollback = guarded.then(|| self.rollback.clone());
        let (roots, writable) = (Arc::clone(&self.roots), Arc::clone(&self.writable));
        self.threads.answer(move |parts| {
            let setting = Setting { path, value };
            let result = set(&roots, &writable, &setting, rollback.as_ref());
            let Setting { path, value } = setting;
            access::audit(local.as_deref(), &format!("set {path}={value}"), result.as_ref().err());
            parts.say(result?);
            Ok(())
        })
    }
}

/// Where a read ends.
fn end(max_bytes: u64) -> Result<u64, Status> {
    match max_bytes {
        0 => Ok(USUAL_END),
        1..=LAST_END => Ok(max_bytes),
        _ => Err(Status::invalid_argument(format!(
            "max_bytes {max_bytes}: must be at most {LAST_END}"
        ))),
    }
}

fn object(path: &str) -> String {
    format!("file {path:?}")
}

fn read(
    roots: &Roots,
    path: &str,
    end: u64,
    role: Role,
    parts: &Parts<pb::ReadFileResponse>,
) -> Result<(), Status> {
    let mut file = file::open(roots, path).map_err(kernel)?;
    access::read(role, file.holds(), &object(path))?;
    let secret = file.holds() == Holds::Secrets;
    let mut left = end;
    loop {
        let mut data = vec![0; PART];
        let count = file.read(&mut data).map_err(kernel)?;
        data.truncate(usize::try_from(left).unwrap_or(PART).min(count));
        left -= u64::try_from(data.len()).unwrap_or(left);
        let truncated = data.len() < count;
        let heard = parts.say(pb::ReadFileResponse { data, truncated, secret });
        if count == 0 || truncated || !heard {
            return Ok(());
        }
    }
}

fn list(
    roots: &Roots,
    patterns: &[String],
    role: Role,
    parts: &Parts<pb::ListValuesResponse>,
) -> Result<(), Status> {
    for pattern in patterns {
        let paths = match file::matching(roots, pattern).map_err(kernel) {
            Ok(paths) => paths,
            Err(status) if patterns.len() == 1 => return Err(status),
            Err(status) => {
                parts.say(pb::ListValuesResponse { values: vec![no_value(pattern, &status)] });
                continue;
            }
        };
        if patterns.len() == 1 && paths.len() == 1 && paths[0] == *pattern {
            // The one that was asked for: what is wrong with it is wrong with the call.
            let values = vec![value(roots, pattern, role)?];
            parts.say(pb::ListValuesResponse { values });
            return Ok(());
        }
        for paths in paths.chunks(CHUNK) {
            let value = |path: &String| {
                value(roots, path, role).unwrap_or_else(|status| no_value(path, &status))
            };
            let values = paths.iter().map(value).collect();
            if !parts.say(pb::ListValuesResponse { values }) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn no_value(path: &str, status: &Status) -> pb::Value {
    let error = Some(as_data(status));
    pb::Value { path: path.to_owned(), error, ..pb::Value::default() }
}

fn value(roots: &Roots, path: &str, role: Role) -> Result<pb::Value, Status> {
    let file::Value { value, holds } = file::value(roots, path).map_err(kernel)?;
    access::read(role, holds, &object(path))?;
    let secret = holds == Holds::Secrets;
    Ok(pb::Value { path: path.to_owned(), value: text(&value), error: None, secret })
}

fn set(
    roots: &Roots,
    writable: &Writable,
    setting: &Setting,
    rollback: Option<&Rollback>,
) -> Result<pb::SetValueResponse, Status> {
    let change = file::set(roots, writable, setting).map_err(kernel)?;
    let watched = rollback
        .zip(change.old.clone())
        .is_some_and(|(rollback, old)| rollback.watch(setting.path.clone(), old));
    Ok(pb::SetValueResponse {
        path: setting.path.clone(),
        old: change.old.as_deref().map(text),
        new: change.new.as_deref().map(text),
        guarded_seconds: if watched { GUARDED.as_secs().try_into().unwrap_or(u32::MAX) } else { 0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    fn roots() -> Roots {
        Roots { proc: "/proc".into(), sys: "/sys".into() }
    }

    async fn told<T: Send + 'static>(
        work: impl FnOnce(&Parts<T>) -> Result<(), Status> + Send + 'static,
    ) -> Vec<Result<T, Status>> {
        Threads::new().answer(work).expect("a thread").into_inner().collect().await
    }

    #[tokio::test]
    async fn files_end_where_they_must() {
        let version = std::fs::read("/proc/version").expect("a file");
        for (end, truncated) in [(u64::MAX, false), (version.len() as u64, false), (5, true)] {
            let parts =
                told(move |it| read(&roots(), "/proc/version", end, Role::Viewer, it)).await;
            let parts: Vec<_> = parts.into_iter().collect::<Result<_, _>>().expect("a file");
            let data: Vec<u8> = parts.iter().flat_map(|part| part.data.clone()).collect();
            let expected = usize::try_from(end).unwrap_or(usize::MAX).min(version.len());
            assert_eq!(data, version[..expected]);
            assert_eq!(parts.last().map(|part| part.truncated), Some(truncated), "{end}");
        }
        assert_eq!(end(0).expect("usual"), USUAL_END);
        assert!(end(LAST_END).is_ok() && end(LAST_END + 1).is_err());
    }

    #[tokio::test]
    async fn secrets_are_for_admins() {
        let environ = "/proc/self/environ";
        let parts = told(|it| read(&roots(), environ, 100, Role::Operator, it)).await;
        let refused = parts[0].as_ref().expect_err("a secret");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        let parts = told(|it| read(&roots(), environ, 100, Role::Admin, it)).await;
        assert!(parts[0].as_ref().expect("for an admin").secret);

        // Among others it is an error in its place.
        let patterns = ["/proc/self/[ec]*".to_owned(), "/proc/none".to_owned()];
        let parts = told(move |it| list(&roots(), &patterns, Role::Viewer, it)).await;
        let values: Vec<_> =
            parts.into_iter().flat_map(|part| part.expect("a part").values).collect();
        let find = |name: &str| values.iter().find(|it| it.path.ends_with(name)).expect("there");
        let code = find("/environ").error.as_ref().map(|error| error.code.as_str());
        assert_eq!(code, Some("PERMISSION_DENIED"));
        assert_eq!(find("/comm").error, None);
        let code = find("/none").error.as_ref().map(|error| error.code.as_str());
        assert_eq!(code, Some("NOT_FOUND"));
    }
}
