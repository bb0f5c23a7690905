//! When a handler runs, how it is stopped, and that it leaves its thread to others.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, response::IntoResponse, routing::post};
use bytes::Bytes;
use http::{Method, Request, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{Drain, Limit, RecordLayer, Registry, RegistryConfig, SseLayer, backplane::Memory};

use crate::{
    bodies::{any, channel, event_stream},
    time_limit::within_20_s,
    world::{End, World, key, post as ask},
};

/// Runs a test in a runtime with one thread. `false`: the runtime hangs.
fn on_one_thread(test: impl Future<Output = ()> + Send + 'static) -> bool {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
        let _ = done.send(());
    });
    is_done.recv_timeout(Duration::from_secs(5)).is_ok()
}

/// An endless body of comments.
struct Comments;

impl http_body::Body for Comments {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))))
    }
}

#[test]
fn a_body_that_is_always_ready_and_has_no_events_leaves_its_thread_to_others() {
    assert!(on_one_thread(async {
        let mut world = World::new();
        let sent = world.send(ask("a"));
        let body = any(Comments);
        world.call().await.answer(event_stream(body));
        let reader = sent.stream().await;
        let topic = world.record.topic_of(&ask("a").into_parts().0).unwrap().unwrap();
        assert!(world.registry.cancel_producer(topic));
        drop(reader);
    }));
}

#[tokio::test]
async fn a_head_of_a_route_whose_gets_only_join_does_not_run_the_handler() {
    // The second example of the guide's chapter on recording.
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let answer = move |Path(_): Path<u64>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { event_stream(Body::from("data: Once\n\n")).into_response() }
    };
    let registry = Registry::new();
    let topic = |request: &Parts| Some(request.uri.path().strip_prefix('/')?.to_owned());
    let record = RecordLayer::by_topic(&registry, topic).join_only(|request: &Parts| request.method == Method::GET);
    let app: Router = Router::new()
        .route("/answers/{answer}", post(answer.clone()).get(answer))
        .layer(record)
        .layer(SseLayer::new(&registry));
    let get = Request::get("/answers/7").body(Body::empty()).unwrap();
    assert_eq!(app.clone().oneshot(get).await.unwrap().status(), StatusCode::NOT_FOUND);
    let head = Request::head("/answers/7").body(Body::empty()).unwrap();
    let status = app.oneshot(head).await.unwrap().status();
    assert_eq!((calls.load(Ordering::SeqCst), status), (0, StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn a_panic_in_the_event_of_a_failure_does_not_end_the_process() {
    // In a process of its own: a second panic while the first one unwinds aborts.
    if std::env::var_os("ABORTS").is_none() {
        let test = "handlers::a_panic_in_the_event_of_a_failure_does_not_end_the_process";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", test]).env("ABORTS", "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{}, {text}", output.status);
        return;
    }
    let mut world = World::with(RegistryConfig::default(), |record| {
        record.failed_event(|failure| panic!("no event for {failure}"))
    });
    let sent = world.send(ask("a"));
    let body = any(BodyExt::map_frame(http_body_util::Full::<Bytes>::from("data: 1\n\n"), |_| -> Frame<Bytes> {
        panic!("the body panics")
    }));
    world.call().await.answer(event_stream(body));
    let mut reader = sent.stream().await;
    assert_eq!(reader.end().await, End::Error);
}

#[tokio::test]
async fn a_request_that_a_limit_refuses_leaves_no_handler_running() {
    let registry = Registry::new();
    let record = RecordLayer::by_key(&registry, key);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<()>| {
        counted.fetch_add(1, Ordering::SeqCst);
        // An answer that takes for ever.
        let (frames, body) = channel();
        std::mem::forget(frames);
        async move { Ok::<_, Infallible>(event_stream(body)) }
    });
    // "Limit the rate of each user, too", says the guide. Clients of model APIs and curl do not accept an event stream by name.
    let limit = Limit::rate(1, Duration::from_secs(3600), 1);
    let app = SseLayer::new(&registry).limit(limit).layer(record.layer(handler));
    let mut statuses = Vec::new();
    for number in 0..5 {
        let response = within_20_s(app.clone().oneshot(ask(&number.to_string()))).await.unwrap();
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [200, 503, 503, 503, 503]);
    assert_eq!((calls.load(Ordering::SeqCst), record.running()), (1, 1), "handlers called, and still running");
}

#[test]
fn a_request_for_a_topic_whose_producer_has_just_begun_behind_a_backplane_does_not_block_its_thread() {
    assert!(
        on_one_thread(async {
            let registry = Registry::with_config(RegistryConfig::default().backplane(Memory::new()));
            registry.ready().await.unwrap();
            let mut world = World::of(registry.clone(), RecordLayer::by_topic(&registry, key));
            let producer = registry.start_producer("a").unwrap();
            let joined = world.send(ask("a"));
            tokio::time::timeout(Duration::from_secs(2), async {
                let _ = joined.response().await;
            })
            .await
            .expect("an answer");
            world.assert_not_called();
            producer.end();
        }),
        "the request never yields, so the node cannot read that the producer has begun"
    );
}

#[tokio::test]
async fn a_handler_that_has_not_answered_is_cancelled_and_all_that_wait_for_it_are_told() {
    let mut world = World::new();
    let first = world.send(ask("a"));
    let call = world.call().await;
    let second = world.send(ask("a"));
    tokio::task::yield_now().await;
    let topic = world.record.topic_of(&ask("a").into_parts().0).unwrap().unwrap();
    assert!(world.record.cancel(&topic) && !world.record.cancel(&topic));
    for sent in [first, second] {
        assert_eq!(sent.response().await.status(), StatusCode::GONE);
    }
    world.handlers.until(0).await;
    assert_eq!(world.record.running(), 0);
    drop(call);
    // The key is free.
    let (_frames, mut reader) = world.begin("a").await;
    assert!(world.record.cancel(&topic), "one that runs is cancelled, too");
    assert_eq!(reader.end().await, End::Error);
}

#[tokio::test]
async fn a_request_during_a_drain_runs_no_handler() {
    let mut world = World::new();
    let drain = tokio::spawn(world.registry.drain(Drain::within(Duration::from_secs(5))));
    tokio::task::yield_now().await;
    assert_eq!(world.send(ask("a")).response().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    world.assert_not_called();
    drop(drain);
}
