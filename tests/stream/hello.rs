//! The events `hello` and `live`, for clients that ask for them. Poll by poll, and over sockets.

use std::time::Duration;

use http::{HeaderValue, Request, header::CONTENT_ENCODING};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower_layer::Layer;
use tower_sse::{
    ClientHandle, Delivery, Event, GapEvent, Heartbeat, HelloEvent, PositionEvent, Registry, Resume, SseBody, SseLayer,
    Start, Subscription,
};

use crate::{
    answer::answer,
    bodies::{self, event_stream},
    client::{Client, get},
    open::{Empty, open_at},
    polling::{Polled, fields, poll, publish, publish_id, quiet, received, rest, retaining, text},
    test_server::{App, TestServer, app, handle_of, on_all, within},
};

const ASKS: &str = "/events?hello=1";

fn layer(registry: &Registry) -> SseLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::off())
}

fn open(layer: &SseLayer, id: Option<&str>, handle: impl Fn(&ClientHandle)) -> (ClientHandle, SseBody<Empty>) {
    let (client, response) = open_at(layer, ASKS, id, handle);
    (client, response.into_body())
}

fn to(topic: &'static str) -> impl Fn(&ClientHandle) {
    move |client| client.subscribe(topic).unwrap()
}

fn from_oldest(topic: &'static str) -> impl Fn(&ClientHandle) {
    move |client| client.subscribe_from(topic, Start::Oldest).unwrap()
}

/// Reads the first block, which has to be a hello event. Returns its data, its id, and what comes in the same frame.
fn hello(body: &mut SseBody<Empty>) -> (Value, Option<String>, String) {
    let Polled::Frame(wire) = poll(body) else { panic!("the stream does not begin") };
    parse(&wire)
}

fn parse(wire: &str) -> (Value, Option<String>, String) {
    let (block, rest) = wire.split_once("\n\n").expect("a whole block");
    assert_eq!(fields(block, "event"), ["hello"], "{wire}");
    let data = serde_json::from_str(fields(block, "data")[0]).expect("JSON");
    (data, fields(block, "id").first().map(|id| (*id).to_owned()), rest.to_owned())
}

/// The event types that are ready.
fn types(wire: &str) -> Vec<&str> {
    wire.split_terminator("\n\n").map(|block| fields(block, "event").first().copied().unwrap_or("message")).collect()
}

const LIVE: &str = "event: live\ndata: \n\n";

mod a_new_client {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_told_where_it_stands_in_the_first_event() {
        let registry = Registry::new();
        let before = publish_id(&registry, "a", "before");
        let layer = SseLayer::new(&registry)
            .heartbeat(Heartbeat::every(Duration::from_millis(2500)))
            .hello_event(HelloEvent::default().control("/sse/topics"));
        let (client, mut body) = open(&layer, None, |client| {
            client.subscribe("a").unwrap();
            client.subscribe(Subscription::matching("b/*")).unwrap();
        });
        let (data, id, rest) = hello(&mut body);
        let expected = json!({
            "v": 1, "client": client.id().to_string(), "heartbeat": 2500, "resumed": "fresh", "behind": false,
            "topics": ["a", "b/*"], "control": "/sse/topics",
        });
        assert_eq!(data, expected);
        assert_eq!(id, Some(before));
        assert_eq!(rest, LIVE, "nothing was there, and there is no position event");
        publish(&registry, "a", "x");
        assert_eq!(received(&mut body), ["x"]);
    }

    #[test]
    fn that_does_not_ask_gets_nothing_of_it() {
        let registry = Registry::new();
        publish(&registry, "a", "there");
        let turned_off = layer(&registry).hello_event(HelloEvent::off());
        for (layer, uri) in [(layer(&registry), "/"), (layer(&registry), "/?hello=0"), (turned_off, ASKS)] {
            let (_, response) = open_at(&layer, uri, None, from_oldest("a"));
            assert_eq!(types(&text(&mut response.into_body())), ["position", "message"], "{uri}");
        }
    }

    #[test]
    fn that_is_cut_off_after_hello_misses_nothing() {
        let registry = Registry::new();
        publish(&registry, "late", "there");
        let subscribe = |client: &ClientHandle| {
            client.subscribe("a").unwrap();
            client.subscribe_from("late", Start::Oldest).unwrap();
        };
        let (_, mut body) = open(&layer(&registry), None, subscribe);
        let (_, id, _) = hello(&mut body);
        drop(body);
        publish(&registry, "a", "meanwhile");
        let (client, mut body) = open(&layer(&registry), id.as_deref(), subscribe);
        assert_eq!(client.resume(), Resume::Continued);
        let (data, again, _) = hello(&mut body);
        assert_eq!((&data["resumed"], again), (&json!("continued"), id));
        let mut got = received(&mut body);
        got.retain(|data| !data.is_empty());
        got.sort_unstable();
        assert_eq!(got, ["meanwhile", "there"]);
    }

    #[test]
    fn has_an_id_although_the_position_event_is_off() {
        let registry = Registry::new();
        let layer = quiet(&registry);
        let (_, mut body) = open(&layer, None, to("a"));
        assert_eq!(hello(&mut body).1, Some(registry.position().to_string()));
    }

    #[test]
    fn gets_what_was_sent_to_it_alone_after_hello() {
        let registry = Registry::new();
        let (_, mut body) = open(&layer(&registry), None, |client| {
            client.subscribe("a").unwrap();
            client.send(Event::data("welcome").event("own")).unwrap();
        });
        let whole = text(&mut body);
        assert_eq!(types(&whole), ["hello", "own", "live"]);
        let (data, ..) = parse(&whole);
        assert_eq!(data["topics"], json!(["a"]), "its own topic is secret");
    }

    #[test]
    fn gets_the_comments_and_the_reconnection_time_before_hello() {
        let registry = Registry::new();
        let layer = layer(&registry).opening_comment("x").reconnect_delay(Duration::from_secs(1));
        let (_, mut body) = open(&layer, None, to("a"));
        let whole = text(&mut body);
        let (begin, rest) = whole.split_at(whole.find("event: hello\n").unwrap());
        assert!(begin.starts_with(": x\nretry: ") && begin.ends_with("\n\n"), "{begin:?}");
        parse(rest);
    }

    #[test]
    fn gets_topics_of_any_text_as_json_in_one_line() {
        let registry = Registry::new();
        let names = ["a\"b", "c\\", "{}]", "ü\u{2028}\u{1F600}", "id: 7"];
        let (_, mut body) = open(&layer(&registry), None, |client| {
            names.iter().for_each(|name| client.subscribe(*name).unwrap());
        });
        assert_eq!(hello(&mut body).0["topics"], json!(names));
    }
}

mod a_client_that_resumes {
    use super::*;

    #[test]
    fn is_told_of_a_gap_and_keeps_its_id_until_the_gap_event() {
        let registry = retaining(1);
        let id = publish_id(&registry, "a", "seen");
        ["lost", "kept"].iter().for_each(|data| publish(&registry, "a", data));
        let (_, mut body) = open(&layer(&registry), Some(&id), to("a"));
        let whole = text(&mut body);
        let (data, hello_id, others) = parse(&whole);
        assert_eq!((&data["resumed"], &data["behind"]), (&json!("gap"), &json!(true)));
        assert_eq!(hello_id, None, "no id may skip the gap");
        assert_eq!(types(&others), ["gap", "message", "live"]);
    }

    #[test]
    fn is_told_of_an_id_that_nobody_knows() {
        let registry = Registry::new();
        publish(&registry, "a", "x");
        for layer in [layer(&registry), layer(&registry).gap_event(GapEvent::off())] {
            let (_, mut body) = open(&layer, Some("nobody's"), to("a"));
            let whole = text(&mut body);
            assert_eq!(parse(&whole).0["resumed"], "gap");
            assert_eq!(types(&whole).last(), Some(&"live"));
            assert_eq!(fields(&whole, "id").last(), Some(&&*registry.position().to_string()));
        }
    }

    #[test]
    fn gets_a_snapshot_with_its_id_after_hello_without_one() {
        let registry = retaining(1);
        let old = publish_id(&registry, "a", "seen");
        ["lost", "kept"].iter().for_each(|data| publish(&registry, "a", data));
        for (id, resumed) in [(None, "fresh"), (Some(&*old), "continued")] {
            let (_, mut body) = open(&layer(&registry), id, |client| {
                client.subscribe("a").unwrap();
                let snapshot = Event::data("all").event("snapshot");
                drop(client.clone().into_stream().snapshot(snapshot, registry.position()));
            });
            let whole = text(&mut body);
            let (data, hello_id, others) = parse(&whole);
            assert_eq!((&data["resumed"], hello_id), (&json!(resumed), None), "the client has no snapshot yet");
            assert_eq!(types(&others), ["snapshot", "live"]);
            assert_eq!(fields(&others, "id"), [registry.position().to_string()]);
        }
    }
}

mod live {
    use super::*;

    #[test]
    fn comes_once_after_all_that_was_there() {
        let registry = Registry::new();
        let large = "x".repeat(40_000);
        (0..5).for_each(|n| publish(&registry, "a", &format!("{n} {large}")));
        let (_, mut body) = open(&layer(&registry), None, from_oldest("a"));
        let mut seen = Vec::new();
        loop {
            match poll(&mut body) {
                Polled::Frame(wire) => seen.push(wire),
                Polled::Pending => break,
                Polled::End => panic!("the stream has ended"),
            }
        }
        assert_eq!(parse(&seen[0]).0["behind"], true);
        assert!(seen.len() > 4, "several frames");
        let all = seen.concat();
        assert_eq!(types(&all), ["hello", "message", "message", "message", "message", "message", "live"]);
        assert_eq!(seen.last().map(String::as_str), Some(LIVE));
        publish(&registry, "a", "later");
        assert_eq!(types(&text(&mut body)), ["message"]);
    }

    #[test]
    fn does_not_wait_for_events_that_came_later() {
        let registry = Registry::new();
        let large = "x".repeat(70_000);
        publish(&registry, "a", "there");
        publish(&registry, "a", &large);
        let (_, mut body) = open(&layer(&registry), None, from_oldest("a"));
        hello(&mut body);
        let mut after = None;
        for n in 0..100 {
            publish(&registry, "a", &large);
            let Polled::Frame(wire) = poll(&mut body) else { panic!("an event is there") };
            if wire == LIVE {
                after = Some(n);
                break;
            }
        }
        assert!(after.is_some(), "a stream that always has events gets it too");
    }

    #[test]
    fn comes_with_the_position_if_filters_held_back_all_that_was_there() {
        let registry = Registry::new();
        (0..100).for_each(|_| publish(&registry, "a", "hidden"));
        let nothing = |_: &Delivery, _: &ClientHandle| false;
        let (_, mut body) = open(&layer(&registry), None, |client| {
            client.subscribe(Subscription::to("a").from(Start::Oldest).filter(nothing)).unwrap();
        });
        let (data, ..) = hello(&mut body);
        assert_eq!(data["behind"], true);
        assert_eq!(text(&mut body), format!("event: live\ndata: \nid: {}\n\n", registry.position()));
        assert_eq!(poll(&mut body), Polled::Pending);
    }

    #[test]
    fn comes_before_the_end_of_a_stream_whose_topics_have_ended() {
        let registry = Registry::new();
        let producer = registry.start_producer("answer").unwrap();
        producer.publish(Event::data("whole")).unwrap();
        producer.end();
        let (_, mut body) = open(&layer(&registry), None, from_oldest("answer"));
        let (whole, has_ended) = rest(&mut body);
        assert!(has_ended);
        assert_eq!(types(&whole), ["hello", "message", "live", "position"]);
    }

    #[test]
    fn comes_to_a_client_that_is_closed_while_it_reads() {
        let registry = Registry::new();
        let large = "x".repeat(70_000);
        (0..3).for_each(|_| publish(&registry, "a", &large));
        let (client, mut body) = open(&layer(&registry), None, from_oldest("a"));
        hello(&mut body);
        assert!(matches!(poll(&mut body), Polled::Frame(_)));
        client.close();
        let (wire, has_ended) = rest(&mut body);
        assert!(has_ended);
        assert_eq!(types(&wire), ["message", "message", "live"], "a closed client still gets all that was there");
    }
}

mod a_handlers_own_body {
    use super::*;

    /// Everything of a body of the handler's own.
    fn own(subscribes: bool, encoding: Option<&'static str>) -> String {
        let registry = Registry::new();
        let (frames, body) = bodies::channel();
        frames.try_send(Ok(Frame::data("event: hello\ndata: of an upstream\n\n".into()))).unwrap();
        let (_, response) = answer(&layer(&registry), Request::get(ASKS).body(()).unwrap(), |client| {
            if subscribes {
                client.subscribe("a").unwrap();
            }
            let mut response = event_stream(body);
            if let Some(encoding) = encoding {
                response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            response
        });
        drop(frames);
        rest(&mut response.into_body()).0
    }

    const OWN: &str = "event: hello\ndata: of an upstream\n\n";

    #[test]
    fn without_a_subscription_says_hello_itself() {
        assert_eq!(own(false, None), OWN);
    }

    #[test]
    fn beside_a_subscription_comes_after_hello() {
        let whole = own(true, None);
        let (data, id, others) = parse(&whole);
        assert_eq!((&data["topics"], id.is_some()), (&json!(["a"]), true));
        assert_eq!(others, format!("{LIVE}{OWN}"));
    }

    #[test]
    fn that_is_compressed_gets_nothing() {
        assert_eq!(own(true, Some("gzip")), OWN);
    }
}

#[test]
fn a_stream_that_is_kept_open_without_a_subscription_gets_hello_without_an_id() {
    let registry = Registry::new();
    for (id, resumed) in [(None, Some(&json!("fresh"))), (Some("1-0"), None)] {
        let (client, mut body) = open(&layer(&registry), id, |client| drop(client.clone().into_stream()));
        let (data, id, others) = hello(&mut body);
        assert_eq!((data.get("resumed"), &data["topics"], id), (resumed, &json!([]), None));
        assert_eq!(others, LIVE);
        client.subscribe("a").unwrap();
        publish(&registry, "a", "x");
        assert_eq!(received(&mut body), ["x"]);
    }
}

#[test]
fn nested_layers_say_hello_once_with_the_inner_configuration() {
    let registry = Registry::new();
    let outer = layer(&registry).hello_event(HelloEvent::default().control("/outer"));
    let inner = layer(&registry).hello_event(HelloEvent::default().control("/inner"));
    let service = tower::service_fn(|request: Request<()>| async move {
        handle_of(&request).subscribe("a").unwrap();
        Ok::<_, std::convert::Infallible>(event_stream(Empty::new()))
    });
    let mut service = outer.layer(inner.layer(service));
    let answer = tower::Service::call(&mut service, Request::get(ASKS).body(()).unwrap());
    let mut body = tokio_test::block_on(answer).unwrap().into_body();
    let whole = text(&mut body);
    assert_eq!(types(&whole), ["hello", "live"]);
    assert_eq!(parse(&whole).0["control"], "/inner");
}

fn subscribed(layer: &SseLayer) -> App {
    app(layer, |request| {
        let client = handle_of(&request);
        client.subscribe("a").unwrap();
        std::future::ready(client.into_stream().into_response())
    })
}

#[tokio::test]
async fn hello_comes_at_once_over_a_socket_and_its_id_resumes() {
    on_all(async |server, version| {
        let registry = Registry::new();
        // Without heartbeats, and without a position event.
        let layer = layer(&registry).position_event(PositionEvent::off());
        let server = TestServer::open(server, subscribed(&layer)).await;
        let mut client = Client::connect(server.address, version).await;
        let mut response = within(client.send(get(ASKS))).await.unwrap();
        let first = within(response.frame()).await.unwrap().unwrap().into_data().unwrap();
        let (data, id, _) = parse(std::str::from_utf8(&first).unwrap());
        assert_eq!(data["client"], registry.clients()[0].id().to_string());
        drop(response);
        drop(client);
        publish(&registry, "a", "missed");
        let mut client = Client::connect(server.address, version).await;
        let mut request = get(ASKS);
        request.headers_mut().insert("last-event-id", id.unwrap().parse().unwrap());
        let mut response = within(client.send(request)).await.unwrap();
        let mut all = String::new();
        while !all.contains("event: live\n") {
            let data = within(response.frame()).await.unwrap().unwrap().into_data().unwrap();
            all.push_str(std::str::from_utf8(&data).unwrap());
        }
        assert_eq!(types(&all), ["hello", "message", "live"]);
        assert!(all.contains("data: missed\n"));
    })
    .await;
}

mod a_client_that_gets_arrays {
    use super::*;
    use tower_sse::Batching;

    /// The entries of the first array in these bytes, and the id of that array.
    fn array(wire: &str) -> (Vec<Value>, String) {
        let block = wire.split("\n\n").find(|block| fields(block, "event") == ["batch"]).expect("an array");
        (serde_json::from_str(fields(block, "data")[0]).expect("JSON"), fields(block, "id")[0].to_owned())
    }

    fn arrays(registry: &Registry) -> SseLayer {
        layer(registry).batching(Batching::every(Duration::from_millis(20)).as_array())
    }

    #[tokio::test(start_paused = true)]
    async fn has_the_id_of_each_entry_if_it_asked_for_hello() {
        let registry = Registry::new();
        for (uri, has_ids) in [(ASKS, true), ("/?wait=5&hello=1", true), ("/", false), ("/?hello=0", false)] {
            let (_, response) = open_at(&arrays(&registry), uri, None, to("a"));
            let mut body = response.into_body();
            drop(text(&mut body));
            let ids = ["1", "2"].map(|data| publish_id(&registry, "a", data));
            registry.publish("a", Event::data("3").id("the \"third\"").unwrap()).unwrap();
            let (entries, id) = array(&rest(&mut body).0);
            let expected = [&ids[0], &ids[1], &"the \"third\"".to_owned()].map(|id| has_ids.then(|| json!(id)));
            assert_eq!(entries.iter().map(|entry| entry.get("id").cloned()).collect::<Vec<_>>(), expected, "{uri}");
            assert_eq!(id, "the \"third\"");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn resumes_after_the_id_of_any_entry() {
        let registry = Registry::new();
        let both = |client: &ClientHandle| {
            client.subscribe("a").unwrap();
            client.subscribe_from("late", Start::Oldest).unwrap();
        };
        for data in ["x1", "x2"] {
            publish(&registry, "late", data);
        }
        let (client, mut body) = open(&arrays(&registry), None, to("a"));
        drop(text(&mut body));
        client.subscribe_from("late", Start::Oldest).unwrap();
        for data in ["1", "2"] {
            publish(&registry, "a", data);
            publish(&registry, "late", data);
        }
        let all = array_of_all(&mut body);
        assert_eq!(all.len(), 6);
        assert!(all[0]["id"].as_str().unwrap().contains(';'), "the topic catches up: {}", all[0]);
        for had in 1..all.len() {
            let (_, mut body) = open(&arrays(&registry), all[had - 1]["id"].as_str(), both);
            assert_eq!(array_of_all(&mut body), all[had..], "after {had}");
        }
    }

    /// All entries that are ready.
    fn array_of_all(body: &mut SseBody<Empty>) -> Vec<Value> {
        let wire = text(body);
        let arrays = wire.split("\n\n").filter(|block| fields(block, "event") == ["batch"]);
        arrays.flat_map(|block| serde_json::from_str::<Vec<Value>>(fields(block, "data")[0]).unwrap()).collect()
    }
}
