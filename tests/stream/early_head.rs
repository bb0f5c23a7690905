//! Streams that open before their handler answers. Poll by poll with paused time, and over sockets.

use std::{convert::Infallible, pin::Pin, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::advance,
};
use tokio_test::{
    assert_pending, assert_ready, assert_ready_ok,
    task::{Spawn, spawn},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::timeout::TimeoutLayer;
use tower_sse::{
    ClientHandle, CloseReason, Drain, EarlyHeadBody, EarlyHeadFuture, EarlyHeadLayer, Event, Heartbeat, Limit,
    Registry, Resume, SseBody, SseLayer,
};

use crate::{
    bodies::{AnyBody, AnyError, any, channel, event_stream},
    client::{Client, get},
    polling::{Polled, fields, poll_any, publish, publish_id, rest_of_any},
    test_server::{handle_of, on_all, within},
};

const SECOND: Duration = Duration::from_secs(1);

/// What the service fails with.
type Failed = &'static str;

/// How a handler answers, when the test says so.
type Answer = Box<dyn FnOnce(&ClientHandle) -> Result<Response<AnyBody>, Failed> + Send>;

fn layer(registry: &Registry) -> EarlyHeadLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::every(15 * SECOND)).open_after(2 * SECOND)
}

fn asking() -> Request<()> {
    Request::get("/").header(ACCEPT, "text/event-stream").body(()).unwrap()
}

type Asked = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, Failed>> + Send>>;

/// Sends a request to a handler that waits for the test.
fn ask(layer: &EarlyHeadLayer, request: Request<()>) -> (oneshot::Sender<Answer>, Spawn<Asked>) {
    let (answer, answered) = oneshot::channel::<Answer>();
    let mut answered = Some(answered);
    let mut service = layer.layer(service_fn(move |request: Request<()>| {
        let answered = answered.take().expect("one request");
        async move { answered.await.expect("the test answers")(&handle_of(&request)) }
    }));
    let response = service.call(request);
    let response: Asked = Box::pin(async move { Ok(response.await?.map(any)) });
    (answer, spawn(response))
}

fn send(
    answer: oneshot::Sender<Answer>,
    how: impl FnOnce(&ClientHandle) -> Result<Response<AnyBody>, Failed> + Send + 'static,
) {
    assert!(answer.send(Box::new(how)).is_ok(), "the handler waits");
}

/// The stream of the client.
fn stream(client: &ClientHandle) -> Result<Response<AnyBody>, Failed> {
    client.subscribe("a").map_err(|_| "refused")?;
    Ok(client.clone().into_stream().into_response())
}

fn status(status: u16, text: &'static str) -> Response<AnyBody> {
    let mut response = Response::new(any(Full::new(Bytes::from(text))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Opens a stream early, and reads its first comment.
async fn opened(layer: &EarlyHeadLayer) -> (oneshot::Sender<Answer>, AnyBody) {
    let (answer, mut response) = ask(layer, asking());
    assert_pending!(response.poll());
    advance(2 * SECOND).await;
    let mut body = assert_ready_ok!(response.poll()).into_body();
    assert_eq!(poll_any(&mut body), Polled::Frame(":\n\n".to_owned()));
    (answer, body)
}

/// The data of the only event, which has the type `error`, and the end.
fn error_of(body: &mut AnyBody) -> Value {
    let (wire, has_ended) = rest_of_any(body);
    assert!(has_ended, "{wire}");
    assert_eq!(fields(&wire, "event"), ["error"], "{wire}");
    serde_json::from_str(fields(&wire, "data")[0]).unwrap()
}

mod a_handler_that_answers_in_time {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn has_its_own_response() {
        let registry = Registry::new();
        let (answer, mut response) = ask(&layer(&registry), asking());
        assert_pending!(response.poll());
        advance(2 * SECOND - Duration::from_millis(1)).await;
        assert_pending!(response.poll());
        send(answer, |_| Ok(status(404, "nothing here")));
        let response = assert_ready_ok!(response.poll());
        assert_eq!((response.status(), response.body().size_hint().exact()), (StatusCode::NOT_FOUND, Some(12)));
        assert_eq!(rest_of_any(&mut response.into_body()), ("nothing here".to_owned(), true));

        let (answer, mut response) = ask(&layer(&registry), asking());
        send(answer, stream);
        let mut body = assert_ready_ok!(response.poll()).into_body();
        let position = format!("event: position\ndata: \nid: {}\n\n", registry.position());
        assert_eq!(rest_of_any(&mut body), (position, false));

        let (answer, mut response) = ask(&layer(&registry), asking());
        send(answer, |_| Err("broken"));
        assert_eq!(assert_ready!(response.poll()).unwrap_err(), "broken");
    }
}

mod a_request {
    use super::*;

    async fn waits(layer: &EarlyHeadLayer, request: Request<()>) {
        let (answer, mut response) = ask(layer, request);
        for _ in 0..100 {
            assert_pending!(response.poll());
            advance(SECOND).await;
        }
        send(answer, |_| Ok(status(202, "")));
        assert_eq!(assert_ready_ok!(response.poll()).status(), StatusCode::ACCEPTED);
    }

    #[tokio::test(start_paused = true)]
    async fn that_accepts_something_else_too_waits_for_its_handler() {
        let registry = Registry::new();
        let accepting = |accept: &'static str| Request::get("/").header(ACCEPT, accept).body(()).unwrap();
        for accept in ["*/*", "application/json, text/event-stream", "text/event-stream, */*;q=0.1"] {
            waits(&layer(&registry), accepting(accept)).await;
        }
        waits(&layer(&registry), Request::new(())).await;
        let mut head = asking();
        *head.method_mut() = Method::HEAD;
        waits(&layer(&registry), head).await;
    }

    #[tokio::test(start_paused = true)]
    async fn that_polls_waits_for_its_handler() {
        let registry = Registry::new();
        let mut poll = asking();
        *poll.uri_mut() = "/?wait=25".parse().unwrap();
        waits(&layer(&registry), poll).await;
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_ever_if_the_time_is_the_largest() {
        let registry = Registry::new();
        waits(&SseLayer::new(&registry).open_after(Duration::MAX), asking()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_limit_refuses_gets_its_status() {
        let registry = Registry::new();
        let limit = Limit::streams(1);
        let layer = SseLayer::new(&registry).limit(limit.clone()).open_after(2 * SECOND);
        let (_answer, mut body) = opened(&layer).await;
        assert_eq!(limit.open_streams(), 1, "the request has its slot while the handler thinks");
        let (_, mut refused) = ask(&layer, asking());
        assert_eq!(assert_ready_ok!(refused.poll()).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(poll_any(&mut body), Polled::Pending);
        drop(body);
        assert_eq!(limit.open_streams(), 0);
    }
}

mod a_stream_that_opens_early {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn has_the_headers_of_a_stream_a_comment_and_heartbeats() {
        let registry = Registry::new();
        let (_answer, mut response) = ask(&layer(&registry), asking());
        assert_pending!(response.poll());
        advance(2 * SECOND).await;
        let response = assert_ready_ok!(response.poll());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache, no-transform");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert!(!response.body().is_end_stream());
        assert_eq!(response.body().size_hint().exact(), None);
        let mut body = response.into_body();
        assert_eq!(rest_of_any(&mut body), (":\n\n".to_owned(), false));
        for _ in 0..8 {
            advance(15 * SECOND - Duration::from_millis(1)).await;
            assert_eq!(poll_any(&mut body), Polled::Pending);
            advance(Duration::from_millis(1)).await;
            assert_eq!(rest_of_any(&mut body), (":\n\n".to_owned(), false));
        }
        assert_eq!(registry.stats().clients, 0, "no stream of the registry has begun");
    }

    #[tokio::test(start_paused = true)]
    async fn obeys_the_layer_in_its_first_bytes() {
        let registry = Registry::new();
        let silent = SseLayer::new(&registry).heartbeat(Heartbeat::off()).no_store().open_after(SECOND);
        let (_answer, mut response) = ask(&silent, asking());
        assert_pending!(response.poll());
        advance(SECOND).await;
        let response = assert_ready_ok!(response.poll());
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store, no-transform");
        let mut body = response.into_body();
        advance(1000 * SECOND).await;
        assert_eq!(poll_any(&mut body), Polled::Pending);

        let events = Heartbeat::every(SECOND).event(|| Event::data("here").event("heartbeat"));
        let layer = SseLayer::new(&registry).heartbeat(events).open_at_once(false).open_after(SECOND);
        let (_answer, mut response) = ask(&layer, asking());
        assert_pending!(response.poll());
        advance(SECOND).await;
        let mut body = assert_ready_ok!(response.poll()).into_body();
        assert_eq!(poll_any(&mut body), Polled::Pending);
        advance(SECOND).await;
        assert_eq!(rest_of_any(&mut body), ("event: heartbeat\ndata: here\n\n".to_owned(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn goes_on_with_all_that_the_client_missed() {
        let registry = Registry::new();
        let id = publish_id(&registry, "a", "seen");
        publish(&registry, "a", "missed");
        let mut request = asking();
        request.headers_mut().insert("last-event-id", HeaderValue::from_str(&id).unwrap());
        *request.uri_mut() = "/?hello=1".parse().unwrap();
        let (answer, mut response) = ask(&layer(&registry), request);
        assert_pending!(response.poll());
        advance(100 * SECOND).await;
        let mut body = assert_ready_ok!(response.poll()).into_body();
        assert_eq!(rest_of_any(&mut body), (":\n\n".to_owned(), false));
        publish(&registry, "a", "published while it thinks");
        let (resumes, resumed) = oneshot::channel();
        send(answer, |client| {
            let response = stream(client);
            resumes.send((client.resume(), client.clone())).expect("the test waits");
            response
        });
        let (wire, has_ended) = rest_of_any(&mut body);
        let (resume, client) = resumed.await.unwrap();
        assert_eq!((resume, has_ended), (Resume::Continued, false));
        assert_eq!(fields(&wire, "event"), ["hello", "live"]);
        assert_eq!(fields(&wire, "data")[1..], ["missed", "published while it thinks", ""]);
        publish(&registry, "a", "live");
        assert_eq!(fields(&rest_of_any(&mut body).0, "data"), ["live"]);
        assert_eq!(registry.stats().clients, 1);
        drop(body);
        assert_eq!(client.closed().await, CloseReason::ClientDisconnected);
    }

    #[tokio::test(start_paused = true)]
    async fn goes_on_with_the_handlers_own_body_and_its_error() {
        let registry = Registry::new();
        let (answer, mut body) = opened(&layer(&registry)).await;
        let (frames, own) = channel();
        send(answer, move |_| Ok(event_stream(own)));
        frames.send(Ok(Frame::data("data: own\n\n".into()))).await.unwrap();
        assert_eq!(rest_of_any(&mut body), (":\n\ndata: own\n\n".to_owned(), false));
        frames.send(Err("cut".into())).await.unwrap();
        let mut error = spawn(body.frame());
        assert_eq!(assert_ready!(error.poll()).unwrap().unwrap_err().to_string(), "cut");
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_event_if_the_answer_is_no_stream() {
        let registry = Registry::new();
        let (answer, mut body) = opened(&layer(&registry)).await;
        send(answer, |_| {
            let mut response = status(503, "the model is overloaded");
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("7"));
            Ok(response)
        });
        let Polled::Frame(wire) = poll_any(&mut body) else { panic!("no event") };
        assert!(wire.ends_with("\nretry: 7000\n\n"), "{wire}");
        let expected = json!({ "status": 503, "content_type": "text/plain", "body": "the model is overloaded" });
        assert_eq!(serde_json::from_str::<Value>(fields(&wire, "data")[0]).unwrap(), expected);
        assert_eq!((poll_any(&mut body), body.is_end_stream()), (Polled::End, true));
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_event_with_the_status_204_if_the_stream_is_over() {
        let registry = Registry::new();
        registry.start_producer("a").unwrap().end();
        let (answer, mut body) = opened(&layer(&registry)).await;
        send(answer, stream);
        assert_eq!(error_of(&mut body), json!({ "status": 204 }));
    }

    #[tokio::test(start_paused = true)]
    async fn sends_the_beginning_of_a_large_or_broken_body() {
        let registry = Registry::new();
        let (answer, mut body) = opened(&layer(&registry)).await;
        let (frames, own) = channel();
        send(answer, move |_| Ok(Response::new(own)));
        assert_eq!(rest_of_any(&mut body), (String::new(), false));
        frames.send(Ok(Frame::data(vec![b'x'; 10_000].into()))).await.unwrap();
        assert_eq!(rest_of_any(&mut body), (String::new(), false), "the rest may come");
        advance(15 * SECOND).await;
        assert_eq!(rest_of_any(&mut body), (":\n\n".to_owned(), false));
        frames.send(Ok(Frame::data(vec![b'y'; 10_000].into()))).await.unwrap();
        let data = error_of(&mut body);
        assert_eq!((&data["status"], &data["cut"]), (&json!(200), &json!(true)));
        assert_eq!(data["body"].as_str().unwrap().len(), 16 << 10);

        let (answer, mut body) = opened(&layer(&registry)).await;
        let (frames, own) = channel();
        send(answer, move |_| Ok(Response::new(own)));
        frames.send(Ok(Frame::data("half".into()))).await.unwrap();
        frames.send(Err("broken".into())).await.unwrap();
        let Polled::Frame(wire) = poll_any(&mut body) else { panic!("no event") };
        assert!(wire.contains("\"body\":\"half\",\"cut\":true}"), "{wire}");
        let mut error = spawn(body.frame());
        assert_pending!(error.poll(), "the server has time to write the event");
        advance(SECOND).await;
        assert_eq!(assert_ready!(error.poll()).unwrap().unwrap_err().to_string(), "broken", "no clean end");
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_event_if_the_answer_is_encoded() {
        let registry = Registry::new();
        let (answer, mut body) = opened(&layer(&registry)).await;
        send(answer, |_| {
            let mut response = event_stream(any(Full::new(Bytes::from_static(b"\x1f\x8b"))));
            response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
            Ok(response)
        });
        let expected = json!({ "status": 200, "content_type": "text/event-stream", "content_encoding": "gzip" });
        assert_eq!(error_of(&mut body), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_event_if_the_service_fails() {
        let registry = Registry::new();
        let (answer, mut body) = opened(&layer(&registry)).await;
        send(answer, |_| Err("a secret"));
        assert_eq!(error_of(&mut body), json!({ "status": 500 }));
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_event_if_the_registry_drains_meanwhile() {
        let registry = Registry::new();
        let (answer, mut body) = opened(&layer(&registry)).await;
        registry.drain(Drain::within(Duration::ZERO)).await;
        assert_eq!(poll_any(&mut body), Polled::Pending, "it is a request");
        send(answer, stream);
        assert_eq!(error_of(&mut body)["status"], 503);
    }

    #[tokio::test(start_paused = true)]
    async fn drops_the_handler_if_the_client_leaves() {
        let registry = Registry::new();
        let (answer, body) = opened(&layer(&registry)).await;
        assert!(!answer.is_closed());
        drop(body);
        assert!(answer.is_closed(), "the handler's future is dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_wrapped_again_by_an_outer_layer() {
        let (registry, outer_limit) = (Registry::new(), Limit::streams(10));
        let outer = SseLayer::new(&registry).limit(outer_limit.clone());
        let (answer, answered) = oneshot::channel::<()>();
        let mut answered = Some(answered);
        let mut service = outer.layer(layer(&registry).layer(service_fn(move |request: Request<()>| {
            let answered = answered.take().unwrap();
            async move {
                answered.await.unwrap();
                stream(&handle_of(&request))
            }
        })));
        let mut response = spawn(service.call(asking()));
        assert_pending!(response.poll());
        advance(2 * SECOND).await;
        let mut body = assert_ready_ok!(response.poll()).into_body();
        assert_eq!(rest_of_any(&mut body), (":\n\n".to_owned(), false));
        assert_eq!((outer_limit.open_streams(), registry.stats().clients), (1, 0));
        answer.send(()).unwrap();
        assert_eq!(fields(&rest_of_any(&mut body).0, "event"), ["position"]);
        assert_eq!((outer_limit.open_streams(), registry.stats().clients), (1, 1));
        advance(60 * SECOND).await;
        assert!(rest_of_any(&mut body).0.len() <= ":\n\n".len(), "one layer sends heartbeats");
    }
}

/// tower-http's timeout limits the time until a head.
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_is_over_with_the_early_head_and_one_inside_is_the_answer() {
    let registry = Registry::new();
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 5 * SECOND);
    let never = |_: Request<()>| std::future::pending::<Result<Response<AnyBody>, Infallible>>();
    let mut outside = timeout.layer(layer(&registry).layer(service_fn(never)));
    let mut body = outside.call(asking()).await.unwrap().into_body();
    let mut inside = layer(&registry).layer(timeout.layer(service_fn(never)));
    let inside = inside.call(asking()).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(inside, ":\n\nevent: error\ndata: {\"status\":504}\n\n");
    advance(100 * SECOND).await;
    assert_eq!(rest_of_any(&mut body), (":\n\n:\n\n".to_owned(), false), "it is not cut");
}

#[test]
fn a_handler_may_keep_what_cannot_be_sent_to_another_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let registry = Registry::new();
        let mut service = layer(&registry).layer(service_fn(|_: Request<()>| async {
            let local = Rc::new("data: local\n\n");
            tokio::time::sleep(5 * SECOND).await;
            Ok::<_, Infallible>(event_stream(Full::new(Bytes::from_static(local.as_bytes()))))
        }));
        let response = service.call(asking()).await.unwrap();
        let all = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(all, ":\n\n:\n\ndata: local\n\n");
    });
}

#[test]
fn the_types_go_where_their_parts_go() {
    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    /// Like many futures, it is `Send` and not `Sync`.
    type Inner = Pin<Box<dyn Future<Output = Result<Response<Empty<Bytes>>, Infallible>> + Send>>;
    everywhere::<EarlyHeadBody<SseBody<Empty<Bytes>>, Inner>>();
    fn sent<T: Send + 'static>() {}
    sent::<EarlyHeadFuture<Inner>>();
    everywhere::<EarlyHeadLayer>();
    assert!(EarlyHeadBody::<Empty<Bytes>, Inner>::default().is_end_stream());
}

mod over_a_socket {
    use http::Version;
    use hyper::body::Incoming;

    use super::*;
    use crate::test_server::{App, Server, TestServer};

    /// The early layer inside of an outer layer that does nothing, so that its body has the type of the server's.
    fn early(registry: &Registry, answers: mpsc::UnboundedSender<oneshot::Sender<Answer>>) -> App {
        let soon = SseLayer::new(registry).open_after(Duration::from_millis(50));
        let service = soon.layer(service_fn(move |request: Request<()>| {
            let (answer, answered) = oneshot::channel::<Answer>();
            answers.send(answer).unwrap();
            async move {
                let response = answered.await.expect("the test answers")(&handle_of(&request));
                Ok::<_, Infallible>(response.unwrap_or_else(|_| status(500, "")))
            }
        }));
        let service = service.map_response(|response| response.map(any));
        BoxCloneSyncService::new(SseLayer::new(registry).layer(service))
    }

    /// Returns the response that comes while the handler thinks, and how to answer for the handler.
    async fn early_response(
        server: Server,
        version: Version,
    ) -> (TestServer, Client, Response<Incoming>, oneshot::Sender<Answer>) {
        let registry = Registry::new();
        let (answers, mut answer) = mpsc::unbounded_channel();
        let server = TestServer::open(server, early(&registry, answers)).await;
        let mut client = Client::connect(server.address, version).await;
        let mut request = get("/");
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let response = within(client.send(request)).await.unwrap();
        (server, client, response, answer.recv().await.unwrap())
    }

    #[tokio::test]
    async fn the_error_event_of_a_late_answer_that_breaks_comes_before_the_error() {
        on_all(async |server, version| {
            let (_server, _client, mut response, answer) = early_response(server, version).await;
            let (frames, own) = channel();
            frames.send(Ok(Frame::data("half".into()))).await.unwrap();
            frames.send(Err(AnyError::from("broken"))).await.unwrap();
            let how: Answer = Box::new(move |_| {
                let mut response = Response::new(own);
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Ok(response)
            });
            assert!(answer.send(how).is_ok());
            let mut all = String::new();
            let end = loop {
                match within(response.frame()).await {
                    Some(Ok(frame)) => all.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap()),
                    end => break end,
                }
            };
            assert!(all.contains("event: error") && all.contains("502"), "{all:?}");
            assert!(end.is_some_and(|end| end.is_err()), "no clean end");
        })
        .await;
    }

    #[tokio::test]
    async fn the_head_comes_while_the_handler_thinks_and_the_events_after_it() {
        on_all(async |server, version| {
            let (_server, _client, mut response, answer) = early_response(server, version).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
            assert_eq!(within(response.frame()).await.unwrap().unwrap().into_data().unwrap(), ":\n\n");
            let (frames, own) = channel();
            let how: Answer = Box::new(move |_| Ok(event_stream(own)));
            assert!(answer.send(how).is_ok());
            frames.send(Ok(Frame::data("data: own\n\n".into()))).await.unwrap();
            let mut all = String::new();
            while !all.ends_with("data: own\n\n") {
                let data = within(response.frame()).await.unwrap().unwrap().into_data().unwrap();
                all.push_str(std::str::from_utf8(&data).unwrap());
            }
            frames.send(Err(AnyError::from("broken"))).await.unwrap();
            assert!(within(response.frame()).await.unwrap().is_err(), "no clean end");
        })
        .await;
    }

    #[tokio::test]
    async fn a_client_that_leaves_while_the_handler_thinks_ends_the_handler() {
        on_all(async |server, version| {
            let (_server, client, response, mut answer) = early_response(server, version).await;
            drop(response);
            drop(client);
            within(answer.closed()).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_axum_router_takes_the_layer() {
    let registry = Registry::new();
    let slow = |client: ClientHandle| async move {
        tokio::time::sleep(60 * SECOND).await;
        client.into_stream()
    };
    let app = axum::Router::new().route("/", axum::routing::get(slow)).layer(layer(&registry));
    let request = asking().map(|()| axum::body::Body::empty());
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut comments = 0;
    while registry.stats().clients == 0 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ":\n\n");
        comments += 1;
    }
    assert!(comments >= 4, "{comments}");
}
