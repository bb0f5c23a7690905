//! Bodies whose frames a test chooses.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{convert::Infallible, error::Error};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) type AnyError = Box<dyn Error + Send + Sync>;
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, AnyError>;

pub(crate) fn any<B>(body: B) -> AnyBody
where
    B: Body<Data = Bytes, Error: Into<AnyError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

pub(crate) fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, AnyError>>, AnyBody) {
    let (frames, body) = mpsc::channel(2);
    (frames, StreamBody::new(ReceiverStream::new(body)).boxed_unsync())
}

pub(crate) fn with_trailers(data: &'static str) -> AnyBody {
    let trailers = [(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))].into_iter().collect();
    let frames = [Frame::data(data.into()), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    any(StreamBody::new(tokio_stream::iter(frames)))
}

pub(crate) fn event_stream<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}
