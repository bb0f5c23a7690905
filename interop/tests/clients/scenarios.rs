//! The scenarios that run with every client, and their results.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use nix::sys::signal::Signal;
use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};
use tower_sse::{Event, Heartbeat, Limit, RefusedResponse, Registry, RegistryConfig, Retention, SseLayer};

use crate::{
    client::{self, Client, Observation, POSITION, Run},
    example,
    relay::Relay,
    spec,
    stage::{Dashboard, Hidden, Stage, TOPIC, address, serve},
    upstream::Request,
};

/// The results: for a row of the matrix, `yes` or a short description.
pub(crate) type Found = Vec<(&'static str, String)>;

/// The rows that a scenario fills, and its function.
pub(crate) type Scenario = (&'static [&'static str], for<'a> fn(&'a Stage, &'a Client) -> BoxFuture<'a, Found>);

/// The rows of the scenario that measures time.
pub(crate) const MEASURED: &[&str] = &["quiet"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    (&["data", "types", "ids"], |stage, client| published(stage, client).boxed()),
    (&["line ends", "inherited ids"], |stage, client| upstreams_stream(stage, client).boxed()),
    (&["open"], |stage, client| opens(stage, client, "open", "text/event-stream").boxed()),
    (&["charset"], |stage, client| opens(stage, client, "charset", "text/event-stream; charset=utf-8").boxed()),
    (&["upper case"], |stage, client| opens(stage, client, "upper case", "Text/Event-Stream").boxed()),
    (&["mark"], |stage, client| begins_with_a_mark(stage, client).boxed()),
    (&["blank"], |stage, client| heartbeats(stage, client, "blank", ":\n\n", |it| it).boxed()),
    (&["text"], |stage, client| {
        heartbeats(stage, client, "text", ": still here\n\n", |it| it.comment("still here")).boxed()
    }),
    (&["line"], |stage, client| {
        heartbeats(stage, client, "line", ": still here\n", |it| it.comment("still here").single_line()).boxed()
    }),
    (&["event"], |stage, client| {
        let beat = || Event::data("").event("heartbeat");
        heartbeats(stage, client, "event", "event: heartbeat\ndata: \n\n", move |it| it.event(beat)).boxed()
    }),
    (MEASURED, |stage, client| quiet(stage, client).boxed()),
    (&["position"], |stage, client| begins_with_its_position(stage, client).boxed()),
    (&["comment"], |stage, client| begins_with_a_comment(stage, client).boxed()),
    (&["first cut"], |stage, client| cut_before_the_first_event(stage, client).boxed()),
    (&["filtered"], |stage, client| cut_after_what_was_filtered(stage, client).boxed()),
    (&["twice"], |stage, client| twice(stage, client).boxed()),
    (&["retry"], |stage, client| retry(stage, client).boxed()),
    (&["cut"], |stage, client| cut(stage, client).boxed()),
    (&["odd id"], |stage, client| odd_id(stage, client).boxed()),
    (&["gap"], |stage, client| gap(stage, client).boxed()),
    (&["farewell"], |stage, client| farewell(stage, client).boxed()),
    (&["204"], |stage, client| no_content(stage, client).boxed()),
    (&["503"], |stage, client| refused(stage, client).boxed()),
    (&["reconnect"], |stage, client| refused_to_come_back(stage, client).boxed()),
];

fn yes_unless(problems: &[&str]) -> String {
    match problems {
        [] => "yes".to_owned(),
        problems => format!("not {}", problems.join(", ")),
    }
}

/// A name for the topic or path of one client in one scenario.
fn name_of(client: &Client, scenario: &str) -> String {
    let name: String = format!("{}-{scenario}", client.name);
    name.replace(|character: char| !character.is_ascii_alphanumeric(), "-")
}

fn sees<T: PartialEq + std::fmt::Debug>(
    seen: impl IntoIterator<Item = T>,
    expected: impl IntoIterator<Item = T>,
) -> String {
    let (seen, expected) = (Vec::from_iter(seen), Vec::from_iter(expected));
    if seen == expected {
        return "yes".to_owned();
    }
    eprintln!("expected {expected:.1000?}\nfound {seen:.1000?}");
    "not the events".to_owned()
}

fn typed(events: Vec<client::Event>) -> impl Iterator<Item = (String, String)> {
    events.into_iter().map(|event| (event.event_type, event.data))
}

const END: &str = "the end";

/// Everything that is published on the dashboard arrives unchanged.
async fn published(stage: &Stage, client: &Client) -> Found {
    let large: String = "0123456789 äöü €uro 🌍\n".repeat(10_000) + END;
    let vectors = [
        ("one line", "message", "hello"),
        ("several lines", "message", "one\ntwo\n\nthree"),
        ("CR and CRLF", "message", "a\rb\r\nc"),
        ("leading spaces", "message", "  two of them"),
        ("a leading line end", "message", "\nafter"),
        ("trailing line ends", "message", "before\n\n"),
        ("empty data", "message", ""),
        ("empty data with a type", "tick", ""),
        ("what looks like fields", "message", ": a comment?\nid: 9\nevent: other\nretry: 1\n\ndata: x"),
        ("Unicode", "message", "grüße 🌍 👩‍👩‍👧‍👦 \u{feff} \u{1f}"),
        ("Unicode's other line ends", "message", "a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f"),
        ("250 KB in lines", "message", &large),
        ("600 KB in a line", "message", &"x".repeat(600_000)),
        ("a type", "tick", "typed"),
        ("a type with dots and spaces", "price.v2 of all", "typed"),
        ("a Unicode type", "größe 🌍", "typed"),
    ];
    let (dashboard, topic) = (&stage.dashboard, name_of(client, "published"));
    let types = vectors.map(|(_, event_type, _)| event_type).into_iter().filter(|it| *it != "message");
    let types = Vec::from_iter(BTreeSet::from_iter(types));
    let mut run = client.follow(&stage.tools, &format!("{}/events?topic={topic}", dashboard.server.url), &types);
    run.opened().await;
    let mut ids = Vec::new();
    for (_, event_type, data) in vectors {
        ids.push(dashboard.publish(&topic, event_type, data).await);
    }
    dashboard.publish(&topic, "message", END).await;
    let mut seen = run.events_until(END).await.into_iter();

    let (mut data_problems, mut type_problems, mut id_problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = seen.next();
    for ((name, event_type, data), id) in vectors.into_iter().zip(ids) {
        // A missing event is no problem of the events after it.
        let Some(event) =
            next.take_if(|event| event.id == id || (event.data == data && event.event_type == event_type))
        else {
            data_problems.push(name);
            continue;
        };
        next = seen.next();
        if event.data != data.replace("\r\n", "\n").replace('\r', "\n") {
            data_problems.push(name);
        }
        if event.event_type != event_type {
            type_problems.push(name);
        }
        if event.id != id {
            id_problems.push(name);
        }
    }
    if next.is_none_or(|event| event.data != END) || seen.next().is_some() {
        data_problems.push("only those");
    }
    vec![("data", yes_unless(&data_problems)), ("types", yes_unless(&type_problems)), ("ids", yes_unless(&id_problems))]
}

/// An upstream's stream, sent through the gateway in chunks of one byte, is parsed by the standard.
async fn upstreams_stream(stage: &Stage, client: &Client) -> Found {
    let vectors = [
        ("emoji over chunk ends", "event: tick\ndata: emoji 🌍🌎\ndata: 👩‍👩‍👧‍👦\nid: 1\n\n"),
        ("CRLF", "data: crlf a\r\ndata: crlf b\r\nid: 2\r\n\r\n"),
        ("CR", "data: cr a\rdata: cr b\rid: 3\r\r\n\n"),
        ("no space after the colon", "data:tight\nid:4\n\n"),
        ("no colon", "data\ndata: after a field without a value\nid: 5\n\n"),
        ("unknown fields", "unknown: 1\ndata: known\nid: 6\nretry: soon\n\n"),
        ("a type without data", "event: tick\n\ndata: of no type\nid: 7\n\n"),
    ];
    let inherited = [
        ("an event without one has the one before", "data: without an id\n\n"),
        ("of a block without data", "id: 8\n\ndata: after an id alone\n\n"),
        ("an empty one is none", "id\ndata: no id\n\n"),
    ];
    let all: Vec<_> = vectors.iter().chain(&inherited).collect();
    let mut wire: String = all.iter().map(|(_, text)| *text).collect();
    wire.push_str("data: the end\n\n");
    let expected = spec::parse(wire.as_bytes()).messages;
    assert_eq!(expected.len(), all.len() + 1);

    let (mut run, mut requests) = follow_upstream(stage, client, "stream", &["tick"]);
    let mut request = next(&mut requests).await;
    request.stream("text/event-stream").await;
    request.send(&wire, 1).await;
    let seen = run.events_until(END).await;
    request.end().await;

    let (mut problems, mut id_problems) = (Vec::new(), Vec::new());
    for (index, ((name, _), expected)) in all.iter().zip(&expected).enumerate() {
        let event = seen.iter().find(|event| event.data == expected.data && event.event_type == expected.event_type);
        let is_about_ids = index >= vectors.len();
        match event {
            None => problems.push(*name),
            Some(event) if event.id != expected.last_event_id && is_about_ids => id_problems.push(*name),
            Some(event) if event.id != expected.last_event_id => problems.push(*name),
            Some(_) => {}
        }
    }
    if seen.iter().any(|event| !expected.iter().any(|expected| expected.data == event.data)) {
        problems.push("only those");
    }
    vec![("line ends", yes_unless(&problems)), ("inherited ids", yes_unless(&id_problems))]
}

fn follow_upstream(
    stage: &Stage,
    client: &Client,
    scenario: &str,
    types: &[&str],
) -> (Run, UnboundedReceiver<Request>) {
    let path = format!("/{}", name_of(client, scenario));
    let requests = stage.upstream.requests(&path);
    (client.follow(&stage.tools, &format!("{}{path}", stage.gateway.url), types), requests)
}

async fn next(requests: &mut UnboundedReceiver<Request>) -> Request {
    requests.recv().await.expect("the upstream runs")
}

async fn opens(stage: &Stage, client: &Client, row: &'static str, content_type: &str) -> Found {
    let (mut run, mut requests) = follow_upstream(stage, client, row, &[]);
    let mut request = next(&mut requests).await;
    request.stream(content_type).await;
    request.send("data: hello\n\n", usize::MAX).await;
    let is_open = run.event_at_once().await.is_some_and(|event| event.data == "hello");
    request.end().await;
    vec![(row, if is_open { "yes" } else { "no" }.to_owned())]
}

/// With default settings, a program is told at once that a silent stream is open.
async fn quiet(stage: &Stage, client: &Client) -> Found {
    let relay = Relay::to(serve(SseLayer::new(&Registry::new())).await).await;
    let mut run = client.follow(&stage.tools, &relay.url, &[]);
    relay.has_seen(|text| text.contains("\r\n\r\n").then_some(())).await;
    let answered = Instant::now();
    run.opened().await;
    let took = answered.elapsed();
    stage.quiet.lock().unwrap().insert(client.name, took);
    let has_beaten = relay.has_seen(|text| text.contains("\n:\n\n").then_some(())).now_or_never().is_some();
    vec![("quiet", if has_beaten { "with the first heartbeat" } else { "yes" }.to_owned())]
}

/// A stream with subscriptions begins with its position event. A program does not see that event unless it listens for
/// it.
async fn begins_with_its_position(stage: &Stage, client: &Client) -> Found {
    let (dashboard, topic) = (&stage.dashboard, name_of(client, "position"));
    let relay = Relay::to(dashboard.address()).await;
    let mut run = client.follow(&stage.tools, &format!("{}/events?topic={topic}", relay.url), &[]);
    // A client that asks for `hello` gets that instead.
    relay.has_seen(|text| (text.contains("event: position") || text.contains("event: hello")).then_some(())).await;
    run.opened().await;
    dashboard.publish(&topic, "message", END).await;
    let first = run.anything().await.expect("an event");
    let found = match &*first.data {
        END => "yes",
        "" if first.event_type == POSITION => "not invisible",
        _ => "something else",
    };
    vec![("position", found.to_owned())]
}

/// A stream without subscriptions begins with a comment before its first event.
async fn begins_with_a_comment(stage: &Stage, client: &Client) -> Found {
    let path = format!("/{}", name_of(client, "comment"));
    let mut requests = stage.upstream.requests(&path);
    let relay = Relay::to(address(&stage.gateway.url)).await;
    let mut run = client.follow(&stage.tools, &format!("{}{path}", relay.url), &[]);
    let mut request = next(&mut requests).await;
    request.stream("text/event-stream").await;
    relay.has_seen(|text| text.contains("\n:").then_some(())).await;
    run.opened().await;
    request.send("data: the end\nid: 1\n\n", usize::MAX).await;
    let first = run.anything().await.expect("an event");
    request.end().await;
    let expected = client::Event { event_type: "message".to_owned(), data: END.to_owned(), id: "1".to_owned() };
    vec![("comment", if first == expected { "yes" } else { "not invisible" }.to_owned())]
}

/// A client that is cut off before its first event gets the events published meanwhile when it reconnects.
async fn cut_before_the_first_event(stage: &Stage, client: &Client) -> Found {
    let (dashboard, topic) = (&stage.dashboard, name_of(client, "first cut"));
    let relay = Relay::to(dashboard.address()).await;
    let url = format!("{}/events?topic={topic}", relay.url);
    let mut run = client.follow(&stage.tools, &url, &[POSITION, "gap"]);
    run.stands(None).await;
    relay.break_after(0, async {}).await;
    let mut expected = Vec::new();
    let mut publish = async |data: &str| {
        let id = dashboard.publish(&topic, "message", data).await;
        expected.push(client::Event { event_type: "message".to_owned(), data: data.to_owned(), id });
    };
    for number in 1..=5 {
        publish(&format!("event {number}")).await;
    }
    relay.mend(dashboard.address());
    relay.has_seen(|text| (text.matches("HTTP/1.1 200").count() == 2).then_some(())).await;
    publish(END).await;
    vec![("first cut", sees(run.events_until(END).await, expected))]
}

/// A filter hid all events before the cut from the client. So the client has missed no event, even if those events were
/// evicted.
async fn cut_after_what_was_filtered(stage: &Stage, client: &Client) -> Found {
    let retention = Retention::default().events(5);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    let heartbeat = Heartbeat::every(client.heartbeat()).single_line();
    let address = serve(SseLayer::new(&registry).heartbeat(heartbeat)).await;
    let relay = Relay::to(address).await;
    let mut run = client.follow(&stage.tools, &relay.url, &[POSITION, "gap"]);
    run.stands(None).await;
    let publish =
        |event: Event| registry.publish(TOPIC, event).expect("a topic").position().expect("a position").to_string();
    let hidden = || Event::data("hidden").attribute(Hidden);
    publish(Event::data("before"));
    run.events_until("before").await;
    for _ in 0..5 {
        // Few enough that the client does not fall behind.
        let last = Vec::from_iter((0..4).map(|_| publish(hidden()))).pop().expect("an event");
        run.stands(Some(&last)).await;
    }
    relay.break_after(0, async {}).await;
    publish(hidden());
    publish(Event::data(END));
    relay.mend(address);
    let seen = run.events_until(END).await;
    vec![("filtered", sees(typed(seen), [("message".to_owned(), END.to_owned())]))]
}

/// The client opens a stream while it is already reading the same one.
async fn twice(stage: &Stage, client: &Client) -> Found {
    let url = format!("{}/events?topic={}", stage.dashboard.server.url, name_of(client, "twice"));
    let mut runs = client.follow_twice(&stage.tools, &url);
    let (first, second) = runs.split_at_mut(1);
    first[0].opened().await;
    let is_open = Instant::now();
    second.first_mut().unwrap_or(&mut first[0]).opened().await;
    // A client that delays the request delays it for 20 s.
    let found = if is_open.elapsed() < Duration::from_secs(10) { "yes" } else { "waits" };
    vec![("twice", found.to_owned())]
}

/// A byte-order mark at the beginning of the upstream's stream loses no event, as the layer removes it.
async fn begins_with_a_mark(stage: &Stage, client: &Client) -> Found {
    let (mut run, mut requests) = follow_upstream(stage, client, "mark", &[]);
    let mut request = next(&mut requests).await;
    request.stream("text/event-stream").await;
    request.send("\u{feff}data: first\nid: 1\n\ndata: the end\nid: 2\n\n", usize::MAX).await;
    let seen = run.events_until(END).await.into_iter().map(|event| (event.data, event.id));
    let found = sees(seen, [("first", "1"), (END, "2")].map(|(data, id)| (data.to_owned(), id.to_owned())));
    request.end().await;
    vec![("mark", found)]
}

/// Heartbeats of each form are invisible, unless they are events, and change no event between them.
async fn heartbeats(
    stage: &Stage,
    client: &Client,
    row: &'static str,
    wire: &str,
    form: impl FnOnce(Heartbeat) -> Heartbeat,
) -> Found {
    let registry = Registry::new();
    let heartbeat = form(Heartbeat::every(client.heartbeat()));
    let relay = Relay::to(serve(SseLayer::new(&registry).heartbeat(heartbeat)).await).await;
    let mut run = client.follow(&stage.tools, &relay.url, &["heartbeat"]);
    run.opened().await;
    let mut ids = Vec::new();
    // There are heartbeats before the first event too.
    for (heartbeats, data) in [(2, "a"), (5, "b"), (8, END)] {
        relay.has_seen(|text| (text.matches(wire).count() >= heartbeats).then_some(())).await;
        ids.push(
            registry.publish(TOPIC, Event::data(data)).expect("a topic").position().expect("a position").to_string(),
        );
    }
    let seen = run.events_until(END).await;
    let (beats, events): (Vec<_>, Vec<_>) = seen.into_iter().partition(|event| event.event_type == "heartbeat");
    let (empty, events): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.data.is_empty());
    let expected = ["a", "b", END].into_iter().zip(ids).map(|(data, id)| client::Event {
        event_type: "message".to_owned(),
        data: data.to_owned(),
        id,
    });
    let mut problems = Vec::new();
    if !events.into_iter().eq(expected) {
        problems.push("the events");
    }
    if !empty.is_empty() {
        problems.push("invisible");
    }
    if row == "event" && (beats.len() < 8 || beats.iter().any(|beat| !beat.data.is_empty())) {
        problems.push("seen");
    }
    vec![(row, yes_unless(&problems))]
}

/// Whether the client waited as long as `retry` asked for, multiplied by `client.waits`.
fn obeys(client: &Client, asked: Duration, took: Duration) -> bool {
    // Timers are this exact. A machine may be busy, but not for as long as browsers wait by default.
    let least = asked.mul_f64(client.waits * 0.97);
    let most = asked.mul_f64(client.waits_at_most()) + Duration::from_millis(2500);
    let obeys = (least..most).contains(&took);
    if !obeys {
        eprintln!("{}: {asked:?} became {took:?}", client.name);
    }
    obeys
}

fn after_the_delay(client: &Client, problems: &[&str]) -> String {
    match client.waits {
        waits if !problems.is_empty() || waits == 1.0 => yes_unless(problems),
        waits if waits < 1.0 => "sooner".to_owned(),
        _ => "later".to_owned(),
    }
}

/// The client reconnects after the time that `retry` says.
async fn retry(stage: &Stage, client: &Client) -> Found {
    let (mut run, mut requests) = follow_upstream(stage, client, "retry", &[]);
    let mut request = next(&mut requests).await;
    let mut problems = Vec::new();
    // Without a `retry`, most clients would wait for one to three seconds.
    for asked in [Duration::from_millis(1800), Duration::from_millis(200)] {
        request.stream("text/event-stream").await;
        let data = format!("again in {asked:?}");
        request.send(&format!("retry: {}\ndata: {data}\nid: 1\n\n", asked.as_millis()), usize::MAX).await;
        run.events_until(&data).await;
        let ended = request.end().await;
        request = tokio::select! {
            request = next(&mut requests) => request,
            () = run.closed() => return vec![("retry", "gives up".to_owned())],
        };
        let took = request.at - ended;
        if !obeys(client, asked, took) {
            problems.push("the delay");
        }
    }
    request.no_content().await;
    vec![("retry", after_the_delay(client, &problems))]
}

/// The connection breaks in the middle of an event. Events that are published meanwhile come once and in order when the
/// client reconnects.
async fn cut(stage: &Stage, client: &Client) -> Found {
    let (dashboard, topic) = (&stage.dashboard, name_of(client, "cut"));
    let gateway = address(&stage.dashboard_gateway.url);
    let relay = Relay::to(gateway).await;
    let mut run = client.follow(&stage.tools, &format!("{}/events?topic={topic}", relay.url), &[]);
    run.opened().await;
    let mut expected = Vec::new();
    let mut publish = async |data: String| {
        let id = dashboard.publish(&topic, "message", &data).await;
        expected.push(client::Event { event_type: "message".to_owned(), data, id });
    };
    for number in 1..=10 {
        publish(format!("event {number}")).await;
    }
    let mut seen = run.events_until("event 10").await;
    relay.break_after(60_000, publish("half of it arrives\n".repeat(8000) + END)).await;
    for number in 12..=20 {
        publish(format!("event {number}")).await;
    }
    relay.mend(gateway);
    seen.extend(run.events_until("event 20").await);
    if run.seen.last() == Some(&Observation::Closed) {
        return vec![("cut", "gives up".to_owned())];
    }
    // The client then gets new events.
    publish("event 21".to_owned()).await;
    seen.extend(run.events_until("event 21").await);
    vec![("cut", sees(seen, expected))]
}

/// A non-ASCII id is sent back unchanged. Only an upstream can send such an id, as `Event::id` accepts none.
async fn odd_id(stage: &Stage, client: &Client) -> Found {
    let (mut run, mut requests) = follow_upstream(stage, client, "odd-id", &[]);
    let mut request = next(&mut requests).await;
    request.stream("text/event-stream").await;
    request.send("retry: 100\ndata: the end\nid: größe 🌍\n\n", usize::MAX).await;
    run.events_until(END).await;
    request.end().await;
    let mut errors = 0;
    let mut back = None;
    let found = loop {
        tokio::select! {
            request = next(&mut requests) => {
                let request = back.insert(request);
                break match request.last_event_id.as_deref() {
                    Some("größe 🌍") => "yes",
                    Some(_) => "with another id",
                    None => "without an id",
                };
            }
            observation = run.next() => match observation {
                Observation::Closed => break "gives up",
                // The end of the stream is an error too.
                Observation::Error(_) if errors == 3 => break "fails again and again",
                Observation::Error(_) => errors += 1,
                Observation::Open | Observation::Event(_) => {}
            },
        }
    };
    if let Some(request) = back {
        request.no_content().await;
    }
    vec![("odd id", found.to_owned())]
}

/// A client that was away for too long is told of the gap, and gets the retained events.
async fn gap(stage: &Stage, client: &Client) -> Found {
    let (dashboard, topic) = (&stage.forgetful_dashboard, name_of(client, "gap"));
    let relay = Relay::to(dashboard.address()).await;
    let mut run = client.follow(&stage.tools, &format!("{}/events?topic={topic}", relay.url), &["gap"]);
    run.opened().await;
    let last = dashboard.publish(&topic, "message", "event 1").await;
    run.events_until("event 1").await;
    relay.break_after(0, async {}).await;
    for number in 2..=20 {
        dashboard.publish(&topic, "message", &format!("event {number}")).await;
    }
    relay.mend(dashboard.address());
    let seen = run.events_until("event 20").await;
    let gap = format!(r#"{{"topics":["{topic}"],"after":"{last}"}}"#);
    let retained = (16..=20).map(|number| ("message".to_owned(), format!("event {number}")));
    vec![("gap", sees(typed(seen), [("gap".to_owned(), gap)].into_iter().chain(retained)))]
}

/// A server that stops sends a farewell. Its clients reconnect to the next server with their last id.
async fn farewell(stage: &Stage, client: &Client) -> Found {
    let topic = name_of(client, "farewell");
    let mut old = Dashboard::start(&[("DRAIN_MS", "200")]).await;
    let relay = Relay::to(old.address()).await;
    let url = format!("{}/events?topic={topic}", relay.url);
    let mut run = client.follow(&stage.tools, &url, &["restart", "gap"]);
    run.opened().await;
    let last = old.publish(&topic, "message", "before").await;
    let mut seen = run.events_until("before").await;
    relay.hold();
    example::signal(&old.server.process, Signal::SIGTERM);
    assert!(old.server.process.wait().await.expect("the exit of the dashboard").success());
    let new = Dashboard::start(&[]).await;
    relay.mend(new.address());
    // The first response that is not from the old server.
    while !matches!(run.seen.last(), Some(Observation::Open | Observation::Closed)) {
        if let Observation::Event(event) = run.next().await {
            seen.push(event);
        }
    }
    new.publish(&topic, "message", "after").await;
    seen.extend(run.events_until("after").await);
    let gap = format!(r#"{{"topics":["{topic}"],"after":"{last}"}}"#);
    let expected = [("message", "before"), ("restart", "The server restarts."), ("gap", &*gap), ("message", "after")];
    let expected = expected.map(|(event_type, data)| (event_type.to_owned(), data.to_owned()));
    // `retry` comes in a block of its own.
    let (empty, seen): (Vec<_>, Vec<_>) = seen.into_iter().partition(|event| event.data.is_empty());
    let found = sees(typed(seen), expected);
    vec![("farewell", if found == "yes" && !empty.is_empty() { "not invisible".to_owned() } else { found })]
}

/// A 204 tells a client not to reconnect.
async fn no_content(stage: &Stage, client: &Client) -> Found {
    let (mut run, mut requests) = follow_upstream(stage, client, "204", &[]);
    let mut request = next(&mut requests).await;
    request.stream("text/event-stream").await;
    request.send("retry: 100\ndata: the end\nid: 1\n\n", usize::MAX).await;
    run.events_until(END).await;
    request.end().await;
    next(&mut requests).await.no_content().await;
    let found = tokio::select! {
        () = run.closed() => "yes",
        _ = next(&mut requests) => "comes back",
    };
    vec![("204", found.to_owned())]
}

/// A refusal with a status and `retry-after`.
async fn refused(stage: &Stage, client: &Client) -> Found {
    let limit = Limit::streams(0);
    let layer = SseLayer::new(&Registry::new()).limit(limit.clone());
    let layer = layer.refused_response(RefusedResponse::status().delay(Duration::from_secs(4)));
    let relay = Relay::to(serve(layer).await).await;
    let mut run = client.follow(&stage.tools, &relay.url, &[]);
    let asked = relay.has_seen(|text| number_after(text, "retry-after: ")).await;
    let turned_away = Instant::now();
    limit.set_limit(10);
    let found = tokio::select! {
        () = run.closed() => "gives up",
        () = relay.has_seen(|text| text.contains("HTTP/1.1 200").then_some(())) => {
            match turned_away.elapsed() >= Duration::from_secs(asked).mul_f64(0.97) {
                true => "yes",
                false => "comes back sooner",
            }
        }
    };
    vec![("503", found.to_owned())]
}

/// A refusal with a stream that sends `retry` and ends.
async fn refused_to_come_back(stage: &Stage, client: &Client) -> Found {
    let (limit, registry) = (Limit::streams(0), Registry::new());
    let layer = SseLayer::new(&registry).limit(limit.clone());
    let layer = layer.refused_response(RefusedResponse::reconnect().delay(Duration::from_secs(5)));
    let relay = Relay::to(serve(layer).await).await;
    let mut run = client.follow(&stage.tools, &relay.url, &[]);
    let asked = Duration::from_millis(relay.has_seen(|text| number_after(text, "retry: ")).await);
    let turned_away = Instant::now();
    limit.set_limit(10);
    let is_back = tokio::select! {
        biased;
        () = relay.has_seen(|text| (text.matches("HTTP/1.1 200").count() == 2).then_some(())) => true,
        () = run.closed() => false,
    };
    let took = turned_away.elapsed();
    if !is_back {
        return vec![("reconnect", "gives up".to_owned())];
    }
    registry.publish(TOPIC, Event::data(END)).expect("a topic");
    let mut problems = Vec::new();
    if !obeys(client, asked, took) {
        problems.push("the delay");
    }
    if run.events_until(END).await.len() > 1 {
        problems.push("invisible");
    }
    vec![("reconnect", after_the_delay(client, &problems))]
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    let (number, _) = rest.split_once(['\r', '\n'])?;
    number.trim().parse().ok()
}
