//! A server with numbered events that can be stopped, killed, and started again with what it had in its file.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, RawQuery, Request, State},
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header, request::Parts},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tower::ServiceBuilder;
use tower_http::compression::CompressionLayer;
use tower_sse::{
    Batching, ClientHandle, Drain, Event, EventStream, Heartbeat, HelloEvent, Registry, RegistryConfig, Retention,
    SseLayer, Start, Subscription, TopicsService, backplane::File,
};

use crate::{tls::Http2, within};

/// What outlives a server.
#[derive(Clone)]
pub(crate) struct Site {
    /// Where the events are kept.
    file: Arc<(tempfile::TempDir, PathBuf)>,
    heartbeat: Duration,
    /// The only one that is accepted.
    token: Arc<AtomicU64>,
    /// The next one who asks for a token gets an old one.
    gives_old_token: Arc<AtomicBool>,
    /// The number of the last event.
    pub(crate) published: Arc<AtomicU64>,
    /// How many requests had an old token.
    pub(crate) refused: Arc<AtomicUsize>,
}

impl Site {
    pub(crate) fn new(heartbeat: Duration) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("events");
        let (token, gives_old_token, published, refused) = Default::default();
        Self { file: Arc::new((folder, path)), heartbeat, token, gives_old_token, published, refused }
    }

    pub(crate) fn change_token(&self) {
        self.token.fetch_add(1, Ordering::SeqCst);
    }

    /// The next one who asks for a token gets one that is refused.
    pub(crate) fn give_old_token(&self) {
        self.gives_old_token.store(true, Ordering::SeqCst);
    }

    fn token(&self) -> String {
        self.token.load(Ordering::SeqCst).to_string()
    }

    /// The token of a user: the name is in it.
    fn give_token(&self, user: &str) -> String {
        let old = if self.gives_old_token.swap(false, Ordering::SeqCst) { " of old" } else { "" };
        format!("{user}:{}{old}", self.token())
    }

    pub(crate) fn last(&self) -> u64 {
        self.published.load(Ordering::SeqCst)
    }

    pub(crate) async fn start(&self) -> Server {
        self.serve(false, None, false).await
    }

    /// `has_arrays`: whether the events of a frame are one array.
    pub(crate) async fn start_at(&self, has_arrays: bool, address: SocketAddr) -> Server {
        self.serve(has_arrays, Some(address), false).await
    }

    /// A server with TLS and HTTP/2. `address`: that of the server before.
    pub(crate) async fn start_with_tls(&self, address: Option<SocketAddr>) -> Server {
        self.serve(false, address, true).await
    }

    async fn serve(&self, has_arrays: bool, address: Option<SocketAddr>, has_tls: bool) -> Server {
        let http2 = Http2::default();
        let faults = http2.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        let site = self.clone();
        let start = runtime.spawn(async move {
            let engine = File::open(&site.file.1).unwrap();
            let config = RegistryConfig::default()
                .total_retention(Retention::default().events(1_000_000))
                .topic_retention(Retention::default().events(1_000_000))
                .backplane(engine);
            let registry = Registry::with_config(config);
            registry.ready().await.unwrap();
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let routes = site.routes(&registry, has_arrays);
            let accepting = if has_tls {
                tokio::spawn(faults.serve(listener, routes))
            } else {
                let listener = listener.tap_io(|socket| socket.set_nodelay(true).unwrap());
                tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() })
            };
            (registry, address, accepting.abort_handle())
        });
        let (registry, address, accepting) = within(start).await.unwrap();
        Server { site: self.clone(), address, http2, registry: Some(registry), runtime: Some(runtime), accepting }
    }

    fn routes(&self, registry: &Registry, has_arrays: bool) -> Router {
        let layer = SseLayer::new(registry)
            .heartbeat(Heartbeat::every(self.heartbeat))
            .metadata(|request: &Parts| request.extensions.get::<User>().cloned())
            .hello_event(HelloEvent::default().control("/topics"));
        let layer = if has_arrays {
            layer.batching(Batching::every(Duration::from_millis(20)).as_array())
        } else {
            layer.topic_as_event_type(true)
        };
        let allow = |client: &ClientHandle, topic: &str| subscription(client, topic);
        let of_user = |request: &Parts, client: &ClientHandle| {
            request.extensions.get::<User>() == client.metadata().get::<User>()
        };
        let always = |_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| true;
        let compressed = CompressionLayer::new().compress_when(always);
        let for_known = Router::new()
            .route("/events", get(events).layer(layer.clone()))
            .route("/events/gzip", get(events).layer(ServiceBuilder::new().layer(compressed).layer(layer)))
            .route_service("/topics", TopicsService::new(registry, allow).owned_by(of_user))
            .layer(middleware::from_fn_with_state(self.clone(), has_token));
        closing(for_known.merge(self.pages()))
    }

    /// The page and the tokens.
    fn pages(&self) -> Router {
        let site = self.clone();
        Router::new()
            .route("/", get(|| async { Html(include_str!("page.html")) }))
            .route("/other", get(|| async { Html("<!doctype html><title>other</title>elsewhere") }))
            .route("/page.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], include_str!("page.js")) }))
            .route_service("/tower-sse.js", tower_sse::script())
            .route("/token", get(async move |Query(user): Query<User>| site.give_token(&user.user)))
    }

    /// A server that is never deployed, as nobody can load a page that no server has.
    pub(crate) async fn serve_pages(&self) -> SocketAddr {
        let routes = self.pages();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, closing(routes)).await });
        address
    }
}

/// Who asks. Pages without a user have an empty name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
pub(crate) struct User {
    pub(crate) user: String,
}

/// A topic that is only for this user.
pub(crate) fn private(user: &str) -> String {
    format!("private-{user}")
}

fn subscription(client: &ClientHandle, topic: &str) -> Result<Subscription, String> {
    let metadata = client.metadata();
    let user = metadata.get::<User>().ok_or("nobody is known")?;
    if topic.starts_with(&private("")) && topic != private(&user.user) {
        return Err("it belongs to another user".to_owned());
    }
    Ok(Subscription::to(topic).from(Start::Last(1)))
}

async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream, Response> {
    let query = query.unwrap_or_default();
    for (_, topic) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "topic") {
        let subscription = subscription(&client, &topic).map_err(|why| (StatusCode::FORBIDDEN, why).into_response())?;
        client.subscribe(subscription).map_err(IntoResponse::into_response)?;
    }
    Ok(client.into_stream())
}

/// Only who knows the newest token gets anything.
async fn has_token(State(site): State<Site>, mut request: Request, next: Next) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = match token.and_then(|token| token.split_once(':')) {
        Some((user, token)) if token == site.token() => User { user: user.to_owned() },
        _ => {
            site.refused.fetch_add(1, Ordering::SeqCst);
            return StatusCode::UNAUTHORIZED.into_response();
        }
    };
    request.extensions_mut().insert(user);
    next.run(request).await
}

/// Each connection has one request, so that the relay can treat it by its request.
fn closing(routes: Router) -> Router {
    routes.layer(middleware::map_response(|mut response: Response| async {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }))
}

/// A server in a runtime of its own: when the runtime ends, nothing of the server is left.
pub(crate) struct Server {
    pub(crate) site: Site,
    pub(crate) address: SocketAddr,
    /// With TLS: what happens to its connections.
    pub(crate) http2: Http2,
    registry: Option<Registry>,
    runtime: Option<Runtime>,
    accepting: tokio::task::AbortHandle,
}

impl Server {
    pub(crate) fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("the server runs")
    }

    pub(crate) fn streams(&self) -> usize {
        self.registry().stats().clients
    }

    /// Who has the open streams.
    pub(crate) fn users(&self) -> Vec<String> {
        let clients = self.registry().clients();
        let mut users: Vec<String> =
            clients.iter().filter_map(|client| Some(client.metadata().get::<User>()?.user.clone())).collect();
        users.sort();
        users
    }

    /// Publishes the next number on a topic, and waits until it is stored.
    pub(crate) async fn publish(&self) {
        let number = self.site.published.fetch_add(1, Ordering::SeqCst) + 1;
        let receipt = self.registry().publish("numbers", Event::data(number.to_string())).unwrap();
        within(async { receipt.await }).await.unwrap();
    }

    /// Publishes a number of another topic.
    pub(crate) async fn publish_on(&self, topic: &str, number: u64) {
        let receipt = self.registry().publish(topic, Event::data(number.to_string())).unwrap();
        within(async { receipt.await }).await.unwrap();
    }

    pub(crate) async fn until_streams(&self, wanted: impl Fn(usize) -> bool) {
        let waiting = async {
            while !wanted(self.streams()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(crate::BOUND, waiting).await.is_err() {
            panic!("there are {} open streams", self.streams());
        }
    }

    /// Ends the streams as a deploy does.
    pub(crate) async fn drain(&mut self) {
        let drain = Drain::within(Duration::from_millis(300)).reconnect_delay(Duration::from_millis(100));
        self.accepting.abort();
        within(self.registry().drain(drain)).await;
        self.kill().await;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.runtime.is_none()
    }

    /// All connections break at once.
    pub(crate) async fn kill(&mut self) {
        drop(self.registry.take());
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(crate::BOUND)).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            drop(self.registry.take());
            runtime.shutdown_background();
        }
    }
}
