//! Hostile or mistaken input. It is bounded and harms no other client.
//!
//! Names, ids and durations beyond all bounds, panics in the program's closures, and endless numbers of keys and
//! clients.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, Version, request::Parts};
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tower::{Layer, Service, service_fn};
use tower_sse::{
    Batching, ClientHandle, ClientId, CloseReason, Drain, Event, EventStream, Heartbeat, Limit, Producer, PublishError,
    RefusedReason, RefusedResponse, Registry, RegistryConfig, Resume, Retention, SseLayer, Start, SubscribeError,
    Subscription,
};

#[cfg(target_os = "linux")]
use crate::client::{Client, VERSIONS};

use crate::{
    client,
    open::open,
    polling,
    polling::{Polled, bounded, bounded_in_time, plain, poll, publish, quiet, received, rest, subscribed, text},
    random::Random,
};

const SECOND: Duration = Duration::from_secs(1);

/// The time limit of each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// The maximum length of an error message. A message is meant for a log, so it is one bounded line, whatever it quotes.
/// It quotes 80 characters, which take up to ten bytes each when they are escaped.
const LINE: usize = 1000;

/// Names that a client may send. Most are invalid: they have any length and any characters.
fn names(random: &mut Random) -> Vec<String> {
    let pieces =
        ["/", "*", "**", "$", "a", "\0", "\r\n", "\u{85}", "\u{202e}", "\u{1f600}", "..", "%2f", " ", "\u{feff}"];
    let mut names: Vec<String> = [0, 1, 255, 256, 257, 65_536, 10_000_000].map(|len| "x".repeat(len)).into();
    for _ in 0..500 {
        let len = random.index(600);
        names.push(String::from_utf8_lossy(&random.bytes(len)).into_owned());
        names.push((0..random.below(8)).map(|_| pieces[random.index(pieces.len())]).collect());
    }
    names.extend(["/", "*/", "**/"].map(|piece| piece.repeat(100_000)));
    names
}

#[test]
fn any_topic_name_is_valid_or_gets_an_error_of_one_line() {
    let registry = Registry::new();
    let client = registry.connect();
    let (mut good, mut bad) = (0, 0);
    for name in names(&mut Random(1)) {
        let as_pattern = client.subscribe(Subscription::matching(&name));
        let as_topic = registry.connect().subscribe(&name);
        assert!(as_pattern.is_ok() || as_topic.is_err(), "{name:?}: a topic is a pattern");
        for refused in [&as_pattern, &as_topic] {
            let Err(error) = refused else { continue };
            let SubscribeError::Topic(named) = error else { panic!("{error}") };
            assert_eq!(named.name(), name);
            assert!(error.to_string().len() < LINE && !error.to_string().contains(char::is_control), "{error}");
            bad += 1;
        }
        assert_eq!(registry.presence(&name).is_ok(), as_pattern.is_ok(), "{name:?}");
        assert_eq!(registry.start_producer(&name).map(Producer::end).is_ok(), as_topic.is_ok(), "{name:?}");
        if as_topic.is_err() {
            let refused = registry.publish(&name, Event::data("x")).unwrap_err();
            assert!(matches!(&refused, PublishError::Topic(error) if error.name() == name), "{refused}");
            assert!(refused.to_string().len() < LINE, "{refused}");
        }
        if as_pattern.is_err() {
            assert_eq!((registry.topic_state(&name), registry.cancel_producer(&name)), (None, false));
            assert!(!client.unsubscribe(&name));
        } else {
            assert!(client.unsubscribe(&name));
            good += 1;
        }
    }
    assert!(good > 20 && bad > 500, "{good} {bad}");
    drop(client);
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.subscriptions, stats.events), (0, 0, 0));
}

#[test]
fn a_guessed_client_id_finds_no_client_and_excludes_no_client() {
    let registry = Registry::new();
    let client = subscribed(&registry, ["a"]);
    let id = client.id().to_string();
    let mut random = Random(2);
    for _ in 0..1000 {
        let guess: ClientId = format!("{:016x}{:016x}", random.next(), random.next()).parse().unwrap();
        assert!(registry.client(&guess).is_none());
        registry.publish("a", Event::data("x").exclude_client(guess)).unwrap();
    }
    assert_eq!(polling::data(&mut client.into_events()).len(), 1000);
    let long = "0".repeat(1_000_000);
    let [upper, spaced, short, signed] =
        [id.to_uppercase(), format!(" {id}"), id[1..].to_owned(), format!("+{}", &id[1..])];
    let has_letters = upper != id;
    for guess in [&*long, &spaced, &short, &signed, "", "\0", "\u{661}".repeat(32).as_str()] {
        let error = guess.parse::<ClientId>().unwrap_err();
        assert!(error.to_string().len() < LINE, "{error}");
    }
    assert!(!has_letters || upper.parse::<ClientId>().is_err(), "an id has only one form");
}

/// A registry and a layer with this time in every setting that takes a duration.
fn extreme(time: Duration) -> (Registry, SseLayer) {
    let retention = Retention::default().age(time.max(SECOND));
    let registry = Registry::with_config(
        RegistryConfig::default()
            .total_retention(retention)
            .topic_retention(retention)
            .stalled_client_timeout(time)
            .ended_topic_ttl(time)
            .presence_key(|_| Some("one".into()))
            .presence_grace(time),
    );
    let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(time)).reconnect_delay(time).max_age(time);
    let limit = Limit::streams(u32::MAX);
    let rate = Limit::rate(u32::MAX, time, u32::MAX);
    (registry, layer.limit(limit).limit(rate).refused_response(RefusedResponse::reconnect().delay(time)))
}

#[test]
fn an_endless_duration_means_for_ever() {
    bounded_in_time(async || {
        let (registry, layer) = extreme(Duration::MAX);
        let presence = registry.presence("a").unwrap();
        let (client, mut body) = open(&layer, None, |client| {
            client.subscribe_from("a", Start::Last(usize::MAX)).unwrap();
            client.expire_after(Duration::MAX);
            client.batch(Batching::every(Duration::MAX));
        });
        publish(&registry, "a", "1");
        let wire = text(&mut body);
        assert!(wire.starts_with(&format!("retry: {}\n\n", u64::MAX)) && wire.contains("data: 1\n"), "{wire}");
        publish(&registry, "a", "2");
        // A timer of tokio fires after thirty years at the latest.
        for _ in 0..20 {
            tokio::time::advance(365 * 24 * 3600 * SECOND).await;
            publish(&registry, "elsewhere", "x");
            assert_eq!(text(&mut body), "", "neither the next batch nor a heartbeat is due");
        }
        client.expire_at(SystemTime::now().checked_add(Duration::from_secs(1 << 40)));
        assert_eq!(text(&mut body), "");
        registry.start_producer("answer").unwrap().end();
        client.close();
        let (wire, has_ended) = rest(&mut body);
        assert!(wire.contains("data: 2\n") && has_ended, "{wire}");
        drop(body);
        assert_eq!((registry.stats().clients, presence.count()), (0, 1), "the member may return at any time");
        let drained =
            registry.drain(Drain::within(Duration::MAX).finish_within(Duration::MAX).reconnect_delay(Duration::MAX));
        let drained = timeout(2 * 24 * 3600 * SECOND, drained).await.unwrap();
        assert_eq!((drained.ended, drained.still_open), (0, 0));
    });
}

#[test]
fn a_client_that_is_refused_for_ever_gets_a_finite_waiting_time() {
    bounded_in_time(async || {
        let long_time = [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(100 * 365 * 24 * 3600)];
        for (time, burst) in long_time.into_iter().flat_map(|time| [1, 10, u32::MAX - 1].map(|burst| (time, burst))) {
            let rate = Limit::rate(1, time, burst);
            for refusal in [RefusedResponse::status(), RefusedResponse::reconnect()] {
                let layer = quiet(&Registry::new()).limit(rate.clone()).refused_response(refusal.delay(time));
                let mut service = layer.layer(service_fn(|_: http::Request<()>| {
                    std::future::ready(Ok::<_, Infallible>(http::Response::new(Empty::<bytes::Bytes>::new())))
                }));
                let mut ask = || {
                    let request = http::Request::builder().header("accept", "text/event-stream").body(()).unwrap();
                    service.call(request)
                };
                // Requests that have not ended keep their tokens.
                let kept: Vec<_> = (0..burst.min(20)).map(|_| ask()).collect();
                let response = ask().await.unwrap();
                if burst < 20 {
                    assert!(response.extensions().get::<RefusedReason>().is_some(), "{time:?} {burst}");
                    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                        let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                        assert!(seconds > 1_000_000, "{seconds}");
                    }
                }
                drop(kept);
            }
        }
    });
}

#[test]
fn a_duration_of_zero_ends_at_once() {
    bounded_in_time(async || {
        let (registry, layer) = extreme(Duration::ZERO);
        let (client, mut body) = open(&layer, None, |client| client.subscribe("a").unwrap());
        publish(&registry, "a", "1");
        let (wire, has_ended) = rest(&mut body);
        assert!(wire.starts_with("retry: 0\n\n") && has_ended, "{wire}");
        assert_eq!(client.closed().await, CloseReason::MaxAge);
        drop(body);
        registry.start_producer("answer").unwrap().end();
        tokio::time::advance(SECOND * 2).await;
        publish(&registry, "last", "x");
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.subscriptions, stats.topics, stats.events), (0, 0, 1, 1));
        assert_eq!(registry.presence("a").unwrap().count(), 0);
        let drained = registry.drain(Drain::within(Duration::ZERO).reconnect_delay(Duration::ZERO)).await;
        assert_eq!((drained.ended, drained.still_open), (0, 0));
    });
}

#[test]
fn a_position_out_of_range_is_a_gap() {
    bounded(|| {
        let registry = Registry::new();
        publish(&registry, "a", "1");
        let most = u64::MAX;
        for id in [format!("{most}-{most}"), "0-0".into(), format!("{most}-0"), format!("{most}0-0"), "-".into()] {
            let (client, mut body) = open(&quiet(&registry), Some(&id), |client| client.subscribe("a").unwrap());
            assert!(matches!(client.resume(), Resume::Gap(gap) if gap.after() == id), "{id}");
            assert_eq!(received(&mut body).len(), 2, "the gap and the retained event");
        }
        let era = registry.position().to_string().rsplit('-').next().unwrap().to_owned();
        for after in [format!("{}-{}-{era}", (1_u64 << 48) - 1, u32::MAX), "0-0-000000000".into()] {
            let client = registry.connect();
            client.subscribe_from("a", Start::After(after.parse().unwrap())).unwrap();
            let mut events = client.into_events();
            assert!(polling::next(&mut events).unwrap().is_err());
            assert_eq!(polling::data(&mut events), ["1"]);
        }
    });
}

/// The crate's clock is tokio's, which a test can advance. It reads the system's clock once, when a registry is
/// created, and for [`ClientHandle::expire_at`]. No test can set that clock.
#[test]
fn a_clock_jump_causes_one_heartbeat_and_no_stalled_client() {
    bounded_in_time(async || {
        let registry = Registry::with_config(RegistryConfig::default().stalled_client_timeout(10 * SECOND));
        let layer = plain(&registry).heartbeat(Heartbeat::every(15 * SECOND));
        let (_, mut body) = open(&layer, None, |client| client.subscribe("a").unwrap());
        let (_, mut late) = open(&layer, None, |client| client.subscribe("a").unwrap());
        assert_eq!((text(&mut body), text(&mut late)), (String::new(), String::new()));
        let mut last = registry.position();
        for years in [1, 10, 100] {
            publish(&registry, "a", "before");
            assert_eq!(
                (received(&mut body), received(&mut late)),
                (vec!["before".to_owned()], vec!["before".to_owned()])
            );
            tokio::time::advance(years * 365 * 24 * 3600 * SECOND).await;
            assert_eq!(text(&mut body), ":\n\n", "one heartbeat for all that were due");
            // The other client has not read since the jump. It still has its whole timeout when an event comes.
            for data in ["1", "2", "3"] {
                let position = polling::position(&registry, "a", data);
                assert!(position > last);
                last = position;
                tokio::time::advance(SECOND).await;
            }
            assert_eq!(received(&mut body), ["1", "2", "3"]);
            let wire = text(&mut late);
            assert_eq!(polling::fields(&wire, "data"), ["1", "2", "3"]);
        }
    });
}

#[test]
fn a_client_that_subscribes_to_everything_is_bounded() {
    const MOST: usize = 1000;
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| {
        for number in 0..20_000 {
            let subscription = match number % 3 {
                0 => Subscription::to(format!("topic/{number}")),
                1 => Subscription::matching(format!("*/{number}/**")),
                _ => Subscription::matching(format!("topic/{}/*", "a/".repeat(number % 100))).from(Start::Oldest),
            };
            drop(client.subscribe(subscription));
        }
    });
    let stats = registry.stats();
    assert_eq!((client.subscriptions().len(), stats.subscriptions), (MOST, MOST));
    assert!(stats.topics <= MOST && stats.bytes == 0, "{stats:?}");
    assert!(matches!(client.send(Event::data("x")), Err(PublishError::TooManySubscriptions { limit: MOST })));
    for topic in ["topic/0", "topic/3", "topic/4/x", "nobody's"] {
        publish(&registry, topic, topic);
    }
    assert_eq!(received(&mut body), ["topic/0", "topic/3", "topic/4/x"]);
    drop(body);
    let stats = registry.stats();
    assert_eq!((stats.clients, stats.subscriptions, stats.topics), (0, 0, 4), "the topics that have events");
}

fn user(request: &Parts) -> Option<String> {
    Some(request.headers.get("x-user")?.to_str().ok()?.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_and_drops_streams_spends_only_its_own_rate() {
    let registry = Registry::new();
    let rate = Limit::rate(10, SECOND, 10).per(user);
    let layer = quiet(&registry).limit(rate.clone());
    let ran = AtomicUsize::new(0);
    let mut service = layer.layer(service_fn(|request: http::Request<()>| {
        ran.fetch_add(1, Ordering::Relaxed);
        let client = request.extensions().get::<ClientHandle>().unwrap().clone();
        std::future::ready(Ok::<_, Infallible>(client.into_stream().into_response::<Empty<bytes::Bytes>>()))
    }));
    let mut ask = |user: &str| {
        let request = http::Request::builder().header("accept", "text/event-stream").header("x-user", user);
        let mut answer = Box::pin(service.call(request.body(()).unwrap()));
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(response)) => response.status(),
            Poll::Pending => unreachable!("the handler does not wait"),
        }
    };
    let (mut admitted, mut refused) = (0, 0);
    for number in 0..100_000 {
        match ask("mallory") {
            StatusCode::OK => admitted += 1,
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            status => panic!("{status}"),
        }
        if number % 10_000 == 9999 {
            assert_eq!(ask(&format!("user {number}")), StatusCode::OK);
        }
        if number % 1000 == 999 {
            tokio::time::advance(SECOND / 10).await;
        }
    }
    // The burst and the tokens that came back in ten seconds.
    assert!((100..=111).contains(&admitted), "{admitted}");
    assert_eq!(
        (ran.load(Ordering::Relaxed), refused),
        (admitted + 10, 100_000 - admitted),
        "no handler ran for a refused request"
    );
    assert_eq!((registry.stats().clients, registry.stats().refused_streams), (0, refused as u64));
    assert!(rate.entries() <= 2);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(rate.entries(), 0);
}

/// A server on loopback.
async fn serve(app: Router) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// Subscribes to the names in the query.
async fn stream(client: ClientHandle, request: Request) -> Result<EventStream, SubscribeError> {
    let query = request.uri().query().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name == "topic" {
            client.subscribe(&*value)?;
        }
    }
    Ok(client.into_stream())
}

/// Waits until a condition is true.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

#[tokio::test]
async fn any_name_in_a_request_gets_a_stream_or_a_bounded_error() {
    let registry = Registry::new();
    let address = serve(Router::new().route("/", get(stream)).layer(quiet(&registry))).await;
    let mut statuses = (0, 0);
    for version in VERSIONS {
        let mut random = Random(3);
        let mut connection = Client::connect(address, version).await;
        for _ in 0..200 {
            let len = random.index(300);
            let topic: String = random.bytes(len).iter().map(|byte| format!("%{byte:02x}")).collect();
            let topic = if random.one_in(4) { format!("good/{len}") } else { topic };
            let response = connection.send(client::get(&format!("/?topic={topic}"))).await.unwrap();
            match response.status() {
                StatusCode::OK => {
                    statuses.0 += 1;
                    // HTTP/1.1 has one stream per connection.
                    connection = Client::connect(address, version).await;
                }
                StatusCode::BAD_REQUEST => {
                    statuses.1 += 1;
                    let sentence = response.into_body().collect().await.unwrap().to_bytes();
                    assert!(!sentence.is_empty() && sentence.len() < LINE, "{sentence:?}");
                }
                status => panic!("{status}"),
            }
        }
    }
    assert!(statuses.0 > 50 && statuses.1 > 200, "{statuses:?}");
    until("all are gone", || registry.stats().clients == 0).await;
    assert_eq!((registry.stats().subscriptions, registry.stats().topics), (0, 0));
}

/// Sends these bytes as a request. Returns the status of the response, if there is one.
async fn send(address: std::net::SocketAddr, request: &[u8]) -> Option<u16> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The server may cut off a request that is too large before it is complete.
    drop(socket.write_all(request).await);
    let mut head = [0; 12];
    timeout(PATIENCE, socket.read_exact(&mut head)).await.expect("an answer, or an end").ok()?;
    std::str::from_utf8(&head[9..]).unwrap().parse().ok()
}

#[tokio::test]
async fn any_last_event_id_gets_a_stream_or_the_servers_refusal() {
    let registry = Registry::new();
    publish(&registry, "a", "x");
    let seen = Arc::new(AtomicUsize::new(0));
    let longest = Arc::clone(&seen);
    let handler = move |client: ClientHandle, request: Request| {
        longest.fetch_max(client.last_event_id().map_or(0, str::len), Ordering::Relaxed);
        stream(client, request)
    };
    let address = serve(Router::new().route("/", get(handler)).layer(quiet(&registry))).await;
    let mut random = Random(4);
    let (mut streams, mut refused) = (0, 0);
    for len in [0, 1, 41, 256, 257, 5_000, 60_000, 1_000_000] {
        for by_query in [false, true] {
            let bytes = random.bytes(len);
            let request = if by_query {
                let id: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
                format!("GET /?topic=a&lastEventId={id} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
            } else {
                let id: Vec<u8> =
                    bytes.into_iter().map(|byte| if byte < b' ' || byte == 127 { b'~' } else { byte }).collect();
                [&b"GET /?topic=a HTTP/1.1\r\nhost: x\r\nlast-event-id: "[..], &id, b"\r\n\r\n"].concat()
            };
            match send(address, &request).await {
                Some(200) => streams += 1,
                // The server's own limits: it may refuse a URI or headers that are too large, or close the connection.
                Some(414 | 431 | 400) | None => refused += 1,
                Some(status) => panic!("{status}"),
            }
        }
    }
    assert!(streams >= 11 && refused >= 2, "{streams} {refused}");
    assert!((100..=256).contains(&seen.load(Ordering::Relaxed)), "{seen:?}");
    until("all are gone", || registry.stats().clients == 0).await;
    assert_eq!((registry.stats().subscriptions, registry.stats().topics), (0, 1));
}

#[tokio::test]
async fn the_last_event_id_is_found_behind_thousands_of_parameters() {
    let registry = Registry::new();
    publish(&registry, "a", "1");
    let last = registry.position();
    publish(&registry, "a", "2");
    let address = serve(Router::new().route("/", get(stream)).layer(quiet(&registry))).await;
    let many: String = (0..2500).map(|_| "&x=&y").collect();
    for version in VERSIONS {
        let target = format!("/?topic=a{many}&lastEventId=&lastEventId={last}&lastEventId=1-0");
        let mut response = Client::connect(address, version).await.send(client::get(&target)).await.unwrap();
        let frame = timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
        assert!(frame.starts_with(b"data: 2\n"), "{version:?}: {frame:?}");
    }
}

/// The closures that a program gives to a layer or a registry.
const CLOSURES: [&str; 9] =
    ["metadata", "limit", "presence", "retention", "filter", "farewell", "heartbeat", "handler", "refusal"];

/// Panics, without a message on standard error, if this closure is to fail for this client.
fn fail(what: &'static str, whose: Option<&Fails>) {
    if whose.is_some_and(|fails| fails.0 == what) {
        std::panic::resume_unwind(Box::new("a panic that was meant to be"));
    }
}

/// The closure that is to panic for a client.
#[derive(Clone)]
struct Fails(String);

impl Fails {
    fn of(request: &Parts) -> Option<Self> {
        user(request).map(Self)
    }
}

fn fragile(registry: &Registry, limits: &[Limit]) -> Router {
    let layer = SseLayer::new(registry)
        .metadata(|request| {
            let fails = Fails::of(request);
            fail("metadata", fails.as_ref());
            fails
        })
        .farewell(|client, _| {
            fail("farewell", client.metadata().get());
            None
        })
        .refused_response(RefusedResponse::with(|refused, _| {
            // Only the client that is to fail is refused.
            std::panic::resume_unwind(Box::new(refused.to_string()));
            #[allow(unreachable_code, reason = "its type")]
            Response::new("")
        }));
    let layer = limits.iter().cloned().fold(layer, SseLayer::limit);
    let failing = Heartbeat::every(Duration::from_millis(5)).event(|| {
        fail("heartbeat", Some(&Fails("heartbeat".into())));
        Event::empty()
    });
    let handler = async |client: ClientHandle, request: Request| -> Response {
        fail("handler", client.metadata().get());
        let topic = request.uri().path().trim_start_matches('/').to_owned();
        let filter = |_: &tower_sse::Delivery, client: &ClientHandle| {
            fail("filter", client.metadata().get());
            true
        };
        match client.subscribe(Subscription::to(topic).filter(filter)) {
            Ok(()) => client.into_stream().into_response::<axum::body::Body>(),
            Err(error) => error.into_response(),
        }
    };
    let with_heartbeat = get(handler).layer(layer.clone().heartbeat(failing));
    Router::new().route("/beating", with_heartbeat).merge(Router::new().route("/{topic}", get(handler)).layer(layer))
}

#[tokio::test]
async fn a_panic_in_a_closure_ends_only_that_stream() {
    for version in VERSIONS {
        let registry = Registry::with_config(
            RegistryConfig::default()
                .topic_retention_by(|topic| {
                    fail("retention", Some(&Fails(topic.to_owned())));
                    Retention::default()
                })
                .presence_key(|client| {
                    let metadata = client.metadata();
                    fail("presence", metadata.get());
                    metadata.get::<Fails>().map(|fails| fails.0.clone())
                }),
        );
        let by_key = |request: &Parts| {
            let fails = Fails::of(request);
            fail("limit", fails.as_ref());
            Some(0_u64)
        };
        let limits = [
            Limit::streams(100),
            Limit::streams(100).per(by_key),
            Limit::rate(1_000_000, SECOND, 1000),
            Limit::streams(0).per_optional(|request: &Parts| user(request).filter(|user| user == "refusal")),
        ];
        let address = serve(fragile(&registry, &limits)).await;
        let presence = registry.presence("news").unwrap();
        let ask = |user: &str, path: &str| {
            let mut request = client::get(path);
            request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
            request.headers_mut().insert("x-user", user.parse().unwrap());
            request
        };
        // Over HTTP/2, both streams share one connection.
        let mut connection = Client::connect(address, version).await;
        let mut bystander = connection.send(ask("bystander", "/news")).await.unwrap();
        for what in CLOSURES {
            let mut own = match version {
                Version::HTTP_2 => None,
                _ => Some(Client::connect(address, version).await),
            };
            let path = match what {
                "heartbeat" => "/beating",
                "retention" => "/retention",
                _ => "/news",
            };
            let answer =
                timeout(PATIENCE, own.as_mut().unwrap_or(&mut connection).send(ask(what, path))).await.unwrap();
            match what {
                "filter" => publish(&registry, "news", "x"),
                "farewell" => {
                    let of_it = |client: &ClientHandle| client.metadata().get::<Fails>().is_some_and(|it| it.0 == what);
                    registry.clients().into_iter().find(of_it).unwrap().close();
                }
                _ => {}
            }
            match answer {
                Ok(response) => {
                    assert!(["filter", "farewell", "heartbeat"].contains(&what), "{what}");
                    let body = timeout(PATIENCE, response.into_body().collect()).await.unwrap();
                    assert!(body.is_err(), "{what} over {version:?}: no clean end");
                }
                Err(_) => assert!(!["filter", "farewell", "heartbeat"].contains(&what), "{what}"),
            }
            // The other client goes on, and all slots of the failed client have been released.
            publish(&registry, "news", what);
            let wanted = format!("data: {what}\n");
            let mut seen = String::new();
            while !seen.contains(&wanted) {
                let frame =
                    timeout(PATIENCE, bystander.frame()).await.unwrap().expect("the other client goes on").unwrap();
                seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
            }
            until(what, || registry.stats().clients == 1).await;
            let counted: Vec<u64> = limits.iter().map(Limit::open_streams).collect();
            assert_eq!(counted, [1, 1, 0, 0], "{what} over {version:?}");
            assert_eq!(registry.stats().subscriptions, 1, "{what} over {version:?}");
            let present = presence.members();
            let with_clients = present.iter().filter(|member| !member.clients().is_empty());
            assert_eq!(with_clients.map(|member| member.key()).collect::<Vec<_>>(), ["bystander"], "{what}");
        }
        // The registry asks again for the retention that it could not get before.
        let publish_there = std::panic::AssertUnwindSafe(|| registry.publish("retention", Event::data("x")));
        assert!(std::panic::catch_unwind(publish_there).is_err());
        publish(&registry, "other", "x");
        drop(bystander);
        until("all are gone", || registry.stats().clients == 0).await;
        assert_eq!((registry.stats().subscriptions, limits[0].open_streams(), limits[1].entries()), (0, 0, 0));
    }
}

#[cfg(target_os = "linux")]
mod memory {
    //! Measured by the allocated memory. Each test runs in a process of its own.
    use super::*;
    use crate::process::{allocated, is_alone};

    /// Spare capacities, and the memory that the tests themselves keep.
    const SLACK: usize = 1 << 20;

    fn kib(bytes: usize) -> usize {
        bytes / 1024
    }

    #[test]
    fn an_idle_client_takes_few_kilobytes() {
        if !is_alone("hostile::memory::an_idle_client_takes_few_kilobytes") {
            return;
        }
        const CLIENTS: usize = 10_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        // No body is dropped before the end. Otherwise the next one would use its memory.
        let mut bodies = Vec::with_capacity(3 * CLIENTS);
        for (name, subscriptions, beats) in [
            ("one topic", 1, false),
            ("one topic, heartbeats", 1, true),
            ("ten topics of their own, heartbeats", 10, true),
        ] {
            let registry = Registry::new();
            let layer = if beats { plain(&registry) } else { quiet(&registry) };
            let before = allocated();
            for number in 0..CLIENTS {
                let (_, mut body) = open(&layer, None, |client| {
                    client.subscribe("shared").unwrap();
                    (1..subscriptions).for_each(|nth| client.subscribe(format!("own/{number}/{nth}")).unwrap());
                });
                assert_eq!(poll(&mut body), Polled::Pending);
                bodies.push(body);
            }
            let each = allocated().saturating_sub(before) / CLIENTS;
            println!("an idle client with {name}: {each} bytes");
            assert!(each < 2048 + 2048 * subscriptions, "{name}: {each} bytes");
        }
    }

    /// Opens this many clients at once, each with a key, a member and a topic of its own, and drops them all. Returns
    /// the memory in use then.
    fn crowd(clients: usize) -> usize {
        let key = |client: &ClientHandle| client.metadata().get::<String>().cloned();
        let registry = Registry::with_config(
            RegistryConfig::default().presence_key(key).presence_grace(Duration::ZERO).limit(Limit::streams(u32::MAX)),
        );
        let limits = [Limit::streams(5).per(user), Limit::rate(5, Duration::from_millis(1), 5).per(user)];
        let layer = limits.iter().cloned().fold(quiet(&registry), SseLayer::limit).metadata(user);
        let lobby = registry.presence("lobby").unwrap();
        let mut service = layer.layer(service_fn(|request: http::Request<()>| {
            let client = request.extensions().get::<ClientHandle>().unwrap().clone();
            let name = client.metadata().get::<String>().unwrap().clone();
            client.subscribe("lobby").unwrap();
            client.subscribe(format!("inbox/{name}")).unwrap();
            std::future::ready(Ok::<_, Infallible>(client.into_stream().into_response::<Empty<bytes::Bytes>>()))
        }));
        let mut bodies = Vec::new();
        for number in 0..clients {
            let request = http::Request::builder().header("accept", "text/event-stream");
            let request = request.header("x-user", format!("somebody with the number {number}")).body(()).unwrap();
            let mut answer = Box::pin(service.call(request));
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => {
                    let mut body = Box::pin(response.into_body());
                    let polled =
                        http_body::Body::poll_frame(Pin::new(&mut body), &mut Context::from_waker(Waker::noop()));
                    assert!(polled.is_pending());
                    bodies.push(body);
                }
                Poll::Pending => unreachable!("the handler does not wait"),
            }
        }
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.topics, lobby.count()), (clients, clients + 1, clients));
        assert_eq!((limits[0].open_streams(), limits[0].entries()), (clients as u64, clients));
        let most = allocated();
        assert!(most / clients < 8192, "{} bytes each", most / clients);
        drop(bodies);
        let stats = registry.stats();
        assert_eq!((stats.clients, stats.topics, stats.subscriptions, lobby.count()), (0, 0, 0, 0));
        assert_eq!((limits[0].open_streams(), limits[0].entries()), (0, 0));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(limits[1].entries(), 0, "all buckets are full again");
        println!("{clients} clients: {} KiB at most, {} KiB when they are gone", kib(most), kib(allocated()));
        allocated()
    }

    #[test]
    fn memory_of_100000_keys_members_and_topics_is_released() {
        if !is_alone("hostile::memory::memory_of_100000_keys_members_and_topics_is_released") {
            return;
        }
        let left = [1000, 100_000].map(crowd);
        assert!(left[1] < left[0] + SLACK, "{left:?}");
    }

    #[test]
    fn huge_events_among_a_million_small_ones_stay_within_the_budget() {
        if !is_alone("hostile::memory::huge_events_among_a_million_small_ones_stay_within_the_budget") {
            return;
        }
        const BUDGET: usize = 64 << 20;
        let config = RegistryConfig::default().total_retention(Retention::default().bytes(BUDGET));
        let registry = Registry::with_config(config.topic_retention(Retention::default()));
        let huge = "x".repeat(10 << 20);
        let before = allocated();
        let mut most = 0;
        for round in 0..3 {
            for number in 0..1_000_000 / 3 {
                registry.publish(format!("topic/{}", number % 100), Event::data("x")).unwrap();
                if number % 1000 == 0 {
                    most = most.max(allocated());
                }
            }
            for _ in 0..10 {
                registry.publish("huge", Event::data(&huge)).unwrap();
                most = most.max(allocated());
                assert!(registry.stats().bytes <= BUDGET);
            }
            println!("round {round}: {} KiB of {} KiB", kib(most - before), kib(BUDGET));
        }
        assert!(most - before < BUDGET, "{} KiB", kib(most - before));
        assert!(matches!(
            registry.publish("huge", Event::data("x".repeat(BUDGET))),
            Err(PublishError::TooLarge { .. })
        ));
    }

    /// Uses real sockets, so that the bytes that the server queues for each client count too.
    #[test]
    fn two_thousand_clients_that_never_read_affect_no_other() {
        if !is_alone("hostile::memory::two_thousand_clients_that_never_read_affect_no_other") {
            return;
        }
        const SILENT: usize = 2000;
        const EVENTS: usize = 20_000;
        const BUDGET: usize = 8 << 20;
        assert!(rlimit::increase_nofile_limit(3 * SILENT as u64).unwrap() > 2 * SILENT as u64 + 100);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let config = RegistryConfig::default().stalled_client_timeout(None).topic_retention(Retention::default());
            let registry = Registry::with_config(config.total_retention(Retention::default().bytes(BUDGET)));
            let address = serve(Router::new().route("/", get(stream)).layer(quiet(&registry))).await;
            let mut silent = Vec::new();
            for _ in 0..SILENT {
                let mut socket = TcpStream::connect(address).await.unwrap();
                socket.write_all(b"GET /?topic=a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                silent.push(socket);
            }
            until("all are there", || registry.stats().clients == SILENT).await;
            let reader = Client::connect(address, Version::HTTP_11).await.send(client::get("/?topic=a")).await.unwrap();
            let mut frames = reader.into_body().into_data_stream();
            let before = allocated();
            let (mut most, mut got, mut unfinished) = (before, 0, String::new());
            let data = "x".repeat(1000);
            for number in 0..EVENTS {
                let receipt = registry.publish("a", Event::data(format!("{number} {data}"))).unwrap();
                assert_eq!(receipt.subscribers(), SILENT + 1);
                if number % 500 != 499 {
                    continue;
                }
                // The reader keeps up and gets all events in order.
                while got <= number {
                    let frame = timeout(PATIENCE, tokio_stream::StreamExt::next(&mut frames)).await.unwrap().unwrap();
                    unfinished.push_str(std::str::from_utf8(&frame.unwrap()).unwrap());
                    while let Some((event, rest)) = unfinished.split_once("\n\n") {
                        assert!(event.starts_with(&format!("data: {got} ")), "{event}");
                        got += 1;
                        unfinished = rest.to_owned();
                    }
                }
                most = most.max(allocated());
            }
            assert_eq!((got, registry.stats().published), (EVENTS, EVENTS as u64));
            let each = (most - before).saturating_sub(BUDGET) / SILENT;
            println!(
                "{SILENT} clients that never read: at most {} KiB more, {each} bytes each in addition to the retained events",
                kib(most - before)
            );
            // The server's own queue for a connection is bounded at about 400 KiB. Readers share some of that memory.
            assert!(each < 512 << 10, "{each} bytes each");
            drop(silent);
            until("they are gone", || registry.stats().clients == 1).await;
        });
    }
}
