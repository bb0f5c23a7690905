//! Limits over real loopback sockets: open streams are counted until the peer has left, and how clients take a refusal.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use reqwest_eventsource::{Error, Event as Received, EventSource, retry};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::StreamExt;
use tower::{Layer, Service, limit::GlobalConcurrencyLimitLayer, service_fn};
use tower_sse::{ClientHandle, ClientIpKey, CloseReason, Event, Limit, RefusedResponse, Registry, SseBody, SseLayer};

use crate::{
    bodies,
    bodies::AnyBody,
    client,
    client::Client,
    layers::plain,
    listener::listen,
    time_limit::{on_both_versions, within_20_s},
};

type Streams = Response<SseBody<Empty<Bytes>>>;

/// A handler that subscribes its client to a topic and streams, and reports its client handle.
fn handler() -> (
    impl Service<Request<Incoming>, Response = Response<Empty<Bytes>>, Error = Infallible, Future: Send> + Clone + Send,
    mpsc::UnboundedReceiver<ClientHandle>,
) {
    let (seen, handles) = mpsc::unbounded_channel();
    let handler = service_fn(move |request: Request<Incoming>| {
        let handle = request.extensions().get::<ClientHandle>().expect("the layer's").clone();
        handle.subscribe("news").unwrap();
        let _ = seen.send(handle.clone());
        std::future::ready(Ok(handle.into_stream().into_response()))
    });
    (handler, handles)
}

/// Serves on plain hyper.
async fn serve<S>(version: Version, service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Streams, Error: Into<bodies::AnyError>, Future: Send>,
    S: Clone + Send + 'static,
{
    listen(move |socket| {
        let (socket, service) = (TokioIo::new(socket), TowerToHyperService::new(service.clone()));
        async move {
            let _ = if version == Version::HTTP_2 {
                let server = server::conn::http2::Builder::new(TokioExecutor::new());
                server.serve_connection(socket, service).await
            } else {
                server::conn::http1::Builder::new().serve_connection(socket, service).await
            };
        }
    })
    .await
}

/// Serves with axum, which adds the peer's address.
async fn serve_axum(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn news(client: ClientHandle) -> impl IntoResponse {
    client.subscribe("news").unwrap();
    client.into_stream()
}

/// A request as `EventSource` sends it.
fn asking() -> Request<AnyBody> {
    let mut request = client::get("/");
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    request
}

/// Opens a connection of its own. Returns the response and that connection, which ends with it.
async fn open(address: SocketAddr, version: Version, request: Request<AnyBody>) -> (Response<Incoming>, Client) {
    let mut client = Client::connect(address, version).await;
    (client.send(request).await.unwrap(), client)
}

fn assert_open((response, _): &(Response<Incoming>, Client)) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
}

async fn first_frame((response, _): &mut (Response<Incoming>, Client)) -> Bytes {
    response.frame().await.unwrap().unwrap().into_data().unwrap()
}

/// tower's limit counts requests until the head of their response. If the head comes at once, it allows any number of
/// streams.
#[tokio::test]
async fn a_limit_of_one_stream_holds_where_towers_concurrency_limit_does_not() {
    on_both_versions(async |version| {
        let registry = Registry::new();
        let (handler, _handles) = handler();
        let tower = serve(version, GlobalConcurrencyLimitLayer::new(1).layer(plain(&registry).layer(handler)));
        let tower = tower.await;
        let mut two = [open(tower, version, asking()).await, open(tower, version, asking()).await];
        two.iter().for_each(assert_open);
        assert_eq!(registry.publish("news", Event::data("for both")).unwrap().subscribers(), 2);
        for open in &mut two {
            assert!(first_frame(open).await.starts_with(b"data: for both\n"));
        }

        let registry = Registry::new();
        let (handler, mut handles) = self::handler();
        let ours = serve(version, plain(&registry).limit(Limit::streams(1)).layer(handler)).await;
        let mut one = open(ours, version, asking()).await;
        assert_open(&one);
        let (refused, _client) = open(ours, version, asking()).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!((3..=8).contains(&refused.headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap()));
        assert_eq!(refused.headers()[CACHE_CONTROL], "no-store");
        let sentence = "the limit of 1 event stream is reached: try again later";
        assert_eq!(refused.headers()[CONTENT_LENGTH], sentence.len().to_string());
        assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), sentence);
        handles.recv().await.unwrap();
        assert!(handles.try_recv().is_err(), "the handler did not run");
        assert_eq!(registry.publish("news", Event::data("for one")).unwrap().subscribers(), 1);
        assert!(first_frame(&mut one).await.starts_with(b"data: for one\n"));
    })
    .await;
}

#[tokio::test]
async fn a_slot_is_released_when_its_client_leaves() {
    on_both_versions(async |version| {
        let limit = Limit::streams(1);
        let registry = Registry::new();
        let (handler, mut handles) = handler();
        let address = serve(version, SseLayer::new(&registry).limit(limit.clone()).layer(handler)).await;
        for _ in 0..10 {
            let one = open(address, version, asking()).await;
            assert_open(&one);
            assert_eq!(open(address, version, asking()).await.0.status(), StatusCode::SERVICE_UNAVAILABLE);
            let handle = handles.recv().await.unwrap();
            drop(one);
            assert_eq!(handle.closed().await, CloseReason::ClientDisconnected);
        }
        assert_eq!(limit.open_streams(), 0);
        assert_eq!(registry.stats().refused_streams, 10);
    })
    .await;
}

#[tokio::test]
async fn a_connection_stays_open_after_a_refusal() {
    on_both_versions(async |version| {
        let limit = Limit::streams(0);
        let registry = Registry::new();
        let (handler, _handles) = handler();
        for refusal in [RefusedResponse::status(), RefusedResponse::reconnect()] {
            let layer = SseLayer::new(&registry).limit(limit.clone()).refused_response(refusal);
            let address = serve(version, layer.layer(handler.clone())).await;
            let mut client = Client::connect(address, version).await;
            limit.set_limit(0);
            for _ in 0..3 {
                let refused = client.send(asking()).await.unwrap();
                assert!(!refused.into_body().collect().await.unwrap().to_bytes().is_empty());
            }
            limit.set_limit(1);
            let response = client.send(asking()).await.unwrap();
            assert_eq!((response.status(), limit.open_streams()), (StatusCode::OK, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn streams_are_counted_by_the_peers_address() {
    within_20_s(async {
        let address =
            ClientIpKey::new(|request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.ip()));
        let limit = Limit::streams(2).per(address.key());
        let layer = SseLayer::new(&Registry::new()).limit(limit.clone());
        let address = serve_axum(Router::new().route("/", get(news)).layer(layer)).await;
        let two = [open(address, Version::HTTP_11, asking()).await, open(address, Version::HTTP_2, asking()).await];
        two.iter().for_each(assert_open);
        let mut forged = asking();
        forged.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        for request in [asking(), forged] {
            let refused = open(address, Version::HTTP_11, request).await.0;
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!((limit.open_streams(), limit.entries()), (2, 1));
    })
    .await;
}

#[tokio::test]
async fn streams_are_counted_by_the_address_that_the_last_proxy_saw() {
    within_20_s(async {
        let address =
            ClientIpKey::new(|request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.ip()));
        let limit = Limit::streams(1).per(address.proxies(1).key());
        let layer = SseLayer::new(&Registry::new()).limit(limit.clone());
        let address = serve_axum(Router::new().route("/", get(news)).layer(layer)).await;
        let from = async |forwarded: &'static str| {
            let mut request = asking();
            request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static(forwarded));
            open(address, Version::HTTP_11, request).await
        };
        let open = [
            from("192.0.2.1").await,
            from("192.0.2.1, 192.0.2.2").await,
            from("[2001:db8::1]:443").await,
            from("unknown").await,
        ];
        open.iter().for_each(assert_open);
        for again in ["192.0.2.1:8080", "192.0.2.9,192.0.2.2", "2001:db8::2", "192.0.2.9, "] {
            assert_eq!(from(again).await.0.status(), StatusCode::TOO_MANY_REQUESTS, "{again}");
        }
        assert_eq!((limit.open_streams(), limit.entries()), (4, 4));
    })
    .await;
}

#[tokio::test]
async fn a_rate_admits_a_burst_of_streams_and_all_other_requests() {
    within_20_s(async {
        let hour = Duration::from_secs(3600);
        let registry = Registry::new();
        let layer = SseLayer::new(&registry).limit(Limit::rate(1, hour, 3));
        let app = Router::new().route("/", get(news)).route("/", post(async || "no stream")).layer(layer);
        let address = serve_axum(app).await;
        let mut client = Client::connect(address, Version::HTTP_2).await;
        for _ in 0..3 {
            for _ in 0..5 {
                let mut request = asking();
                *request.method_mut() = http::Method::POST;
                assert_eq!(client.send(request).await.unwrap().status(), StatusCode::OK);
            }
            drop(client.send(asking()).await.unwrap());
        }
        let refused = client.send(asking()).await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let seconds: u64 = refused.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((hour.as_secs() - 60..=hour.as_secs() + 8).contains(&seconds), "{seconds}");
        // Unless the response shows that it is no stream.
        let mut request = asking();
        *request.method_mut() = http::Method::POST;
        assert_eq!(client.send(request).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(registry.stats().refused_streams, 2);
    })
    .await;
}

/// A browser's `EventSource` gives up at any status but 200, and reconnects after a stream that ends.
#[tokio::test]
async fn a_client_that_reconnects_is_admitted_when_a_slot_is_free() {
    within_20_s(async {
        let registry = Registry::new();
        let layer = plain(&registry)
            .limit(Limit::streams(1))
            .refused_response(RefusedResponse::reconnect().delay(Duration::from_millis(10)));
        let address = serve_axum(Router::new().route("/", get(news)).layer(layer)).await;
        let one = open(address, Version::HTTP_11, asking()).await;
        assert_open(&one);
        let mut source = EventSource::get(format!("http://{address}/"));
        // Unlike browsers, this client ignores a `retry:` without data.
        source.set_retry_policy(Box::new(retry::Constant::new(Duration::from_millis(10), None)));
        for _ in 0..3 {
            assert!(matches!(source.next().await.unwrap(), Ok(Received::Open)));
            assert!(matches!(source.next().await.unwrap(), Err(Error::StreamEnded)));
        }
        assert!(registry.stats().refused_streams >= 3);
        drop(one);
        loop {
            assert!(matches!(source.next().await.unwrap(), Ok(Received::Open)));
            // If the client has its stream by now, it gets this event. If it was refused once more, no client gets it,
            // and the stream ends later.
            registry.publish("news", Event::data("let in")).unwrap();
            match source.next().await.unwrap() {
                Ok(Received::Message(message)) => {
                    assert_eq!(message.data, "let in");
                    break;
                }
                Err(Error::StreamEnded) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(registry.stats().clients, 1);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_fails_on_a_refusal_sees_the_status() {
    within_20_s(async {
        let layer = SseLayer::new(&Registry::new()).limit(Limit::streams(0).per(|_: &Parts| Some("everybody")));
        let address = serve_axum(Router::new().route("/", get(news)).layer(layer)).await;
        let mut source = EventSource::get(format!("http://{address}/"));
        source.set_retry_policy(Box::new(retry::Never));
        let Err(Error::InvalidStatusCode(status, _)) = source.next().await.unwrap() else {
            panic!("the client reported no error")
        };
        assert_eq!(status.as_u16(), 429);
        assert!(source.next().await.is_none(), "the client gives up");
    })
    .await;
}
