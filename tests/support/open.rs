//! A stream behind the layer, without a server: the body is polled by hand.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use tower::{Layer, Service, service_fn};
use tower_sse::{ClientHandle, SseBody, SseLayer};

pub(crate) type Empty = http_body_util::Empty<Bytes>;

/// Opens a stream. The handler calls `handle` with its client and then returns an empty body.
pub(crate) fn open(
    layer: &SseLayer,
    last_event_id: Option<&str>,
    handle: impl Fn(&ClientHandle),
) -> (ClientHandle, SseBody<Empty>) {
    let (client, response) = open_at(layer, "/", last_event_id, handle);
    (client, response.into_body())
}

/// The same, with the path and the query of the request, and with the head of the response.
pub(crate) fn open_at(
    layer: &SseLayer,
    uri: &str,
    last_event_id: Option<&str>,
    handle: impl Fn(&ClientHandle),
) -> (ClientHandle, Response<SseBody<Empty>>) {
    let (sender, receiver) = mpsc::channel();
    let mut service = layer.layer(service_fn(|request: Request<()>| {
        let client = request.extensions().get::<ClientHandle>().expect("the layer adds the handle").clone();
        handle(&client);
        sender.send(client).expect("the receiver is below");
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").body(Empty::new());
        std::future::ready(Ok::<_, Infallible>(response.expect("a valid response")))
    }));
    let mut request = Request::get(uri);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id.as_bytes());
    }
    let mut answer = Box::pin(service.call(request.body(()).expect("a valid request")));
    match Pin::new(&mut answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => {
            drop(answer);
            (receiver.recv().expect("the handler ran"), response)
        }
        Poll::Pending => unreachable!("the handler does not wait"),
    }
}
