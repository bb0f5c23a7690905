//! Responses that are not recorded, and the heads of those that are.

use std::convert::Infallible;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{ClientHandle, RecordError, RecordLayer, Registry, RegistryConfig, SseLayer};

use crate::{
    bodies::{AnyBody, AnyError, any, channel, event_stream},
    time_limit::within_20_s,
    world::{World, event, key, post},
};

fn full(text: &'static str) -> AnyBody {
    any(Full::new(bytes::Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn a_response_that_is_no_whole_event_stream_passes_unchanged_and_the_key_is_free() {
    let stream = |text: &'static str| event_stream(full(text));
    let mut json = Response::new(full("{}"));
    json.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    json.headers_mut().insert("etag", HeaderValue::from_static("\"1\""));
    let mut compressed = stream("compressed");
    compressed.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    let mut failed = stream("data: no\n\n");
    *failed.status_mut() = StatusCode::BAD_GATEWAY;
    let mut partial = stream("data: no\n\n");
    *partial.status_mut() = StatusCode::PARTIAL_CONTENT;
    let mut world = World::new();
    for response in [json, compressed, failed, partial] {
        let (status, headers) = (response.status(), response.headers().clone());
        let sent = world.send(post("a"));
        world.call().await.answer(response);
        let response = sent.response().await;
        assert_eq!(response.status(), status);
        assert!(headers.iter().all(|(name, value)| response.headers().get(name) == Some(value)), "{headers:?}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!([&b"{}"[..], b"compressed", b"data: no\n\n"].contains(&&body[..]), "{body:?}");
        assert_eq!((world.record.running(), world.registry.stats().topics), (0, 0));
    }
    world.begin("a").await;
}

#[tokio::test]
async fn of_the_requests_that_wait_one_runs_the_handler_when_the_first_has_no_stream() {
    let mut world = World::new();
    let first = world.send(post("a"));
    let call = world.call().await;
    let waiting = [world.send(post("a")), world.send(post("a"))];
    call.answer(Response::new(full("busy")));
    assert_eq!(first.response().await.status(), StatusCode::OK);
    let frames = world.call().await.stream();
    event(&frames, "1").await;
    drop(frames);
    for waiting in waiting {
        assert_eq!(waiting.stream().await.whole().await, ["1"]);
    }
    world.assert_not_called();
}

#[tokio::test]
async fn a_panic_of_the_handler_is_that_of_its_request_and_the_next_request_runs_the_handler() {
    let mut world = World::new();
    let first = world.send(post("a"));
    let call = world.call().await;
    let second = world.send(post("a"));
    call.panic();
    assert!(first.panics().await);
    let frames = world.call().await.stream();
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(second.stream().await.whole().await, ["1"]);
}

#[tokio::test]
async fn an_error_of_the_handler_is_that_of_its_request_and_the_key_is_free() {
    let registry = Registry::new();
    let handler = service_fn(|request: Request<()>| async move {
        let is_good = request.headers().contains_key("good");
        if is_good { Ok(event_stream(full("data: 1\n\n"))) } else { Err(AnyError::from("the handler failed")) }
    });
    let record = RecordLayer::by_key(&registry, key);
    let app = SseLayer::new(&registry).open_at_once(false).layer(record.layer(handler));
    let error = within_20_s(app.clone().oneshot(post("a"))).await.unwrap_err();
    assert_eq!((error.to_string(), record.running()), ("the handler failed".into(), 0));
    let mut good = post("a");
    good.headers_mut().insert("good", HeaderValue::from_static("1"));
    let response = within_20_s(app.oneshot(good)).await.unwrap();
    let body = within_20_s(response.into_body().collect()).await.unwrap().to_bytes();
    assert!(body.starts_with(b"data: 1\nid: "), "{body:?}");
}

#[tokio::test]
async fn the_stream_of_the_client_s_own_topics_is_not_recorded() {
    let registry = Registry::new();
    let handler = service_fn(|request: Request<()>| async move {
        let client = request.extensions().get::<ClientHandle>().unwrap();
        client.subscribe("news").unwrap();
        Ok::<_, Infallible>(client.clone().into_stream().into_response::<AnyBody>())
    });
    let record = RecordLayer::by_key(&registry, key);
    let app = SseLayer::new(&registry).layer(record.layer(handler));
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut body = within_20_s(app.clone().oneshot(post("a"))).await.unwrap().into_body();
        within_20_s(body.frame()).await.unwrap().unwrap();
        streams.push(body);
    }
    registry.publish("news", tower_sse::Event::data("it rains")).unwrap();
    for mut body in streams {
        let frame = within_20_s(body.frame()).await.unwrap().unwrap();
        assert!(frame.into_data().unwrap().starts_with(b"data: it rains\n"));
    }
    assert_eq!((record.running(), registry.stats().topics), (0, 1));
}

#[tokio::test]
async fn heads_and_preflights_are_not_recorded() {
    let mut world = World::new();
    for method in [Method::HEAD, Method::OPTIONS] {
        let mut request = post("a");
        *request.method_mut() = method;
        let sent = world.send(request);
        world.call().await.stream();
        assert_eq!(sent.response().await.status(), StatusCode::OK);
        assert_eq!((world.record.running(), world.registry.stats().topics), (0, 0));
    }
}

#[tokio::test]
async fn all_readers_get_the_status_and_the_headers_of_the_handler() {
    let mut world = World::new();
    let sent = world.send(post("a"));
    let frames = world.call().await.stream_with(|response| {
        *response.status_mut() = StatusCode::ACCEPTED;
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("x-model", "small"),
            ("set-cookie", "session=1"),
            ("date", "Sat, 28 Nov 2026 18:00:00 GMT"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "7"),
            ("etag", "\"1\""),
        ] {
            response.headers_mut().insert(header::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    });
    let [first, second] = [sent.response().await, world.send(post("a")).response().await];
    for response in [&first, &second] {
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(response.headers()["x-model"], "small");
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(response.headers()["x-accel-buffering"], "no", "by the layer around the recording");
        assert_eq!(response.headers()["connection"], "keep-alive", "the layer's, not the handler's");
        let gone = ["x-hop", "content-length", "etag"];
        assert!(gone.iter().all(|name| !response.headers().contains_key(*name)), "{:?}", response.headers());
    }
    let of_the_first = ["set-cookie", "date"];
    assert!(of_the_first.iter().all(|name| first.headers().contains_key(*name)), "{:?}", first.headers());
    assert!(of_the_first.iter().all(|name| !second.headers().contains_key(*name)), "{:?}", second.headers());
    drop(frames);
}

#[tokio::test]
async fn a_location_of_the_handler_wins() {
    let mut world = World::with(RegistryConfig::default(), |record| record.content_location(|_| Some("/layer".into())));
    let sent = world.send(post("a"));
    let _frames = world.call().await.stream_with(|response| {
        response.headers_mut().insert("content-location", HeaderValue::from_static("/handler"));
    });
    assert_eq!(sent.stream().await.headers["content-location"], "/handler");
    let (_frames, other) = world.begin("b").await;
    assert_eq!(other.headers["content-location"], "/layer");
}

#[tokio::test]
async fn extensions_of_the_handler_s_response_reach_the_first_reader() {
    #[derive(Clone)]
    struct Cost(u32);
    let mut world = World::new();
    let sent = world.send(post("a"));
    let _frames = world.call().await.stream_with(|response| _ = response.extensions_mut().insert(Cost(3)));
    assert_eq!(sent.response().await.extensions().get::<Cost>().map(|cost| cost.0), Some(3));
}

#[tokio::test]
async fn without_a_layer_of_the_same_registry_around_it_the_response_is_500() {
    let (registry, other) = (Registry::new(), Registry::new());
    let handler = || service_fn(|_: Request<()>| async { Ok::<_, Infallible>(event_stream(channel().1)) });
    let record = RecordLayer::by_key(&registry, key);
    let bare = within_20_s(record.layer(handler()).oneshot(post("a"))).await.unwrap();
    let wrong = SseLayer::new(&other).layer(record.layer(handler()));
    let wrong = within_20_s(wrong.oneshot(post("a"))).await.unwrap();
    assert_eq!((bare.status(), wrong.status()), (StatusCode::INTERNAL_SERVER_ERROR, StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(bare.extensions().get::<RecordError>(), Some(&RecordError::MissingLayer));
    let without_key = within_20_s(record.layer(handler()).oneshot(Request::new(()))).await.unwrap();
    assert_eq!(without_key.status(), StatusCode::OK);
}
