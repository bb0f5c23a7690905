//! Limits of streams, poll by poll: which streams are counted and until when, which requests are refused and how, and
//! that no count is left over.

use std::{
    collections::HashMap,
    fmt::Debug,
    future::{Future, pending, ready},
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, RETRY_AFTER},
    request::Parts,
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use proptest::prelude::*;
use tokio::time::advance;
use tokio_stream::StreamExt;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, retry, service_fn, util::MapRequestLayer};
use tower_http::cors::{Any, CorsLayer};
use tower_sse::{
    ClientHandle, ClientIpKey, CloseReason, Drain, Events, Limit, LimitKey, RefusedReason, RefusedResponse, Registry,
    RegistryConfig, SseBody, SseFuture, SseLayer, SseService,
};

use crate::{
    answer::answer,
    bodies::event_stream,
    observer::{Observed, Recorder},
    polling::{Polled, bounded, poll, publish, quiet, rest},
    process::{allocated, is_alone},
};

const SECOND: Duration = Duration::from_secs(1);
const STREAM: &str = "text/event-stream";

#[derive(Debug, PartialEq)]
struct Broken;

type Own = Empty<Bytes>;
type Answer = Pin<Box<dyn Future<Output = Result<Response<Own>, Broken>> + Send>>;

/// A handler that answers as the path says, and counts its runs.
#[derive(Debug, Clone, Default)]
struct Handler(Arc<AtomicUsize>);

impl Handler {
    fn runs(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Service<Request<()>> for Handler {
    type Response = Response<Own>;
    type Error = Broken;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Answer {
        self.0.fetch_add(1, Ordering::Relaxed);
        let client = request.extensions().get::<ClientHandle>().cloned();
        let mut response = Response::new(Own::new());
        match request.uri().path() {
            "/no-content" => *response.status_mut() = StatusCode::NO_CONTENT,
            "/stream" => {
                client.expect("the layer adds the handle").subscribe("topic").unwrap();
                response = event_stream(Own::new());
            }
            "/failing-stream" => {
                response = event_stream(Own::new());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            "/never" => return Box::pin(pending()),
            "/broken" => return Box::pin(ready(Err(Broken))),
            "/panic" => panic!("the handler's"),
            _ => _ = response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap()),
        }
        Box::pin(ready(Ok(response)))
    }
}

/// A request for an event stream, as `EventSource` sends it.
fn asking(path: &str) -> Request<()> {
    Request::builder().uri(path).header(ACCEPT, STREAM).body(()).unwrap()
}

/// A request that does not ask for an event stream.
fn plain(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).unwrap()
}

fn request_of(key: &str, path: &str) -> Request<()> {
    let mut request = asking(path);
    request.headers_mut().insert("x-key", key.parse().unwrap());
    request
}

fn by_key(request: &Parts) -> Option<String> {
    Some(request.headers.get("x-key")?.to_str().ok()?.to_owned())
}

/// Polls a future once and returns its output.
fn ready_now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nothing waits"),
    }
}

fn ask<S, B>(service: &S, request: Request<()>) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error: Debug> + Clone,
{
    ready_now(service.clone().oneshot(request)).unwrap()
}

/// A stream through one layer, or the refusal in its place.
fn stream(layer: &SseLayer) -> Response<SseBody<Own>> {
    ask(&layer.layer(Handler::default()), asking("/stream"))
}

fn stream_of(layer: &SseLayer, key: &str) -> Response<SseBody<Own>> {
    ask(&layer.layer(Handler::default()), request_of(key, "/stream"))
}

fn refused_reason<B>(response: &Response<B>) -> Option<RefusedReason> {
    response.extensions().get().cloned()
}

#[track_caller]
fn assert_admitted<B>(response: Response<B>) -> Response<B> {
    assert_eq!(refused_reason(&response), None);
    assert_eq!(response.headers()[CONTENT_TYPE], STREAM);
    response
}

#[track_caller]
fn assert_full<B>(response: &Response<B>, limit: u32) {
    assert_eq!(refused_reason(response), Some(RefusedReason::Full { key: None, limit }));
}

#[track_caller]
fn assert_full_of<B>(response: &Response<B>, key: &str, limit: u32) {
    assert_eq!(refused_reason(response), Some(RefusedReason::Full { key: Some(key.into()), limit }));
}

/// The time until a rate admits a stream again.
#[track_caller]
fn retry_in<B>(response: &Response<B>) -> Duration {
    match refused_reason(response) {
        Some(RefusedReason::RateLimited { retry_in: Some(time), .. }) => time,
        other => panic!("{other:?}"),
    }
}

fn limited(limit: &Limit) -> SseLayer {
    quiet(&Registry::new()).limit(limit.clone())
}

fn body_text<B: Body<Data = Bytes, Error: Debug> + Unpin>(body: B) -> String {
    String::from_utf8(ready_now(body.collect()).unwrap().to_bytes().to_vec()).unwrap()
}

mod a_slot {
    use super::*;

    #[test]
    fn is_free_for_as_many_streams_as_the_limit_allows() {
        for number in [0, 1, 2, 100] {
            let limit = Limit::streams(number);
            let layer = limited(&limit);
            let open: Vec<_> = (0..number).map(|_| assert_admitted(stream(&layer))).collect();
            assert_eq!(limit.open_streams(), u64::from(number));
            assert_full(&stream(&layer), number);
            assert_eq!(limit.open_streams(), u64::from(number), "a refused request is not counted");
            drop(open);
            assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
        }
    }

    #[test]
    fn is_held_until_the_body_is_dropped_after_any_end() {
        let (limit, registry) = (Limit::streams(1), Registry::new());
        let layer = quiet(&registry).limit(limit.clone());
        let (client, response) = answer(&layer, asking("/"), |_| event_stream(Own::new()));
        let mut body = response.into_body();
        assert_eq!(poll(&mut body), Polled::End, "nothing keeps the stream open");
        assert_eq!(ready_now(client.closed()), CloseReason::BodyEnded);
        assert_eq!(limit.open_streams(), 1);
        assert_full(&stream(&layer), 1);
        drop(body);
        assert_eq!(limit.open_streams(), 0);
        let unread = assert_admitted(stream(&layer));
        assert_full(&stream(&layer), 1);
        drop(unread);
        assert_admitted(stream(&layer));
    }

    #[test]
    fn is_free_before_observers_are_told_that_a_client_has_left() {
        let (limit, seen) = (Limit::streams(1), Arc::new(Mutex::new(Vec::new())));
        let observer = {
            let (limit, seen) = (limit.clone(), Arc::clone(&seen));
            move |observation: &tower_sse::Observation<'_>| {
                if matches!(observation, tower_sse::Observation::Closed { .. }) {
                    seen.lock().unwrap().push(limit.open_streams());
                }
            }
        };
        let registry = Registry::with_config(RegistryConfig::default().observer(observer));
        drop(assert_admitted(stream(&quiet(&registry).limit(limit))));
        assert_eq!(*seen.lock().unwrap(), [0], "a gauge that is set then would stay wrong");
    }

    #[test]
    fn is_held_by_a_stream_with_any_success_status() {
        let limit = Limit::streams(1);
        let created = || {
            answer(&limited(&limit), plain("/"), |_| {
                let mut response = event_stream(Own::new());
                *response.status_mut() = StatusCode::CREATED;
                response
            })
        };
        let (_, open) = created();
        assert_eq!((limit.open_streams(), open.status()), (1, StatusCode::CREATED));
        assert_full(&created().1, 1);
    }

    #[test]
    fn is_released_if_the_response_is_no_stream() {
        let (limit, handler) = (Limit::streams(1), Handler::default());
        let service = limited(&limit).layer(handler.clone());
        for path in ["/json", "/no-content", "/failing-stream"] {
            let response = ask(&service, asking(path));
            assert_eq!(
                (refused_reason(&response), limit.open_streams()),
                (None, 0),
                "{path}, while its body still exists"
            );
        }
        assert_eq!(handler.runs(), 3);
    }

    #[test]
    fn is_released_when_the_service_fails_even_if_the_future_still_exists() {
        let limit = Limit::streams(1);
        let mut answer = pin!(limited(&limit).layer(Handler::default()).oneshot(asking("/broken")));
        assert_eq!(ready_now(answer.as_mut()).unwrap_err(), Broken);
        let mut service = limited(&limit).layer(Handler::default());
        let mut answer = pin!(service.call(asking("/broken")));
        assert_eq!(ready_now(answer.as_mut()).unwrap_err(), Broken);
        assert_eq!(limit.open_streams(), 0);
    }

    #[test]
    fn is_released_when_the_request_is_cancelled() {
        let limit = Limit::streams(1);
        let mut service = limited(&limit).layer(Handler::default());
        let unpolled = service.call(asking("/never"));
        assert_eq!(limit.open_streams(), 1);
        drop(unpolled);
        assert_eq!(limit.open_streams(), 0);
        let mut waiting = Box::pin(service.call(asking("/never")));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_full(&ask(&service, asking("/stream")), 1);
        drop(waiting);
        assert_eq!(limit.open_streams(), 0);
        drop(service.call(asking("/stream")));
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0), "the client did not ask for a slot");
    }

    #[test]
    fn is_released_when_the_handler_panics() {
        let limit = Limit::streams(1);
        let mut service = limited(&limit).layer(Handler::default());
        assert!(catch_unwind(AssertUnwindSafe(|| drop(service.call(asking("/panic"))))).is_err());
        let mut service = limited(&limit).layer(service_fn(|_: Request<()>| async {
            let panics = || -> Result<Response<Own>, Broken> { panic!("the handler's, later") };
            panics()
        }));
        assert!(catch_unwind(AssertUnwindSafe(|| drop(ready_now(service.call(asking("/")))))).is_err());
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn is_released_when_its_client_stalls_even_if_the_body_still_exists() {
        let limit = Limit::streams(1);
        let registry =
            Registry::with_config(RegistryConfig::default().stalled_client_timeout(SECOND).limit(limit.clone()));
        let layer = quiet(&registry);
        let (client, response) = answer(&layer, asking("/"), |client| {
            client.subscribe("topic").unwrap();
            event_stream(Own::new())
        });
        for _ in 0..8 {
            publish(&registry, "topic", "unread");
            advance(SECOND / 2).await;
        }
        assert_eq!(client.closed().await, CloseReason::Stalled);
        assert_eq!((registry.stats().clients, limit.open_streams()), (0, 0));
        assert_eq!(
            (client.acquire_slot(), limit.open_streams()),
            (Ok(()), 0),
            "the client has ended, so it takes no slot"
        );
        let next = assert_admitted(stream(&layer));
        drop(response);
        assert_eq!(limit.open_streams(), 1, "the slot is released once");
        assert_full(&stream(&layer), 1);
        drop(next);
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn is_released_when_a_closed_client_stalls_before_its_end() {
        let limit = Limit::streams(1);
        let registry =
            Registry::with_config(RegistryConfig::default().stalled_client_timeout(SECOND).limit(limit.clone()));
        let (client, _unread) = answer(&quiet(&registry), asking("/"), |client| {
            client.subscribe("topic").unwrap();
            event_stream(Own::new())
        });
        client.close();
        for _ in 0..8 {
            publish(&registry, "other", "for somebody else");
            advance(SECOND / 2).await;
        }
        assert_eq!(client.closed().await, CloseReason::ByServer);
        assert_eq!(limit.open_streams(), 0);
    }

    #[test]
    fn is_not_taken_by_a_client_without_a_request() {
        let limit = Limit::streams(0);
        let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
        let client = registry.connect();
        assert_eq!(client.acquire_slot(), Ok(()));
        let events = client.clone().into_events();
        assert_eq!((limit.open_streams(), client.stats().age.is_some()), (0, true));
        drop(events);
        assert_eq!(ready_now(client.closed()), CloseReason::ClientDisconnected);
    }
}

mod a_refused_request {
    use super::*;

    #[test]
    fn runs_no_handler_and_registers_no_client() {
        let (limit, handler, registry) = (Limit::streams(0), Handler::default(), Registry::new());
        let service = quiet(&registry).limit(limit.clone()).layer(handler.clone());
        let response = ask(&service, asking("/stream"));
        assert_full(&response, 0);
        assert_eq!(handler.runs(), 0);
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.subscriptions, stats.topics, stats.refused_streams), (0, 0, 0, 1));
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
        assert!(stats.closed_streams.is_empty(), "there was no stream");
    }

    #[test]
    fn is_known_by_its_accept_header_unless_it_is_a_head_or_a_preflight() {
        let handler = Handler::default();
        let service = limited(&Limit::streams(0)).layer(handler.clone());
        for accept in ["text/event-stream", "application/json, Text/Event-Stream;q=0.1"] {
            let request = Request::builder().method(Method::POST).header(ACCEPT, accept).body(()).unwrap();
            assert!(refused_reason(&ask(&service, request)).is_some(), "{accept}");
        }
        assert_eq!(handler.runs(), 0);
        for method in [Method::HEAD, Method::OPTIONS] {
            let request = Request::builder().method(method).header(ACCEPT, STREAM).body(()).unwrap();
            assert_eq!(refused_reason(&ask(&service, request)), None);
        }
        let quoted = "application/json;profile=\"a, text/event-stream, b\"";
        for accept in ["*/*", "application/json", "text/event-stream;q=0", quoted] {
            assert_eq!(
                refused_reason(&ask(&service, Request::builder().header(ACCEPT, accept).body(()).unwrap())),
                None
            );
        }
        assert_eq!(handler.runs(), 6);
    }

    /// A body that records whether it was polled and whether it was dropped.
    struct Told {
        was_polled: Arc<AtomicBool>,
        was_dropped: Arc<AtomicBool>,
    }

    impl Body for Told {
        type Data = Bytes;
        type Error = Broken;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
            self.was_polled.store(true, Ordering::Relaxed);
            Poll::Pending
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.was_dropped.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn drops_the_handlers_stream_unread_if_it_had_no_accept_header() {
        let (limit, registry) = (Limit::streams(1), Registry::new());
        let layer = quiet(&registry).limit(limit.clone());
        let open = assert_admitted(ask(&layer.layer(Handler::default()), plain("/stream")));
        assert_eq!(limit.open_streams(), 1, "the stream is counted then");

        let (was_polled, was_dropped) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let told = Told { was_polled: Arc::clone(&was_polled), was_dropped: Arc::clone(&was_dropped) };
        let (client, response) = answer(&layer, plain("/"), |client| {
            client.subscribe("topic").unwrap();
            let mut response = event_stream(told);
            response.headers_mut().insert("x-own", "1".parse().unwrap());
            response
        });
        assert_full(&response, 1);
        assert!(!response.headers().contains_key("x-own"), "no header of the handler's response is left");
        assert!(was_dropped.load(Ordering::Relaxed) && !was_polled.load(Ordering::Relaxed));
        assert_eq!(ready_now(client.closed()), CloseReason::NoStream);
        assert_eq!((registry.stats().clients, registry.stats().subscriptions, limit.open_streams()), (1, 1, 1));
        drop(open);
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
    }

    #[test]
    fn is_counted_and_told_to_observers_once_for_each_attempt() {
        let (recorder, config) = Recorder::new();
        let registry = Registry::with_config(config.limit(Limit::streams(0)));
        let layer = quiet(&registry);
        // One request is counted once, even through nested layers.
        assert_full(&ask(&layer.layer(layer.layer(Handler::default())), asking("/stream")), 0);
        assert_full(&ask(&layer.layer(layer.layer(Handler::default())), plain("/stream")), 0);
        let told = recorder.take();
        let refused: Vec<_> = told.iter().filter(|told| matches!(told, Observed::StreamRefused(..))).collect();
        let is_full =
            |told: &&&Observed| matches!(told, Observed::StreamRefused(_, RefusedReason::Full { limit: 0, .. }));
        assert_eq!((refused.len(), refused.iter().filter(is_full).count()), (2, 2), "{told:?}");
        assert_eq!(registry.stats().refused_streams, 2);
        assert!(!told.iter().any(|told| matches!(told, Observed::Opened(_) | Observed::Closed(..))));
    }
}

mod limits {
    use super::*;

    #[test]
    fn of_one_layer_are_shared_by_its_clones_and_services_only() {
        let registry = Registry::new();
        let layer = quiet(&registry).limit(Limit::streams(1));
        let other = quiet(&registry).limit(Limit::streams(1));
        let _open = assert_admitted(stream(&layer));
        let changed = layer.clone().reconnect_delay(SECOND);
        [&layer, &changed].into_iter().for_each(|layer| assert_full(&stream(layer), 1));
        assert_admitted(stream(&other));
        assert_admitted(stream(&quiet(&registry)));
    }

    #[test]
    fn that_are_cloned_count_together_across_layers_and_registries() {
        let limit = Limit::streams(2);
        let layers = [limited(&limit), limited(&limit)];
        let open = layers.each_ref().map(|layer| assert_admitted(stream(layer)));
        layers.iter().for_each(|layer| assert_full(&stream(layer), 2));
        assert_eq!(limit.open_streams(), 2);
        let [first, _second] = open;
        drop(first);
        assert_admitted(stream(&layers[1]));
    }

    #[test]
    fn of_a_registry_apply_to_all_its_layers() {
        let registry = Registry::with_config(RegistryConfig::default().limit(Limit::streams(1)));
        let _open = assert_admitted(stream(&quiet(&registry)));
        assert_full(&stream(&SseLayer::new(&registry)), 1);
        assert_full(&stream(&quiet(&registry).limit(Limit::streams(5))), 1);
    }

    #[test]
    fn that_are_set_twice_count_once() {
        let limit = Limit::streams(1);
        let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()).limit(limit.clone()));
        let _open = assert_admitted(stream(&quiet(&registry).limit(limit.clone()).limit(limit.clone())));
        assert_eq!(limit.open_streams(), 1);
    }

    #[test]
    fn are_all_checked_and_a_refused_request_takes_no_slot() {
        let (wide, tight, each) = (Limit::streams(9), Limit::streams(1), Limit::streams(1).per(by_key));
        for order in [[&wide, &tight, &each], [&each, &tight, &wide], [&tight, &each, &wide]] {
            let layer = order.iter().fold(quiet(&Registry::new()), |layer, limit| layer.limit(Limit::clone(limit)));
            let open = assert_admitted(stream_of(&layer, "a"));
            let counted = || [&wide, &tight, &each].map(|limit| (limit.open_streams(), limit.entries()));
            assert_eq!(counted(), [(1, 1); 3]);
            assert!(refused_reason(&stream_of(&layer, "a")).is_some());
            assert_full(&stream_of(&layer, "b"), 1);
            assert_eq!(counted(), [(1, 1); 3]);
            drop(open);
            assert_eq!(counted(), [(0, 0); 3]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn give_a_rates_token_back_if_the_number_refuses_the_request() {
        let (rate, number) = (Limit::rate(1, SECOND, 2), Limit::streams(1));
        let layer = limited(&rate).limit(number);
        let open = assert_admitted(stream(&layer));
        (0..5).for_each(|_| assert_full(&stream(&layer), 1));
        drop(open);
        drop(assert_admitted(stream(&layer)));
        assert_eq!(retry_in(&stream(&layer)), SECOND);
    }

    #[test]
    fn can_be_changed_at_any_time_and_by_any_clone() {
        let limit = Limit::streams(1);
        let layer = limited(&limit);
        let mut open = vec![assert_admitted(stream(&layer))];
        assert_full(&stream(&layer), 1);
        let clone = limit.clone();
        clone.set_limit(3);
        assert_eq!([limit.limit(), clone.limit()], [3, 3]);
        open.extend([assert_admitted(stream(&layer)), assert_admitted(stream(&layer))]);
        assert_full(&stream(&layer), 3);
        limit.set_limit(1);
        for left in [3, 2, 1] {
            assert_eq!(limit.open_streams(), left, "open streams stay open");
            assert_full(&stream(&layer), 1);
            assert_eq!(poll(open[0].body_mut()), Polled::Pending);
            open.pop();
        }
        limit.set_limit(0);
        assert_full(&stream(&layer), 0);
        limit.set_limit(u32::MAX);
        assert_admitted(stream(&layer));
        assert_eq!(limit.entries(), 0);
    }

    #[test]
    fn that_are_set_to_zero_still_admit_a_request_that_has_its_slot() {
        let limit = Limit::streams(1);
        let layer = limited(&limit);
        let (_, response) = answer(&layer, asking("/"), |_| {
            limit.set_limit(0);
            event_stream(Own::new())
        });
        assert_admitted(response);
    }

    #[test]
    fn have_types_that_are_send_sync_and_static() {
        fn everywhere<T: Send + Sync + 'static>() {}
        fn cloned<T: Clone + Debug + Send + Sync + 'static>() {}
        cloned::<Limit>();
        cloned::<LimitKey>();
        cloned::<ClientIpKey>();
        cloned::<RefusedResponse>();
        cloned::<RefusedReason>();
        everywhere::<SseFuture<std::future::Ready<()>>>();
        everywhere::<SseService<()>>();
        everywhere::<SseBody<Own>>();
        everywhere::<Events>();
        assert!(!format!("{:?}", Limit::streams(1).per(by_key)).is_empty());
    }
}

mod keys {
    use super::*;

    #[test]
    fn have_a_count_each_and_an_optional_key_may_be_absent() {
        let limit = Limit::streams(1).per_optional(by_key);
        let layer = limited(&limit);
        let open = ["a", "b", "", "A"].map(|key| assert_admitted(stream_of(&layer, key)));
        assert_full_of(&stream_of(&layer, "a"), "a", 1);
        assert_full_of(&stream_of(&layer, ""), "", 1);
        assert_eq!((limit.open_streams(), limit.entries()), (4, 4));
        let free = [(); 3].map(|()| assert_admitted(stream(&layer)));
        assert_eq!(limit.open_streams(), 4);
        drop(open);
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
        drop(free);
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
    }

    #[test]
    fn may_come_from_extensions_of_outer_layers() {
        #[derive(Clone)]
        struct User(u64);

        let limit = Limit::streams(1).per(|request: &Parts| Some(request.extensions.get::<User>()?.0));
        let service = limited(&limit).layer(Handler::default());
        let of = |user| {
            let mut request = asking("/stream");
            request.extensions_mut().insert(User(user));
            ask(&service, request)
        };
        let _open = [assert_admitted(of(1)), assert_admitted(of(2))];
        assert_eq!(refused_reason(&of(2)), Some(RefusedReason::Full { key: Some(2_u64.into()), limit: 1 }));
    }

    fn lacks_key(refused: &Option<RefusedReason>) -> bool {
        matches!(refused, Some(RefusedReason::MissingKey { by }) if by.ends_with("::by_key"))
    }

    #[test]
    fn that_are_missing_cause_a_refusal_that_says_so() {
        for limit in [Limit::streams(9).per(by_key), Limit::rate(9, SECOND, 9).per(by_key)] {
            let (recorder, config) = Recorder::new();
            let (registry, handler) = (Registry::with_config(config), Handler::default());
            for refusal in [RefusedResponse::status(), RefusedResponse::reconnect()] {
                let service = quiet(&registry).limit(limit.clone()).refused_response(refusal).layer(handler.clone());
                let response = ask(&service, asking("/stream"));
                assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
                assert!(!response.headers().contains_key("retry-after"), "waiting would not help");
                assert!(lacks_key(&refused_reason(&response)), "{:?}", refused_reason(&response));
                assert_eq!(body_text(response.into_body()), "the server has no key to count this event stream by");
            }
            assert_eq!((handler.runs(), limit.entries(), registry.stats().refused_streams), (0, 0, 2));
            let told = recorder.take();
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told.into_iter().all(|told| match told {
                Observed::StreamRefused(_, refused) => lacks_key(&Some(refused)),
                _ => false,
            }));

            let service = quiet(&registry).limit(limit.clone()).layer(handler);
            assert_eq!(
                ask(&service, asking("/json")).status(),
                StatusCode::INTERNAL_SERVER_ERROR,
                "the request asks for a stream"
            );
            assert_eq!(ask(&service, plain("/json")).status(), StatusCode::OK, "the response is no stream");
            assert!(
                lacks_key(&refused_reason(&ask(&service, plain("/stream")))),
                "the response turns out to be a stream"
            );
            let mut refused = None;
            answer(&quiet(&registry).limit(limit.clone()), plain("/"), |client| {
                refused = client.acquire_slot().err();
                Response::new(Own::new())
            });
            assert!(lacks_key(&refused));
        }
    }

    #[test]
    fn that_are_known_only_to_the_inner_layer_count_there() {
        let limit = Limit::streams(1).per(by_key);
        let learn = |mut request: Request<()>| {
            request.headers_mut().insert("x-key", "a".parse().unwrap());
            request
        };
        let layer = limited(&limit);
        let inner = ServiceBuilder::new().map_request(learn).service(layer.layer(Handler::default()));
        let service = layer.layer(inner);
        let open = assert_admitted(ask(&service, plain("/stream")));
        assert_full_of(&ask(&service, plain("/stream")), "a", 1);
        drop(open);
        assert_eq!(limit.entries(), 0);
        assert!(
            lacks_key(&refused_reason(&ask(&service, asking("/stream")))),
            "the outer layer asks for the key before it is known"
        );
    }

    #[test]
    fn of_different_types_are_different() {
        let kinds: [LimitKey; 4] = [
            "1".into(),
            1_u64.into(),
            IpAddr::from([0, 0, 0, 1]).into(),
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]).into(),
        ];
        let next = AtomicUsize::new(0);
        let key = {
            let kinds = kinds.clone();
            move |_: &Parts| Some(kinds[next.fetch_add(1, Ordering::Relaxed) % 4].clone())
        };
        let layer = limited(&Limit::streams(1).per(key));
        let open: Vec<_> = kinds.iter().map(|_| assert_admitted(stream(&layer))).collect();
        for (key, _) in kinds.iter().zip(&open) {
            assert_eq!(refused_reason(&stream(&layer)), Some(RefusedReason::Full { key: Some(key.clone()), limit: 1 }));
        }
        assert_eq!(LimitKey::from(7_u64), LimitKey::from(7_u128));
        assert_eq!(LimitKey::from("a"), LimitKey::from("a".to_owned()));
    }

    #[test]
    fn by_address_count_networks_and_a_missing_address_is_refused() {
        let address = ClientIpKey::new(|request| Some(request.extensions.get::<SocketAddr>()?.ip())).proxies(1);
        let limit = Limit::streams(1).per(address.key());
        let service = limited(&limit).layer(Handler::default());
        let from = |peer: Option<&str>, forwarded: Option<&str>| {
            let mut request = asking("/stream");
            request.extensions_mut().extend(
                peer.map(|peer| {
                    let mut one = http::Extensions::new();
                    one.insert(peer.parse::<SocketAddr>().unwrap());
                    one
                })
                .unwrap_or_default(),
            );
            if let Some(forwarded) = forwarded {
                request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
            }
            ask(&service, request)
        };
        let _open = [
            from(Some("192.0.2.1:1000"), None),
            from(Some("192.0.2.2:1000"), None),
            from(Some("[2001:db8::1]:1000"), None),
            from(Some("[2001:db8:0:1::1]:1000"), None),
            from(Some("192.0.2.1:1000"), Some("192.0.2.1, 198.51.100.7")),
        ]
        .map(assert_admitted);
        assert_eq!((limit.open_streams(), limit.entries()), (5, 5));
        for (peer, forwarded) in [
            (Some("192.0.2.1:2000"), None),
            (Some("[::ffff:192.0.2.1]:1"), None),
            (Some("[2001:db8::2]:1000"), None),
            (Some("192.0.2.9:1"), Some("203.0.113.1, 198.51.100.7:80")),
        ] {
            let response = from(peer, forwarded);
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "{peer:?} {forwarded:?}");
        }
        for forwarded in [Some("unknown"), None] {
            assert!(
                matches!(refused_reason(&from(None, forwarded)), Some(RefusedReason::MissingKey { .. })),
                "these are different addresses"
            );
        }
    }

    #[test]
    fn start_a_new_count_on_a_new_limit() {
        let in_all = Limit::streams(1);
        let each = in_all.clone().per(by_key);
        let layer = limited(&in_all).limit(each.clone());
        let _open = assert_admitted(stream_of(&layer, "a"));
        assert_eq!((in_all.open_streams(), each.open_streams()), (1, 1));
        in_all.set_limit(5);
        assert_eq!(each.limit(), 1);
        assert_full_of(&stream_of(&layer, "a"), "a", 1);
        assert_admitted(stream_of(&layer, "b"));
    }

    /// A request's keys are fixed when it arrives: the handler cannot change which count it uses.
    #[test]
    fn are_computed_once_by_each_layer_before_the_handler_runs() {
        let asked = Arc::new(AtomicUsize::new(0));
        let handler = Handler::default();
        let key = {
            let (asked, handler) = (Arc::clone(&asked), handler.clone());
            move |_: &Parts| {
                assert_eq!(handler.runs(), asked.fetch_add(1, Ordering::Relaxed) / 2);
                Some("key")
            }
        };
        let layer = limited(&Limit::streams(9).per(key));
        let service = layer.layer(layer.layer(handler));
        for request in [asking("/stream"), plain("/json"), plain("/stream")] {
            ask(&service, request);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 6);
    }
}

mod rates {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn admit_a_burst_and_then_one_stream_for_each_new_token() {
        let limit = Limit::rate(10, SECOND, 3);
        let layer = limited(&limit);
        (0..3).for_each(|_| drop(assert_admitted(stream(&layer))));
        assert_eq!(retry_in(&stream(&layer)), SECOND / 10);
        advance(SECOND / 20).await;
        assert_eq!(retry_in(&stream(&layer)), SECOND / 20);
        for _ in 0..20 {
            advance(SECOND / 20).await;
            assert_admitted(stream(&layer));
            assert_eq!(retry_in(&stream(&layer)), SECOND / 10);
            advance(SECOND / 20).await;
            assert_eq!(retry_in(&stream(&layer)), SECOND / 20, "a refused request takes no token");
        }
        advance(1000 * SECOND).await;
        (0..3).for_each(|_| drop(assert_admitted(stream(&layer))));
        retry_in(&stream(&layer));
        assert_eq!(limit.open_streams(), 0, "a rate counts starts and not open streams");
    }

    #[tokio::test(start_paused = true)]
    async fn give_the_token_back_only_if_the_response_is_no_stream() {
        let limit = Limit::rate(1, SECOND, 1);
        let mut service = limited(&limit).layer(Handler::default());
        for path in ["/json", "/no-content", "/failing-stream"] {
            assert_eq!(refused_reason(&ask(&service, asking(path))), None);
        }
        assert!(ready_now(service.clone().oneshot(asking("/broken"))).is_err());
        let waiting = service.call(asking("/never"));
        assert_eq!(retry_in(&ask(&service, asking("/stream"))), SECOND);
        drop(waiting);
        drop(assert_admitted(ask(&service, asking("/stream"))));
        assert_eq!(retry_in(&ask(&service, asking("/json"))), SECOND);
        advance(SECOND).await;
        assert_eq!(limit.entries(), 0);
        drop(assert_admitted(ask(&service, plain("/stream"))));
        assert_eq!(retry_in(&ask(&service, plain("/stream"))), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn count_each_key_separately_and_forget_keys_with_full_buckets() {
        let limit = Limit::rate(1, SECOND, 2).per_optional(by_key);
        let layer = limited(&limit);
        assert_admitted(stream_of(&layer, "a"));
        assert_admitted(stream_of(&layer, "a"));
        assert_admitted(stream_of(&layer, "b"));
        let refused = stream_of(&layer, "a");
        assert_eq!(
            refused_reason(&refused),
            Some(RefusedReason::RateLimited { key: Some("a".into()), retry_in: Some(SECOND) })
        );
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(limit.entries(), 2);
        advance(SECOND).await;
        assert_eq!(limit.entries(), 1);
        advance(SECOND).await;
        assert_eq!(limit.entries(), 0);
        assert_admitted(stream(&layer));
        assert_eq!(limit.entries(), 0, "the request has no key");
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_burst_of_zero_admit_one_stream_at_a_time() {
        let layer = limited(&Limit::rate(2, SECOND, 0));
        assert_admitted(stream(&layer));
        assert_eq!(retry_in(&stream(&layer)), SECOND / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn of_zero_admit_no_stream_and_give_no_waiting_time() {
        for limit in [Limit::rate(0, SECOND, 5), Limit::rate(0, Duration::ZERO, 5), Limit::rate(0, Duration::MAX, 0)] {
            let refused = stream(&limited(&limit));
            assert_eq!(refused_reason(&refused), Some(RefusedReason::RateLimited { key: None, retry_in: None }));
            assert!((3..=8).contains(&seconds(&refused)));
            assert_eq!(limit.entries(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn per_zero_time_admit_all_streams() {
        let limit = Limit::rate(1, Duration::ZERO, 1);
        let layer = limited(&limit);
        (0..100).for_each(|_| drop(assert_admitted(stream(&layer))));
        assert_eq!(limit.entries(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn per_endless_time_admit_the_burst_and_no_more() {
        for (number, per, burst) in
            [(1, Duration::MAX, 1), (5, Duration::MAX, 5), (1, Duration::from_secs(u64::MAX / 1_000_000_000), 3)]
        {
            let limit = Limit::rate(number, per, burst);
            let layer = limited(&limit);
            (0..burst).for_each(|_| drop(assert_admitted(stream(&layer))));
            for _ in 0..3 {
                assert!(retry_in(&stream(&layer)) > 1_000_000 * SECOND, "{limit:?}");
                advance(SECOND).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_are_raised_take_effect_at_once() {
        let limit = Limit::rate(1, 3600 * SECOND, 10);
        let layer = limited(&limit);
        (0..10).for_each(|_| drop(assert_admitted(stream(&layer))));
        assert_eq!(retry_in(&stream(&layer)), 3600 * SECOND);
        limit.set_limit(3600);
        assert_eq!(retry_in(&stream(&layer)), SECOND, "the bucket lacks tokens, however long each takes now");
        advance(SECOND).await;
        assert_admitted(stream(&layer));
        retry_in(&stream(&layer));
        advance(10 * SECOND).await;
        assert_eq!(limit.entries(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn that_are_lowered_admit_no_new_burst() {
        let limit = Limit::rate(10, SECOND, 10);
        let layer = limited(&limit);
        (0..10).for_each(|_| drop(assert_admitted(stream(&layer))));
        limit.set_limit(1);
        assert_eq!(retry_in(&stream(&layer)), SECOND);
        limit.set_limit(0);
        assert_eq!(refused_reason(&stream(&layer)), Some(RefusedReason::RateLimited { key: None, retry_in: None }));
        limit.set_limit(1);
        assert_eq!(retry_in(&stream(&layer)), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn that_change_while_a_request_waits_give_back_only_its_token() {
        let limit = Limit::rate(1, 100 * SECOND, 2);
        let mut service = limited(&limit).layer(Handler::default());
        drop(assert_admitted(ask(&service, asking("/stream"))));
        let waiting = service.call(asking("/never"));
        limit.set_limit(100);
        drop(waiting);
        drop(assert_admitted(ask(&service, asking("/stream"))));
        assert_eq!(retry_in(&ask(&service, asking("/stream"))), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn give_no_token_back_that_was_refilled_meanwhile() {
        let limit = Limit::rate(1, SECOND, 5);
        let mut service = limited(&limit).layer(Handler::default());
        let mut slow = Vec::new();
        for _ in 0..60 {
            slow.push(service.call(asking("/never")));
            advance(SECOND).await;
        }
        let mut open = Vec::new();
        for request in slow {
            drop(request);
            let response = ask(&service, asking("/stream"));
            if refused_reason(&response).is_none() {
                open.push(response);
            }
        }
        assert_eq!(open.len(), 5, "only the burst, not one more for each cancelled request");
    }

    #[tokio::test(start_paused = true)]
    async fn give_back_the_part_of_a_token_that_was_not_refilled() {
        let limit = Limit::rate(1, SECOND, 1);
        let mut service = limited(&limit).layer(Handler::default());
        let slow = service.call(asking("/never"));
        advance(SECOND / 4).await;
        drop(slow);
        assert_eq!(limit.entries(), 0, "a quarter was refilled, and three quarters were given back");
        drop(assert_admitted(ask(&service, asking("/stream"))));
        assert_eq!(retry_in(&ask(&service, asking("/stream"))), SECOND);
    }

    /// Nested layers whose extensions are cleared between them: the outer layer learns of the stream only at the
    /// response.
    #[tokio::test(start_paused = true)]
    async fn of_an_outer_layer_count_a_stream_even_if_extensions_are_cleared() {
        let limit = Limit::rate(1, SECOND, 1);
        let (outer, inner) = (limited(&limit), quiet(&Registry::new()));
        let stripping = MapRequestLayer::new(|mut request: Request<()>| {
            request.extensions_mut().clear();
            request
        });
        for request in [asking, plain] {
            let service = outer.layer(stripping.layer(inner.layer(Handler::default())));
            drop(assert_admitted(ask(&service, request("/stream"))));
            assert_eq!(retry_in(&ask(&service, request("/stream"))), SECOND);
            advance(SECOND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn are_not_spent_by_a_client_whose_stream_has_ended() {
        let limit = Limit::rate(1, SECOND, 1);
        let layer = limited(&limit);
        let (client, response) = answer(&layer, asking("/"), |_| event_stream(Own::new()));
        drop(assert_admitted(response));
        advance(SECOND).await;
        for _ in 0..3 {
            assert_eq!(client.acquire_slot(), Ok(()), "the call succeeds and takes no token");
        }
        assert_admitted(stream(&layer));
    }
}

mod nested_layers {
    use super::*;

    #[test]
    fn count_a_stream_once_by_each_limit() {
        let (shared, outer_own, inner_own) = (Limit::streams(1), Limit::streams(1), Limit::streams(1));
        let registry = Registry::with_config(RegistryConfig::default().limit(shared.clone()));
        let other = Registry::with_config(RegistryConfig::default().limit(shared.clone()));
        let outer = quiet(&registry).limit(outer_own.clone());
        for inner_registry in [registry, other] {
            let inner = quiet(&inner_registry).limit(shared.clone()).limit(inner_own.clone());
            let service = outer.layer(inner.layer(Handler::default()));
            for request in [asking, plain] {
                let open = assert_admitted(ask(&service, request("/stream")));
                let counted = || [&shared, &outer_own, &inner_own].map(Limit::open_streams);
                assert_eq!(counted(), [1, 1, 1]);
                assert_full(&ask(&service, request("/stream")), 1);
                assert_eq!(counted(), [1, 1, 1]);
                drop(open);
                assert_eq!(counted(), [0, 0, 0]);
            }
        }
    }

    #[test]
    fn release_the_outer_slot_if_the_inner_layer_refuses() {
        let (outer_own, inner_own) = (Limit::streams(1), Limit::streams(0));
        let outer = limited(&outer_own).refused_response(RefusedResponse::reconnect());
        let inner =
            limited(&inner_own).refused_response(RefusedResponse::with(|_, _| Response::new("the inner layer's body")));
        for request in [asking, plain] {
            let response = ask(&outer.layer(inner.layer(Handler::default())), request("/stream"));
            assert_full(&response, 0);
            assert_eq!(
                (outer_own.open_streams(), inner_own.open_streams()),
                (0, 0),
                "although the response still exists"
            );
            assert_eq!(body_text(response.into_body()), "the inner layer's body");
        }
    }

    #[test]
    fn refuse_at_the_outer_layer_without_a_count_at_the_inner_one() {
        let (outer_own, inner_own, handler) = (Limit::streams(0), Limit::streams(1), Handler::default());
        let service = limited(&outer_own).layer(limited(&inner_own).layer(handler.clone()));
        assert_full(&ask(&service, asking("/stream")), 0);
        assert_eq!((handler.runs(), inner_own.open_streams()), (0, 0));
        assert_full(&ask(&service, plain("/stream")), 0);
        assert_eq!((handler.runs(), inner_own.open_streams()), (1, 0), "the stream would have counted in both");
    }

    /// The headers of a refusal may be those of an event stream.
    #[test]
    fn leave_a_refusal_of_the_inner_layer_unchanged() {
        let inner = limited(&Limit::streams(0)).refused_response(RefusedResponse::reconnect().delay(SECOND));
        let outer = SseLayer::new(&Registry::new())
            .opening_comment("of the outer one")
            .reconnect_delay(SECOND)
            .limit(Limit::streams(1));
        for request in [asking, plain] {
            let response = ask(&outer.layer(inner.layer(Handler::default())), request("/stream"));
            assert_full(&response, 0);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert!(!response.headers().contains_key("connection"));
            assert!(body_text(response.into_body()).starts_with("retry: "));
        }
    }

    #[test]
    fn count_a_request_once_if_a_layer_between_them_retries_it() {
        #[derive(Clone)]
        struct Again(usize);

        impl<B> retry::Policy<Request<()>, Response<B>, Broken> for Again {
            type Future = std::future::Ready<()>;

            fn retry(
                &mut self,
                request: &mut Request<()>,
                result: &mut Result<Response<B>, Broken>,
            ) -> Option<Self::Future> {
                self.0 = self.0.checked_sub(1)?;
                // The handler answers by the path.
                *request.uri_mut() = ["/stream", "/broken", "/json"][self.0].parse().unwrap();
                drop(std::mem::replace(result, Err(Broken)));
                Some(ready(()))
            }

            fn clone_request(&mut self, request: &Request<()>) -> Option<Request<()>> {
                Some(request.clone())
            }
        }

        let (shared, inner_own) = (Limit::streams(1), Limit::streams(1).per(by_key));
        let (outer, inner) = (limited(&shared), limited(&shared).limit(inner_own.clone()));
        let handler = Handler::default();
        let service = outer.layer(retry::RetryLayer::new(Again(3)).layer(inner.layer(handler.clone())));
        for tries in [4, 8] {
            let open = assert_admitted(ask(&service, request_of("a", "/stream")));
            assert_eq!((handler.runs(), shared.open_streams(), inner_own.open_streams()), (tries, 1, 1));
            drop(open);
            assert_eq!((shared.open_streams(), inner_own.open_streams()), (0, 0));
        }
    }

    #[test]
    fn count_several_streams_of_a_request_once_until_the_last_ends() {
        let limit = Limit::streams(1);
        let inner = limited(&limit).layer(Handler::default());
        let kept = Arc::new(Mutex::new(Vec::new()));
        let fans_out = {
            let kept = Arc::clone(&kept);
            service_fn(move |request: Request<()>| {
                kept.lock().unwrap().push(assert_admitted(ask(&inner, request.clone())));
                ready(Ok::<_, Broken>(ask(&inner, request)))
            })
        };
        let open = assert_admitted(ask(&limited(&limit).layer(fans_out), asking("/stream")));
        assert_eq!(limit.open_streams(), 1);
        drop(open);
        assert_eq!(limit.open_streams(), 1);
        kept.lock().unwrap().clear();
        assert_eq!(limit.open_streams(), 0);
    }

    /// The inner layer cannot know that the outer layer has counted the request.
    #[test]
    fn count_twice_if_a_layer_between_them_clears_the_extensions() {
        let (limit, number) = (Limit::streams(2), Limit::streams(1));
        let stripping = MapRequestLayer::new(|mut request: Request<()>| {
            request.extensions_mut().clear();
            request
        });
        let layer = limited(&limit);
        let service = layer.layer(stripping.layer(layer.layer(Handler::default())));
        let open = assert_admitted(ask(&service, asking("/stream")));
        assert_eq!(limit.open_streams(), 2);
        assert_full(&ask(&service, asking("/stream")), 2);
        drop(open);
        assert_eq!(limit.open_streams(), 0);
        let layer = limited(&number);
        let service = layer.layer(stripping.layer(layer.layer(Handler::default())));
        assert_full(&ask(&service, asking("/stream")), 1);
        assert_eq!(number.open_streams(), 0);
    }

    #[test]
    fn keep_the_outer_slot_as_long_as_the_forwarded_body() {
        let limit = Limit::streams(1);
        let service = limited(&limit).layer(quiet(&Registry::new()).layer(Handler::default()));
        let mut open = assert_admitted(ask(&service, plain("/stream")));
        assert_eq!(poll(open.body_mut()), Polled::Pending);
        assert_eq!(limit.open_streams(), 1);
        drop(open);
        assert_eq!(limit.open_streams(), 0);
    }
}

mod a_handler {
    use super::*;

    #[test]
    fn may_acquire_a_slot_first_and_keeps_its_response() {
        let limit = Limit::streams(1);
        let layer = limited(&limit);
        let (_, response) = answer(&layer, plain("/"), |client| {
            assert_eq!([client.acquire_slot(), client.acquire_slot()], [Ok(()), Ok(())]);
            assert_eq!(limit.open_streams(), 1);
            limit.set_limit(0);
            event_stream(Own::new())
        });
        let open = assert_admitted(response);
        assert_eq!(limit.open_streams(), 1);
        drop(open);
        assert_eq!(limit.open_streams(), 0);
    }

    #[test]
    fn that_is_refused_may_answer_itself_or_with_the_refusal() {
        let (limit, registry) = (Limit::streams(0), Registry::new());
        let layer = quiet(&registry).limit(limit).refused_response(RefusedResponse::reconnect());
        let refused = |response: fn(RefusedReason) -> Response<String>| {
            let (_, response) = answer(&layer, plain("/"), |client| response(client.acquire_slot().unwrap_err()));
            response
        };
        let own = refused(|_| Response::new("come back tomorrow".to_owned()));
        assert_eq!((own.status(), refused_reason(&own)), (StatusCode::OK, None));
        let response = refused(RefusedReason::into_response);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_full(&response, 0);
        assert!((3..=8).contains(&seconds(&response)));
        assert_eq!(body_text(response.into_body()), "event streams are disabled: the limit is 0");
        assert_eq!(registry.stats().refused_streams, 2);
    }

    #[test]
    fn that_acquired_a_slot_loses_it_with_another_response() {
        let limit = Limit::streams(1);
        let layer = limited(&limit);
        let (client, response) = answer(&layer, plain("/"), |client| {
            client.acquire_slot().unwrap();
            Response::new(Own::new())
        });
        assert_eq!(limit.open_streams(), 0);
        for _ in 0..3 {
            assert_eq!(client.acquire_slot(), Ok(()), "a slot would be free");
            assert_eq!((limit.open_streams(), limit.entries()), (0, 0), "no stream keeps a slot");
        }
        drop(response);
    }

    #[test]
    fn that_reads_events_is_counted_until_it_drops_them() {
        let limit = Limit::streams(1);
        let layer = limited(&limit);
        for request in [asking("/"), plain("/")] {
            let mut kept = None;
            let (client, response) = answer(&layer, request, |client| {
                client.subscribe("topic").unwrap();
                kept = Some(client.clone().into_events());
                Response::new(Own::new())
            });
            drop(response);
            assert_eq!(limit.open_streams(), 1);
            assert_full(&stream(&layer), 1);
            drop(kept);
            assert_eq!(ready_now(client.closed()), CloseReason::ClientDisconnected);
            assert_eq!(limit.open_streams(), 0);
        }
    }

    #[test]
    fn that_reads_events_without_a_free_slot_gets_none() {
        let (recorder, config) = Recorder::new();
        let (limit, registry) = (Limit::streams(0), Registry::with_config(config));
        let layer = quiet(&registry).limit(limit.clone());
        let mut kept = None;
        let (client, response) = answer(&layer, plain("/"), |client| {
            client.subscribe("topic").unwrap();
            publish(&registry, "topic", "not for this one");
            kept = Some(client.clone().into_events());
            Response::new(Own::new())
        });
        assert_eq!(
            (response.status(), refused_reason(&response)),
            (StatusCode::OK, None),
            "the handler chooses the response"
        );
        let mut events = kept.unwrap();
        assert!(ready_now(events.next()).is_none());
        assert_eq!(ready_now(client.closed()), CloseReason::Refused);
        assert_eq!((limit.open_streams(), limit.entries()), (0, 0));
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.closed_streams.len(), stats.delivered), (0, 0, 0), "the stream never began");
        assert_eq!(stats.refused_streams, 1, "a stream was refused");
        let told = recorder.of_clients();
        assert!(matches!(told[..], [Observed::StreamRefused(_, RefusedReason::Full { limit: 0, .. })]), "{told:?}");
    }

    #[test]
    fn that_acquired_a_slot_keeps_it_for_events() {
        let limit = Limit::streams(1);
        let mut kept = None;
        let (client, _response) = answer(&limited(&limit), plain("/"), |client| {
            client.acquire_slot().unwrap();
            limit.set_limit(0);
            kept = Some(client.clone().into_events());
            Response::new(Own::new())
        });
        assert_eq!(limit.open_streams(), 1);
        drop(kept);
        assert_eq!((ready_now(client.closed()), limit.open_streams()), (CloseReason::ClientDisconnected, 0));
    }

    #[test]
    fn that_reads_events_after_the_response_takes_no_slot() {
        let limit = Limit::streams(1);
        let (client, _response) = answer(&limited(&limit), plain("/"), |_| Response::new(Own::new()));
        assert_eq!(ready_now(client.closed()), CloseReason::NoStream);
        let mut events = client.into_events();
        assert!(ready_now(events.next()).is_none());
        assert_eq!(limit.open_streams(), 0, "although the events still exist");
    }

    #[test]
    fn that_reads_events_twice_is_counted_once_until_the_first_is_dropped() {
        let limit = Limit::streams(1);
        let mut kept = Vec::new();
        let (_, _response) = answer(&limited(&limit), plain("/"), |client| {
            kept.extend([client.clone().into_events(), client.clone().into_events()]);
            Response::new(Own::new())
        });
        assert_eq!(limit.open_streams(), 1);
        assert_eq!(kept.pop().unwrap().refused(), Some(&RefusedReason::Open));
        assert_eq!(limit.open_streams(), 1);
        kept.pop();
        assert_eq!(limit.open_streams(), 0);
    }
}

mod code_of_the_program {
    use super::*;

    #[test]
    fn that_panics_in_the_key_leaves_no_count() {
        let (first, registry) = (Limit::streams(1), Registry::new());
        let panics = Limit::streams(1).per(|request: &Parts| {
            assert!(!request.headers.contains_key("x-key"), "the key's");
            Some("key")
        });
        let layer = quiet(&registry).limit(first.clone()).limit(panics.clone());
        let (outer, inner) = (layer.layer(Handler::default()), quiet(&registry).limit(first.clone()));
        let nested = inner.layer(layer.layer(Handler::default()));
        assert!(catch_unwind(AssertUnwindSafe(|| ask(&outer, request_of("a", "/stream")))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| ask(&nested, request_of("a", "/stream")))).is_err());
        assert_eq!((first.open_streams(), panics.open_streams(), registry.stats().clients), (0, 0, 0));
        drop(assert_admitted(ask(&outer, asking("/stream"))));
        drop(assert_admitted(ask(&nested, asking("/stream"))));
        assert_eq!((first.entries(), panics.entries()), (0, 0));
    }

    #[test]
    fn that_panics_in_the_refusal_leaves_no_count() {
        let (each, none) = (Limit::streams(1).per(by_key), Limit::streams(0));
        let registry = Registry::new();
        let refusal = RefusedResponse::with(|_, _| -> Response<Bytes> { panic!("the refusal's") });
        let layer = quiet(&registry).limit(each.clone()).limit(none.clone()).refused_response(refusal);
        let around = limited(&each);
        for service in [around.layer(layer.layer(Handler::default())), around.layer(layer.layer(Handler::default()))] {
            for request in [request_of("a", "/stream"), plain("/stream")] {
                assert!(catch_unwind(AssertUnwindSafe(|| ask(&service, request))).is_err());
                assert_eq!((each.open_streams(), none.open_streams(), registry.stats().clients), (0, 0, 0));
            }
        }
        none.set_limit(1);
        drop(assert_admitted(ask(&layer.layer(Handler::default()), request_of("a", "/stream"))));
        assert_eq!((each.entries(), none.entries()), (0, 0));
    }

    #[test]
    fn that_panics_in_an_observer_does_not_stop_a_refusal() {
        let observer = |_: &tower_sse::Observation<'_>| panic!("the observer's");
        let limit = Limit::streams(0);
        let registry = Registry::with_config(RegistryConfig::default().observer(observer).limit(limit.clone()));
        assert_full(&stream(&quiet(&registry)), 0);
        assert_eq!((limit.open_streams(), registry.stats().clients), (0, 0));
    }

    /// The program's code may call any method, as it is called without a lock.
    #[test]
    fn may_acquire_an_outer_slot_in_the_key() {
        bounded(|| {
            let (outer_own, in_all) = (Limit::streams(1), Limit::streams(1));
            let key = {
                let (outer_own, in_all) = (outer_own.clone(), in_all.clone());
                move |request: &Parts| {
                    let further_out = request.extensions.get::<ClientHandle>()?;
                    assert_eq!(further_out.acquire_slot(), Ok(()));
                    assert_eq!((outer_own.open_streams(), in_all.open_streams(), in_all.entries()), (1, 1, 1));
                    Some("key")
                }
            };
            let inner = limited(&in_all).limit(Limit::streams(1).per(key));
            let service = limited(&outer_own).limit(in_all).layer(inner.layer(Handler::default()));
            assert_admitted(ask(&service, asking("/stream")));
        });
    }

    #[test]
    fn may_open_and_end_streams_in_refusals_and_observers() {
        bounded(|| {
            let limit = Limit::streams(1);
            let kept = Arc::new(Mutex::new(Vec::new()));
            let refusal = {
                let (limit, kept) = (limit.clone(), Arc::clone(&kept));
                RefusedResponse::with(move |refused, _| {
                    kept.lock().unwrap().clear();
                    drop(assert_admitted(stream(&limited(&limit))));
                    Response::new(refused.to_string())
                })
            };
            let layer = limited(&limit).refused_response(refusal);
            kept.lock().unwrap().push(assert_admitted(stream(&layer)));
            assert_full(&stream(&layer), 1);
            assert_admitted(stream(&layer));
        });
    }
}

fn seconds<B>(response: &Response<B>) -> u64 {
    response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap()
}

mod a_refusal {
    use super::*;

    fn refused(limit: &Limit, refusal: RefusedResponse) -> Response<SseBody<Own>> {
        stream_of(&limited(limit).refused_response(refusal), "a")
    }

    #[test]
    fn is_a_503_or_for_a_keyed_limit_a_429_and_says_why() {
        let (none, one, two) = (Limit::streams(0), Limit::streams(1), Limit::streams(2));
        let rate = Limit::rate(1, 3600 * SECOND, 1);
        let limits = [&none, &one, &two, &rate].map(|limit| [limit.clone(), limit.clone().per(by_key)]);
        let open: Vec<_> = limits[1..]
            .as_flattened()
            .iter()
            .flat_map(|limit| (0..limit.limit()).map(|_| assert_admitted(stream_of(&limited(limit), "a"))))
            .collect();
        let expected = [
            (503, "event streams are disabled: the limit is 0"),
            (429, "event streams are disabled for you: the limit is 0"),
            (503, "the limit of 1 event stream is reached: try again later"),
            (429, "your limit of 1 event stream is reached: close it first"),
            (503, "the limit of 2 event streams is reached: try again later"),
            (429, "your limit of 2 event streams is reached: close one first"),
            (503, "too many event streams are being opened: try again later"),
            (429, "you open event streams too fast: try again later"),
        ];
        for (limit, (status, sentence)) in limits.as_flattened().iter().zip(expected) {
            let response = refused(limit, RefusedResponse::default());
            assert_eq!(response.status(), status);
            assert_eq!(response.status(), refused_reason(&response).unwrap().status());
            assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert_eq!(response.headers().len(), 3, "and retry-after");
            assert_eq!(response.body().size_hint().exact(), Some(sentence.len() as u64));
            let text = body_text(response.into_body());
            assert_eq!(text, sentence);
        }
        drop(open);
    }

    #[test]
    fn asks_to_wait_for_five_seconds_spread_around_them() {
        let mut waits: Vec<u64> =
            (0..200).map(|_| seconds(&refused(&Limit::streams(0), RefusedResponse::status()))).collect();
        waits.sort_unstable();
        assert!(waits.iter().all(|wait| (3..=8).contains(wait)), "2.5 to 7.5 seconds, rounded up: {waits:?}");
        waits.dedup();
        assert!(waits.len() > 3, "{waits:?}");
    }

    #[test]
    fn asks_to_wait_for_the_configured_time() {
        let seconds = |delay| seconds(&refused(&Limit::streams(0), RefusedResponse::status().delay(delay)));
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_nanos(2)), 1, "rounded up");
        assert!((50..=151).contains(&seconds(100 * SECOND)));
        // An endless delay must not overflow.
        (0..100).for_each(|_| assert!(seconds(Duration::MAX) > u64::MAX / 4));
    }

    #[tokio::test(start_paused = true)]
    async fn adds_the_time_until_the_rate_has_a_token() {
        let limit = Limit::rate(1, 1000 * SECOND, 1);
        let layer = limited(&limit);
        assert_admitted(stream(&layer));
        assert!((1003..=1008).contains(&seconds(&stream(&layer))));
        advance(600 * SECOND).await;
        assert!((403..=408).contains(&seconds(&stream(&layer))));
        let reconnect = layer.refused_response(RefusedResponse::reconnect().delay(2 * SECOND));
        let text = body_text(stream(&reconnect).into_body());
        let wait: u64 = text.strip_prefix("retry: ").unwrap().strip_suffix("\n\n").unwrap().parse().unwrap();
        assert!((401_000..=403_000).contains(&wait), "{wait}");
    }

    #[test]
    fn may_be_a_stream_with_a_reconnection_time_and_a_clean_end() {
        let refusal = || RefusedResponse::reconnect().delay(2 * SECOND);
        let mut waits: Vec<u64> = (0..200)
            .map(|_| {
                let response = refused(&Limit::streams(0), refusal());
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()[CONTENT_TYPE], STREAM);
                assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
                assert_eq!(response.headers()["x-accel-buffering"], "no");
                assert_full(&response, 0);
                let mut body = response.into_body();
                assert!(!body.is_end_stream());
                let (text, has_ended) = rest(&mut body);
                assert!(has_ended && body.is_end_stream());
                assert_eq!(poll(&mut body), Polled::End);
                text.strip_prefix("retry: ").unwrap().strip_suffix("\n\n").unwrap().parse().unwrap()
            })
            .collect();
        assert!(waits.iter().all(|wait| (1000..=3000).contains(wait)), "{waits:?}");
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 100, "{waits:?}");
    }

    #[test]
    fn may_be_a_response_of_the_program() {
        let refusal = RefusedResponse::with(|refused, _| {
            let RefusedReason::Full { key: Some(key), limit } = refused else { panic!("{refused:?}") };
            let mut response = Response::new(format!("{limit}"));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response.headers_mut().insert("x-is-a", (*key == LimitKey::from("a")).to_string().parse().unwrap());
            response
        });
        let response = refused(&Limit::streams(0).per(by_key), refusal);
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()["x-is-a"], "true");
        assert_eq!(response.headers().len(), 1, "no header is added");
        assert_full_of(&response, "a", 0);
        assert_eq!(body_text(response.into_body()), "0");

        let empty = refused(&Limit::streams(0), RefusedResponse::with(|_, _| Response::new("")));
        assert!(empty.body().is_end_stream());
        assert_eq!(empty.body().size_hint().exact(), Some(0));
    }

    /// Sends a request through the layer. Returns what the refusal is made of: its path, a header, and an extension of
    /// an outer layer.
    fn seen(layer: &SseLayer, request: http::request::Builder) -> (StatusCode, String) {
        let request = request.header("x-own", "1").extension(7_u8).body(()).unwrap();
        let (_, response) = answer(layer, request, |_| event_stream(Own::new()));
        (response.status(), body_text(response.into_body()))
    }

    #[tokio::test]
    async fn of_the_program_sees_the_request_before_or_after_the_handler() {
        let own = || {
            RefusedResponse::with(|refused, request| {
                let extension = request.extensions.get::<u8>();
                let header = &request.headers["x-own"];
                let mut response =
                    Response::new(format!("{} {} {header:?} {extension:?}", request.method, request.uri));
                *response.status_mut() = refused.status();
                assert!(request.extensions.get::<ClientHandle>().is_none(), "the request is as it arrived");
                response
            })
        };
        let expected = (StatusCode::SERVICE_UNAVAILABLE, "POST /a?b \"1\" Some(7)".to_owned());
        let layer = limited(&Limit::streams(0)).refused_response(own());
        let asking = Request::post("/a?b").header(ACCEPT, STREAM);
        let (service, handler) = (layer.clone(), Handler::default());
        let request = asking.header("x-own", "1").extension(7_u8).body(()).unwrap();
        let before = ask(&service.layer(handler.clone()), request);
        assert_eq!(
            (before.status(), body_text(before.into_body()), handler.runs()),
            (expected.0, expected.1.clone(), 0)
        );
        assert_eq!(seen(&layer, Request::post("/a?b")), expected);

        // It works without a limit too: the registry may begin to refuse new streams while the handler runs.
        let registry = Registry::new();
        let layer = quiet(&registry).refused_response(own());
        let service = layer.layer(service_fn(|_: Request<()>| async {
            tokio::task::yield_now().await;
            Ok::<_, Broken>(event_stream(Own::new()))
        }));
        let request = Request::post("/a?b").header("x-own", "1").extension(7_u8).body(()).unwrap();
        let answered = service.oneshot(request);
        let mut answered = pin!(answered);
        assert!(answered.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        registry.drain(Drain::within(Duration::ZERO)).await;
        let response = answered.await.unwrap();
        assert_eq!(refused_reason(&response), Some(RefusedReason::Draining));
        assert_eq!((response.status(), body_text(response.into_body())), expected);
    }

    #[tokio::test]
    async fn of_a_drain_has_priority_over_those_of_limits() {
        let limit = Limit::streams(1);
        let registry = Registry::with_config(RegistryConfig::default().limit(limit.clone()));
        let layer = quiet(&registry).refused_response(RefusedResponse::reconnect());
        registry.drain(Drain::within(Duration::ZERO)).await;
        let response = stream(&layer);
        assert_eq!((refused_reason(&response), limit.open_streams()), (Some(RefusedReason::Draining), 0));
        assert!(body_text(response.into_body()).starts_with("retry: "));
    }

    #[test]
    fn gets_its_cors_headers_as_an_admitted_stream_does() {
        for refusal in [
            RefusedResponse::status(),
            RefusedResponse::reconnect(),
            RefusedResponse::with(|_, _| Response::new("own")),
        ] {
            let layer = limited(&Limit::streams(1)).refused_response(refusal);
            let cors = CorsLayer::new().allow_origin(Any).expose_headers([RETRY_AFTER]);
            let service = ServiceBuilder::new().layer(cors).layer(layer).service(Handler::default());
            let from_elsewhere = |method: Method| {
                let mut request = asking("/stream");
                *request.method_mut() = method;
                request.headers_mut().insert(ORIGIN, "https://app.example".parse().unwrap());
                request.headers_mut().insert("access-control-request-method", "GET".parse().unwrap());
                ask(&service, request)
            };
            let first = assert_admitted(from_elsewhere(Method::GET));
            let second = from_elsewhere(Method::GET);
            assert_full(&second, 1);
            let preflight = from_elsewhere(Method::OPTIONS);
            assert_eq!(
                (preflight.status(), refused_reason(&preflight)),
                (StatusCode::OK, None),
                "although no slot is free"
            );
            for response in [first, second, preflight] {
                assert_eq!(
                    response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
                    "*",
                    "otherwise a page cannot read the reason"
                );
            }
        }
    }
}

/// What 100,000 keys leave when their streams have ended.
mod a_limit_with_100_000_keys {
    use super::*;

    const KEYS: usize = 100_000;

    fn open_all(layer: &SseLayer) -> Vec<Response<SseBody<Own>>> {
        let service = layer.layer(Handler::default());
        (0..KEYS)
            .map(|number| assert_admitted(ask(&service, request_of(&format!("key-{number}"), "/stream"))))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_no_entry() {
        let (number, rate) = (Limit::streams(1).per(by_key), Limit::rate(1, SECOND, 1).per(by_key));
        let layer = limited(&number).limit(rate.clone());
        let mut open = open_all(&layer);
        assert_eq!((number.open_streams(), number.entries()), (KEYS as u64, KEYS));
        assert_eq!((rate.open_streams(), rate.entries()), (0, KEYS));
        assert_full_of(&stream_of(&layer, "key-7"), "key-7", 1);
        open.truncate(KEYS / 2);
        assert_eq!((number.open_streams(), number.entries()), (KEYS as u64 / 2, KEYS / 2));
        drop(open);
        assert_eq!((number.open_streams(), number.entries()), (0, 0));
        advance(SECOND).await;
        assert_eq!(rate.entries(), 0);
    }

    /// Runs in a process of its own, so that no other test allocates or frees memory.
    #[tokio::test(start_paused = true)]
    async fn keeps_no_memory() {
        if !is_alone("counting::a_limit_with_100_000_keys::keeps_no_memory") {
            return;
        }
        let (number, rate) = (Limit::streams(1).per(by_key), Limit::rate(1, SECOND, 1).per(by_key));
        let layer = limited(&number).limit(rate.clone());
        let mut taken = Vec::new();
        for _ in 0..3 {
            drop(open_all(&layer));
            advance(SECOND).await;
            assert_eq!((number.entries(), rate.entries()), (0, 0));
            taken.push(allocated());
        }
        // That is a tenth of a byte for each of 100,000 streams.
        println!("{taken:?}");
        assert!(taken[2].saturating_sub(taken[0]) < 10 << 10, "{taken:?}");
    }
}

/// Random steps, compared with a model that is as simple as possible.
mod random_steps {
    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        /// A request of this user. The handler answers at once or later.
        Ask {
            user: usize,
            asks: bool,
            waits: bool,
        },
        /// The handler answers a waiting request, or the request is cancelled.
        Answer {
            nth: usize,
            with: With,
        },
        /// A stream ends.
        End {
            nth: usize,
        },
        Set {
            limit: usize,
            number: u32,
        },
        Advance {
            ms: u64,
        },
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum With {
        Stream,
        SomethingElse,
        Nothing,
    }

    const USERS: usize = 3;

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let ask =
            || (0..USERS, any::<bool>(), any::<bool>()).prop_map(|(user, asks, waits)| Act::Ask { user, asks, waits });
        let with = prop_oneof![Just(With::Stream), Just(With::SomethingElse), Just(With::Nothing)];
        let answer = (any::<usize>(), with).prop_map(|(nth, with)| Act::Answer { nth, with });
        let end = any::<usize>().prop_map(|nth| Act::End { nth });
        let set_places = (0..2_usize, 0..6_u32).prop_map(|(limit, number)| Act::Set { limit, number });
        // Rates that divide a second and a millisecond without a rest.
        let set_rate = (2..4_usize, proptest::sample::select(vec![1, 2, 4, 5, 8, 10, 20]));
        let set_rate = set_rate.prop_map(|(limit, number)| Act::Set { limit, number });
        let advance = (0..1500_u64).prop_map(|ms| Act::Advance { ms });
        let act = prop_oneof![6 => ask(), 3 => answer, 3 => end, 1 => set_places, 1 => set_rate, 3 => advance];
        proptest::collection::vec(act, 1..80)
    }

    /// A limit, as its documentation describes it.
    struct Model {
        limit: Limit,
        per_user: bool,
        number: u32,
        kind: Kind,
    }

    enum Kind {
        Places(HashMap<usize, u32>),
        /// Thousandths of tokens in each bucket.
        Rate {
            burst: u64,
            buckets: HashMap<usize, u64>,
        },
    }

    impl Model {
        fn key(&self, user: usize) -> usize {
            if self.per_user { user } else { usize::MAX }
        }

        fn has_room(&self, user: usize) -> bool {
            match &self.kind {
                Kind::Places(taken) => taken.get(&self.key(user)).copied().unwrap_or(0) < self.number,
                Kind::Rate { burst, buckets } => buckets.get(&self.key(user)).copied().unwrap_or(burst * 1000) >= 1000,
            }
        }

        fn take(&mut self, user: usize) {
            let key = self.key(user);
            match &mut self.kind {
                Kind::Places(taken) => *taken.entry(key).or_default() += 1,
                Kind::Rate { burst, buckets } => *buckets.entry(key).or_insert(*burst * 1000) -= 1000,
            }
        }

        /// `left` is the part of the token, in thousandths, that was not refilled. A stream gives nothing back, as its
        /// start stays counted.
        fn give_back(&mut self, user: usize, left: u64) {
            let key = self.key(user);
            match &mut self.kind {
                Kind::Places(taken) => *taken.get_mut(&key).unwrap() -= 1,
                Kind::Rate { burst, buckets } => {
                    let tokens = buckets.get_mut(&key).unwrap();
                    *tokens = (*tokens + left).min(*burst * 1000);
                }
            }
        }

        fn advance(&mut self, ms: u64) {
            if let Kind::Rate { burst, buckets } = &mut self.kind {
                for tokens in buckets.values_mut() {
                    *tokens = (*tokens + ms * u64::from(self.number)).min(*burst * 1000);
                }
            }
        }

        fn check(&self) {
            match &self.kind {
                Kind::Places(taken) => {
                    assert_eq!(self.limit.open_streams(), taken.values().map(|taken| u64::from(*taken)).sum::<u64>());
                    assert_eq!(self.limit.entries(), taken.values().filter(|taken| **taken > 0).count());
                }
                Kind::Rate { burst, buckets } => {
                    assert_eq!(self.limit.open_streams(), 0);
                    let not_full = buckets.values().filter(|tokens| **tokens < burst * 1000).count();
                    assert_eq!(self.limit.entries(), not_full, "{:?} {buckets:?}", self.limit);
                }
            }
        }
    }

    /// A request whose handler has not answered.
    struct Waiting {
        user: usize,
        is_counted: bool,
        /// The part of the token that it took of each limit and that was not refilled, in thousandths.
        left: [u64; 4],
        answer: Arc<Mutex<Option<With>>>,
        future: Pin<Box<dyn Future<Output = Response<SseBody<Own>>>>>,
    }

    fn user_of(request: &Parts) -> Option<u64> {
        request.extensions.get::<usize>().map(|user| *user as u64)
    }

    async fn run(acts: Vec<Act>) {
        let places = |number| Kind::Places(HashMap::from([(number, 0)]));
        let rate = |burst| Kind::Rate { burst, buckets: HashMap::new() };
        let limits = [
            (Limit::streams(4), false, places(0)),
            (Limit::streams(2).per(user_of), true, places(0)),
            (Limit::rate(4, SECOND, 5), false, rate(5)),
            (Limit::rate(1, SECOND, 2).per(user_of), true, rate(2)),
        ];
        let mut models = limits.map(|(limit, per_user, kind)| Model { number: limit.limit(), limit, per_user, kind });
        let layer = models.iter().fold(quiet(&Registry::new()), |layer, model| layer.limit(model.limit.clone()));
        let service = layer.layer(service_fn(|request: Request<()>| async move {
            let answer = request.extensions().get::<Arc<Mutex<Option<With>>>>().unwrap().clone();
            let with = std::future::poll_fn(|_| match *answer.lock().unwrap() {
                Some(with) => Poll::Ready(with),
                None => Poll::Pending,
            });
            Ok::<_, Broken>(match with.await {
                With::Stream => event_stream(Own::new()),
                _ => Response::new(Own::new()),
            })
        }));
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut open: Vec<(usize, Response<SseBody<Own>>)> = Vec::new();
        for act in acts {
            let mut answered = None;
            match act {
                Act::Ask { user, asks, waits } => {
                    let mut request = if asks { asking("/") } else { plain("/") };
                    let answer = Arc::new(Mutex::new(None));
                    request.extensions_mut().insert(user);
                    request.extensions_mut().insert(Arc::clone(&answer));
                    let mut service = service.clone();
                    let mut future: Pin<Box<dyn Future<Output = Response<SseBody<Own>>>>> = {
                        let call = service.call(request);
                        Box::pin(async { call.await.unwrap() })
                    };
                    let has_room = models.iter().all(|model| model.has_room(user));
                    if asks {
                        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                        assert_eq!(polled.is_pending(), has_room, "{user}");
                        if !has_room {
                            continue;
                        }
                        models.iter_mut().for_each(|model| model.take(user));
                    }
                    waiting.push(Waiting { user, is_counted: asks, left: [1000; 4], answer, future });
                    if !waits {
                        answered = Some((waiting.len() - 1, With::Stream));
                    }
                }
                Act::Answer { nth, with } if !waiting.is_empty() => answered = Some((nth % waiting.len(), with)),
                Act::End { nth } if !open.is_empty() => {
                    let (user, response) = open.swap_remove(nth % open.len());
                    drop(response);
                    models.iter_mut().for_each(|model| model.give_back(user, 0));
                }
                Act::Set { limit, number } => {
                    models[limit].limit.set_limit(number);
                    models[limit].number = number;
                }
                Act::Advance { ms } => {
                    advance(Duration::from_millis(ms)).await;
                    models.iter_mut().for_each(|model| model.advance(ms));
                    for (left, model) in waiting.iter_mut().flat_map(|it| it.left.iter_mut().zip(&models)) {
                        *left = left.saturating_sub(ms * u64::from(model.number));
                    }
                }
                Act::Answer { .. } | Act::End { .. } => {}
            }
            if let Some((nth, with)) = answered {
                let Waiting { user, mut is_counted, left, answer, future } = waiting.swap_remove(nth);
                *answer.lock().unwrap() = Some(with);
                let is_stream = if with == With::Nothing {
                    drop(future);
                    false
                } else {
                    let has_room = is_counted || models.iter().all(|model| model.has_room(user));
                    let response = ready_now(future);
                    let is_let_in = with == With::Stream && refused_reason(&response).is_none();
                    assert_eq!(is_let_in, with == With::Stream && has_room);
                    if is_let_in {
                        if !is_counted {
                            models.iter_mut().for_each(|model| model.take(user));
                            is_counted = true;
                        }
                        open.push((user, response));
                    }
                    is_let_in
                };
                if is_counted && !is_stream {
                    models.iter_mut().zip(left).for_each(|(model, left)| model.give_back(user, left));
                }
            }
            models.iter().for_each(Model::check);
        }
        drop((waiting, open));
        advance(100 * SECOND).await;
        models.iter().for_each(|model| assert_eq!((model.limit.open_streams(), model.limit.entries()), (0, 0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn admit_exactly_as_many_streams_as_the_limits_allow(acts in acts()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(run(acts));
        }
    }
}
