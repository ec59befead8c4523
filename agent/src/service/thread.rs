//! Answers that are made on threads of their own, because a file of the kernel may let its reader wait
//! for ever: such a thread costs no other call anything, and there are only so many. It must not know
//! what is answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

/// Threads at once.
const MOST: usize = 64;
/// Parts that wait for a slow reader.
const WAITING: usize = 4;

/// An answer on its way out.
pub(super) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// The threads of one service.
#[derive(Debug)]
pub(super) struct Threads {
    free: Arc<Semaphore>,
}

/// Takes the parts of one answer.
pub(super) struct Parts<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Parts<T> {
    /// Hands on a part, and waits for a slow reader. False: nobody listens any more.
    pub(super) fn say(&self, part: T) -> bool {
        self.0.blocking_send(Ok(part)).is_ok()
    }
}

impl Threads {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST)) }
    }

    /// Lets `work` answer. RESOURCE_EXHAUSTED: too many are at it.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Parts<T>) -> Result<(), Status> + Send + 'static,
    ) -> Result<Response<Answers<T>>, Status> {
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MOST} files are being read or set and do not answer; wait for them, or restart the \
                 agent"
            ))
        })?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let parts = Parts(sender);
        let thread = std::thread::Builder::new().name("file".to_owned()).spawn(move || {
            // The end of the parts would look like the end of the answer.
            let worked = catch_unwind(AssertUnwindSafe(|| work(&parts)));
            let result = worked.unwrap_or_else(|_| Err(Status::internal("the reader panicked")));
            if let Err(status) = result {
                // Nobody listens any more.
                let _ = parts.0.blocking_send(Err(status));
            }
            drop(permit);
        });
        thread.map_err(|error| Status::resource_exhausted(format!("a thread: {error}")))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn parts_come_in_order_and_an_error_ends_them() {
        let answers = Threads::new().answer(|parts| {
            assert!(parts.say(1) && parts.say(2));
            Err(Status::not_found("no more"))
        });
        let answers = answers.expect("a thread").into_inner();
        let said: Vec<_> = answers.map(|it| it.map_err(|status| status.code())).collect().await;
        assert_eq!(said, [Ok(1), Ok(2), Err(tonic::Code::NotFound)]);
    }

    #[tokio::test]
    async fn a_panic_is_no_end() {
        let answers = Threads::new().answer::<()>(|_| panic!("a bug"));
        let said: Vec<_> = answers.expect("a thread").into_inner().collect().await;
        let codes: Vec<_> = said.into_iter().map(|it| it.map_err(|status| status.code())).collect();
        assert_eq!(codes, [Err(tonic::Code::Internal)]);
    }

    #[tokio::test]
    async fn threads_that_hang_are_bounded() {
        let threads = Threads::new();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let mut answers = Vec::new();
        for _ in 0..MOST {
            let held = Arc::clone(&held);
            let answer = threads.answer::<()>(move |_| {
                // Until the test lets go.
                let _ = held.lock().map(|held| held.recv());
                Ok(())
            });
            answers.push(answer.expect("a thread"));
        }
        let refused = threads.answer::<()>(|_| Ok(())).expect_err("none is free");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(hold);
        for answer in answers {
            assert!(answer.into_inner().next().await.is_none());
        }
        // The permit goes back after the answer's end.
        while threads.free.available_permits() < MOST {
            tokio::task::yield_now().await;
        }
        assert!(threads.answer::<()>(|_| Ok(())).is_ok());
    }
}
