//! The layer's contract: which responses it changes and how, and how a stream begins, goes on and ends.
//!
//! Everything is polled by hand, without a runtime. Only the heartbeat tests need one, with paused time.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, pending, ready},
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tokio_test::{
    assert_pending, assert_ready, assert_ready_err, assert_ready_ok,
    task::{Spawn, spawn},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse::{
    ClientHandle, CloseReason, Event, EventStream, Events, GapEvent, Heartbeat, Receipt, Registry, RegistryConfig,
    Resume, Retention, SseBody, SseLayer, SseService, Start,
};

use crate::layers::{plain, quiet};

const STREAM: &str = "text/event-stream";

/// A layer that needs no clock.
fn layer(registry: &Registry) -> SseLayer {
    quiet(registry)
}

fn request() -> Request<()> {
    Request::new(())
}

fn client_of(request: &Request<()>) -> ClientHandle {
    request.extensions().get::<ClientHandle>().unwrap().clone()
}

/// Sends one request through the layer.
fn respond<B: Body>(
    layer: &SseLayer,
    request: Request<()>,
    handler: impl FnOnce(ClientHandle) -> Response<B>,
) -> Response<SseBody<B>> {
    let mut handler = Some(handler);
    let service = layer.layer(service_fn(|request| {
        let handler = handler.take().unwrap();
        ready(Ok::<_, Infallible>(handler(client_of(&request))))
    }));
    assert_ready_ok!(spawn(service.oneshot(request)).poll())
}

fn with_type<B>(content_type: &'static str, body: B) -> Response<B> {
    Response::builder().header(CONTENT_TYPE, content_type).body(body).unwrap()
}

/// Opens an event stream with this body. Returns the stream's body and its client.
fn open<B: Body>(layer: &SseLayer, body: B, prepare: impl FnOnce(&ClientHandle)) -> (Spawn<SseBody<B>>, ClientHandle) {
    let mut kept = None;
    let response = respond(layer, request(), |client| {
        prepare(&client);
        kept = Some(client);
        with_type(STREAM, body)
    });
    (spawn(response.into_body()), kept.unwrap())
}

#[derive(Debug, PartialEq)]
struct Broken;

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Broken>>;
type OwnBody = StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, Broken>>>;

/// A handler's body, and the sender of its frames.
fn own_body() -> (Frames, OwnBody) {
    let (frames, body) = mpsc::unbounded_channel();
    (frames, StreamBody::new(UnboundedReceiverStream::new(body)))
}

/// A stream with a handler's body, whose client is subscribed to `topic`.
fn subscribed() -> (Registry, Frames, Spawn<SseBody<OwnBody>>, ClientHandle) {
    let registry = Registry::new();
    let (frames, own) = own_body();
    let (body, client) = open(&layer(&registry), own, |client| client.subscribe("topic").unwrap());
    (registry, frames, body, client)
}

fn give(frames: &Frames, data: &'static str) {
    frames.send(Ok(Frame::data(Bytes::from_static(data.as_bytes())))).unwrap();
}

/// A handler's body that always has a frame.
struct Tireless;

impl Body for Tireless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: own\n\n")))))
    }
}

fn poll<B: Body>(body: &mut Spawn<SseBody<B>>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    body.enter(|cx, body| body.poll_frame(cx))
}

#[track_caller]
fn next<B: Body<Error: Debug>>(body: &mut Spawn<SseBody<B>>) -> Bytes {
    assert_ready!(poll(body)).expect("over").unwrap().into_data().expect("trailers")
}

#[track_caller]
fn assert_silent<B: Body<Error: Debug> + Unpin>(body: &mut Spawn<SseBody<B>>) {
    assert_pending!(poll(body));
    assert!(!body.is_end_stream());
}

#[track_caller]
fn assert_over<B: Body<Error: Debug> + Unpin>(body: &mut Spawn<SseBody<B>>) {
    for _ in 0..3 {
        assert!(assert_ready!(poll(body)).is_none());
        assert!(body.is_end_stream());
    }
}

/// The client's close reason, if it has ended.
fn reason(client: &ClientHandle) -> Option<CloseReason> {
    match spawn(client.closed()).poll() {
        Poll::Ready(reason) => Some(reason),
        Poll::Pending => None,
    }
}

#[track_caller]
fn assert_forgotten(registry: &Registry) {
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.topics), (0, 0));
}

fn publish(registry: &Registry, topic: &str, data: &str) -> Receipt {
    registry.publish(topic, Event::data(data)).unwrap()
}

fn wire(data: &str, receipt: &Receipt) -> String {
    format!("data: {data}\nid: {}\n\n", receipt.position().unwrap())
}

mod responses_that_are_no_event_stream {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Marker(u8);

    #[track_caller]
    fn assert_untouched(method: Method, response: http::response::Builder) {
        let own = Bytes::from_static(b"\xEF\xBB\xBFdata: own\n\n");
        let registry = Registry::new();
        let layer = SseLayer::new(&registry).opening_comment("opening").reconnect_delay(Duration::from_secs(1));
        let response = response.header(CONTENT_LENGTH, own.len()).header("x-own", "1").extension(Marker(7));
        let (expected, ()) = response.body(()).unwrap().into_parts();
        let given = expected.clone();

        let mut request = request();
        *request.method_mut() = method;
        let response = respond(&layer, request, |client| {
            client.subscribe("topic").unwrap();
            Response::from_parts(given, Full::new(own.clone()))
        });
        assert_forgotten(&registry);
        assert_eq!(registry.publish("topic", Event::data("x")).unwrap().subscribers(), 0);

        let (parts, body) = response.into_parts();
        assert_eq!(parts.status, expected.status);
        assert_eq!(parts.version, expected.version);
        assert_eq!(parts.headers, expected.headers);
        assert_eq!(parts.extensions.get(), Some(&Marker(7)));
        assert_eq!(parts.extensions.len(), 1);
        let mut body = spawn(body);
        assert_eq!(body.size_hint().exact(), Some(own.len() as u64));
        assert!(!body.is_end_stream());
        let frame = next(&mut body);
        assert_eq!(frame, own);
        assert_eq!(frame.as_ptr(), own.as_ptr(), "the frame is not copied");
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_over(&mut body);
    }

    fn with(status: StatusCode, content_type: &'static str) -> http::response::Builder {
        Response::builder().status(status).header(CONTENT_TYPE, content_type)
    }

    #[test]
    fn with_other_statuses_pass_unchanged() {
        for status in [204, 205, 206, 301, 304, 307, 400, 404, 500, 503] {
            assert_untouched(Method::GET, with(StatusCode::from_u16(status).unwrap(), STREAM));
        }
        assert_untouched(Method::GET, Response::builder().status(302).header("location", "/"));
    }

    #[test]
    fn with_other_content_types_pass_unchanged() {
        let json = "application/json; charset=utf-8";
        for other in [json, "application/x-ndjson", "application/grpc-web", "text/event-streams", "text/plain", ""] {
            assert_untouched(Method::GET, with(StatusCode::OK, other));
        }
        assert_untouched(Method::GET, with(StatusCode::OK, "multipart/mixed; boundary=text/event-stream"));
        assert_untouched(Method::GET, Response::builder());
    }

    #[test]
    fn to_a_head_request_pass_unchanged() {
        assert_untouched(Method::HEAD, with(StatusCode::OK, "application/json"));
        assert_untouched(Method::HEAD, with(StatusCode::NOT_FOUND, STREAM));
    }

    #[test]
    fn report_the_end_of_their_bodies() {
        let response = respond(&layer(&Registry::new()), request(), |_| Response::new(Empty::<Bytes>::new()));
        assert!(response.body().is_end_stream());
        assert_eq!(response.body().size_hint().exact(), Some(0));
    }

    #[test]
    fn pass_trailers_and_errors_of_their_bodies() {
        let (frames, body) = own_body();
        let response = respond(&layer(&Registry::new()), request(), |_| with_type("application/grpc", body));
        let mut body = spawn(response.into_body());
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        frames.send(Ok(Frame::trailers(trailers.clone()))).unwrap();
        frames.send(Err(Broken)).unwrap();
        assert_eq!(assert_ready!(poll(&mut body)).unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert_eq!(assert_ready!(poll(&mut body)).unwrap().unwrap_err(), Broken);
    }
}

mod headers {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn prepared(version: Version, own: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut request = request();
        *request.version_mut() = version;
        let response = respond(&layer(&Registry::new()), request, |_| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"data: 1\n\n")));
            *response.headers_mut() = map(own);
            response
        });
        response.headers().clone()
    }

    #[test]
    fn are_set_if_they_are_absent() {
        let expected = [
            ("content-type", STREAM),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("connection", "keep-alive"),
        ];
        assert_eq!(prepared(Version::HTTP_11, &[("content-type", STREAM)]), map(&expected));
    }

    #[test]
    fn of_the_handler_are_kept() {
        let own = [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "yes"),
            ("connection", "close"),
            ("x-own", "1"),
        ];
        assert_eq!(prepared(Version::HTTP_11, &own), map(&own));
    }

    #[test]
    fn content_type_is_recognised_in_any_case_and_sent_in_lower_case() {
        for own in ["Text/Event-Stream", "TEXT/EVENT-STREAM", "text/Event-stream"] {
            assert_eq!(prepared(Version::HTTP_2, &[("content-type", own)])[CONTENT_TYPE], STREAM);
        }
        let with_parameters = prepared(Version::HTTP_2, &[("content-type", "Text/Event-Stream ; Charset=UTF-8")]);
        assert_eq!(
            with_parameters[CONTENT_TYPE].as_bytes().split(|byte| *byte == b';').next().unwrap(),
            b"text/event-stream"
        );
        assert!(with_parameters[CONTENT_TYPE].to_str().unwrap().ends_with("Charset=UTF-8"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_every_success_status_with_a_whole_body_are_those_of_a_stream() {
        for status in [200, 201, 202, 203, 207, 208, 226] {
            let registry = Registry::new();
            let layer = layer(&registry).heartbeat(Heartbeat::every(Duration::from_secs(1)));
            let mut request = request();
            *request.method_mut() = Method::POST;
            let (_frames, own) = own_body();
            let mut response = respond(&layer, request, |client| {
                client.subscribe("topic").unwrap();
                let mut response = with_type(STREAM, own);
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            });
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["x-accel-buffering"], "no");
            assert_eq!(registry.stats().clients, 1);
            let receipt = publish(&registry, "topic", "1");
            let event = response.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(event, wire("1", &receipt));
            let heartbeat = response.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(heartbeat, ":\n\n");
        }
    }

    #[test]
    fn with_validators_or_digests_are_removed_unless_encoded() {
        let of_the_bytes = ["etag", "last-modified", "accept-ranges", "content-md5", "content-digest", "repr-digest"];
        let own: Vec<_> = of_the_bytes.into_iter().map(|name| (name, "x")).chain([("content-type", STREAM)]).collect();
        let left = prepared(Version::HTTP_2, &own);
        assert_eq!(of_the_bytes.map(|name| left.contains_key(name)), [false; 6]);
        let encoded: Vec<_> = own.into_iter().chain([("content-encoding", "gzip")]).collect();
        let left = prepared(Version::HTTP_2, &encoded);
        assert_eq!(
            of_the_bytes.map(|name| left.contains_key(name)),
            [true; 6],
            "nothing is inserted into an encoded body"
        );
    }

    #[test]
    fn content_length_is_removed() {
        assert!(
            !prepared(Version::HTTP_11, &[("content-type", STREAM), ("content-length", "9")])
                .contains_key(CONTENT_LENGTH)
        );
    }

    #[test]
    fn connection_is_set_for_http_1_1_only() {
        let connection = |version| prepared(version, &[("content-type", STREAM)]).contains_key("connection");
        assert!(connection(Version::HTTP_11));
        // Without a content-length, an HTTP/1.0 body ends at the end of the connection.
        assert!(!connection(Version::HTTP_10));
        assert!(!connection(Version::HTTP_2));
        assert!(!connection(Version::HTTP_3));
    }
}

mod encoded_streams {
    use super::*;

    fn open_encoded(registry: &Registry, encoding: &'static str) -> (Frames, Response<SseBody<OwnBody>>, ClientHandle) {
        let (frames, body) = own_body();
        let mut kept = None;
        let response = respond(&layer(registry).opening_comment("opening"), request(), |client| {
            client.subscribe("topic").unwrap();
            kept = Some(client);
            let mut response = with_type(STREAM, body);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("4"));
            response
        });
        (frames, response, kept.unwrap())
    }

    #[test]
    fn get_headers_and_are_counted_but_nothing_is_inserted() {
        let registry = Registry::new();
        let (frames, response, client) = open_encoded(&registry, "gzip");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let mut body = spawn(response.into_body());
        assert_eq!(registry.stats().clients, 1);
        publish(&registry, "topic", "not to be put in");
        assert_silent(&mut body);
        give(&frames, "\u{feff}as it is\n\n");
        assert_eq!(next(&mut body), "\u{feff}as it is\n\n");
        assert_silent(&mut body);
        drop(frames);
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::BodyEnded));
    }

    #[tokio::test(start_paused = true)]
    async fn get_no_heartbeats() {
        let registry = Registry::new();
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(Duration::from_millis(1)));
        let (_frames, body) = own_body();
        let response = respond(&layer, request(), |_| {
            let mut response = with_type(STREAM, body);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
            response
        });
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, response.into_body().frame()).await.is_err());
        assert_eq!(registry.stats().withheld_heartbeats, 0);
    }

    #[test]
    fn end_when_their_client_is_closed() {
        let (_frames, response, client) = open_encoded(&Registry::new(), "gzip");
        let mut body = spawn(response.into_body());
        assert_silent(&mut body);
        client.close();
        assert!(body.is_woken());
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::ByServer));
    }

    #[test]
    fn do_not_include_identity_encoding() {
        let registry = Registry::new();
        let (_frames, response, _client) = open_encoded(&registry, "identity");
        assert_eq!(next(&mut spawn(response.into_body())), ": opening\n\n");
    }
}

mod nested_layers {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn use_the_inner_layers_configuration_and_registry() {
        let (outer, inner) = (Registry::new(), Registry::new());
        let beat = |text: &str| Heartbeat::every(Duration::from_millis(10)).comment(text);
        let inner_layer = SseLayer::new(&inner)
            .heartbeat(beat("inner beat"))
            .opening_comment("inner")
            .reconnect_delay(Duration::ZERO);
        let outer_layer = SseLayer::new(&outer).heartbeat(beat("outer beat")).opening_comment("outer");
        let service = service_fn(|request: Request<()>| {
            let client = client_of(&request);
            client.registry().publish("topic", Event::data("x")).unwrap();
            client.subscribe_from("topic", Start::Oldest).unwrap();
            let response: Response<Empty<Bytes>> = client.into_stream().into_response();
            ready(Ok::<_, Infallible>(response))
        });
        let response = outer_layer.layer(inner_layer.layer(service)).oneshot(request()).await.unwrap();
        assert_eq!(response.headers().get_all("cache-control").iter().count(), 1);
        assert_forgotten(&outer);
        assert_eq!(inner.stats().clients, 1);
        assert_eq!((outer.stats().published, inner.stats().published), (0, 1));

        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), None);
        let mut frames = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(105), async {
            while let Some(frame) = body.frame().await {
                frames.push(frame.unwrap().into_data().unwrap());
            }
        })
        .await;
        assert!(frames[0].starts_with(b": inner\nretry: 0\n\nevent: position\ndata: \nid: "), "{frames:?}");
        assert_eq!(frames[0].iter().filter(|byte| **byte == b'\n').count(), 7, "exactly these line ends: {frames:?}");
        assert!(frames[1].starts_with(b"data: x\nid: "));
        assert!((9..=11).contains(&frames[2..].len()), "{frames:?}");
        assert!(frames[2..].iter().all(|frame| frame == ": inner beat\n\n"), "{frames:?}");
        drop(body);
        assert_eq!(inner.stats().clients, 0);
    }
}

mod nested_layers_with_metadata {
    use super::*;

    #[tokio::test]
    async fn pass_the_outer_layers_metadata_to_the_inner_layer() {
        let registry = Registry::new();
        let outer = SseLayer::new(&registry).metadata(|_| Some(1_u8)).metadata(|_| Some("outer"));
        let inner = SseLayer::new(&registry).metadata(|_| Some("inner"));
        let service = service_fn(|request: Request<()>| {
            let metadata = client_of(&request).metadata();
            assert_eq!((metadata.get::<u8>(), metadata.get::<&str>()), (Some(&1), Some(&"inner")));
            ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        });
        outer.layer(inner.layer(service)).oneshot(request()).await.unwrap();
    }
}

mod the_handlers_own_body {
    use super::*;

    #[test]
    fn passes_its_frames_without_a_copy() {
        let own = Bytes::from_static(b"data: 1\n\n");
        let (mut body, _) = open(&layer(&Registry::new()), Full::new(own.clone()), |_| {});
        assert_eq!(next(&mut body).as_ptr(), own.as_ptr());
    }

    #[test]
    fn hides_its_length() {
        let (mut body, _) = open(&layer(&Registry::new()), Full::new(Bytes::from_static(b"data: 1\n\n")), |_| {});
        for _ in 0..3 {
            assert_eq!(body.size_hint().exact(), None);
            assert_eq!(body.size_hint().lower(), 0);
            let _ = poll(&mut body);
        }
    }

    #[test]
    fn sends_its_trailers_last() {
        let (registry, frames, mut body, client) = subscribed();
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-checksum"), HeaderValue::from_static("7"))]);
        give(&frames, "data: 1\n\n");
        frames.send(Ok(Frame::trailers(trailers.clone()))).unwrap();
        drop(frames);
        assert_eq!(next(&mut body), "data: 1\n\n");
        assert_silent(&mut body);
        let receipt = publish(&registry, "topic", "held open");
        assert_eq!(next(&mut body), wire("held open", &receipt));
        client.close();
        assert_eq!(assert_ready!(poll(&mut body)).unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert_over(&mut body);
    }

    #[test]
    fn loses_trailers_that_describe_its_bytes() {
        let (_registry, frames, mut body, client) = subscribed();
        let trailers = ["x-own", "content-digest", "etag"].map(HeaderName::from_static);
        frames
            .send(Ok(Frame::trailers(trailers.map(|name| (name, HeaderValue::from_static("7"))).into_iter().collect())))
            .unwrap();
        drop(frames);
        client.close();
        let left = assert_ready!(poll(&mut body)).unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(left.keys().collect::<Vec<_>>(), ["x-own"]);
    }

    #[test]
    fn passes_its_error_and_ends_the_stream() {
        let (registry, frames, mut body, client) = subscribed();
        give(&frames, "data: 1\n\n");
        frames.send(Err(Broken)).unwrap();
        give(&frames, "data: never\n\n");
        assert_eq!(next(&mut body), "data: 1\n\n");
        assert_eq!(assert_ready!(poll(&mut body)).unwrap().unwrap_err(), Broken);
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::BodyFailed));
        assert_forgotten(&registry);
    }

    #[test]
    fn sends_its_first_frame_before_the_registrys_events() {
        let registry = Registry::new();
        let own = Full::new(Bytes::from_static(b"data: own\n\n"));
        let (mut body, _) = open(&layer(&registry), own, |client| client.subscribe("topic").unwrap());
        let receipt = publish(&registry, "topic", "theirs");
        assert_eq!(next(&mut body), "data: own\n\n");
        assert_eq!(next(&mut body), wire("theirs", &receipt));
    }

    #[test]
    fn takes_turns_with_the_registry_if_both_are_always_ready() {
        let registry = Registry::new();
        let (mut body, _) = open(&layer(&registry), Tireless, |client| client.subscribe("topic").unwrap());
        for _ in 0..100 {
            let receipt = publish(&registry, "topic", "theirs");
            assert_eq!(next(&mut body), "data: own\n\n");
            assert_eq!(next(&mut body), wire("theirs", &receipt));
        }
    }

    #[test]
    fn delays_the_registrys_events_until_its_event_ends() {
        let (registry, frames, mut body, _client) = subscribed();
        give(&frames, "data: 1\n");
        let receipt = publish(&registry, "topic", "theirs");
        assert_eq!(next(&mut body), "data: 1\n");
        assert_silent(&mut body);
        give(&frames, "\n");
        assert!(body.is_woken());
        assert_eq!(next(&mut body), "\n");
        assert_eq!(next(&mut body), wire("theirs", &receipt));
    }

    #[test]
    fn may_leave_an_event_unfinished() {
        let registry = Registry::new();
        let own = Full::new(Bytes::from_static(b"data: unfinished\n"));
        let (mut body, client) = open(&layer(&registry), own, |client| client.subscribe("topic").unwrap());
        publish(&registry, "topic", "theirs");
        assert_eq!(next(&mut body), "data: unfinished\n");
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::BodyEnded));
    }

    #[test]
    fn loses_its_empty_frames() {
        let (frames, body) = own_body();
        let (mut body, _) = open(&layer(&Registry::new()), body, |_| {});
        give(&frames, "");
        give(&frames, "data: 1\n\n");
        assert_eq!(next(&mut body), "data: 1\n\n");
    }
}

mod the_opening {
    use super::*;

    #[test]
    fn has_the_comments_in_call_order_and_then_the_reconnection_time() {
        let registry = Registry::new();
        let layer = layer(&registry)
            .reconnect_delay(Duration::from_secs(2))
            .opening_comment("one\ntwo")
            .opening_padding(4)
            .opening_comment("three");
        let own = Full::new(Bytes::from_static(b"data: own\n\n"));
        let (mut body, _) = open(&layer, own, |client| {
            client.send(Event::data("welcome")).unwrap();
        });
        let opening = next(&mut body);
        let retry = opening.strip_prefix(b": one\n: two\n:     \n: three\nretry: ").unwrap();
        let welcome = retry.split(|byte| *byte == b'\n').nth(2);
        assert_eq!(
            welcome,
            Some(&b"data: welcome"[..]),
            "an event sent before the stream begins is part of its opening"
        );
        assert_eq!(next(&mut body), "data: own\n\n");
    }

    /// A restart cuts all streams at once. Their clients must not all reconnect at once.
    #[test]
    fn has_a_reconnection_time_that_varies_around_the_configured_one() {
        let registry = Registry::new();
        let layer = layer(&registry).reconnect_delay(Duration::from_secs(2));
        let mut times: Vec<u64> = (0..200)
            .map(|_| {
                let (mut body, _) = open(&layer, Empty::<Bytes>::new(), |_| {});
                let opening = String::from_utf8(next(&mut body).to_vec()).unwrap();
                opening.strip_prefix("retry: ").and_then(|it| it.strip_suffix("\n\n")).unwrap().parse().unwrap()
            })
            .collect();
        times.sort_unstable();
        assert!(times[0] >= 1000 && times[199] <= 3000, "{times:?}");
        assert!(times[20] < 1500 && times[180] > 2500, "the times are spread: {times:?}");
        times.dedup();
        assert!(times.len() > 100, "{times:?}");
    }

    #[test]
    fn has_as_much_padding_as_configured_and_nothing_by_default() {
        let registry = Registry::new();
        let (mut body, _) = open(&layer(&registry).opening_padding(2048), Empty::<Bytes>::new(), |_| {});
        assert_eq!(next(&mut body).iter().filter(|byte| **byte == b' ').count(), 2049);
        assert_over(&mut body);
        let (mut body, _) = open(&layer(&registry), Empty::<Bytes>::new(), |_| {});
        assert_over(&mut body);
    }

    #[test]
    fn is_changed_only_in_the_layer_whose_setter_was_called() {
        let registry = Registry::new();
        let first = layer(&registry).opening_comment("first");
        let second = first.clone().opening_comment("second");
        assert_eq!(next(&mut open(&first, Empty::<Bytes>::new(), |_| {}).0), ": first\n\n");
        assert_eq!(next(&mut open(&second, Empty::<Bytes>::new(), |_| {}).0), ": first\n: second\n\n");
    }
}

mod resuming {
    use super::*;

    fn resumed(layer: &SseLayer, uri: &str, header: Option<&str>) -> Option<String> {
        let mut request = Request::get(uri).body(()).unwrap();
        if let Some(header) = header {
            request.headers_mut().insert("last-event-id", header.parse().unwrap());
        }
        let mut seen = None;
        respond(layer, request, |client| {
            seen = client.last_event_id().map(str::to_owned);
            Response::new(Empty::<Bytes>::new())
        });
        seen
    }

    #[test]
    fn reads_the_id_from_the_header_or_else_from_the_query() {
        let layer = layer(&Registry::new());
        assert_eq!(
            resumed(&layer, "/?lastEventId=2-0", Some(" ")).as_deref(),
            Some("2-0"),
            "an empty header does not hide the query"
        );
        assert_eq!(resumed(&layer, "/?lastEventId=2-0", Some("1-0")).as_deref(), Some("1-0"));
        for name in ["lastEventId", "last_event_id", "evs_last_event_id"] {
            assert_eq!(resumed(&layer, &format!("/?a=b&{name}=2%2D0"), None).as_deref(), Some("2-0"));
        }
        assert_eq!(resumed(&layer, "/?lasteventid=2-0", None), None);
        assert_eq!(resumed(&layer, "/", None), None);
    }

    #[test]
    fn reads_other_query_parameters_or_no_parameters() {
        let registry = Registry::new();
        let other = layer(&registry).resume_query(["since"]);
        assert_eq!(resumed(&other, "/?since=2-0", None).as_deref(), Some("2-0"));
        assert_eq!(resumed(&other, "/?lastEventId=2-0", None), None);
        let off = layer(&registry).resume_query::<&str>([]);
        assert_eq!(resumed(&off, "/?lastEventId=2-0", None), None);
        assert_eq!(resumed(&off, "/?lastEventId=2-0", Some("1-0")).as_deref(), Some("1-0"));
    }

    fn resume_from(layer: &SseLayer, last: &Receipt) -> (Spawn<SseBody<Empty<Bytes>>>, Resume) {
        let mut request = request();
        request.headers_mut().insert("last-event-id", last.position().unwrap().to_string().parse().unwrap());
        let mut resume = None;
        let response = respond(layer, request, |client| {
            client.subscribe("topic").unwrap();
            resume = Some(client.resume());
            client.into_stream().into_response()
        });
        (spawn(response.into_body()), resume.unwrap())
    }

    #[test]
    fn goes_on_after_the_last_event() {
        let registry = Registry::new();
        let last = publish(&registry, "topic", "1");
        let missed = ["2", "3"].map(|data| wire(data, &publish(&registry, "topic", data)));
        let (mut body, resume) = resume_from(&layer(&registry), &last);
        assert_eq!(resume, Resume::Continued);
        assert_eq!(next(&mut body), missed.concat());
        assert_silent(&mut body);
    }

    #[test]
    fn sends_a_gap_before_the_events_after_it() {
        let config = RegistryConfig::default().topic_retention(Retention::default().events(1));
        let registry = Registry::with_config(config);
        let last = publish(&registry, "topic", "1");
        let lost = publish(&registry, "topic", "2");
        let kept = publish(&registry, "topic", "3");
        let gap = |event_type: &str| {
            let (after, id) = (last.position().unwrap(), lost.position().unwrap());
            format!("event: {event_type}\ndata: {{\"topics\":[\"topic\"],\"after\":\"{after}\"}}\nid: {id}\n\n")
        };

        let (mut body, resume) = resume_from(&layer(&registry).opening_comment("opening"), &last);
        let Resume::Gap(told) = resume else { panic!("{resume:?}") };
        assert_eq!((told.topics(), told.after()), (&["topic".to_owned()][..], &*last.position().unwrap().to_string()));
        assert_eq!(next(&mut body), ": opening\n\n");
        assert_eq!(next(&mut body), gap("gap"));
        assert_eq!(next(&mut body), wire("3", &kept));
        assert_silent(&mut body);

        let (mut body, _) = resume_from(&layer(&registry).gap_event(GapEvent::named("lost")), &last);
        assert_eq!(next(&mut body), gap("lost"));
        assert_eq!(next(&mut body), wire("3", &kept));

        let (mut body, resume) = resume_from(&layer(&registry).gap_event(GapEvent::off()), &last);
        assert!(matches!(resume, Resume::Gap(_)), "the handler still sees the gap");
        assert_eq!(next(&mut body), wire("3", &kept));
        assert_silent(&mut body);
    }
}

mod the_end_of_a_stream {
    use super::*;

    #[test]
    fn comes_at_once_for_an_empty_body_without_subscriptions() {
        let registry = Registry::new();
        let (mut body, client) = open(&layer(&registry), Empty::<Bytes>::new(), |_| {});
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::BodyEnded));
        assert_forgotten(&registry);
    }

    #[test]
    fn comes_with_the_last_unsubscribe() {
        let registry = Registry::new();
        let (mut body, client) = open(&layer(&registry), Empty::<Bytes>::new(), |client| {
            client.subscribe("a").unwrap();
            client.subscribe("b").unwrap();
        });
        assert_silent(&mut body);
        let receipt = publish(&registry, "b", "1");
        assert!(body.is_woken());
        assert_eq!(next(&mut body), wire("1", &receipt));
        assert_silent(&mut body);
        assert!(client.unsubscribe("b"));
        assert_silent(&mut body);
        assert!(client.unsubscribe("a"));
        assert!(body.is_woken());
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::BodyEnded));
        assert_eq!(registry.stats().clients, 0);
    }

    #[test]
    fn does_not_come_after_into_stream_without_a_subscription() {
        let registry = Registry::new();
        let mut id = None;
        let response = respond(&layer(&registry), request(), |client| {
            id = Some(client.id());
            client.into_stream().into_response::<Empty<Bytes>>()
        });
        let mut body = spawn(response.into_body());
        assert_silent(&mut body);
        let from_elsewhere = registry.client(&id.unwrap()).unwrap();
        from_elsewhere.subscribe("topic").unwrap();
        let receipt = publish(&registry, "topic", "1");
        assert!(body.is_woken());
        assert_eq!(next(&mut body), wire("1", &receipt));
        assert!(from_elsewhere.unsubscribe("topic"));
        assert_silent(&mut body);
    }

    #[test]
    fn comes_after_the_events_published_before_close() {
        let (registry, _frames, mut body, client) = subscribed();
        assert_silent(&mut body);
        let before = ["1", "2"].map(|data| wire(data, &publish(&registry, "topic", data)));
        client.close();
        publish(&registry, "topic", "3");
        assert!(body.is_woken());
        assert_eq!(next(&mut body), before.concat());
        assert_eq!(reason(&client), None);
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::ByServer));
        assert_eq!(registry.stats().clients, 0);
    }

    #[test]
    fn comes_for_a_closed_client_after_its_last_pending_event() {
        let registry = Registry::new();
        let (mut body, client) = open(&layer(&registry), Empty::<Bytes>::new(), |client| {
            client.subscribe("topic").unwrap();
        });
        let before = publish(&registry, "topic", "1");
        client.close();
        assert_eq!(next(&mut body), wire("1", &before));
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::ByServer));
    }

    #[test]
    fn comes_after_close_as_soon_as_the_handlers_event_ends() {
        let (registry, frames, mut body, client) = subscribed();
        give(&frames, "data: 1\n");
        assert_eq!(next(&mut body), "data: 1\n");
        let before = publish(&registry, "topic", "theirs");
        client.close();
        assert_silent(&mut body);
        give(&frames, "\n");
        give(&frames, "data: too late\n\n");
        assert_eq!(next(&mut body), "\n");
        assert_eq!(next(&mut body), wire("theirs", &before));
        let rest: Vec<Bytes> = std::iter::from_fn(|| match poll(&mut body) {
            Poll::Ready(Some(frame)) => Some(frame.unwrap().into_data().unwrap()),
            _ => None,
        })
        .collect();
        assert!(rest.len() <= 1, "the stream ends at the next boundary: {rest:?}");
        assert_over(&mut body);
        assert_eq!(reason(&client), Some(CloseReason::ByServer));
    }

    #[test]
    fn comes_after_close_even_if_the_handlers_body_is_always_ready() {
        let registry = Registry::new();
        let (mut body, client) = open(&layer(&registry), Tireless, |_| {});
        assert_eq!(next(&mut body), "data: own\n\n");
        client.close();
        assert_over(&mut body);
    }

    #[test]
    fn comes_when_the_body_is_dropped() {
        let registry = Registry::new();
        let (mut body, client) = open(&layer(&registry), Empty::<Bytes>::new(), |client| {
            client.subscribe("topic").unwrap();
        });
        assert_silent(&mut body);
        assert_eq!(reason(&client), None);
        assert_eq!((registry.stats().clients, registry.stats().topics), (1, 1));
        drop(body);
        assert_eq!(reason(&client), Some(CloseReason::ClientDisconnected));
        assert_forgotten(&registry);
        assert!(client.subscribe("topic").is_err());
        assert_forgotten(&registry);
    }

    #[test]
    fn leaves_nothing_behind_if_the_body_was_never_polled() {
        let registry = Registry::new();
        let (body, client) =
            open(&layer(&registry), Empty::<Bytes>::new(), |client| client.subscribe("topic").unwrap());
        drop(body);
        assert_eq!(reason(&client), Some(CloseReason::ClientDisconnected));
        assert_forgotten(&registry);
    }
}

mod requests_that_become_no_stream {
    use super::*;

    #[test]
    fn that_are_cancelled_leave_nothing_behind() {
        let registry = Registry::new();
        let mut kept = None;
        let service = layer(&registry).layer(service_fn(|request| {
            let client = client_of(&request);
            client.subscribe("topic").unwrap();
            kept = Some(client);
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        }));
        let mut answer = spawn(service.oneshot(request()));
        assert_pending!(answer.poll());
        assert_eq!((registry.stats().clients, registry.stats().topics), (0, 1));
        drop(answer);
        assert_forgotten(&registry);
        assert_eq!(reason(&kept.unwrap()), Some(CloseReason::NoStream));
    }

    #[test]
    fn whose_service_fails_get_the_error_and_leave_nothing_behind() {
        let registry = Registry::new();
        let mut kept = None;
        let service = layer(&registry).layer(service_fn(|request| {
            let client = client_of(&request);
            client.subscribe("topic").unwrap();
            kept = Some(client);
            ready(Err::<Response<Empty<Bytes>>, _>(Broken))
        }));
        assert_eq!(assert_ready_err!(spawn(service.oneshot(request())).poll()), Broken);
        assert_forgotten(&registry);
        assert_eq!(reason(&kept.unwrap()), Some(CloseReason::NoStream));
    }

    #[test]
    fn with_any_other_response_leave_nothing_behind() {
        let registry = Registry::new();
        let mut kept = None;
        let response = respond(&layer(&registry), request(), |client| {
            client.subscribe("topic").unwrap();
            kept = Some(client);
            with_type("application/json", Empty::<Bytes>::new())
        });
        assert_forgotten(&registry);
        let client = kept.unwrap();
        assert_eq!(reason(&client), Some(CloseReason::NoStream));
        client.close();
        assert_eq!(reason(&client), Some(CloseReason::NoStream), "the close reason stays the same");
        drop(response);
    }

    #[test]
    fn whose_client_is_not_used_cost_the_registry_nothing() {
        let registry = Registry::new();
        let response = respond(&layer(&registry), request(), |_client| {
            assert_eq!(registry.stats().clients, 0);
            Response::new(Empty::<Bytes>::new())
        });
        assert_forgotten(&registry);
        drop(response);
    }
}

mod events_in_a_body_of_another_kind {
    use super::*;

    /// A body that maps events to messages of its own, as a gRPC method has it.
    fn messages(events: Events) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(events.map(|event| Ok(Frame::data(event.unwrap().data().unwrap().into_owned().into()))))
    }

    fn answer(registry: &Registry, content_type: &'static str) {
        let layer = layer(registry).opening_comment("opening");
        let mut kept = None;
        let response = respond(&layer, request(), |client| {
            client.subscribe("topic").unwrap();
            kept = Some(client.clone());
            with_type(content_type, messages(client.into_events()))
        });
        let client = kept.unwrap();
        assert_eq!(response.headers().len(), 1, "untouched");
        assert_eq!(registry.stats().clients, 1);
        let mut body = spawn(response.into_body());
        assert_silent(&mut body);
        publish(registry, "topic", "1");
        assert!(body.is_woken());
        publish(registry, "topic", "2");
        assert_eq!(next(&mut body), "1");
        assert_eq!(next(&mut body), "2");
        assert_silent(&mut body);
        publish(registry, "topic", "3");
        client.close();
        assert_eq!(next(&mut body), "3");
        assert!(assert_ready!(poll(&mut body)).is_none());
        assert_eq!(reason(&client), Some(CloseReason::ByServer));
        assert_eq!(registry.stats().clients, 0);
    }

    #[test]
    fn go_on_after_the_response_and_are_not_read_by_the_layer() {
        answer(&Registry::new(), "application/grpc");
    }

    #[test]
    fn are_not_read_by_the_layer_if_that_body_is_an_event_stream() {
        answer(&Registry::new(), STREAM);
    }

    #[test]
    fn end_the_client_when_they_are_dropped() {
        let registry = Registry::new();
        let mut kept = None;
        let response = respond(&layer(&registry), request(), |client| {
            client.subscribe("topic").unwrap();
            kept = Some(client.clone());
            with_type("application/grpc", messages(client.into_events()))
        });
        let client = kept.unwrap();
        assert_eq!(reason(&client), None);
        drop(response);
        assert_eq!(reason(&client), Some(CloseReason::ClientDisconnected));
        assert_forgotten(&registry);
    }
}

mod the_service {
    use super::*;

    /// A service that must be ready before each call and cannot be cloned.
    struct Busy {
        permits: mpsc::UnboundedReceiver<()>,
        is_ready: bool,
    }

    impl Service<Request<()>> for Busy {
        type Response = Response<Empty<Bytes>>;
        type Error = Broken;
        type Future = Ready<Result<Self::Response, Broken>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            self.permits.poll_recv(cx).map(|permit| {
                self.is_ready = permit.is_some();
                permit.ok_or(Broken)
            })
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.is_ready), "the service was called before it was ready");
            ready(Ok(with_type(STREAM, Empty::new())))
        }
    }

    #[test]
    fn is_ready_when_the_inner_service_is() {
        let (permits, receiver) = mpsc::unbounded_channel();
        let service = layer(&Registry::new()).layer(Busy { permits: receiver, is_ready: false });
        let mut service = spawn(service);
        for _ in 0..2 {
            assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
            permits.send(()).unwrap();
            assert!(service.is_woken());
            assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
            assert_ready_ok!(spawn(service.call(request())).poll());
        }
        drop(permits);
        assert_eq!(assert_ready_err!(service.enter(|cx, mut service| service.poll_ready(cx))), Broken);
    }

    #[test]
    fn gives_the_inner_service_back() {
        let (_permits, receiver) = mpsc::unbounded_channel();
        let mut service = layer(&Registry::new()).layer(Busy { permits: receiver, is_ready: false });
        service.get_mut().is_ready = true;
        assert!(service.get_ref().is_ready);
        assert!(service.into_inner().is_ready);
    }

    #[test]
    fn gives_every_request_a_client_of_its_own() {
        let registry = Registry::new();
        let mut ids = Vec::new();
        let mut service = layer(&registry).layer(service_fn(|request| {
            ids.push(client_of(&request).id());
            ready(Ok::<_, Infallible>(with_type(STREAM, Empty::<Bytes>::new())))
        }));
        let bodies = [request(), request()].map(|request| assert_ready_ok!(spawn(service.call(request)).poll()));
        assert_eq!(registry.stats().clients, 2);
        drop((service, bodies));
        assert_ne!(ids[0], ids[1]);
        assert_eq!(registry.stats().clients, 0);
    }
}

mod types {
    use super::*;

    #[test]
    fn are_send_sync_unpin_and_static() {
        fn everywhere<T: Send + Sync + Unpin + 'static>() {}
        fn cloned<T: Clone + Send + Sync + Unpin + 'static>() {}
        cloned::<SseLayer>();
        cloned::<SseService<PhantomData<()>>>();
        cloned::<ClientHandle>();
        cloned::<Registry>();
        everywhere::<SseService<mpsc::UnboundedReceiver<()>>>();
        everywhere::<SseBody<Full<Bytes>>>();
        // This body has no default.
        everywhere::<SseBody<SseBody<http_body_util::combinators::BoxBody<Bytes, Infallible>>>>();
        everywhere::<EventStream>();
        everywhere::<Events>();
    }

    #[test]
    fn have_the_inner_bodys_default() {
        let mut body = spawn(SseBody::<Full<Bytes>>::default());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_over(&mut body);
    }
}

/// An action of a handler on its client before it returns another response than a stream.
type Does = fn(&ClientHandle);

/// Returns the response to a request whose handler does this and then drops its client.
fn answered_without_a_stream(layer: &SseLayer, does: Does) {
    let response = respond(layer, request(), |client| {
        does(&client);
        Response::new(Empty::<Bytes>::new())
    });
    drop(response);
}

#[test]
fn a_request_gets_no_state_of_another_requests_client() {
    let all: [(&str, Does); 14] = [
        ("nothing", |_| {}),
        ("is asked its id", |client| _ = client.id()),
        ("subscribes", |client| client.subscribe("a").unwrap()),
        ("subscribes and leaves", |client| {
            client.subscribe("a").unwrap();
            client.unsubscribe("a");
        }),
        ("gets metadata", |client| client.insert_metadata(7_u8)),
        ("is labelled", |client| client.topic_as_event_type(true)),
        ("is batched", |client| client.batch(tower_sse::Batching::every(Duration::from_secs(1)))),
        ("may finish", |client| client.finish_on_drain(true)),
        ("is sent something", |client| _ = client.send(Event::data("for me")).unwrap()),
        ("is closed", ClientHandle::close),
        ("expires", |client| client.expire_after(Duration::ZERO)),
        ("is held open", |client| drop(client.clone().into_stream())),
        ("has a snapshot", |client| {
            drop(client.clone().into_stream().snapshot(Event::data("all"), client.registry().position()));
        }),
        ("is read to the end", |client| drop(client.clone().into_events())),
    ];
    for (what, does) in all {
        let registry = Registry::new();
        let layer = layer(&registry);
        for _ in 0..3 {
            answered_without_a_stream(&layer, does);
            assert_eq!((registry.stats().clients, registry.stats().subscriptions), (0, 0), "{what}");
            let (mut body, client) = open(&layer, Empty::<Bytes>::new(), |client| {
                assert_eq!(client.resume(), Resume::Fresh, "{what}");
                assert!(client.metadata().is_empty() && client.subscriptions().is_empty(), "{what}");
                assert_eq!((client.stats().events, client.stats().bytes, client.stats().age), (0, 0, None), "{what}");
                client.subscribe("a").unwrap();
            });
            registry.publish("a", Event::data("1")).unwrap();
            let wire = next(&mut body);
            assert!(wire.starts_with(b"data: 1\nid: "), "{what}: {wire:?}");
            assert_silent(&mut body);
            assert_eq!(client.subscriptions(), ["a"], "{what}");
            drop(body);
            assert!(!client.unsubscribe("a"), "{what}");
            answered_without_a_stream(&layer, does);
            // Nothing keeps this stream open.
            assert_over(&mut open(&layer, Empty::<Bytes>::new(), |_| {}).0);
        }
    }
}

#[test]
fn a_client_that_a_handler_keeps_is_not_reused() {
    let registry = Registry::new();
    let layer = layer(&registry);
    let mut kept = Vec::new();
    for _ in 0..3 {
        drop(respond(&layer, request(), |client| {
            kept.push(client);
            Response::new(Empty::<Bytes>::new())
        }));
    }
    // Each client has ended, as its request had no stream.
    for client in &kept {
        assert!(matches!(
            client.subscribe("a"),
            Err(tower_sse::SubscribeError::StreamEnded { reason: CloseReason::NoStream })
        ));
    }
    let (body, client) = open(&layer, Empty::<Bytes>::new(), |client| client.subscribe("a").unwrap());
    assert!(kept.iter().all(|kept| kept.id() != client.id()));
    drop(body);
}

#[tokio::test(start_paused = true)]
async fn timers_wake_the_task_that_polled_last() {
    let (registry, time) = (Registry::new(), Duration::from_secs(10));
    for layer in [plain(&registry).heartbeat(Heartbeat::every(time)), layer(&registry).max_age(time)] {
        let (mut first, _client) = open(&layer, Empty::<Bytes>::new(), |client| client.subscribe("a").unwrap());
        assert_silent(&mut first);
        let mut second = spawn(first.into_inner());
        assert_silent(&mut second);
        tokio::time::advance(time * 2).await;
        assert!(second.is_woken());
        assert!(poll(&mut second).is_ready());
    }
}

#[test]
fn the_position_of_one_request_is_not_used_by_the_next() {
    let registry = Registry::new();
    let layer = layer(&registry);
    let [_, _, last] =
        ["1", "2", "3"].map(|data| registry.publish("a", Event::data(data)).unwrap().position().unwrap());
    let resuming = Request::builder().header("last-event-id", last.to_string()).body(()).unwrap();
    drop(respond(&layer, resuming, |client| {
        assert!(!client.is_complete());
        Response::new(Empty::<Bytes>::new())
    }));
    let subscribe = |client: &ClientHandle| client.subscribe_from("a", Start::Oldest).unwrap();
    let (mut body, _client) = open(&layer, Empty::<Bytes>::new(), subscribe);
    let wire = next(&mut body);
    let text = std::str::from_utf8(&wire).unwrap();
    assert!(text.starts_with("data: 1\nid: ") && text.ends_with(&format!("data: 3\nid: {last}\n\n")), "{text}");
}

#[test]
fn the_last_event_id_of_one_request_is_not_used_by_the_next() {
    let registry = Registry::new();
    let layer = layer(&registry);
    let resuming = || Request::builder().header("last-event-id", "7").body(()).unwrap();
    for _ in 0..2 {
        let seen = std::cell::Cell::new(false);
        drop(respond(&layer, resuming(), |client| {
            seen.set(client.last_event_id() == Some("7"));
            Response::new(Empty::<Bytes>::new())
        }));
        assert!(seen.get());
        drop(respond(&layer, request(), |client| {
            assert_eq!(client.last_event_id(), None);
            Response::new(Empty::<Bytes>::new())
        }));
    }
}
