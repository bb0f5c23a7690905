//! Which requests have a key, and what is refused.

use http::{Request, StatusCode, request::Parts};
use http_body_util::BodyExt;
use tower_sse::{RecordError, RecordLayer, Registry, RegistryConfig, Subscription};

use crate::world::{World, event, post};

fn owner(request: &Parts) -> Option<String> {
    Some(request.headers.get("owner")?.to_str().ok()?.to_owned())
}

fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    headers.iter().fold(Request::post(path), |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
}

#[tokio::test]
async fn a_key_is_that_of_its_owner_and_path() {
    let registry = Registry::new();
    let mut world = World::of(registry.clone(), RecordLayer::by_idempotency_key(&registry, owner));
    let recordings = [
        ("/answers", "ada", "1"),
        ("/answers", "bob", "1"),
        ("/answers", "ada", "2"),
        ("/other", "ada", "1"),
        ("/answers", "ada/", "1"),
    ];
    let mut frames = Vec::new();
    for (path, owner, key) in recordings {
        let sent = world.send(request(path, &[("owner", owner), ("idempotency-key", key)]));
        frames.push(world.call().await.stream());
        sent.stream().await;
    }
    for ((path, owner, key), frames) in recordings.into_iter().zip(frames) {
        event(&frames, &format!("{path} {owner} {key}")).await;
        drop(frames);
        let mut again = request(path, &[("owner", owner), ("idempotency-key", key)]);
        *again.uri_mut() = format!("{path}?again").parse().unwrap();
        assert_eq!(world.join(again).await.whole().await, [format!("{path} {owner} {key}")]);
    }
    world.assert_not_called();
}

#[tokio::test]
async fn a_request_without_a_key_or_an_owner_is_not_recorded() {
    let registry = Registry::new();
    let mut world = World::of(registry.clone(), RecordLayer::by_idempotency_key(&registry, owner));
    for headers in [&[("owner", "ada")][..], &[("idempotency-key", "1")], &[]] {
        for _ in 0..2 {
            let sent = world.send(request("/answers", headers));
            let frames = world.call().await.stream();
            event(&frames, "1").await;
            drop(frames);
            let mut reader = sent.stream().await;
            reader.end().await;
            assert_eq!(
                (reader.text.as_str(), world.record.running()),
                ("data: 1\n\n", 0),
                "its bytes are the handler's"
            );
        }
    }
    assert_eq!(registry.stats().topics, 0);
}

#[tokio::test]
async fn an_invalid_key_is_a_typed_400_that_says_what_is_wrong() {
    let registry = Registry::new();
    let mut world = World::of(registry.clone(), RecordLayer::by_idempotency_key(&registry, owner));
    let long = "x".repeat(RecordLayer::MAX_KEY + 1);
    for key in ["", &long] {
        let response = world.send(request("/", &[("owner", "ada"), ("idempotency-key", key)])).response().await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let error = response.extensions().get::<RecordError>().unwrap().to_string();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), error);
        assert!(error.starts_with("the key of the request "), "{error}");
    }
    world.assert_not_called();
}

#[tokio::test]
async fn no_client_can_subscribe_to_a_recording_by_its_name_or_by_a_pattern() {
    let mut world = World::new();
    let (frames, first) = world.begin("a").await;
    let topic = world.record.topic_of(&post("a").into_parts().0).unwrap().unwrap();
    let client = world.registry.connect();
    assert!(client.subscribe(&topic).is_err());
    assert!(client.subscribe(Subscription::matching(topic.as_str())).is_err());
    assert!(world.registry.publish(&topic, tower_sse::Event::data("forged")).is_err());
    for pattern in ["**", "*/**", "*/key/*", "*/*/*"] {
        client.subscribe(Subscription::matching(pattern).from(tower_sse::Start::Oldest)).unwrap();
    }
    let mut events = client.into_events();
    event(&frames, "secret").await;
    drop(frames);
    assert_eq!(first.whole().await, ["secret"]);
    world.registry.publish("public", tower_sse::Event::data("seen")).unwrap();
    let delivery = tokio_stream::StreamExt::next(&mut events).await.unwrap().unwrap();
    assert_eq!(delivery.data().as_deref(), Some("seen"));
}

#[tokio::test]
async fn the_same_key_with_another_fingerprint_is_422_and_the_recording_goes_on() {
    let digest = |request: &Parts| Some(request.headers.get("digest")?.to_str().ok()?.to_owned());
    let mut world = World::with(RegistryConfig::default(), |record| record.fingerprint(digest));
    let with = |digest: &str| request("/answers", &[("key", "a"), ("digest", digest)]);
    let sent = world.send(with("one"));
    let call = world.call().await;
    assert_eq!(world.status(with("other")).await, StatusCode::UNPROCESSABLE_ENTITY, "before the head");
    let frames = call.stream();
    let first = sent.stream().await;
    assert_eq!(world.status(with("other")).await, StatusCode::UNPROCESSABLE_ENTITY);
    let same = [world.join(with("one")).await, world.join(post("a")).await];
    event(&frames, "1").await;
    drop(frames);
    assert_eq!(first.whole().await, ["1"]);
    for reader in same {
        assert_eq!(reader.whole().await, ["1"]);
    }
    assert_eq!(world.status(with("other")).await, StatusCode::UNPROCESSABLE_ENTITY, "after the end");
    world.assert_not_called();
}

#[tokio::test]
async fn one_recording_more_than_may_run_is_503_and_joining_is_not_limited() {
    let mut world = World::with(RegistryConfig::default(), |record| record.running_at_most(1));
    let (frames, first) = world.begin("a").await;
    let response = world.send(post("b")).response().await;
    assert_eq!(
        (response.status(), response.headers().contains_key("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    let joined = world.join(post("a")).await;
    drop(frames);
    first.whole().await;
    joined.whole().await;
    while world.record.running() > 0 {
        tokio::task::yield_now().await;
    }
    world.begin("b").await;
}
