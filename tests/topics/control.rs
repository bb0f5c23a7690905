//! A client changes the topics of its open stream.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tower::ServiceExt;
use tower_sse::{
    ClientHandle, ClientId, CloseReason, Event, FullBody, Heartbeat, HelloEvent, Position, Registry, RegistryConfig,
    Retention, SseLayer, Start, Subscription, TopicsError, TopicsService,
};

use crate::{
    bodies::{AnyBody, any, channel},
    client::{Client, request},
    open::open,
    polling::{fields, publish, quiet, received, subscribed},
    time_limit::on_both_versions,
};

/// A closure that allows everything but topics under `secret/`.
fn allow(_: &ClientHandle, topic: &str) -> Result<Subscription, String> {
    match topic.starts_with("secret/") {
        true => Err(format!("{topic:?} is secret")),
        false => Ok(Subscription::to(topic)),
    }
}

fn service(registry: &Registry) -> TopicsService {
    TopicsService::new(registry, allow)
}

fn put(body: impl Into<Bytes>) -> Request<AnyBody> {
    let request = Request::put("/sse/topics").header(CONTENT_TYPE, "application/json");
    request.body(any(Full::new(body.into()))).unwrap()
}

async fn ask(service: &TopicsService, request: Request<AnyBody>) -> Response<FullBody> {
    let response = service.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    response
}

async fn text(response: Response<FullBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Sends the topics of a client, and returns the response to a valid request.
async fn set<T: serde::Serialize>(service: &TopicsService, client: &ClientHandle, topics: &[T]) -> Value {
    let body = json!({ "client": client.id().to_string(), "topics": topics });
    let response = ask(service, put(body.to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    serde_json::from_str(&text(response).await).unwrap()
}

fn sorted(client: &ClientHandle) -> Vec<String> {
    let mut names = client.subscriptions();
    names.sort_unstable();
    names
}

mod the_full_set {
    use super::*;

    #[tokio::test]
    async fn replaces_the_topics_of_the_open_stream() {
        let registry = Registry::new();
        let service = service(&registry);
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            ["a", "b"].iter().for_each(|topic| client.subscribe(*topic).unwrap());
            drop(client.clone().into_stream());
        });
        publish(&registry, "c", "before");
        let answer = set(&service, &client, &["b", "c", "b"]).await;
        assert_eq!((&answer["topics"], &answer["refused"]), (&json!(["b", "c"]), &json!([])));
        assert_eq!(sorted(&client), ["b", "c"]);
        ["a", "b", "c"].iter().for_each(|topic| publish(&registry, topic, topic));
        assert_eq!(received(&mut body), ["b", "c"]);
        assert_eq!(set(&service, &client, &[""; 0]).await["topics"], json!([]));
        publish(&registry, "b", "-");
        assert_eq!(received(&mut body), [""; 0], "the stream stays open");
        assert_eq!(set(&service, &client, &["a"]).await["topics"], json!(["a"]));
        publish(&registry, "a", "again");
        assert_eq!(received(&mut body), ["again"]);
    }

    #[tokio::test]
    async fn can_be_sent_again_and_no_event_is_lost_or_repeated() {
        let registry = Registry::new();
        let from_oldest = |_: &ClientHandle, topic: &str| {
            Ok::<_, String>(Subscription::to(topic).from(Start::Oldest).filter(|_, _| true))
        };
        let service = TopicsService::new(&registry, from_oldest);
        let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("first").unwrap());
        let mut got = Vec::new();
        for n in 0..20 {
            publish(&registry, "a", &format!("a{n}"));
            let answer = set(&service, &client, &["first", "a"]).await;
            assert_eq!(answer["topics"], json!(["first", "a"]));
            publish(&registry, "first", &format!("f{n}"));
            if n % 3 == 0 {
                got.extend(received(&mut body));
            }
        }
        got.extend(received(&mut body));
        let expected: Vec<String> = (0..20).flat_map(|n| [format!("a{n}"), format!("f{n}")]).collect();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn tells_a_position_after_which_every_event_of_the_new_topics_comes() {
        let registry = Registry::new();
        let (client, mut body) = open(&quiet(&registry), None, |client| drop(client.clone().into_stream()));
        publish(&registry, "a", "before");
        let answer = set(&service(&registry), &client, &["a"]).await;
        let position: Position = answer["position"].as_str().unwrap().parse().unwrap();
        assert_eq!(position, registry.position());
        publish(&registry, "a", "after");
        assert_eq!(received(&mut body), ["after"]);
    }

    #[tokio::test]
    async fn tells_a_position_that_is_not_before_an_event_which_never_comes() {
        // The retention is asked for when the new topic is made: in the middle of the request. Another thread may publish then.
        let known: Arc<OnceLock<Registry>> = Arc::default();
        let (its, once) = (Arc::clone(&known), AtomicBool::new(false));
        let registry = Registry::with_config(RegistryConfig::default().topic_retention_by(move |topic| {
            let registry = its.get().filter(|_| topic == "b" && !once.swap(true, Ordering::SeqCst));
            if let Some(registry) = registry {
                registry.publish("b", Event::data("in between")).unwrap();
            }
            Retention::default()
        }));
        let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
        known.set(registry.clone()).unwrap();
        let answer = set(&service(&registry), &client, &["a", "b"]).await;
        let told: Position = answer["position"].as_str().unwrap().parse().unwrap();
        let (before, got) = (registry.position(), received(&mut body));
        assert!(told == before || got == ["in between"], "an event after {told} does not come: {got:?}");
        publish(&registry, "b", "after");
        assert_eq!(received(&mut body), ["after"]);
    }

    #[tokio::test]
    async fn leaves_the_kept_subscriptions_alone() {
        let registry = Registry::new();
        let service = service(&registry).keep(|_, name| name.starts_with("users/"));
        let (client, _body) = open(&quiet(&registry), None, |client| {
            ["users/7", "a"].iter().for_each(|topic| client.subscribe(*topic).unwrap());
            client.subscribe(Subscription::matching("users/7/*")).unwrap();
            client.send(Event::data("its own topic stays too")).unwrap();
        });
        assert_eq!(set(&service, &client, &["b"]).await["topics"], json!(["b"]));
        assert_eq!(sorted(&client), ["b", "users/7", "users/7/*"]);
        assert_eq!(client.send(Event::data("x")).unwrap().subscribers(), 1);
    }

    #[tokio::test]
    async fn can_be_swapped_at_the_limit_of_subscriptions() {
        let registry = Registry::with_config(RegistryConfig::default().subscriptions_per_client(2));
        let service = service(&registry);
        // The stream ends with its last topic, so the new ones come first.
        let (client, mut body) = open(&quiet(&registry), None, |client| {
            ["a", "b"].iter().for_each(|topic| client.subscribe(*topic).unwrap());
        });
        let answer = set(&service, &client, &["c", "d", "e"]).await;
        assert_eq!(answer["topics"], json!(["c", "d"]));
        assert_eq!(answer["refused"][0]["topic"], "e");
        assert!(answer["refused"][0]["why"].as_str().unwrap().contains("limit of 2 subscriptions"), "{answer}");
        ["a", "c", "d"].iter().for_each(|topic| publish(&registry, topic, topic));
        assert_eq!(received(&mut body), ["c", "d"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_the_last_request_wins() {
        let registry = Registry::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let service = TopicsService::new(&registry, move |_: &ClientHandle, topic: &str| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, String>(Subscription::to(topic))
        });
        let client = subscribed(&registry, ["begin"]);
        let _events = client.clone().into_events();
        for round in 0..20 {
            let mut requests = JoinSet::new();
            for n in 0..8 {
                let topics = [1, 2, 3].map(|topic| format!("{round}/{n}/{topic}"));
                let body = json!({ "client": client.id().to_string(), "topics": topics });
                requests.spawn(service.clone().oneshot(put(body.to_string())));
            }
            for response in requests.join_all().await {
                assert_eq!(response.unwrap().status(), StatusCode::OK);
            }
            let has = sorted(&client);
            let of = has[0].rsplit_once('/').unwrap().0;
            assert_eq!(has, [1, 2, 3].map(|n| format!("{of}/{n}")), "all of one request");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 20 * 8 * 3);
    }
}

mod the_closure {
    use super::*;

    #[tokio::test]
    async fn refuses_topics_with_a_sentence() {
        let registry = Registry::new();
        let (client, _body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
        let answer = set(&service(&registry), &client, &["a", "secret/\"x\"", "a//b", "$client/7", "b*"]).await;
        assert_eq!(answer["topics"], json!(["a"]));
        let refused = answer["refused"].as_array().unwrap();
        let topics: Vec<&Value> = refused.iter().map(|refused| &refused["topic"]).collect();
        assert_eq!(topics, ["secret/\"x\"", "a//b", "$client/7", "b*"]);
        assert_eq!(refused[0]["why"], "\"secret/\\\"x\\\"\" is secret");
        assert!(refused.iter().all(|refused| !refused["why"].as_str().unwrap().is_empty()), "{answer}");
        assert_eq!(sorted(&client), ["a"]);
    }

    #[tokio::test]
    async fn takes_a_topic_away_that_it_no_longer_allows() {
        let registry = Registry::new();
        let may = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&may);
        let service = TopicsService::new(&registry, move |_: &ClientHandle, topic: &str| match topic {
            "a" if !asked.load(Ordering::Relaxed) => Err("no longer"),
            _ => Ok(Subscription::to(topic)),
        });
        let (client, mut body) = open(&quiet(&registry), None, |client| drop(client.clone().into_stream()));
        assert_eq!(set(&service, &client, &["a", "b"]).await["topics"], json!(["a", "b"]));
        may.store(false, Ordering::Relaxed);
        let answer = set(&service, &client, &["a", "b"]).await;
        assert_eq!(answer["refused"], json!([{ "topic": "a", "why": "no longer" }]));
        ["a", "b"].iter().for_each(|topic| publish(&registry, topic, topic));
        assert_eq!(received(&mut body), ["b"]);
    }

    #[tokio::test]
    async fn chooses_the_name_the_start_and_the_filter() {
        let registry = Registry::new();
        (0..3).for_each(|n| publish(&registry, "rooms/7/lobby", &n.to_string()));
        let service = TopicsService::new(&registry, |_: &ClientHandle, topic: &str| match topic {
            "lobby" => Ok(Subscription::to("rooms/7/lobby").from(Start::Last(2))),
            "all" => {
                Ok(Subscription::matching("rooms/7/*").filter(|event, _| event.data().as_deref() != Some("hidden")))
            }
            "answer" => Ok(Subscription::to("answer").existing()),
            _ => Err("unknown"),
        });
        let (client, mut body) = open(&quiet(&registry), None, |client| drop(client.clone().into_stream()));
        let answer = set(&service, &client, &["lobby", "answer"]).await;
        assert_eq!(answer["topics"], json!(["lobby"]));
        assert!(answer["refused"][0]["why"].as_str().unwrap().contains("does not exist"), "{answer}");
        assert_eq!(received(&mut body), ["1", "2"]);
        assert_eq!(set(&service, &client, &["all"]).await["topics"], json!(["all"]));
        assert_eq!(client.subscriptions(), ["rooms/7/*"]);
        ["hidden", "shown"].iter().for_each(|data| publish(&registry, "rooms/7/other", data));
        assert_eq!(received(&mut body), ["shown"]);
    }

    #[tokio::test]
    async fn changes_the_filter_of_a_topic_that_the_stream_has() {
        let registry = Registry::new();
        let hides = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&hides);
        let service = TopicsService::new(&registry, move |_: &ClientHandle, topic: &str| {
            let hides = now.load(Ordering::Relaxed);
            Ok::<_, String>(Subscription::to(topic).from(Start::Oldest).filter(move |_, _| !hides))
        });
        let (client, mut body) = open(&quiet(&registry), None, |client| drop(client.clone().into_stream()));
        set(&service, &client, &["a"]).await;
        publish(&registry, "a", "1");
        assert_eq!(received(&mut body), ["1"]);
        hides.store(true, Ordering::Relaxed);
        set(&service, &client, &["a"]).await;
        publish(&registry, "a", "2");
        assert_eq!(received(&mut body), [""; 0]);
    }
}

mod a_request {
    use super::*;

    async fn refused(service: &TopicsService, request: Request<AnyBody>) -> TopicsError {
        let response = ask(service, request).await;
        let error = response.extensions().get::<TopicsError>().expect("the error is typed").clone();
        assert_eq!(response.status(), error.status());
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.headers().contains_key(ALLOW), error == TopicsError::NotPut);
        assert_eq!(text(response).await, error.to_string());
        error
    }

    fn of(id: impl std::fmt::Display, topics: usize) -> String {
        let topics: Vec<String> = (0..topics).map(|n| format!("t/{n}")).collect();
        json!({ "client": id.to_string(), "topics": topics }).to_string()
    }

    #[tokio::test]
    async fn for_a_stream_that_is_not_open_is_a_404() {
        let registry = Registry::new();
        let service = service(&registry);
        let nobody: ClientId = "0".repeat(32).parse().unwrap();
        assert_eq!(refused(&service, put(of(nobody, 1))).await, TopicsError::Gone);
        let (client, body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
        let id = client.id();
        drop(body);
        assert_eq!(client.closed().await, CloseReason::ClientDisconnected);
        assert_eq!(refused(&service, put(of(id, 1))).await, TopicsError::Gone);
        assert_eq!(TopicsError::Gone.status(), StatusCode::NOT_FOUND);
        let (client, _body) = open(&quiet(&Registry::new()), None, |client| client.subscribe("a").unwrap());
        assert_eq!(refused(&service, put(of(client.id(), 1))).await, TopicsError::Gone, "of another registry");
    }

    #[tokio::test]
    async fn for_the_stream_of_somebody_else_is_a_404() {
        #[derive(Clone, PartialEq)]
        struct User(u64);
        let registry = Registry::new();
        let same_user = |request: &Parts, client: &ClientHandle| {
            let user = request.extensions.get::<User>();
            user.is_some() && client.metadata().get::<User>() == user
        };
        let service = service(&registry).owned_by(same_user);
        let (client, _body) = open(&quiet(&registry), None, |client| {
            client.insert_metadata(User(7));
            client.subscribe("a").unwrap();
        });
        for user in [None, Some(User(8))] {
            let mut request = put(of(client.id(), 1));
            user.map(|user| request.extensions_mut().insert(user));
            assert_eq!(refused(&service, request).await, TopicsError::Gone);
        }
        assert_eq!(client.subscriptions(), ["a"]);
        let mut request = put(of(client.id(), 1));
        request.extensions_mut().insert(User(7));
        assert_eq!(ask(&service, request).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn above_a_limit_is_a_413_and_changes_nothing() {
        let registry = Registry::new();
        let (client, _body) = open(&quiet(&registry), None, |client| client.subscribe("a").unwrap());
        let service = service(&registry).max_topics(3).max_body(200);
        assert_eq!(refused(&service, put(of(client.id(), 4))).await, TopicsError::TooManyTopics { limit: 3 });
        let (whole, large) = (of(client.id(), 3), of(client.id(), 3) + &" ".repeat(200));
        assert_eq!(refused(&service, put(large.clone())).await, TopicsError::TooLarge { limit: 200 });
        // A body of unknown length.
        let (frames, body) = channel();
        let writer = tokio::spawn(async move {
            for piece in large.into_bytes().chunks(50) {
                if frames.send(Ok(Frame::data(Bytes::copy_from_slice(piece)))).await.is_err() {
                    return;
                }
            }
        });
        assert_eq!(refused(&service, put("").map(|_| body)).await, TopicsError::TooLarge { limit: 200 });
        writer.await.unwrap();
        assert_eq!(client.subscriptions(), ["a"]);
        let exact = format!("{whole:200}");
        assert_eq!(ask(&service, put(exact)).await.status(), StatusCode::OK);
        assert_eq!(client.subscriptions().len(), 3);
        assert_eq!(TopicsError::TooLarge { limit: 1 }.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn that_is_no_put_of_json_is_a_405_a_415_or_a_400() {
        let registry = Registry::new();
        let service = service(&registry);
        let client = subscribed(&registry, ["a"]);
        let whole = || put(of(client.id(), 1));
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let mut request = whole();
            *request.method_mut() = method;
            assert_eq!(refused(&service, request).await, TopicsError::NotPut);
        }
        let mut request = whole();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert_eq!(refused(&service, request).await, TopicsError::NotJson);
        let mut request = whole();
        request.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        assert_eq!(refused(&service, request).await, TopicsError::NotJson);
        let invalid = refused(&service, put("{\"client\":")).await;
        assert!(matches!(invalid, TopicsError::Invalid { .. }), "{invalid}");
        let (frames, body) = channel();
        frames.send(Err("cut".into())).await.unwrap();
        let invalid = refused(&service, put("").map(|_| body)).await;
        assert!(matches!(invalid, TopicsError::Invalid { .. }), "{invalid}");
        let statuses = [TopicsError::NotPut, TopicsError::NotJson, invalid].map(|error| error.status().as_u16());
        assert_eq!(statuses, [405, 415, 400]);
    }
}

/// A page: it gets its id and the path with `hello`, and sends its topics there.
#[tokio::test]
async fn a_page_changes_its_topics_over_a_socket() {
    on_both_versions(async |version| {
        let registry = Registry::new();
        let hello = HelloEvent::default().control("/sse/topics");
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off()).hello_event(hello);
        let events = |client: ClientHandle| async move {
            client.subscribe("a").unwrap();
            client.into_stream()
        };
        let app = Router::new()
            .route("/sse", get(events).layer(layer))
            .route_service("/sse/topics", TopicsService::new(&registry, allow));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async { axum::serve(listener, app).await });

        let mut page = Client::connect(address, version).await;
        let mut stream = page.send(request("GET", "/sse?hello=1", AnyBody::default())).await.unwrap();
        let hello = until(&mut stream, "event: live\n").await;
        let hello: Value = serde_json::from_str(fields(&hello, "data")[0]).unwrap();
        assert_eq!((&hello["topics"], &hello["control"]), (&json!(["a"]), &json!("/sse/topics")));

        let body = json!({ "client": hello["client"], "topics": ["b", "secret/c"] }).to_string();
        let mut change = request("PUT", hello["control"].as_str().unwrap(), any(Full::new(Bytes::from(body))));
        change.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = Client::connect(address, version).await.send(change).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let answer = answer.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((&answer["topics"], &answer["refused"][0]["topic"]), (&json!(["b"]), &json!("secret/c")));
        ["a", "b"].iter().for_each(|topic| publish(&registry, topic, &format!("on {topic}")));
        assert_eq!(fields(&until(&mut stream, "data: on b\n").await, "data"), ["on b"]);
        server.abort();
    })
    .await;
}

/// Reads a stream until this text has come.
async fn until(stream: &mut Response<Incoming>, text: &str) -> String {
    let mut wire = String::new();
    while !wire.contains(text) {
        let data = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        wire.push_str(std::str::from_utf8(&data).unwrap());
    }
    wire
}
