//! A response of the layer around a handler that a test chooses.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service, service_fn};
use tower_sse::{ClientHandle, SseBody, SseLayer};

/// Sends the request through the layer. The handler's response is what `respond` returns.
pub(crate) fn answer<B: Body>(
    layer: &SseLayer,
    request: Request<()>,
    respond: impl FnOnce(&ClientHandle) -> Response<B>,
) -> (ClientHandle, Response<SseBody<B>>) {
    let (sender, receiver) = mpsc::channel();
    let mut respond = Some(respond);
    let mut service = layer.layer(service_fn(|request: Request<()>| {
        let client = request.extensions().get::<ClientHandle>().unwrap().clone();
        let response = respond.take().unwrap()(&client);
        sender.send(client).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let mut answer = Box::pin(service.call(request));
    match Pin::new(&mut answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => {
            drop(answer);
            (receiver.recv().unwrap(), response)
        }
        Poll::Pending => unreachable!("the handler does not wait"),
    }
}
