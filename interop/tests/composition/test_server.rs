//! A server whose handlers are behind a stack of layers, and its clients.

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, serve::ListenerExt};
use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Version,
    header::{ACCEPT, AUTHORIZATION},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::timeout};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};
use tower_sse::{CloseReason, Event, Heartbeat, Registry, SseLayer};

use crate::{
    bodies::{AnyBody, any},
    client::{Client, get},
    handlers::PLAIN,
    time_limit,
};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Short, so that tests do not wait.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(30);

/// The time limit of each step.
const BOUND: Duration = Duration::from_secs(30);

pub(crate) fn layer(registry: &Registry) -> SseLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::every(HEARTBEAT))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framework {
    Axum,
    Tower,
}

pub(crate) const FRAMEWORKS: [Framework; 2] = [Framework::Axum, Framework::Tower];

/// Runs a test against the handlers behind a stack: in an axum router and in a plain tower service, each over HTTP/1.1
/// and HTTP/2.
///
/// The macro expands the stack twice, as its type differs for each of the two.
macro_rules! behind {
    (|$sse:ident| $stack:expr, $test:expr) => {
        for framework in $crate::test_server::FRAMEWORKS {
            for version in $crate::client::VERSIONS {
                eprintln!("{framework:?}, {version:?}, {}", stringify!($stack));
                let registry = tower_sse::Registry::new();
                let $sse = $crate::test_server::layer(&registry);
                let address = match framework {
                    $crate::test_server::Framework::Axum => {
                        $crate::test_server::serve_router($crate::handlers::router().layer($stack)).await
                    }
                    $crate::test_server::Framework::Tower => {
                        let handlers = $crate::handlers::Handlers;
                        $crate::test_server::serve(tower_layer::Layer::layer(&$stack, handlers)).await
                    }
                };
                let test_server = $crate::test_server::TestServer::new(address, registry, version);
                $crate::test_server::within($test(test_server)).await;
            }
        }
    };
}

/// Checks that a layer is harmless on either side of `SseLayer`: [`TestServer::streams`] holds in both orders.
macro_rules! in_both_orders {
    ($layer:expr, $($test:expr)?) => {
        behind!(|sse| tower::ServiceBuilder::new().layer($layer).layer(sse), async |test_server: $crate::test_server::TestServer| {
            test_server.streams().await;
            $($test(test_server).await;)?
        });
        behind!(|sse| tower::ServiceBuilder::new().layer(sse).layer($layer), async |test_server: $crate::test_server::TestServer| {
            test_server.streams().await;
            $($test(test_server).await;)?
        });
    };
    ($layer:expr) => { in_both_orders!($layer,) };
}

/// A running server, and the registry behind it.
#[derive(Clone)]
pub(crate) struct TestServer {
    pub(crate) registry: Registry,
    address: SocketAddr,
    version: Version,
    headers: HeaderMap,
}

impl TestServer {
    pub(crate) fn new(address: SocketAddr, registry: Registry, version: Version) -> Self {
        let headers = [(ACCEPT, "text/event-stream"), (AUTHORIZATION, "Bearer secret")];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect();
        Self { registry, address, version, headers }
    }

    /// Adds a header to all requests that lack it.
    pub(crate) fn with(&self, name: &'static str, value: &'static str) -> Self {
        let mut test_server = self.clone();
        test_server.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        test_server
    }

    /// Sends requests without a token.
    pub(crate) fn without_token(&self) -> Self {
        let mut test_server = self.clone();
        test_server.headers.remove(AUTHORIZATION);
        test_server
    }

    /// Sends a request for an event stream on a connection of its own.
    pub(crate) async fn send(&self, request: Request<AnyBody>) -> Response<Incoming> {
        self.try_send(request).await.expect("an answer")
    }

    pub(crate) async fn try_send(&self, mut request: Request<AnyBody>) -> hyper::Result<Response<Incoming>> {
        for (name, value) in &self.headers {
            request.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        Client::connect(self.address, self.version).await.send(request).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response<Incoming> {
        self.send(get(target)).await
    }

    pub(crate) async fn get_with(&self, target: &str, name: &'static str, value: &str) -> Response<Incoming> {
        let mut request = get(target);
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        self.send(request).await
    }

    /// Opens the stream at this target.
    pub(crate) async fn open(&self, target: &str) -> Stream<Incoming> {
        Stream::of(self.get(target).await)
    }

    pub(crate) fn publish(&self, text: &str) {
        self.registry.publish("news", Event::data(text)).unwrap();
    }

    /// Waits until this many streams are open.
    pub(crate) async fn until_open(&self, clients: usize) {
        until(|| self.registry.stats().clients == clients).await;
    }

    pub(crate) fn closed(&self, reason: CloseReason) -> u64 {
        self.registry.stats().closed_streams.get(&reason).copied().unwrap_or_default()
    }

    pub(crate) fn close_all(&self) {
        self.registry.clients().iter().for_each(tower_sse::ClientHandle::close);
    }

    /// Checks what holds with any other layers: events and heartbeats arrive; a stream is registered once, and removed
    /// when it ends or its client leaves; other responses are unchanged.
    pub(crate) async fn streams(&self) {
        self.streams_alone().await;
        let answer = self.get("/plain").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-length"], PLAIN.len().to_string());
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        assert!(!answer.headers().contains_key("x-accel-buffering"));
        assert_eq!(text(answer).await, PLAIN);
        assert_eq!(self.registry.stats().clients, 0);
    }

    /// The same without other responses.
    pub(crate) async fn streams_alone(&self) {
        let before = self.registry.stats().closed_streams;
        let counted = |reason| self.closed(reason) - before.get(&reason).copied().unwrap_or_default();

        let mut stream = self.open("/news").await;
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        assert_eq!(stream.headers["cache-control"], "no-cache, no-transform");
        assert_eq!(stream.headers["x-accel-buffering"], "no");
        assert!(!stream.headers.contains_key("content-length"));
        assert_eq!(self.registry.stats().clients, 1);
        let receipt = self.registry.publish("news", Event::data("one")).unwrap();
        assert_eq!(receipt.subscribers(), 1);
        stream.until(&format!("id: {}\n\n", receipt.position().expect("a position"))).await;
        assert!(stream.had.contains("data: one\n"), "{}", stream.had);
        stream.had.clear();
        stream.until(":\n\n").await;
        self.close_all();
        stream.ends().await;
        self.until_open(0).await;
        assert_eq!(counted(CloseReason::ByServer), 1);

        drop(self.open("/own").await.having("data: own\n\n").await);
        self.until_open(0).await;
        assert_eq!(counted(CloseReason::ClientDisconnected), 1);
        assert_eq!(self.registry.stats().subscriptions, 0);
    }
}

/// An event stream as its client receives it.
pub(crate) struct Stream<B> {
    pub(crate) headers: HeaderMap,
    pub(crate) had: String,
    body: B,
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Stream<B> {
    pub(crate) fn of(response: Response<B>) -> Self {
        assert_eq!(response.status(), 200);
        let (head, body) = response.into_parts();
        Self { headers: head.headers, had: String::new(), body }
    }

    /// Reads until this text has been received.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.had.contains(text) {
            let frame = self.body.frame().await;
            let frame = frame.unwrap_or_else(|| panic!("the stream ends before {text:?}, after {:?}", self.had));
            self.take(frame.map_err(Into::into).unwrap());
        }
    }

    pub(crate) async fn having(mut self, text: &str) -> Self {
        self.until(text).await;
        self
    }

    /// Reads for this long. The stream must not end.
    pub(crate) async fn lasts(&mut self, time: Duration) {
        let outlast = async {
            while let Some(frame) = self.body.frame().await {
                self.take(frame.map_err(Into::into).unwrap());
            }
        };
        assert!(timeout(time, outlast).await.is_err(), "the stream ended after {:?}", self.had);
    }

    /// Reads the rest of the stream. It must end cleanly.
    pub(crate) async fn ends(mut self) -> String {
        while let Some(frame) = self.body.frame().await {
            self.take(frame.map_err(Into::into).expect("a clean end"));
        }
        self.had
    }

    /// Reads the rest of the stream. It must break.
    pub(crate) async fn breaks(mut self) -> String {
        while let Some(frame) = self.body.frame().await {
            match frame {
                Ok(frame) => self.take(frame),
                Err(_) => return self.had,
            }
        }
        panic!("the stream ended cleanly, after {:?}", self.had);
    }

    fn take(&mut self, frame: http_body::Frame<Bytes>) {
        self.had.push_str(std::str::from_utf8(&frame.into_data().unwrap_or_default()).unwrap());
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a clean end").to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// A bound on failure.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the step takes too long")
}

pub(crate) async fn until(is: impl Fn() -> bool) {
    time_limit::until(BOUND, is).await;
}

/// Serves the router as a service, so that its layers are made once. If axum serves the router itself, they are made
/// for each connection.
pub(crate) async fn serve_router(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
    tokio::spawn(async { axum::serve(listener, router.into_make_service()).await });
    address
}

/// Serves a tower service on plain hyper. The bounds are what every stack must satisfy.
///
/// The service is boxed. Otherwise hyper's server would be compiled for each type, which took most of this crate's
/// compile time.
pub(crate) async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + Sync + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let boxed = service.map_err(|error| Failed(error.into()));
    let boxed = boxed.map_response(|response: Response<B>| response.map(|body| any(InBytes(Box::pin(body)))));
    serve_boxed(BoxCloneSyncService::new(boxed)).await
}

/// A stack's body with its data converted to `Bytes`.
struct InBytes<B>(Pin<Box<B>>);

impl<B: Body> Body for InBytes<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let into_bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        self.0.as_mut().poll_frame(cx).map_ok(|frame| frame.map_data(into_bytes))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A stack's error. It is a type of its own, as hyper cannot use the lifetime of a boxed error.
#[derive(Debug)]
struct Failed(BoxError);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Failed {}

async fn serve_boxed(service: BoxCloneSyncService<Request<Incoming>, Response<AnyBody>, Failed>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // The client checks how the connection ends.
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}
