//! What the dashboard shows of the registry's features, as a real process over real sockets.

use std::process::Stdio;

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    BOUND,
    example::{Example, Server},
    spec::{Message, Parsed, parse},
};

static DASHBOARD: Example = Example::named("dashboard");

struct Dashboard {
    server: Server,
    http: Client,
}

impl Dashboard {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let mut command = DASHBOARD.command();
        command.env("PORT", "0").envs(environment.iter().copied()).stderr(Stdio::piped());
        Self { server: Server::start(&mut command).await, http: Client::new() }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.server.url))
    }

    async fn open(&self, path: &str) -> Stream {
        Stream::open(self.get(path)).await
    }

    async fn resume(&self, path: &str, last_event_id: &str) -> Stream {
        Stream::open(self.get(path).header("last-event-id", last_event_id)).await
    }

    /// Publishes, and returns the event's id and the number of subscribers.
    async fn publish(&self, path: &str, data: impl Into<String>) -> (String, u64) {
        let (status, text) = self.post(&format!("/publish/{path}"), data).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let receipt: Value = serde_json::from_str(&text).unwrap();
        (receipt["id"].as_str().unwrap().to_owned(), receipt["clients"].as_u64().unwrap())
    }

    async fn post(&self, path: &str, data: impl Into<String>) -> (StatusCode, String) {
        answer(self.http.post(format!("{}{path}", self.server.url)).body(data.into())).await
    }

    async fn delete(&self, path: &str) -> StatusCode {
        answer(self.http.delete(format!("{}{path}", self.server.url))).await.0
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = answer(self.get(path)).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Repeats the request until the answer satisfies `is_it`.
    async fn json_until(&self, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let json = self.json(path).await;
                if is_it(&json) {
                    return json;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, asking).await.unwrap_or_else(|_| panic!("{path} does not reach the expected state"))
    }

    /// Reads standard error until it has this many lines that satisfy `is_it`.
    async fn logged(&mut self, number: usize, is_it: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = BufReader::new(self.server.process.stderr.as_mut().unwrap()).lines();
        let mut found = Vec::new();
        while found.len() < number {
            let line = timeout(BOUND, lines.next_line()).await.expect("a line in time").unwrap().expect("a line");
            found.extend(Some(line).filter(|line| is_it(line)));
        }
        found
    }
}

/// The position event is for the client library itself.
fn is_no_position(message: &Message) -> bool {
    message.event_type != "position"
}

async fn answer(request: RequestBuilder) -> (StatusCode, String) {
    let response = timeout(BOUND, request.send()).await.expect("an answer in time").unwrap();
    (response.status(), timeout(BOUND, response.text()).await.expect("the whole answer in time").unwrap())
}

struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    async fn open(request: RequestBuilder) -> Self {
        let response = timeout(BOUND, request.send()).await.expect("an answer in time").unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self { response, text: String::new() }
    }

    /// Returns the next event, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Message> {
        // Heartbeats are no progress, so the time limit is for the whole read.
        timeout(BOUND, self.read()).await.unwrap_or_else(|_| panic!("no event in time, after {:?}", self.text))
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(message) = parse(block.as_bytes()).messages.pop().filter(is_no_position) {
                    return Some(message);
                }
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the type of the next event, its data as JSON, and its id.
    async fn next_json(&mut self) -> (String, Value, Option<String>) {
        let message = self.next().await.expect("another event");
        (message.event_type, serde_json::from_str(&message.data).unwrap(), message.own_id)
    }

    /// Checks the next event.
    async fn gets(&mut self, data: &str, id: &str) {
        let message = self.next().await.expect("another event");
        assert_eq!((message.data.as_str(), message.own_id.as_deref()), (data, Some(id)));
    }
}

#[tokio::test]
async fn a_pattern_gets_a_new_topic_from_its_first_event() {
    let dashboard = Dashboard::start(&[]).await;
    let mut news = dashboard.open("/events?topic=news/*").await;
    let mut all = dashboard.open("/events?topic=**").await;
    let first = dashboard.publish("news/rain", "1").await;
    let deeper = dashboard.publish("news/rain/heavy", "2").await;
    let second = dashboard.publish("news/sun", "3").await;
    assert_eq!((first.1, deeper.1, second.1), (2, 1, 2));
    news.gets("1", &first.0).await;
    news.gets("3", &second.0).await;
    // The demo's own events come between these.
    let ids = [&first.0, &deeper.0, &second.0];
    let mut found = Vec::new();
    while found.len() < ids.len() {
        let id = all.next().await.expect("another event").own_id;
        found.extend(ids.iter().position(|known| id.as_ref() == Some(known)));
    }
    assert_eq!(found, [0, 1, 2]);
}

#[tokio::test]
async fn the_sender_does_not_get_its_own_message() {
    let dashboard = Dashboard::start(&[]).await;
    let mut sender = dashboard.open("/page/events?topic=chat").await;
    let (event_type, welcome, _) = sender.next_json().await;
    assert_eq!(event_type, "welcome");
    let mut other = dashboard.open("/events?topic=chat").await;
    let id = welcome["client"].as_str().unwrap();
    let (not_for_me, clients) = dashboard.publish(&format!("chat?except={id}"), "hello").await;
    assert_eq!(clients, 1);
    let (for_all, clients) = dashboard.publish("chat", "bye").await;
    assert_eq!(clients, 2);
    sender.gets("bye", &for_all).await;
    other.gets("hello", &not_for_me).await;
    other.gets("bye", &for_all).await;

    let (status, sentence) = dashboard.post("/publish/chat?except=me", "hello").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(sentence.contains("the client id \"me\" is invalid"), "{sentence}");
}

#[tokio::test]
async fn a_filter_still_applies_after_a_resume() {
    let dashboard = Dashboard::start(&[]).await;
    let mut live = dashboard.open("/events?topic=log&level=warn").await;
    let mut ids = Vec::new();
    for path in ["log?level=info", "log?level=warn", "log?level=info", "log?level=error", "log", "log?level=info"] {
        ids.push(dashboard.publish(path, path).await.0);
    }
    let (last, _) = dashboard.publish("log?level=warn", "the last one").await;
    live.gets("log?level=warn", &ids[1]).await;
    for mut stream in [live, dashboard.resume("/events?topic=log&level=warn", &ids[1]).await] {
        stream.gets("log?level=error", &ids[3]).await;
        stream.gets("log", &ids[4]).await;
        stream.gets("the last one", &last).await;
    }
    let (status, sentence) = dashboard.post("/publish/log?level=loud", "").await;
    assert_eq!((status, sentence.as_str()), (StatusCode::BAD_REQUEST, "a level is one of info, warn, error"));
    assert_eq!(answer(dashboard.get("/events?topic=log&level=loud")).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_filter_applies_to_the_demos_own_log() {
    let dashboard = Dashboard::start(&[]).await;
    let (event_type, line, _) = dashboard.open("/events?topic=demo/log&level=warn").await.next_json().await;
    assert_eq!(event_type, "log");
    assert!(line["level"] == "warn" || line["level"] == "error", "{line}");
}

#[tokio::test]
async fn the_list_of_streams_names_their_users_and_no_client_ids() {
    let dashboard = Dashboard::start(&[]).await;
    let mut ada = dashboard.open("/page/events?topic=a/*&user=ada").await;
    let (_, welcome, _) = ada.next_json().await;
    let header = dashboard.get("/events?topic=b&user=not-this").header("x-user", "bob").header("user-agent", "test/1");
    let mut bob = Stream::open(header).await;
    let _long = dashboard.open(&format!("/events?topic=c&user=%0A%20{}", "x".repeat(1000))).await;
    let _guest = dashboard.open("/events?topic=d").await;

    let list = dashboard.json("/clients").await;
    let users: Vec<_> = list.as_array().unwrap().iter().map(|it| it["user"].as_str().unwrap()).collect();
    assert_eq!((users[0], users[1], users[3]), ("ada", "bob", "guest 4"));
    assert!(users[2].len() < 25 && users[2].starts_with("xxx"), "{users:?}");
    assert_eq!(list[0]["subscriptions"], json!(["a/*"]));
    assert_eq!(list[1]["agent"], "test/1");
    let id = welcome["client"].as_str().unwrap();
    assert_eq!((&list[0]["number"], &list[0]["id"]), (&welcome["number"], &json!(id[..8])));
    assert_eq!(dashboard.delete(&format!("/clients/{}", &id[..8])).await, StatusCode::NOT_FOUND);

    // A stream can be closed by its number and by its whole id.
    assert_eq!(dashboard.delete(&format!("/streams/{}", list[1]["number"])).await, StatusCode::NO_CONTENT);
    assert_eq!(bob.next().await, None);
    assert_eq!(dashboard.delete(&format!("/clients/{id}")).await, StatusCode::NO_CONTENT);
    assert_eq!(ada.next().await, None);
    assert_eq!(dashboard.delete(&format!("/streams/{}", list[1]["number"])).await, StatusCode::NOT_FOUND);
    let stats = dashboard.json("/stats").await;
    assert_eq!(stats["closed_streams"], json!({ "by_number": 1, "by_server": 1 }));
    assert_eq!(dashboard.json("/clients").await.as_array().map(Vec::len), Some(2));
}

/// A client that reads little from its socket until a test calls `read`.
struct Slow(TcpStream);

/// Together these events are larger than all buffers between the server and its client.
const BURST: usize = 64;
const LARGE: usize = 256 << 10;

impl Slow {
    /// Opens a stream and reads only the beginning of the response.
    async fn open(dashboard: &Dashboard, path: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8192).unwrap();
        let address = dashboard.server.url.strip_prefix("http://").unwrap().parse().unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        // In HTTP/1.0, the body ends when the connection is closed.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(BOUND, stream.read_u8()).await.expect("the head in time").unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&head));
        Self(stream)
    }

    /// Publishes more on a topic than the buffers between the server and this client hold.
    async fn overrun(&self, dashboard: &Dashboard, topic: &str) {
        for number in 0..BURST {
            dashboard.publish(topic, format!("{number} {}", "x".repeat(LARGE))).await;
            if number == 0 {
                // The client has an id to resume from, however busy the machine is.
                dashboard.json_until("/stats", |stats| stats["delivered"] == 1).await;
            }
        }
    }

    /// Reads until the newest event or the end.
    async fn read(&mut self) -> Parsed {
        let (mut wire, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        let newest = format!("data: {} ", BURST - 1);
        let mut begun = false;
        while !(begun && wire.ends_with(b"\n\n")) {
            let length = timeout(BOUND, self.0.read(&mut buffer)).await.expect("more in time").unwrap();
            if length == 0 {
                break;
            }
            let from = wire.len().saturating_sub(newest.len());
            wire.extend_from_slice(&buffer[..length]);
            begun |= wire[from..].windows(newest.len()).any(|at| at == newest.as_bytes());
        }
        let mut parsed = parse(&wire);
        parsed.messages.retain(is_no_position);
        parsed
    }
}

/// The numbers of the events, in the order of arrival.
fn numbers(parsed: &Parsed) -> Vec<usize> {
    let events = parsed.messages.iter().filter(|it| it.event_type == "message");
    events.map(|it| it.data.split_once(' ').unwrap().0.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_slow_client_is_told_what_is_missing_and_goes_on() {
    let mut dashboard = Dashboard::start(&[("RETENTION_EVENTS", "2"), ("LOG", "1")]).await;
    let mut slow = Slow::open(&dashboard, "/events?topic=tell").await;
    slow.overrun(&dashboard, "tell").await;
    let parsed = slow.read().await;
    // On a busy machine the client falls behind more than once.
    let (mut next, mut gaps, mut lost, mut before) = (0, 0, Vec::new(), None);
    for message in &parsed.messages {
        if message.event_type == "gap" {
            let gap: Value = serde_json::from_str(&message.data).unwrap();
            assert_eq!((&gap["topics"], &gap["after"]), (&json!(["tell"]), &json!(before)));
            gaps += 1;
            continue;
        }
        let number: usize = message.data.split_once(' ').unwrap().0.parse().unwrap();
        if number != next {
            lost.push(number - next);
        }
        assert_eq!(lost.len(), gaps, "{number} comes after {next}, and each loss after a gap that tells of it");
        next = number + 1;
        before.clone_from(&message.own_id);
    }
    assert!(next == BURST && gaps > 0, "{next} {gaps}");
    let stats = dashboard.json("/stats").await;
    let all: usize = lost.iter().sum();
    assert_eq!((&stats["fell_behind"], &stats["missed"], &stats["gaps"]), (&json!(gaps), &json!(all), &json!(gaps)));
    let lines = dashboard.logged(gaps, |line| line.contains("lost")).await;
    let expected = |lost| format!("stream 1 of \"guest 1\" lost {lost} events of \"tell\": too slow");
    assert_eq!(lines, Vec::from_iter(lost.into_iter().map(expected)));
}

#[tokio::test]
async fn a_strict_topic_disconnects_a_slow_client_and_tells_it_on_resume() {
    let dashboard = Dashboard::start(&[("RETENTION_EVENTS", "2")]).await;
    let mut slow = Slow::open(&dashboard, "/events?topic=strict/a").await;
    slow.overrun(&dashboard, "strict/a").await;
    let parsed = slow.read().await;
    let numbers = numbers(&parsed);
    assert_eq!(numbers, Vec::from_iter(0..parsed.messages.len()), "no event is missing before the end");
    assert!(numbers.len() < BURST - 2, "the stream ended before the newest event");
    assert!(matches!(parsed.retries[..], [500..=1500]), "{:?}", parsed.retries);
    assert_eq!(dashboard.json("/stats").await["closed_streams"], json!({ "fell_behind": 1 }));
    let mut back = dashboard.resume("/events?topic=strict/a", &parsed.last_event_id).await;
    let (event_type, gap, _) = back.next_json().await;
    let expected = json!({ "topics": ["strict/a"], "after": parsed.last_event_id });
    assert_eq!((event_type.as_str(), gap), ("gap", expected));
    assert!(back.next().await.is_some_and(|it| it.data.starts_with(&format!("{} ", BURST - 2))));
}

#[tokio::test]
async fn a_slow_client_of_a_state_topic_gets_the_latest_value_and_no_gap() {
    let dashboard = Dashboard::start(&[]).await;
    let mut slow = Slow::open(&dashboard, "/events?topic=state/a").await;
    slow.overrun(&dashboard, "state/a").await;
    let parsed = slow.read().await;
    let numbers = numbers(&parsed);
    assert_eq!(numbers.len(), parsed.messages.len(), "no gap event");
    assert!(numbers.len() < BURST && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&(BURST - 1)));
}

#[tokio::test]
async fn a_new_client_of_a_state_topic_first_gets_the_latest_value() {
    let dashboard = Dashboard::start(&[]).await;
    let (old, _) = dashboard.publish("state/lights", "on").await;
    let (id, _) = dashboard.publish("state/lights", "off").await;
    for path in [
        "/events?topic=state/lights",
        "/events?topic=state/lights&topic=other",
        "/events?topic=state/lights/**&topic=state/lights",
    ] {
        dashboard.open(path).await.gets("off", &id).await;
        // A client that resumes is not told of outdated values.
        dashboard.resume(path, &old).await.gets("off", &id).await;
    }
    let (deep, _) = dashboard.publish("state/lights/hall", "dim").await;
    dashboard.open("/events?topic=state/lights/*").await.gets("dim", &deep).await;
    let mut page = dashboard.open("/page/events?topic=other&topic=state/lights").await;
    assert_eq!(page.next_json().await.0, "welcome");
    assert_eq!(page.next().await.map(|it| it.data).as_deref(), Some("off"));
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_disconnected() {
    let dashboard = Dashboard::start(&[("STALLED_AFTER_MS", "100")]).await;
    let mut slow = Slow::open(&dashboard, "/events?topic=slow").await;
    slow.overrun(&dashboard, "slow").await;
    let stats = dashboard.json_until("/stats", |stats| stats["closed_streams"]["stalled"] == 1).await;
    assert_eq!(stats["clients"], 0);
    // The bytes that were on their way still arrive. Then the stream ends.
    assert!(numbers(&slow.read().await).len() < BURST);
}

#[tokio::test]
async fn members_are_users_and_each_has_the_number_of_its_streams() {
    let dashboard = Dashboard::start(&[]).await;
    let open = async |path: &str| dashboard.open(path).await;
    let _streams = [
        open("/events?topic=room/1&user=ada").await,
        open("/events?topic=room/1&topic=b&user=ada").await,
        open("/events?topic=room/1&user=bob").await,
        open("/events?topic=room/*&user=eve").await,
    ];
    let guest = open("/page/events?topic=room/2").await.next_json().await.1;
    let members = dashboard.json("/presence/room/1").await;
    assert_eq!(members, json!([{ "key": "ada", "clients": 2 }, { "key": "bob", "clients": 1 }]));
    assert_eq!(dashboard.json("/presence/room/*").await, json!([{ "key": "eve", "clients": 1 }]));
    assert_eq!(guest["user"], "guest 5");
    let (status, sentence) = answer(dashboard.get("/presence/a%2F%2Fb")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{sentence}");
}

/// Reads until the stream reports this news of this user. Returns the members.
async fn until(viewers: &mut Stream, news: &str, who: &str) -> Value {
    loop {
        let (_, mut said, _) = viewers.next_json().await;
        if said[news] == who {
            return said["here"].take();
        }
    }
}

#[tokio::test]
async fn a_user_that_returns_within_the_grace_time_neither_leaves_nor_joins() {
    let dashboard = Dashboard::start(&[("GRACE_MS", "3600000")]).await;
    let viewers = |user| format!("/events?topic=state/viewers&user={user}");
    let ada = dashboard.open(&viewers("ada")).await;
    let mut bob = dashboard.open(&viewers("bob")).await;
    assert_eq!(until(&mut bob, "joined", "bob").await, json!(["ada", "bob"]));

    drop(ada);
    let away = json!({ "key": "ada", "clients": 0 });
    dashboard.json_until("/presence/state/viewers", |members| members[0] == away).await;
    let _ada = dashboard.open(&viewers("ada")).await;
    let members = dashboard.json("/presence/state/viewers").await;
    assert_eq!(members, json!([{ "key": "ada", "clients": 1 }, { "key": "bob", "clients": 1 }]));
    let _eve = dashboard.open(&viewers("eve")).await;
    let (_, news, _) = bob.next_json().await;
    assert_eq!(news, json!({ "here": ["ada", "bob", "eve"], "joined": "eve" }));
}

#[tokio::test]
async fn a_user_that_does_not_return_leaves_after_the_grace_time() {
    let dashboard = Dashboard::start(&[("GRACE_MS", "1")]).await;
    let ada = dashboard.open("/events?topic=state/viewers&user=ada").await;
    let mut bob = dashboard.open("/events?topic=state/viewers&user=bob").await;
    until(&mut bob, "joined", "bob").await;
    drop(ada);
    assert_eq!(until(&mut bob, "left", "ada").await, json!(["bob"]));
    assert_eq!(dashboard.json("/presence/state/viewers").await, json!([{ "key": "bob", "clients": 1 }]));
}

#[tokio::test]
async fn a_batched_stream_gets_arrays_and_resumes_from_their_ids() {
    let dashboard = Dashboard::start(&[]).await;
    let mut batched = dashboard.open("/events?topic=b/*&batch=10000&array").await;
    let mut plain = dashboard.open("/events?topic=b/*&batch=10000").await;
    let (first, _) = dashboard.publish("b/1", "one").await;
    let batch = |array: Value, id: &String| ("batch".to_owned(), array, Some(id.clone()));
    assert_eq!(batched.next_json().await, batch(json!([{ "topic": "b/1", "data": "one" }]), &first));
    plain.gets("one", &first).await;

    let (second, _) = dashboard.publish("b/1", "two\nlines").await;
    let (last, _) = dashboard.publish("b/2?event=tick", "{\"n\":3}").await;
    let rest =
        json!([{ "topic": "b/1", "data": "two\nlines" }, { "topic": "b/2", "event": "tick", "data": { "n": 3 } }]);
    // A closed stream does not wait for the end of its window.
    for it in dashboard.json("/clients").await.as_array().unwrap() {
        dashboard.delete(&format!("/streams/{}", it["number"])).await;
    }
    assert_eq!(batched.next_json().await, batch(rest.clone(), &last));
    assert_eq!(batched.next().await, None);
    plain.gets("two\nlines", &second).await;
    plain.gets("{\"n\":3}", &last).await;
    assert_eq!(plain.next().await, None);

    let mut resumed = dashboard.resume("/events?topic=b/*&batch=10000&array", &first).await;
    assert_eq!(resumed.next_json().await, batch(rest, &last));
    let mut after = dashboard.resume("/events?topic=b/*&array", &last).await;
    let (new, _) = dashboard.publish("b/3", "4").await;
    assert_eq!(after.next_json().await, batch(json!([{ "topic": "b/3", "data": 4 }]), &new));
    for bad in ["10001", "-1", "soon", ""] {
        let (status, _) = answer(dashboard.get(&format!("/events?topic=b&batch={bad}"))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad:?}");
    }
}

/// Reads this many price changes, and checks that each is the next one. Returns the number and the id of the last.
async fn follow(stream: &mut Stream, mut tick: u64, changes: usize) -> (u64, String) {
    let (mut last, mut seen) = (None, 0);
    while seen < changes {
        let (event_type, data, id) = stream.next_json().await;
        let ticks: Vec<_> = match event_type.as_str() {
            "batch" => data.as_array().unwrap().iter().map(|it| it["data"]["tick"].as_u64().unwrap()).collect(),
            _ => vec![data["tick"].as_u64().unwrap()],
        };
        for next in ticks {
            assert_eq!(next, tick + 1, "each change comes exactly once");
            (tick, seen) = (next, seen + 1);
        }
        last = id;
    }
    (tick, last.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_after_a_snapshot_continue_it() {
    let dashboard = Dashboard::start(&[("PRICES_MS", "1"), ("RETENTION_EVENTS", "100000")]).await;
    let mut readers = JoinSet::new();
    for number in 0..50 {
        let url = dashboard.server.url.clone();
        let http = dashboard.http.clone();
        readers.spawn(async move {
            let (path, field) = match number % 2 {
                0 => ("/prices/events", ""),
                _ => ("/page/events?topic=demo/prices&array", "/prices"),
            };
            let open = || http.get(format!("{url}{path}"));
            let mut stream = Stream::open(open()).await;
            let (_, first, id) = stream.next_json().await;
            let table = first.pointer(field).expect("the price table");
            assert_eq!(table["quotes"].as_array().map(Vec::len), Some(6));
            assert!(id.is_some());
            let (tick, id) = follow(&mut stream, table["tick"].as_u64().unwrap(), 50).await;
            drop(stream);
            let mut resumed = Stream::open(open().header("last-event-id", id)).await;
            if number % 2 == 1 {
                let (_, welcome, id) = resumed.next_json().await;
                assert_eq!((&welcome["resume"], &welcome["prices"], id), (&json!("continued"), &Value::Null, None));
            }
            follow(&mut resumed, tick, 50).await;
        });
    }
    while let Some(result) = timeout(BOUND, readers.join_next()).await.expect("all in time") {
        result.unwrap();
    }
}

#[tokio::test]
async fn the_event_type_is_the_topic_unless_the_event_has_its_own_type() {
    let dashboard = Dashboard::start(&[]).await;
    let mut typed = dashboard.open("/events?topic=a/**&topic_as_event_type").await;
    let mut plain = dashboard.open("/events?topic=a/**").await;
    dashboard.publish("a/b", "1").await;
    dashboard.publish("a/c?event=note", "2").await;
    for (stream, types) in [(&mut typed, ["a/b", "note"]), (&mut plain, ["message", "note"])] {
        for (event_type, data) in types.into_iter().zip(["1", "2"]) {
            let message = stream.next().await.expect("another event");
            assert_eq!((message.event_type.as_str(), message.data.as_str()), (event_type, data));
        }
    }
}

#[tokio::test]
async fn with_log_each_closed_stream_is_one_line_without_its_client_id() {
    let mut dashboard = Dashboard::start(&[("LOG", "1")]).await;
    let mut page = dashboard.open("/page/events?topic=a&user=ada%22").await;
    let id = page.next_json().await.1["client"].as_str().unwrap().to_owned();
    let (event, _) = dashboard.publish("a", "x").await;
    page.gets("x", &event).await;
    drop(page);
    let line = dashboard.logged(1, |line| line.contains("is over")).await.remove(0);
    assert!(line.starts_with("stream 1 of \"ada\\\"\" is over after "), "{line}");
    assert!(line.contains(", 1 events, ") && line.ends_with(": the client disconnected"), "{line}");
    assert!(!line.contains(&id[..8]), "{line}");
}

#[tokio::test]
async fn the_stats_are_json_and_count_what_happened() {
    let dashboard = Dashboard::start(&[("HEARTBEAT_MS", "20")]).await;
    let before = dashboard.json("/stats").await;
    let mut streams = [dashboard.open("/events?topic=a&topic=b").await, dashboard.open("/events?topic=a").await];
    for data in ["1", "2", "3"] {
        let (id, _) = dashboard.publish("a", data).await;
        for stream in &mut streams {
            stream.gets(data, &id).await;
        }
    }
    assert_eq!(answer(dashboard.get("/events?topic=a//b")).await.0, StatusCode::BAD_REQUEST);
    let [_kept, gone] = streams;
    drop(gone);
    let stats = dashboard.json_until("/stats", |stats| stats["clients"] == 1).await;
    let expected = json!({
        "clients": 1, "subscriptions": 2, "delivered": 6, "fell_behind": 0, "missed": 0, "gaps": 0, "refused_subscriptions": 1,
        "withheld_heartbeats": 0, "closed_streams": { "client_disconnected": 1 },
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&stats[name], value, "{name}: {stats}");
    }
    let more = |name: &str, by: u64| {
        assert!(stats[name].as_u64() >= before[name].as_u64().map(|before| before + by), "{name}: {before} {stats}");
    };
    more("published", 3);
    more("events", 3);
    more("topics", 2);
    more("bytes", 3);
    let counts = dashboard.json_until("/counts", |counts| counts["heartbeats"].as_u64() > Some(0)).await;
    assert_eq!(counts["opened"], 2);
    assert!(counts["closed_bytes"].as_u64() > Some(0), "{counts}");
}
