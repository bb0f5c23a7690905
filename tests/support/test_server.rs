//! A server with the layer that can be told to stop, behind axum or on plain hyper.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, serve::ListenerExt};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_layer::Layer;
use tower_sse::{ClientHandle, SseBody, SseLayer};

use crate::{
    bodies::{AnyBody, AnyError, channel, event_stream},
    client::VERSIONS,
    time_limit,
};

/// The time limit of each step.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The software that runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Axum,
    Hyper,
}

pub(crate) const SERVERS: [Server; 2] = [Server::Axum, Server::Hyper];

pub(crate) type App = BoxCloneSyncService<Request<()>, Response<SseBody<AnyBody>>, Infallible>;

/// A handler behind the layer.
pub(crate) fn app<A>(layer: &SseLayer, answer: impl Fn(Request<()>) -> A + Clone + Send + Sync + 'static) -> App
where
    A: Future<Output = Response<AnyBody>> + Send + 'static,
{
    BoxCloneSyncService::new(layer.layer(service_fn(move |request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    })))
}

pub(crate) fn handle_of<B>(request: &Request<B>) -> ClientHandle {
    request.extensions().get::<ClientHandle>().expect("the layer's").clone()
}

/// A running server.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn open(server: Server, app: App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = match server {
            Server::Axum => tokio::spawn(axum(listener, app, stopped)),
            Server::Hyper => tokio::spawn(hyper(listener, app, stopped)),
        };
        Self { address, stop, server }
    }

    /// Stops accepting connections and closes idle ones. The returned task ends when all connections have ended.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        self.stop.send(()).expect("the server runs");
        self.server
    }
}

async fn axum(listener: TcpListener, app: App, stopped: oneshot::Receiver<()>) {
    let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
    let router = Router::new()
        .fallback_service(service_fn(move |request: Request<axum::body::Body>| app.clone().oneshot(request.map(drop))));
    axum::serve(listener, router).with_graceful_shutdown(async { drop(stopped.await) }).await.unwrap();
}

async fn hyper(listener: TcpListener, app: App, mut stopped: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            _ = &mut stopped => break,
        };
        socket.set_nodelay(true).unwrap();
        let app = app.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| app.clone().oneshot(request.map(drop)));
        let service = TowerToHyperService::new(service);
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection(TokioIo::new(socket), service);
            // The peer checks how the connection ends.
            let _ = watcher.watch(connection).await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

pub(crate) type Frames = mpsc::Sender<Result<Frame<Bytes>, AnyError>>;

/// A handler whose body a test writes.
pub(crate) fn own_bodies(layer: &SseLayer, writers: mpsc::UnboundedSender<(ClientHandle, Frames)>) -> App {
    app(layer, move |request| {
        let (frames, body) = channel();
        writers.send((handle_of(&request), frames)).unwrap();
        std::future::ready(event_stream(body))
    })
}

pub(crate) async fn text(response: Response<hyper::body::Incoming>) -> String {
    let body = within(response.into_body().collect()).await.expect("a clean end").to_bytes();
    String::from_utf8(body.into()).unwrap()
}

pub(crate) async fn until(is: impl Fn() -> bool) {
    time_limit::until(BOUND, is).await;
}

pub(crate) async fn on_all(test: impl AsyncFn(Server, Version)) {
    for server in SERVERS {
        for version in VERSIONS {
            eprintln!("{server:?}, {version:?}");
            within(test(server, version)).await;
        }
    }
}

/// A bound on failure.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the future takes too long")
}
