//! Lists as streams of parts. It must not know what is listed.

use futures_util::{Stream, StreamExt as _, stream};
use std::pin::Pin;
use tonic::Status;

/// How many objects go into one message: some ten to a hundred kilobytes.
const CHUNK: usize = 500;

/// A list on its way out.
pub(super) type Chunks<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Takes objects as the reader wants them, a chunk at a time and where blocking is allowed, and makes
/// a message of each chunk. An error ends the list.
pub(super) fn chunks<I, T, M, E>(
    objects: I,
    message: fn(Vec<T>) -> M,
    status: fn(E) -> Status,
) -> Chunks<M>
where
    I: Iterator<Item = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    M: Send + 'static,
    E: Send + 'static,
{
    let chunks = stream::unfold(Some(objects), move |objects| async move {
        let mut objects = objects?;
        let taken = tokio::task::spawn_blocking(move || {
            let chunk: Result<Vec<T>, E> = objects.by_ref().take(CHUNK).collect();
            (chunk, objects)
        });
        match taken.await {
            Ok((Ok(chunk), _)) if chunk.is_empty() => None,
            Ok((Ok(chunk), objects)) => Some((Ok(message(chunk)), Some(objects))),
            Ok((Err(error), _)) => Some((Err(status(error)), None)),
            Err(panicked) => Some((Err(Status::internal(panicked.to_string())), None)),
        }
    });
    chunks.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sizes(objects: Vec<Result<u32, &'static str>>) -> Vec<Result<usize, String>> {
        chunks(objects.into_iter(), |chunk| chunk.len(), Status::internal)
            .map(|chunk| chunk.map_err(|status| status.message().to_owned()))
            .collect()
            .await
    }

    #[tokio::test]
    async fn a_list_comes_in_parts_and_an_error_ends_it() {
        assert_eq!(sizes(Vec::new()).await, []);
        assert_eq!(sizes((0..1_000).map(Ok).collect()).await, [Ok(500), Ok(500)]);
        let broken = (0..502).map(Ok).chain([Err("broken"), Ok(1)]);
        let broken = (0..500).map(Ok).chain(broken).collect();
        assert_eq!(sizes(broken).await, [Ok(500), Ok(500), Err("broken".to_owned())]);
    }
}
