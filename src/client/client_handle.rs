//! The handle to a client. What a program can do with it is in the folder `handle`.

use std::{fmt, sync::Arc};

use super::state::Client;
use crate::limit::Admission;

/// The handle to a client: one request, and the event stream that it may become.
///
/// [`SseLayer`](crate::SseLayer) puts a handle into the extensions of every request. With the `axum` feature the handle
/// is an extractor too. It costs next to nothing until the client subscribes or its stream begins. Clones belong to the
/// same client. You may keep them after the handler has returned, or drop them: a handle does not keep the stream open,
/// and the stream does not need a handle.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use tower_sse::ClientHandle;
///
/// /// A handler with any body types, on plain hyper, say.
/// fn prices<In, Out: Default>(request: &Request<In>) -> Response<Out> {
///     let Some(client) = request.extensions().get::<ClientHandle>() else {
///         return status(StatusCode::INTERNAL_SERVER_ERROR);
///     };
///     match client.subscribe(request.uri().path().trim_start_matches('/')) {
///         Ok(()) => client.clone().into_stream().into_response(),
///         Err(_) => status(StatusCode::BAD_REQUEST),
///     }
/// }
///
/// fn status<Out: Default>(status: StatusCode) -> Response<Out> {
///     let mut response = Response::new(Out::default());
///     *response.status_mut() = status;
///     response
/// }
/// # let _ = prices::<(), ()>;
/// ```
#[derive(Clone)]
pub struct ClientHandle {
    pub(crate) client: Arc<Client>,
}

impl ClientHandle {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    pub(crate) fn admission(&self) -> Option<&Arc<Admission>> {
        self.client.admission()
    }
}

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientHandle").field(&self.client).finish()
    }
}
