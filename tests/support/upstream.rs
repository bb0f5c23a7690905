//! An upstream that responds over HTTP/1.1 as a test chooses.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

use crate::{bodies::AnyBody, listener::listen};

/// A server on a free port. Returns its address.
pub(crate) async fn upstream<A>(answer: impl Fn(Request<Incoming>) -> A + Clone + Send + 'static) -> String
where
    A: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let address = listen(move |socket| {
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        async { _ = connection.await }
    });
    format!("http://{}", address.await)
}
