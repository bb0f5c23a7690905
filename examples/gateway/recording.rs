//! Requests whose answers are recorded (`--record`), and the places of their readers.
//!
//! A recording is made by a request to the upstream as any other. It has the place of one, and keeps it when its client is
//! gone. Its readers need no connection to the upstream, so they have places of their own, as many as requests have.

use std::{convert::Infallible, io, net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tower::{Service, ServiceExt};
use tower_sse::{Event, RecordLayer, Registry, RegistryConfig, Retention};

use crate::{
    bodies::{Fault, Passing},
    clients,
    connections::RequestBody,
    ends::End,
    gateway::{Answer, no_place, refusal},
    options::Rules,
    owners::{Owner, Owners, fingerprint},
    places::{Place, Places},
    record_options::RecordOptions,
};

/// How a recording ends that the upstream broke. The clients of OpenAI's and of Anthropic's API take it for an error, and no
/// other event of the stream looks like it.
const FAILED: &str =
    r#"{"type":"error","error":{"type":"api_error","message":"The upstream broke in the middle of its answer."}}"#;

/// The registry of the gateway, whose topics are the recordings.
pub(crate) fn registry(options: Option<&RecordOptions>) -> Registry {
    let Some(options) = options else { return Registry::new() };
    let total = Retention::default().bytes(options.bytes);
    Registry::with_config(RegistryConfig::default().total_retention(total).ended_topic_ttl(options.keep))
}

/// The recordings, and those who read them.
pub(crate) struct Recordings {
    owners: Option<Owners>,
    readers: Places,
    trusted_proxies: Vec<IpAddr>,
    body: Duration,
}

impl Recordings {
    /// `readers`: how many may read at once.
    pub(crate) fn new(options: Option<&RecordOptions>, rules: &Rules, readers: Places) -> io::Result<Self> {
        let trusted_proxies = rules.trusted_proxies.clone();
        let owners = options.map(|it| Owners::new(it.owner.clone(), &trusted_proxies)).transpose()?;
        Ok(Self { owners, readers, trusted_proxies, body: rules.body })
    }

    /// Answers a request. If it has an owner, it takes the place of a reader first, and then the service that records
    /// answers it. Otherwise the plain one does.
    pub(crate) async fn answer<R, P, A, B>(
        &self,
        records: R,
        plain: P,
        request: Request<RequestBody>,
        peer: IpAddr,
    ) -> Result<Response<Answer>, Infallible>
    where
        R: Service<Request<RequestBody>, Response = Response<A>, Error = Infallible>,
        P: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        A: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let (mut head, body) = request.into_parts();
        let Some(owner) = self.owners.as_ref().and_then(|owners| owners.of(&head, peer)) else {
            let end = End::of_request(&head.method);
            if let Some(end) = &end {
                head.extensions.insert(end.clone());
            }
            let response = plain.oneshot(Request::from_parts(head, body)).await?.map(boxed);
            return Ok(match end {
                Some(end) => end.awaited_by(response),
                None => response,
            });
        };
        head.extensions.insert(owner);
        let client = clients::address(&head, peer, &self.trusted_proxies);
        let Place { exchange, permits } = match self.readers.take(client, false).await {
            Ok(place) => place,
            Err(none) => return Ok(refusal(no_place(&none))),
        };
        let body = Unread { body: Some(body), silence: self.body }.boxed_unsync();
        let response = records.oneshot(Request::from_parts(head, body)).await?;
        Ok(response.map(|body| exchange.answer(boxed(body), permits).boxed_unsync()))
    }
}

fn boxed<B>(body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    body.map_err(|error| Fault::Recording(error.into())).boxed_unsync()
}

/// The layer that records. `at_most`: how many recordings are made at once.
pub(crate) fn layer(registry: &Registry, options: Option<&RecordOptions>, at_most: usize) -> RecordLayer {
    let layer = RecordLayer::by_idempotency_key(registry, |request| Some(request.extensions.get::<Owner>()?.0.clone()));
    let Some(options) = options else { return layer };
    layer
        .fingerprint(|request| Some(fingerprint(request)))
        .failed_event(|_| Some(Event::data(FAILED).event("error")))
        .running_at_most(at_most)
        .cancel_unread_after(options.unread)
}

/// The body of a request. If the request joins a recording, nobody reads it. But many clients read no answer before they
/// have sent all of it, so what is left is read and dropped.
struct Unread {
    body: Option<RequestBody>,
    silence: Duration,
}

impl Drop for Unread {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (body, Handle::try_current()) {
            let mut rest = Passing::new(body, Some(self.silence));
            runtime.spawn(async move { while let Some(Ok(_)) = rest.frame().await {} });
        }
    }
}

impl Body for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => std::pin::Pin::new(body).poll_frame(cx),
            None => std::task::Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map_or_else(|| http_body::SizeHint::with_exact(0), Body::size_hint)
    }
}
