//! The head of a recorded response, which later readers get again.

use http::{
    HeaderMap, HeaderName, Response, StatusCode,
    header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, DATE, SET_COOKIE},
    response::Parts,
};

use super::answer::Asked;
use crate::{
    handle::StreamOf,
    limit::RefusedReason,
    stream::headers::{is_encoded, is_event_stream, remove_byte_descriptions, remove_connection_headers},
};

/// The status and the headers of the first response.
#[derive(Debug)]
pub(super) struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

/// Headers that belong to the first response alone. A cookie that was set then must not replace one that was set since.
static OF_THE_FIRST: [HeaderName; 3] = [AGE, DATE, SET_COOKIE];

impl Head {
    /// Takes what later readers get again.
    pub(super) fn again(first: &Parts) -> Self {
        let mut head = Self { status: first.status, headers: first.headers.clone() };
        OF_THE_FIRST.iter().for_each(|name| drop(head.headers.remove(name)));
        head.prepare();
        head
    }

    /// Takes the head of the response to the first reader.
    pub(super) fn first(first: Parts) -> Self {
        let mut head = Self { status: first.status, headers: first.headers };
        head.prepare();
        head
    }

    /// Removes what was said about a connection, or about the bytes of the handler's body.
    fn prepare(&mut self) {
        remove_connection_headers(&mut self.headers);
        remove_byte_descriptions(&mut self.headers);
        [CONTENT_LENGTH, CONTENT_ENCODING].iter().for_each(|name| drop(self.headers.remove(name)));
    }

    /// Gives this head to an event stream.
    pub(super) fn give<B>(&self, response: &mut Response<B>) {
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers.clone());
    }
}

/// Says where a GET finds the recording, unless the handler has said so.
pub(super) fn locate<B>(asked: &Asked, response: &mut Response<B>) {
    if let Some(location) = &asked.location {
        response.headers_mut().entry(CONTENT_LOCATION).or_insert_with(|| location.clone());
    }
}

/// Whether the response of a handler can be recorded.
///
/// It is an event stream of the handler's own. The stream of a client's topics can be resumed anyway, and a refusal is
/// for one client alone.
pub(super) fn is_recordable<B>(response: &Response<B>) -> bool {
    is_event_stream(response.status(), response.headers())
        && !is_encoded(response.headers())
        && response.extensions().get::<StreamOf>().is_none()
        && response.extensions().get::<RefusedReason>().is_none()
}
