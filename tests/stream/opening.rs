//! The opening of a stream, which lets its client resume even before the first event, and how far back a client can
//! resume.
//!
//! Poll by poll. The heartbeats' time is paused.

use std::time::Duration;

use http::{Request, Response, header::CONTENT_ENCODING};
use http_body::Body;
use tower_sse::{
    Batching, ClientHandle, Delivery, Event, GapEvent, Heartbeat, PositionEvent, Registry, Resume, ResumeError,
    SseBody, SseLayer, Start, Subscription,
};

use crate::{
    answer::answer,
    bodies,
    open::open,
    polling::{Polled, data, fields, next, poll, position, publish, received, retaining, text},
};

const SECOND: Duration = Duration::from_secs(1);

/// A layer whose streams have the default opening, and which needs no clock.
fn layer(registry: &Registry) -> SseLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::off())
}

fn block(id: &str) -> String {
    format!("event: position\ndata: \nid: {id}\n\n")
}

/// Reads the position event and returns its id.
fn position_of<B: Body<Error: std::fmt::Debug> + Unpin>(body: &mut SseBody<B>) -> String {
    let Polled::Frame(wire) = poll(body) else { panic!("the stream does not begin") };
    let id = fields(&wire, "id").concat();
    assert_eq!(wire, block(&id));
    id
}

mod a_client_cut_off_before_its_first_event {
    use super::*;

    /// Opens a stream, cuts it off after its position event, publishes, and returns what the resumed stream gets.
    fn returns(registry: &Registry, subscribe: impl Fn(&ClientHandle), meanwhile: impl Fn()) -> Vec<String> {
        let (client, mut body) = open(&layer(registry), None, &subscribe);
        assert_eq!(client.resume(), Resume::Fresh);
        let id = position_of(&mut body);
        drop(body);
        meanwhile();
        let (client, mut body) = open(&layer(registry), Some(&id), &subscribe);
        assert_eq!(client.resume(), Resume::Continued);
        assert_eq!(position_of(&mut body), id, "the client misses nothing");
        received(&mut body)
    }

    #[test]
    fn gets_events_published_on_its_topic_meanwhile() {
        let registry = Registry::new();
        for round in ["1", "2"] {
            let subscribe = |client: &ClientHandle| client.subscribe("a").unwrap();
            let got = returns(&registry, subscribe, || ["x", "y"].iter().for_each(|it| publish(&registry, "a", it)));
            assert_eq!(got, ["x", "y"], "round {round}: and nothing from before");
        }
    }

    #[test]
    fn gets_events_published_on_topics_of_its_pattern_meanwhile() {
        let registry = Registry::new();
        publish(&registry, "a/old", "before");
        let got = returns(
            &registry,
            |client| client.subscribe(Subscription::matching("a/*")).unwrap(),
            || {
                [("a/born", "1"), ("b", "-"), ("a/old", "2")]
                    .iter()
                    .for_each(|(topic, it)| publish(&registry, topic, it));
            },
        );
        assert_eq!(got, ["1", "2"]);
    }

    fn subscribe_to_all(client: &ClientHandle) {
        client.subscribe("now").unwrap();
        client.subscribe_from("oldest", Start::Oldest).unwrap();
        client.subscribe_from("last", Start::Last(2)).unwrap();
    }

    fn fill(registry: &Registry) {
        for (topic, data) in
            [("now", "before"), ("last", "before"), ("last", "l2"), ("oldest", "o1"), ("last", "l3"), ("now", "before")]
        {
            publish(registry, topic, data);
        }
    }

    const THERE: [&str; 3] = ["l2", "o1", "l3"];

    #[test]
    fn gets_all_events_of_topics_with_different_starts() {
        let registry = Registry::new();
        fill(&registry);
        let meanwhile = ["oldest", "now", "last"];
        let got = returns(&registry, subscribe_to_all, || {
            meanwhile.iter().for_each(|topic| publish(&registry, topic, topic));
        });
        assert_eq!(got.iter().filter(|data| *data == "before").count(), 0, "{got:?}");
        let mut sorted = got.clone();
        sorted.sort_unstable();
        let mut expected = [&THERE[..], &meanwhile].concat();
        expected.sort_unstable();
        assert_eq!(sorted, expected, "each once: {got:?}");
        assert_eq!(got.iter().filter(|data| THERE.contains(&&***data)).collect::<Vec<_>>(), THERE);
    }

    #[test]
    fn gets_each_event_once_after_a_later_cut_too() {
        let registry = Registry::new();
        fill(&registry);
        let (_, mut body) = open(&layer(&registry), None, subscribe_to_all);
        let whole = text(&mut body);
        drop(body);
        publish(&registry, "now", "n");
        let blocks: Vec<&str> = whole.split_inclusive("\n\n").collect();
        assert_eq!(blocks.len(), 1 + THERE.len(), "{whole}");
        for had in 1..=blocks.len() {
            let begin = blocks[..had].concat();
            let (client, mut body) = open(&layer(&registry), fields(&begin, "id").last().copied(), subscribe_to_all);
            assert_eq!(client.resume(), Resume::Continued);
            position_of(&mut body);
            let mut all: Vec<String> = fields(&begin, "data")[1..].iter().map(|it| (*it).to_owned()).collect();
            all.extend(received(&mut body));
            // If the client is cut off while it reads other topics, it may get older events of a topic that started at
            // the newest position.
            let mut sorted: Vec<&String> = all.iter().filter(|data| *data != "before").collect();
            sorted.sort_unstable();
            assert_eq!(sorted, ["l2", "l3", "n", "o1"], "after {had} blocks: {all:?}");
        }
    }

    #[test]
    fn is_told_again_of_a_gap_before_its_start() {
        let registry = retaining(2);
        for from_a_position in [false, true] {
            let before = position(&registry, "a", "seen");
            let subscribe = |client: &ClientHandle| {
                if from_a_position {
                    ["lost", "1", "2"].iter().for_each(|it| publish(&registry, "a", it));
                    client.subscribe_from("a", Start::After(before)).unwrap();
                } else {
                    client.subscribe("a").unwrap();
                    ["lost", "1", "2"].iter().for_each(|it| publish(&registry, "a", it));
                }
            };
            // No id shows that the client knows of the gap, so it can resume without an id before it was told.
            let (_, mut body) = open(&layer(&registry), None, subscribe);
            let Polled::Frame(wire) = poll(&mut body) else { panic!("the stream does not begin") };
            assert!(wire.starts_with("event: gap\n"), "{wire}");
            assert_eq!(received(&mut body), ["1", "2"]);
        }
    }
}

mod a_client_that_gets_no_event_of_a_busy_topic {
    use super::*;

    async fn has_an_id_after_a_heartbeat(subscribe: impl Fn(&ClientHandle), event: impl Fn(&ClientHandle) -> Event) {
        let registry = retaining(10);
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(SECOND));
        let (client, mut body) = open(&layer, None, &subscribe);
        let begin = position_of(&mut body);
        for _ in 0..3 {
            for _ in 0..50 {
                registry.publish("busy", event(&client)).unwrap();
                assert_eq!(text(&mut body), "");
            }
            tokio::time::advance(SECOND).await;
            assert_eq!(text(&mut body), format!(":\n\n{}", block(&registry.position().to_string())));
            tokio::time::advance(SECOND).await;
            assert_eq!(text(&mut body), ":\n\n", "the position has not moved since");
        }
        let id = registry.position().to_string();
        drop(body);
        let (client, mut body) = open(&layer, Some(&id), &subscribe);
        assert_eq!(client.resume(), Resume::Continued);
        assert_eq!(text(&mut body), block(&id));
        drop(body);
        let (client, _body) = open(&layer, Some(&begin), &subscribe);
        assert!(matches!(client.resume(), Resume::Gap(_)), "the registry no longer knows that position");
    }

    #[tokio::test(start_paused = true)]
    async fn has_an_id_after_a_heartbeat_if_a_filter_hides_the_events() {
        let filter = |_: &Delivery, _: &ClientHandle| false;
        let subscribe = |client: &ClientHandle| client.subscribe(Subscription::to("busy").filter(filter)).unwrap();
        has_an_id_after_a_heartbeat(subscribe, |_| Event::data("not let through")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn has_an_id_after_a_heartbeat_if_it_is_excluded_from_the_events() {
        let subscribe = |client: &ClientHandle| client.subscribe("busy").unwrap();
        has_an_id_after_a_heartbeat(subscribe, |client| Event::data("for others").exclude_client(client.id())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn gets_only_comments_if_the_position_event_is_off() {
        let registry = retaining(10);
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::every(SECOND));
        let (client, mut body) =
            open(&layer.position_event(PositionEvent::off()), None, |client| client.subscribe("busy").unwrap());
        assert_eq!(text(&mut body), ":\n\n", "a comment, as no other bytes come at once");
        registry.publish("busy", Event::data("for others").exclude_client(client.id())).unwrap();
        assert_eq!(text(&mut body), "");
        tokio::time::advance(SECOND).await;
        assert_eq!(text(&mut body), ":\n\n");
    }
}

mod a_stream_begins {
    use super::*;

    fn first(layer: &SseLayer, last_event_id: Option<&str>, handle: impl Fn(&ClientHandle)) -> Polled {
        let held = std::cell::RefCell::new(None);
        let (_, mut body) = open(layer, last_event_id, |client| {
            handle(client);
            *held.borrow_mut() = Some(client.clone().into_stream());
        });
        poll(&mut body)
    }

    fn frame(text: &str) -> Polled {
        Polled::Frame(text.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_heartbeat_comment_if_it_has_no_subscriptions() {
        let registry = Registry::new();
        let begins = |layer: &SseLayer| first(layer, None, |_| {});
        assert_eq!(begins(&SseLayer::new(&registry)), frame(":\n\n"));
        for (heartbeat, expected) in [
            (Heartbeat::every(SECOND).single_line(), ":\n"),
            (Heartbeat::every(SECOND).comment("beat"), ": beat\n\n"),
            (Heartbeat::every(SECOND).comment("beat").single_line(), ": beat\n"),
            (Heartbeat::every(SECOND).event(|| Event::data("now")), ":\n\n"),
        ] {
            let layer = SseLayer::new(&registry).heartbeat(heartbeat);
            assert_eq!(begins(&layer), frame(expected));
            assert_eq!(begins(&layer.open_at_once(false)), Polled::Pending);
        }
        assert_eq!(begins(&layer(&registry)), Polled::Pending, "heartbeats are off");
        assert_eq!(begins(&SseLayer::new(&registry).position_event(PositionEvent::off())), frame(":\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_layers_opening_and_then_its_position() {
        let registry = Registry::new();
        let position_of = block(&position(&registry, "a", "before").to_string());
        let layer = SseLayer::new(&registry);
        for (layer, opening) in [
            (layer.clone().reconnect_delay(2 * SECOND), "retry: 2000\n\n"),
            (layer.clone().opening_comment("hello"), ": hello\n\n"),
            (layer.clone().opening_padding(4), ":     \n\n"),
            (layer.open_at_once(false), ""),
        ] {
            let subscribed = first(&layer, None, |client| client.subscribe("a").unwrap());
            let Polled::Frame(wire) = subscribed else { panic!("the stream does not begin") };
            let wire = match opening {
                // This test is not about the reconnection time.
                "retry: 2000\n\n" => wire.split_once("\n\n").unwrap().1,
                _ => wire.strip_prefix(opening).expect(&wire),
            };
            assert_eq!(wire, position_of);
            let without = first(&layer, None, |_| {});
            assert!(without == Polled::Pending && opening.is_empty() || without != frame(":\n\n"), "{without:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_position_event_of_the_configured_name() {
        let registry = Registry::new();
        let layer = SseLayer::new(&registry).position_event(PositionEvent::named("$at"));
        let Polled::Frame(wire) = first(&layer, None, |client| client.subscribe("a").unwrap()) else { panic!() };
        assert_eq!(wire, format!("event: $at\ndata: \nid: {}\n\n", registry.position()));
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_snapshot_whose_id_it_has() {
        let registry = Registry::new();
        let at = position(&registry, "a", "1");
        publish(&registry, "a", "2");
        let held = std::cell::RefCell::new(None);
        let (_, mut body) = open(&SseLayer::new(&registry), None, |client| {
            client.subscribe("a").unwrap();
            *held.borrow_mut() = Some(client.clone().into_stream().snapshot(Event::data("all"), at));
        });
        let wire = text(&mut body);
        assert!(wire.starts_with(&format!("data: all\nid: {at}\n\n")), "{wire}");
        assert_eq!(fields(&wire, "data"), ["all", "2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_id_that_it_resumes_from_or_with_the_gap() {
        let registry = retaining(1);
        let [lost, seen] = ["lost", "seen"].map(|data| position(&registry, "a", data).to_string());
        let layer = SseLayer::new(&registry);
        let subscribe = |client: &ClientHandle| client.subscribe("a").unwrap();
        let (_, mut body) = open(&layer, Some(&seen), subscribe);
        assert_eq!(position_of(&mut body), seen);
        assert_eq!(text(&mut body), "");
        publish(&registry, "a", "next");
        let (_, mut body) = open(&layer, Some(&lost), subscribe);
        let Polled::Frame(wire) = poll(&mut body) else { panic!("the stream does not begin") };
        assert!(wire.starts_with("event: gap\n"), "{wire}");
        // If the gap event is off, no id moves the client past the gap.
        let (client, mut body) = open(&layer.gap_event(GapEvent::off()), Some(&lost), subscribe);
        assert!(matches!(client.resume(), Resume::Gap(_)));
        assert_eq!(poll(&mut body), frame(":\n\n"));
        assert_eq!(received(&mut body), ["next"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_opening_if_it_is_encoded() {
        let registry = Registry::new();
        for topics in [&["a"][..], &[]] {
            let (_frames, own) = bodies::channel();
            let (_, response) = answer(&SseLayer::new(&registry).reconnect_delay(SECOND), Request::new(()), |client| {
                topics.iter().for_each(|topic| client.subscribe(*topic).unwrap());
                let mut response: Response<_> = bodies::event_stream(own);
                response.headers_mut().insert(CONTENT_ENCODING, "gzip".parse().unwrap());
                response
            });
            let mut body = response.into_body();
            assert_eq!(poll(&mut body), Polled::Pending);
            tokio::time::advance(60 * SECOND).await;
            assert_eq!(poll(&mut body), Polled::Pending);
        }
    }
}

mod the_last_event_id_as_a_start {
    use super::*;

    #[test]
    fn is_where_a_later_subscription_starts() {
        for retained in [10, 1] {
            let registry = retaining(retained);
            let (_, mut body) = open(&layer(&registry), None, |client| client.subscribe("a").unwrap());
            publish(&registry, "b", "before");
            publish(&registry, "a", "seen");
            let last = fields(&text(&mut body), "id").last().unwrap().to_string();
            drop(body);
            ["1", "2"].iter().for_each(|it| publish(&registry, "b", it));
            let (client, mut body) = open(&layer(&registry), Some(&last), |client| client.subscribe("a").unwrap());
            assert_eq!(client.resume(), Resume::Continued);
            assert_eq!(text(&mut body), block(&last));
            client.subscribe_from("b", Start::LastEventId).unwrap();
            let wire = text(&mut body);
            match retained {
                10 => assert_eq!(fields(&wire, "data"), ["1", "2"]),
                _ => {
                    assert!(wire.starts_with("event: gap\ndata: {\"topics\":[\"b\"],"), "{wire}");
                    assert_eq!(fields(&wire, "data")[1..], ["2"]);
                }
            }
            publish(&registry, "b", "live");
            assert_eq!(received(&mut body), ["live"]);
        }
    }

    #[test]
    fn is_now_for_a_client_without_an_id() {
        let registry = Registry::new();
        let (client, mut body) = open(&layer(&registry), None, |client| client.subscribe("a").unwrap());
        position_of(&mut body);
        publish(&registry, "b", "before");
        client.subscribe_from("b", Start::LastEventId).unwrap();
        publish(&registry, "b", "after");
        assert_eq!(received(&mut body), ["after"]);
    }

    #[test]
    fn can_be_set_by_a_program_that_gets_ids_in_another_way() {
        let registry = Registry::new();
        ["1", "2", "3"].iter().for_each(|it| publish(&registry, "late", it));
        let client = registry.connect();
        client.subscribe("live").unwrap();
        let mut events = client.clone().into_events();
        publish(&registry, "live", "seen");
        assert_eq!(data(&mut events), ["seen"]);
        client.subscribe_from("late", Start::Oldest).unwrap();
        let first = next(&mut events).unwrap().unwrap();
        assert_eq!(first.data().as_deref(), Some("1"));
        let id = first.id().unwrap().to_owned();
        assert!(id.contains(';'), "the id has the progress of both topics: {id}");
        drop(events);
        publish(&registry, "live", "missed");

        let back = registry.connect();
        assert_eq!(back.resume_from(&id), Ok(()));
        assert_eq!(back.last_event_id(), Some(&*id));
        let twice = ResumeError::Known { last_event_id: id.clone() };
        assert_eq!(back.resume_from("another"), Err(twice.clone()));
        ["live", "late"].iter().for_each(|topic| back.subscribe(*topic).unwrap());
        assert_eq!(back.resume(), Resume::Continued);
        let mut events = back.into_events();
        let mut got = data(&mut events);
        got.sort_unstable();
        assert_eq!(got, ["2", "3", "missed"], "each event comes once");

        let (_, _body) = open(&layer(&registry), Some(&id), |client| {
            assert_eq!(client.resume_from("another"), Err(twice.clone()));
        });
        let late = registry.connect();
        let _events = late.clone().into_events();
        assert_eq!(late.resume_from(&id), Err(ResumeError::Late));
        assert_eq!(late.last_event_id(), None);
    }
}

mod the_resume_bound {
    use super::*;

    /// Resumes from this id. Returns the topics of the gap, if any, and the data of the events.
    fn back(layer: &SseLayer, id: &str, handle: impl Fn(&ClientHandle)) -> (Option<Vec<String>>, Vec<String>) {
        let (client, mut body) = open(layer, Some(id), handle);
        let gap = match client.resume() {
            Resume::Gap(gap) => Some(gap.topics().to_vec()),
            _ => None,
        };
        let wire = text(&mut body);
        let first = if gap.is_some() { "event: gap\n" } else { "event: position\n" };
        assert!(wire.starts_with(first), "{wire}");
        (gap, fields(&wire, "data")[1..].iter().map(|it| (*it).to_owned()).collect())
    }

    fn newest(data: &[&str]) -> Vec<String> {
        data.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn gives_the_newest_events_and_a_gap_for_older_ones() {
        let registry = Registry::new();
        let ids: Vec<String> = (0..6).map(|it| position(&registry, "a/1", &it.to_string()).to_string()).collect();
        let bounded = layer(&registry).resume_at_most(2);
        for name in ["a/1", "a/*"] {
            let subscribe = |client: &ClientHandle| client.subscribe(Subscription::matching(name)).unwrap();
            let gap = Some(vec![name.to_owned()]);
            assert_eq!(back(&bounded, &ids[0], subscribe), (gap.clone(), newest(&["4", "5"])));
            assert_eq!(back(&bounded, &ids[2], subscribe), (gap.clone(), newest(&["4", "5"])));
            assert_eq!(back(&bounded, &ids[3], subscribe), (None, newest(&["4", "5"])), "no more than the bound");
            assert_eq!(back(&bounded, &ids[5], subscribe), (None, newest(&[])));
            for unknown in ["0-0", "nobody's", "1763612345678-4-7k3m9p2xr"] {
                assert_eq!(back(&bounded, unknown, subscribe), (gap.clone(), newest(&["4", "5"])), "{unknown}");
            }
            assert_eq!(back(&layer(&registry), &ids[0], subscribe), (None, newest(&["1", "2", "3", "4", "5"])));
        }
    }

    #[test]
    fn is_the_handlers_if_both_handler_and_layer_set_one() {
        let registry = Registry::new();
        let ids: Vec<String> = (0..6).map(|it| position(&registry, "a", &it.to_string()).to_string()).collect();
        let gap = Some(vec!["a".to_owned()]);
        for (layer, most, expected) in [
            (layer(&registry), 1, (gap.clone(), newest(&["5"]))),
            (layer(&registry), 0, (gap, newest(&[]))),
            (layer(&registry).resume_at_most(1), 5, (None, newest(&["1", "2", "3", "4", "5"]))),
        ] {
            let got = back(&layer, &ids[0], |client| {
                client.resume_at_most(most);
                client.subscribe("a").unwrap();
            });
            assert_eq!(got, expected, "{most}");
        }
    }
}

mod the_id_of_a_client_is_hidden {
    use super::*;

    fn assert_hidden(wire: &str, client: &ClientHandle) {
        let id = client.id().to_string();
        assert!(!wire.contains(&id) && !wire.contains("$client"), "{wire}");
    }

    #[tokio::test(start_paused = true)]
    async fn in_an_array_of_events_sent_to_it_alone() {
        let registry = Registry::new();
        let layer = layer(&registry).batching(Batching::every(SECOND).as_array());
        let (client, mut body) = open(&layer, None, |client| client.subscribe("a").unwrap());
        position_of(&mut body);
        publish(&registry, "a", "1");
        client.send(Event::data("for it alone")).unwrap();
        client.send(Event::data("{\"n\":2}").event("note")).unwrap();
        let wire = text(&mut body);
        assert_hidden(&wire, &client);
        let expected = r#"[{"topic":"a","data":"1"},{"data":"for it alone"},{"event":"note","data":{"n":2}}]"#
            .replace("\"1\"", "1");
        assert_eq!(fields(&wire, "data"), [expected]);
    }

    #[test]
    fn in_a_gap_of_events_sent_to_it_alone() {
        let registry = retaining(1);
        for subscribes in [true, false] {
            let held = std::cell::RefCell::new(None);
            let (client, mut body) = open(&layer(&registry), None, |client| {
                if subscribes {
                    client.subscribe("a").unwrap();
                }
                *held.borrow_mut() = Some(client.clone().into_stream());
            });
            let begin = text(&mut body);
            ["1", "2", "3"].iter().for_each(|it| _ = client.send(Event::data(*it)).unwrap());
            let wire = text(&mut body);
            assert!(wire.starts_with("event: gap\ndata: {\"topics\":[]"), "{wire}");
            assert_eq!(fields(&wire, "data")[1..], ["3"]);
            assert_hidden(&(begin + &wire), &client);
        }
        let client = registry.connect();
        ["1", "2"].iter().for_each(|it| _ = client.send(Event::data(*it)).unwrap());
        let gap = next(&mut client.clone().into_events()).unwrap().unwrap_err();
        assert_eq!((gap.topics(), gap.after()), (&[][..], ""));
        assert_hidden(&gap.to_string(), &client);
    }
}
