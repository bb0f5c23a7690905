use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::RecordBody;

type Answered<B, E> = Result<Response<RecordBody<B>>, E>;

pin_project! {
    /// The response future of a [`RecordService`](crate::RecordService).
    pub struct RecordFuture<F, B, E> {
        #[pin]
        kind: Kind<F, B, E>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, B, E> {
        // A request without a key.
        Untouched {
            #[pin]
            handler: F,
        },
        WithKey { answer: Pin<Box<dyn Future<Output = Answered<B, E>> + Send>> },
        // Boxed, so that it does not make other futures larger.
        Refused { response: Option<Box<Response<RecordBody<B>>>> },
    }
}

impl<F, B, E> RecordFuture<F, B, E> {
    pub(super) fn untouched(handler: F) -> Self {
        Self { kind: Kind::Untouched { handler } }
    }

    pub(super) fn with_key(answer: impl Future<Output = Answered<B, E>> + Send + 'static) -> Self {
        Self { kind: Kind::WithKey { answer: Box::pin(answer) } }
    }

    pub(super) fn refused(response: Response<RecordBody<B>>) -> Self {
        Self { kind: Kind::Refused { response: Some(Box::new(response)) } }
    }
}

impl<F, B, E> Future for RecordFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Answered<B, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Untouched { handler } => {
                Poll::Ready(ready!(handler.poll(cx)).map(|response| response.map(RecordBody::untouched)))
            }
            KindProjection::WithKey { answer } => answer.as_mut().poll(cx),
            KindProjection::Refused { response } => response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(*it))),
        }
    }
}

impl<F, B, E> fmt::Debug for RecordFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordFuture").finish_non_exhaustive()
    }
}
