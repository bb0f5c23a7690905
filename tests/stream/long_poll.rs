//! Long polls: responses that end by themselves. Poll by poll with paused time, and over sockets.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, SET_COOKIE},
};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::{Instant, advance, timeout};
use tower_sse::{
    Batching, ClientHandle, CloseReason, Delivery, Drain, Event, GapEvent, Heartbeat, Limit, LongPoll, Registry,
    RegistryConfig, Resume, Retention, SseBody, SseLayer, Start, Subscription,
};

use crate::{
    answer::answer,
    bodies::{self, AnyBody, event_stream},
    client::{Client, get},
    open::{Empty, open_at},
    polling::{Polled, fields, poll, publish, publish_id, quiet, rest, retaining},
    random::Random,
    test_server::{Frames, TestServer, app, handle_of, on_all, text, within},
};

const SECOND: Duration = Duration::from_secs(1);

fn layer(registry: &Registry) -> SseLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::off())
}

fn open(
    layer: &SseLayer,
    uri: &str,
    id: Option<&str>,
    handle: impl Fn(&ClientHandle),
) -> (ClientHandle, SseBody<Empty>) {
    let (client, response) = open_at(layer, uri, id, handle);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    (client, response.into_body())
}

fn to_a(client: &ClientHandle) {
    client.subscribe("a").unwrap();
}

fn from_oldest(client: &ClientHandle) {
    client.subscribe_from("a", Start::Oldest).unwrap();
}

fn position(id: impl std::fmt::Display) -> String {
    format!("event: position\ndata: \nid: {id}\n\n")
}

/// Everything until the end, which must be ready.
fn whole(body: &mut SseBody<Empty>) -> String {
    let (text, has_ended) = rest(body);
    assert!(has_ended, "{text:?} and no end");
    text
}

fn last_id(wire: &str) -> String {
    fields(wire, "id").last().expect("always with an id").to_string()
}

/// The data of the program's own events.
fn data(wire: &str) -> Vec<String> {
    fields(wire, "data").into_iter().filter(|data| !data.is_empty()).map(str::to_owned).collect()
}

mod a_poll {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_as_soon_as_it_has_sent_an_event() {
        let registry = Registry::new();
        let (client, mut body) = open(&layer(&registry), "/?wait=25", None, to_a);
        assert_eq!(rest(&mut body), (position(registry.position()), false), "it waits");
        advance(10 * SECOND).await;
        assert_eq!(poll(&mut body), Polled::Pending);
        let id = publish_id(&registry, "a", "x");
        assert_eq!(whole(&mut body), format!("data: x\nid: {id}\n\n"));
        assert_eq!(client.closed().await, CloseReason::PollEnded);
        assert_eq!(registry.stats().closed_streams, [(CloseReason::PollEnded, 1)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_its_time_is_over_with_an_id_to_ask_again() {
        for (uri, seconds) in [("/?wait=7", 7), ("/?wait=1000", 55), ("/?topic=a&wait=55", 55)] {
            let registry = Registry::new();
            let id = publish_id(&registry, "a", "before");
            let (_, mut body) = open(&layer(&registry), uri, None, to_a);
            assert_eq!(rest(&mut body), (position(&id), false));
            advance(seconds * SECOND - Duration::from_millis(1)).await;
            assert_eq!(poll(&mut body), Polled::Pending, "{uri}");
            advance(Duration::from_millis(1)).await;
            assert_eq!(poll(&mut body), Polled::End, "{uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_hello_and_no_events_is_hello_alone() {
        let registry = Registry::new();
        let (client, mut body) = open(&layer(&registry), "/?wait=5&hello=1", None, to_a);
        let (begin, _) = rest(&mut body);
        advance(5 * SECOND).await;
        assert_eq!(poll(&mut body), Polled::End);
        let expected = "{\"v\":1,\"heartbeat\":0,\"resumed\":\"fresh\",\"behind\":false,\"topics\":[\"a\"]}";
        assert_eq!(begin, format!("event: hello\ndata: {expected}\nid: {}\n\n", registry.position()));
        assert!(!begin.contains(&client.id().to_string()), "a cache may keep it");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_busy_topic_ends_although_there_is_always_one_event_more() {
        let registry = Registry::new();
        let (_, mut body) = open(&layer(&registry), "/?wait=1", None, to_a);
        let mut frames = 0;
        loop {
            publish(&registry, "a", "x");
            advance(Duration::from_millis(10)).await;
            match poll(&mut body) {
                Polled::Frame(_) => frames += 1,
                Polled::End => break,
                Polled::Pending => panic!("an event is there"),
            }
            assert!(frames < 1000, "it does not end");
        }
        assert!(frames > 100, "{frames}: it has waited");
    }

    #[tokio::test(start_paused = true)]
    async fn gets_heartbeats_while_it_waits() {
        let registry = Registry::new();
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(SECOND));
        let (_, mut body) = open(&layer, "/?wait=5", None, to_a);
        let mut all = rest(&mut body).0;
        for _ in 0..50 {
            advance(SECOND / 10).await;
            all.push_str(&rest(&mut body).0);
        }
        assert_eq!(poll(&mut body), Polled::End);
        assert!(all.matches(":\n\n").count() >= 4, "{all}");
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_delayed_by_batching() {
        let registry = Registry::new();
        let layer = layer(&registry).batching(Batching::every(10 * SECOND));
        let (_, mut body) = open(&layer, "/?wait=25", None, to_a);
        assert_eq!(rest(&mut body), (position(registry.position()), false));
        publish(&registry, "a", "x");
        assert_eq!(data(&whole(&mut body)), ["x"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_new_client_ends_with_its_snapshot_or_its_welcome() {
        let registry = Registry::new();
        let id = publish_id(&registry, "a", "x");
        let snapshot = |client: &ClientHandle| {
            to_a(client);
            let position = registry.position();
            drop(client.clone().into_stream().snapshot(Event::data("all"), position));
        };
        let welcome = |client: &ClientHandle| {
            to_a(client);
            client.send(Event::data("all")).unwrap();
        };
        let (_, mut with_snapshot) = open(&layer(&registry), "/?wait=25", None, snapshot);
        let (_, mut with_welcome) = open(&layer(&registry), "/?wait=25", None, welcome);
        for body in [&mut with_snapshot, &mut with_welcome] {
            let wire = whole(body);
            assert_eq!(data(&wire), ["all"]);
            last_id(&wire);
        }
        // Otherwise the client would ask again and again without a pause.
        let (_, mut with_snapshot) = open(&layer(&registry), "/?wait=25", Some(&id), snapshot);
        let (_, mut with_welcome) = open(&layer(&registry), "/?wait=25", Some(&id), welcome);
        for body in [&mut with_snapshot, &mut with_welcome] {
            let (wire, has_ended) = rest(body);
            assert_eq!((data(&wire), has_ended), (vec!["all".to_owned()], false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn wakes_the_task_that_polls_it_now() {
        let registry = Registry::new();
        let (_, mut body) = open(&layer(&registry), "/?wait=5", None, to_a);
        // This waker wakes nobody.
        assert_eq!(rest(&mut body), (position(registry.position()), false));
        let begun = Instant::now();
        let frame = tokio::spawn(async move { body.frame().await.is_none() });
        assert!(timeout(60 * SECOND, frame).await.expect("it ends").unwrap());
        assert_eq!(begun.elapsed(), 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn has_no_farewell_unless_it_ends_for_another_reason() {
        let registry = Registry::new();
        let layer = layer(&registry).farewell(|_, reason| Some(Event::data(reason.as_str())));
        let (_, mut body) = open(&layer, "/?wait=5", None, to_a);
        rest(&mut body);
        publish(&registry, "a", "x");
        assert_eq!(data(&whole(&mut body)), ["x"]);
        let (client, mut body) = open(&layer, "/?wait=5", None, to_a);
        rest(&mut body);
        client.close();
        assert_eq!(data(&whole(&mut body)), ["by_server"]);
        let (_, mut body) = open(&layer, "/?wait=5", None, to_a);
        rest(&mut body);
        let drain = tokio::spawn({
            let registry = registry.clone();
            async move { registry.drain(Drain::within(Duration::ZERO)).await }
        });
        crate::polling::settle().await;
        let end = whole(&mut body);
        assert_eq!(data(&end), ["drained"]);
        drop(body);
        drain.await.unwrap();
    }
}

mod no_wait {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_all_that_was_missed_and_ends() {
        let registry = Registry::new();
        let id = publish_id(&registry, "a", "seen");
        let large = "x".repeat(30_000);
        let missed: Vec<String> = (0..20).map(|n| format!("{n} {large}")).collect();
        missed.iter().for_each(|data| publish(&registry, "a", data));
        let (client, mut body) = open(&layer(&registry), "/?wait=0", Some(&id), to_a);
        assert_eq!(client.resume(), Resume::Continued);
        let got = whole(&mut body);
        assert_eq!(data(&got), missed);
        assert_eq!(last_id(&got), registry.position().to_string());
        let (_, mut body) = open(&layer(&registry), "/?wait=0", Some(&last_id(&got)), to_a);
        assert_eq!(whole(&mut body), position(last_id(&got)), "nothing: a 200 with the same id");
    }

    #[tokio::test(start_paused = true)]
    async fn tells_a_new_client_its_position() {
        let registry = Registry::new();
        let (_, mut body) = open(&layer(&registry), "/?wait=0", None, to_a);
        assert_eq!(whole(&mut body), position(registry.position()));
    }
}

mod the_id {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_there_although_the_layer_sends_no_position_event() {
        let registry = Registry::new();
        let layer = quiet(&registry);
        let (_, mut body) = open(&layer, "/?wait=0", None, to_a);
        assert_eq!(whole(&mut body), position(registry.position()));
    }

    #[tokio::test(start_paused = true)]
    async fn is_there_after_a_gap_that_the_client_is_not_told_of() {
        let registry = retaining(1);
        let id = publish_id(&registry, "a", "seen");
        ["lost", "kept"].iter().for_each(|data| publish(&registry, "a", data));
        let layer = quiet(&registry).gap_event(GapEvent::off());
        for id in [&*id, "nobody's"] {
            let (_, mut body) = open(&layer, "/?wait=9", Some(id), to_a);
            assert_eq!(last_id(&whole(&mut body)), registry.position().to_string());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn moves_over_events_that_a_filter_held_back() {
        let registry = Registry::new();
        let nothing = |_: &Delivery, _: &ClientHandle| false;
        let hides = |client: &ClientHandle| client.subscribe(Subscription::to("a").filter(nothing)).unwrap();
        for layer in [layer(&registry), quiet(&registry)] {
            let (_, mut body) = open(&layer, "/?wait=3", None, hides);
            rest(&mut body);
            (0..2_000).for_each(|_| publish(&registry, "a", "hidden"));
            assert_eq!(rest(&mut body), (String::new(), false), "nothing is sent, so it waits");
            advance(3 * SECOND).await;
            assert_eq!(whole(&mut body), position(registry.position()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_absent_without_a_subscription() {
        let registry = Registry::new();
        let (_, mut body) = open(&layer(&registry), "/?wait=3", None, |client| {
            drop(client.clone().into_stream());
        });
        assert_eq!(rest(&mut body), (String::new(), false));
        advance(3 * SECOND).await;
        assert_eq!(whole(&mut body), "");
    }

    /// Random events between and during polls of random waits, on topics with different starts.
    #[tokio::test(start_paused = true)]
    async fn leads_from_poll_to_poll_without_loss_and_without_repetition() {
        for seed in 0..50 {
            let mut random = Random(seed);
            let registry = Registry::new();
            let layer = layer(&registry);
            let mut published = Vec::new();
            let mut publish_some = |registry: &Registry, most: u64, random: &mut Random| {
                for _ in 0..random.below(most) {
                    let event = format!("event {}", published.len());
                    publish(registry, ["a", "b"][random.below(2) as usize], &event);
                    published.push(event);
                }
            };
            publish_some(&registry, 5, &mut random);
            let subscribe = |client: &ClientHandle| {
                from_oldest(client);
                client.subscribe_from("b", Start::Oldest).unwrap();
            };
            let (mut id, mut got) = (None, Vec::new());
            for _ in 0..20 {
                publish_some(&registry, 4, &mut random);
                let uri = format!("/?wait={}", random.below(3));
                let (_, mut body) = open(&layer, &uri, id.as_deref(), subscribe);
                let mut wire = String::new();
                loop {
                    match poll(&mut body) {
                        Polled::Frame(text) => wire.push_str(&text),
                        Polled::Pending => {
                            publish_some(&registry, 2, &mut random);
                            advance(SECOND / 2).await;
                        }
                        Polled::End => break,
                    }
                }
                id = Some(last_id(&wire));
                got.extend(data(&wire));
            }
            let (_, mut body) = open(&layer, "/?wait=0", id.as_deref(), subscribe);
            got.extend(data(&whole(&mut body)));
            assert_eq!(got, published, "seed {seed}");
        }
    }
}

mod a_handlers_own_body {
    use super::*;

    fn own(layer: &SseLayer, uri: &str, subscribes: bool) -> (Frames, Response<SseBody<AnyBody>>) {
        let (frames, body) = bodies::channel();
        let (_, response) = answer(layer, Request::get(uri).body(()).unwrap(), |client| {
            if subscribes {
                to_a(client);
            }
            event_stream(body)
        });
        (frames, response)
    }

    fn frame(text: &'static str) -> Result<Frame<Bytes>, bodies::AnyError> {
        Ok(Frame::data(text.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_subscription_ignores_the_wait() {
        let registry = Registry::new();
        let (frames, response) = own(&layer(&registry), "/?wait=1", false);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache, no-transform");
        let mut body = response.into_body();
        frames.send(frame("data: 1\n\n")).await.unwrap();
        advance(100 * SECOND).await;
        assert_eq!(rest(&mut body), ("data: 1\n\n".to_owned(), false));
        frames.send(frame("data: 2\n\n")).await.unwrap();
        assert_eq!(rest(&mut body), ("data: 2\n\n".to_owned(), false));
        drop(frames);
        assert_eq!(poll(&mut body), Polled::End);
    }

    #[tokio::test(start_paused = true)]
    async fn is_sent_as_far_as_it_is_ready() {
        let registry = Registry::new();
        let (frames, response) = own(&layer(&registry), "/?wait=0", true);
        frames.send(frame("data: 1\n\n")).await.unwrap();
        frames.send(frame("data: 2\n\n")).await.unwrap();
        let (text, has_ended) = rest(&mut response.into_body());
        assert_eq!((data(&text), has_ended), (vec!["1".to_owned(), "2".to_owned()], true));
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_cut_in_the_middle_of_an_event() {
        let registry = Registry::new();
        let (frames, response) = own(&layer(&registry), "/?wait=1", true);
        let mut body = response.into_body();
        frames.send(frame("data: hal")).await.unwrap();
        assert!(rest(&mut body).0.ends_with("data: hal"));
        publish(&registry, "a", "x");
        advance(100 * SECOND).await;
        assert_eq!(poll(&mut body), Polled::Pending);
        frames.send(frame("f\n\n")).await.unwrap();
        let (text, has_ended) = rest(&mut body);
        assert!(has_ended && text.starts_with("f\n\ndata: x\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn that_always_has_more_does_not_keep_the_poll_open() {
        struct Endless;
        impl http_body::Body for Endless {
            type Data = Bytes;
            type Error = Infallible;

            fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: more\n\n")))))
            }
        }
        let registry = Registry::new();
        let (_, response) = answer(&layer(&registry), Request::get("/?wait=1").body(()).unwrap(), |client| {
            to_a(client);
            event_stream(Endless)
        });
        let mut body = response.into_body();
        for _ in 0..1000 {
            assert!(matches!(poll(&mut body), Polled::Frame(_)), "its time is not over");
        }
        advance(SECOND).await;
        let frames = (0..1000).take_while(|_| poll(&mut body) != Polled::End).count();
        assert!(frames < 100, "{frames}");
    }

    #[tokio::test(start_paused = true)]
    async fn that_is_compressed_ignores_the_wait() {
        let registry = Registry::new();
        let (_, response) = answer(&layer(&registry), Request::get("/?wait=1").body(()).unwrap(), |client| {
            to_a(client);
            let mut response = event_stream(bodies::channel().1);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        });
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache, no-transform");
    }
}

mod the_layer {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bounds_polls_or_turns_them_off() {
        let registry = Registry::new();
        let short = layer(&registry).long_poll(LongPoll::at_most(2 * SECOND));
        let (_, mut body) = open(&short, "/?wait=50", None, to_a);
        rest(&mut body);
        advance(2 * SECOND).await;
        assert_eq!(poll(&mut body), Polled::End);
        let (_, response) = open_at(&layer(&registry).long_poll(LongPoll::off()), "/?wait=0", None, to_a);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache, no-transform");
        let mut body = response.into_body();
        publish(&registry, "a", "x");
        advance(100 * SECOND).await;
        assert!(!rest(&mut body).1, "a stream");
    }

    #[test]
    fn lets_a_cache_keep_a_poll_only_by_choice() {
        let registry = Registry::new();
        let caching = |layer: &SseLayer, uri: &str, id: Option<&str>| {
            open_at(layer, uri, id, to_a).1.headers()[CACHE_CONTROL].to_str().unwrap().to_owned()
        };
        let public = layer(&registry).cache_polls(SECOND);
        assert_eq!(caching(&layer(&registry), "/?wait=0", None), "no-store");
        assert_eq!(caching(&layer(&registry).no_store(), "/?wait=0", None), "no-store");
        assert_eq!(caching(&public, "/?wait=0", None), "public, max-age=1");
        assert_eq!(caching(&public, "/?wait=0&lastEventId=1-0", None), "public, max-age=1");
        assert_eq!(caching(&public, "/?wait=0", Some("1-0")), "no-store", "a cache does not see the header");
        assert_eq!(caching(&public, "/", None), "no-cache, no-transform");
        let with = |name: http::HeaderName, value: &'static str| {
            let request = Request::get("/?wait=0").body(()).unwrap();
            let (_, response) = answer(&public, request, |client| {
                to_a(client);
                let mut response = event_stream(Empty::new());
                response.headers_mut().insert(name, HeaderValue::from_static(value));
                response
            });
            response.headers()[CACHE_CONTROL].clone()
        };
        assert_eq!(with(SET_COOKIE, "session=1"), "no-store");
        assert_eq!(with(CACHE_CONTROL, "private"), "private", "a header of the handler wins");
    }

    #[test]
    fn answers_a_head_with_the_headers_of_the_poll() {
        let registry = Registry::new();
        let request = Request::head("/?wait=9").body(()).unwrap();
        let (_, response) = answer(&layer(&registry), request, |client| {
            to_a(client);
            event_stream(Empty::new())
        });
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(rest(&mut response.into_body()), (String::new(), true));
    }

    #[tokio::test(start_paused = true)]
    async fn counts_a_poll_as_a_stream_while_it_waits() {
        let registry = Registry::new();
        let limit = Limit::streams(1);
        let layer = layer(&registry).limit(limit.clone());
        let (_, mut body) = open(&layer, "/?wait=5", None, to_a);
        rest(&mut body);
        assert_eq!((limit.open_streams(), registry.stats().clients), (1, 1));
        let (_, refused) = open_at(&layer, "/?wait=5", None, to_a);
        assert_eq!(refused.status(), 503);
        advance(5 * SECOND).await;
        assert_eq!(poll(&mut body), Polled::End);
        drop(body);
        assert_eq!((limit.open_streams(), registry.stats().clients), (0, 0));
    }
}

#[test]
fn a_poll_of_topics_that_have_ended_is_a_204_and_a_poll_without_events_is_none() {
    let registry = Registry::new();
    let layer = layer(&registry);
    let producer = registry.start_producer("a").unwrap();
    producer.publish(Event::data("whole")).unwrap();
    let poll = |id: Option<&str>| {
        let mut request = Request::get("/?wait=0");
        if let Some(id) = id {
            request = request.header("last-event-id", id);
        }
        answer(&layer, request.body(()).unwrap(), |client| {
            from_oldest(client);
            client.clone().into_stream().into_response::<Empty>()
        })
        .1
    };
    let first = whole(&mut poll(None).into_body());
    assert_eq!(data(&first), ["whole"]);
    let nothing = poll(Some(&last_id(&first)));
    assert_eq!(nothing.status(), 200);
    assert_eq!(whole(&mut nothing.into_body()), position(last_id(&first)));
    producer.end();
    assert_eq!(poll(Some(&last_id(&first))).status(), 204);
}

/// A program that polls gets every event once, over one connection, as each response ends cleanly.
#[tokio::test]
async fn polls_over_a_socket_reuse_the_connection_and_miss_nothing() {
    on_all(async |server, version| {
        let registry =
            Registry::with_config(RegistryConfig::default().topic_retention(Retention::default().events(1_000)));
        let app = app(&layer(&registry), |request| {
            let client = handle_of(&request);
            from_oldest(&client);
            std::future::ready(client.into_stream().into_response())
        });
        let server = TestServer::open(server, app).await;
        let mut client = Client::connect(server.address, version).await;
        let (mut id, mut got) = (String::new(), Vec::new());
        let expected: Vec<String> = (0..200).map(|n| format!("event {n}")).collect();
        let publisher = tokio::spawn({
            let (registry, expected) = (registry.clone(), expected.clone());
            async move {
                for event in &expected {
                    publish(&registry, "a", event);
                    tokio::task::yield_now().await;
                }
            }
        });
        while got.len() < expected.len() {
            let response = within(client.send(get(&format!("/?wait=25&lastEventId={id}")))).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            let wire = text(response).await;
            id = last_id(&wire);
            got.extend(data(&wire));
        }
        publisher.await.unwrap();
        assert_eq!(got, expected);
        // A poll that nobody reads any more is a stream that somebody left.
        let response = within(client.send(get(&format!("/?wait=50&lastEventId={id}")))).await.unwrap();
        drop(response);
        drop(client);
        crate::test_server::until(|| registry.stats().clients == 0).await;
    })
    .await;
}
