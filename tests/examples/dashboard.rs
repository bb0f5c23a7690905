//! The dashboard as a real process over real sockets: what a browser, `curl` and a client library get.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Builder, Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use reqwest_eventsource::{Event, EventSource, retry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_stream::StreamExt;

use crate::{
    BOUND,
    example::{Example, Server},
    listener::listen,
    text,
};

static DASHBOARD: Example = Example::named("dashboard");

async fn dashboard(environment: &[(&str, &str)]) -> Server {
    Server::start(DASHBOARD.command().env("PORT", "0").envs(environment.iter().copied())).await
}

type Http = Client<HttpConnector, Full<Bytes>>;

fn http() -> Http {
    http_with(&mut Client::builder(TokioExecutor::new()))
}

fn http_with(builder: &mut Builder) -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    builder.build(connector)
}

async fn ask(
    http: &Http,
    method: Method,
    url: &str,
    last_event_id: Option<&str>,
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let mut request = Request::builder().method(method).uri(url);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    timeout(BOUND, http.request(request)).await.expect("an answer in time").unwrap()
}

/// Opens a stream of topics and reads its position event. Returns the stream and that text.
async fn opened(http: &Http, url: &str, last_event_id: Option<&str>) -> (Response<Incoming>, String) {
    let mut stream = ask(http, Method::GET, url, last_event_id, "").await;
    assert_eq!(stream.status(), StatusCode::OK);
    let position = read_until(&mut stream, "\n\n").await;
    let id = position.strip_prefix("event: position\ndata: \nid: ").expect(&position);
    let id = id.strip_suffix("\n\n").unwrap().to_owned();
    (stream, id)
}

/// Publishes, and returns the event's id and the number of subscribers.
async fn publish(http: &Http, url: &str, topic: &str, data: impl Into<Bytes>) -> (String, u64) {
    let response = ask(http, Method::POST, &format!("{url}/publish/{topic}"), None, data).await;
    assert_eq!(response.status(), StatusCode::OK);
    let receipt: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    (receipt["id"].as_str().unwrap().to_owned(), receipt["clients"].as_u64().unwrap())
}

/// Reads a stream until its text ends with `end`.
async fn read_until(response: &mut Response<Incoming>, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let frame = timeout(BOUND, response.frame()).await.unwrap_or_else(|_| panic!("{end:?} after {text:?}"));
        text.push_str(std::str::from_utf8(&frame.expect("no end").unwrap().into_data().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn a_stream_has_its_headers_at_once_then_events_and_heartbeats() {
    let dashboard = dashboard(&[("HEARTBEAT_MS", "200")]).await;
    let (http, url) = (http(), &dashboard.url);
    let (mut stream, _) = opened(&http, &format!("{url}/events?topic=a%2Fb&topic=c"), None).await;
    let header = |name: &str| stream.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(header("x-accel-buffering"), Some("no"));
    assert_eq!(header("content-length"), None);
    let silence = read_until(&mut stream, ":\n\n").await;
    assert!(silence.replace(":\n\n", "").is_empty(), "{silence:?}");

    let (id, clients) = publish(&http, url, "a/b?event=note", "line 1\nline 2").await;
    assert_eq!(clients, 1);
    let wire = read_until(&mut stream, &format!("event: note\ndata: line 1\ndata: line 2\nid: {id}\n\n")).await;
    assert!(wire.starts_with(":\n\n") || wire.starts_with("event: note\n"));
    read_until(&mut stream, ":\n\n").await;
}

#[tokio::test]
async fn many_streams_share_one_connection_over_http_2() {
    let dashboard = dashboard(&[]).await;
    let http = http_with(Client::builder(TokioExecutor::new()).http2_only(true));
    let url = &dashboard.url;
    let mut streams = Vec::new();
    for number in 0..50 {
        let (stream, _) = opened(&http, &format!("{url}/events?topic=all&topic=t/{number}"), None).await;
        assert_eq!((stream.status(), stream.version()), (StatusCode::OK, Version::HTTP_2));
        assert!(!stream.headers().contains_key("connection"));
        streams.push(stream);
    }
    let (id, clients) = publish(&http, url, "all", "for all").await;
    assert_eq!(clients, 50);
    let (own_id, clients) = publish(&http, url, "t/7", "for one").await;
    assert_eq!(clients, 1);
    for (number, stream) in streams.iter_mut().enumerate() {
        let own = if number == 7 { format!("data: for one\nid: {own_id}\n\n") } else { String::new() };
        let expected = format!("data: for all\nid: {id}\n\n{own}");
        assert_eq!(read_until(stream, &expected).await, expected);
    }
}

#[tokio::test]
async fn a_client_that_reconnects_first_gets_exactly_what_it_missed() {
    let dashboard = dashboard(&[]).await;
    let (http, url) = (http(), &dashboard.url);
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(publish(&http, url, if number % 2 == 0 { "even" } else { "odd" }, number.to_string()).await.0);
    }
    let both = format!("{url}/events?topic=even&topic=odd");
    let expected: String = (2..5).map(|number| format!("data: {number}\nid: {}\n\n", ids[number])).collect();
    for (url, header) in [(both.clone(), Some(ids[1].as_str())), (format!("{both}&lastEventId={}", ids[1]), None)] {
        let (mut stream, stands) = opened(&http, &url, header).await;
        assert_eq!(stands, ids[1]);
        assert_eq!(read_until(&mut stream, &format!("id: {}\n\n", ids[4])).await, expected);
    }
}

#[tokio::test]
async fn an_id_from_before_a_restart_is_a_gap() {
    let mut first = dashboard(&[]).await;
    let http = http();
    let (id, _) = publish(&http, &first.url, "t", "lost").await;
    first.process.kill().await.unwrap();
    let second = dashboard(&[]).await;
    let mut stream = ask(&http, Method::GET, &format!("{}/events?topic=t", second.url), Some(&id), "").await;
    let gap = read_until(&mut stream, "\n\n").await;
    assert!(gap.starts_with(&format!("event: gap\ndata: {{\"topics\":[\"t\"],\"after\":\"{id}\"}}\nid: ")), "{gap:?}");
}

#[tokio::test]
async fn bad_input_gets_a_4xx_that_says_what_is_wrong() {
    let dashboard = dashboard(&[]).await;
    let (http, url) = (http(), &dashboard.url);
    let long = "x".repeat(257);
    let cases = [
        (Method::GET, "events".to_owned(), String::new(), "name at least one topic"),
        (Method::GET, "events?topic=".to_owned(), String::new(), "topic name is empty"),
        (Method::GET, format!("events?topic={long}"), String::new(), "is longer than 256 bytes"),
        (Method::POST, "publish".to_owned(), String::new(), "name a topic"),
        (Method::POST, "publish/".to_owned(), String::new(), "topic name is empty"),
        (Method::POST, format!("publish/{long}"), String::new(), "is longer than 256 bytes"),
        (Method::POST, "publish/a%0Ab".to_owned(), String::new(), "control character"),
        (Method::POST, "publish/a?event=a%0Ab".to_owned(), String::new(), "line end"),
        (Method::POST, "publish/a".to_owned(), "x".repeat((1 << 20) + 1), "more than 1048576 bytes"),
        (Method::DELETE, "clients/nobody".to_owned(), String::new(), "no open stream has the id \"nobody\""),
    ];
    for (method, path, body, sentence) in cases {
        let response = ask(&http, method, &format!("{url}/{path}"), None, body).await;
        assert!(response.status().is_client_error(), "{path}: {}", response.status());
        let text = text(response).await;
        assert!(text.contains(sentence), "{path}: {text}");
    }
    publish(&http, url, "a", "x".repeat(1 << 20)).await;
}

#[tokio::test]
async fn the_stats_count_clients_topics_and_events() {
    let dashboard = dashboard(&[]).await;
    let (http, url) = (http(), &dashboard.url);
    publish(&http, url, "a", "1").await;
    let _stream = ask(&http, Method::GET, &format!("{url}/events?topic=b"), None, "").await;
    let stats = text(ask(&http, Method::GET, &format!("{url}/stats"), None, "").await).await;
    let stats: HashMap<String, serde_json::Value> = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["clients"], 1);
    let least = |name: &str, least: u64| assert!(stats[name].as_u64() >= Some(least), "{name}: {stats:?}");
    least("topics", 2);
    least("events", 1);
    least("bytes", 1);
}

/// Forwards connections to a server, and cuts each after this many bytes of its responses.
async fn cutting_proxy(upstream: &str, every: usize) -> (String, Arc<AtomicUsize>) {
    let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&cuts);
    let address = listen(move |mut client| {
        let (upstream, counted) = (upstream.clone(), Arc::clone(&counted));
        async move {
            let mut server = TcpStream::connect(upstream).await.unwrap();
            let (mut left, mut asked, mut answer) = (every, [0; 4096], [0; 64]);
            while left > 0 {
                tokio::select! {
                    read = client.read(&mut asked) => match read {
                        Ok(length @ 1..) => server.write_all(&asked[..length]).await.unwrap(),
                        _ => return,
                    },
                    read = server.read(&mut answer) => match read {
                        Ok(length @ 1..) => {
                            let length = length.min(left);
                            left -= length;
                            if client.write_all(&answer[..length]).await.is_err() {
                                return;
                            }
                        }
                        _ => return,
                    },
                }
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    (format!("http://{address}"), cuts)
}

#[tokio::test]
async fn a_client_library_loses_no_event_when_its_connections_are_cut() {
    const EVENTS: usize = 400;
    let dashboard = dashboard(&[]).await;
    let (http, url) = (http(), dashboard.url.clone());
    let (proxy, cuts) = cutting_proxy(&url, 1501).await;
    let mut stream = EventSource::get(format!("{proxy}/events?topic=a&topic=b"));
    stream.set_retry_policy(Box::new(retry::Constant::new(Duration::from_millis(5), None)));
    assert!(matches!(stream.next().await, Some(Ok(Event::Open))));
    let publisher = tokio::spawn(async move {
        for number in 0..EVENTS {
            publish(&http, &url, ["a", "b"][number % 2], number.to_string()).await;
        }
    });
    let mut arrived = Vec::new();
    while arrived.len() < EVENTS {
        match timeout(BOUND, stream.next()).await.unwrap_or_else(|_| panic!("after {:?}", arrived.last())) {
            Some(Ok(Event::Message(event))) if event.event == "position" => {}
            Some(Ok(Event::Message(event))) => arrived.push(event.data.parse::<usize>().unwrap()),
            // The connection was cut. The client reconnects.
            Some(_) => {}
            None => panic!("the client gave up after {:?}", arrived.last()),
        }
    }
    assert_eq!(arrived, Vec::from_iter(0..EVENTS));
    assert!(cuts.load(Ordering::Relaxed) >= 5, "{cuts:?} cuts");
    publisher.await.unwrap();
}

#[tokio::test]
async fn a_page_learns_its_client_id_and_can_change_its_subscriptions() {
    let dashboard = dashboard(&[]).await;
    let (http, url) = (http(), &dashboard.url);
    let page = text(ask(&http, Method::GET, url, None, "").await).await;
    assert!(page.contains("<html") && page.contains("/page/events"));
    let mut stream = ask(&http, Method::GET, &format!("{url}/page/events?topic=a"), None, "").await;
    let mut opening = String::new();
    while !opening.contains("event: welcome") {
        opening += &read_until(&mut stream, "\n\n").await;
    }
    let welcome = opening.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let welcome: serde_json::Value = serde_json::from_str(welcome).unwrap();
    let client = format!("{url}/clients/{}", welcome["client"].as_str().unwrap());
    let (unheard, clients) = publish(&http, url, "b", "unheard").await;
    assert_eq!(clients, 0);
    let response = ask(&http, Method::POST, &format!("{client}/subscribe?topic=b"), None, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let (id, clients) = publish(&http, url, "b", "heard").await;
    assert_eq!((clients, id > unheard), (1, true));
    read_until(&mut stream, &format!("data: heard\nid: {id}\n\n")).await;
    let response = ask(&http, Method::DELETE, &client, None, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(text(stream).await, "", "a clean end");
    assert_eq!(ask(&http, Method::DELETE, &client, None, "").await.status(), StatusCode::NOT_FOUND);
}

/// The progress of one of the thousand readers: for each of its topics, the number of the next event.
type Progress = BTreeMap<usize, usize>;

/// A small random number generator, so that a seed repeats a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

const STREAMS: usize = 1_000;
const TOPICS: usize = 20;
const EVENTS: usize = 100_000;

/// Reads until it has all events of its topics. Each connection is dropped at a random byte, and the next one resumes
/// after the last complete event. Returns the number of connections.
async fn reader(http: Http, url: Arc<str>, seed: usize, opened: Arc<Semaphore>) -> usize {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1));
    let mut progress: Progress = (0..=random.below(3)).map(|_| (random.below(TOPICS), 0)).collect();
    let query: Vec<String> = progress.keys().map(|topic| format!("topic=load/{topic}")).collect();
    let url = format!("{url}/events?{}", query.join("&"));
    let (mut last_id, mut connections) = (None::<String>, 0);
    while progress.values().any(|next| *next < EVENTS / TOPICS) {
        let mut stream = ask(&http, Method::GET, &url, last_id.as_deref(), "").await;
        assert_eq!(stream.status(), StatusCode::OK);
        connections += 1;
        if connections == 1 {
            opened.add_permits(1);
        }
        // A connection must be long enough to get an id to resume from, and to make progress.
        let mut left = 200 + random.below(400_000);
        let mut text = String::new();
        while left > 0 && progress.values().any(|next| *next < EVENTS / TOPICS) {
            let frame = timeout(BOUND, stream.frame()).await.unwrap_or_else(|_| panic!("{seed} waits at {progress:?}"));
            let data = frame.expect("no end").unwrap().into_data().unwrap();
            let arrived = data.len().min(left);
            left -= arrived;
            text.push_str(std::str::from_utf8(&data[..arrived]).unwrap());
            let whole = text.rfind("\n\n").map_or(0, |at| at + 2);
            for block in text[..whole].split_terminator("\n\n") {
                if let Some(id) = take(block, &mut progress) {
                    last_id = Some(id.to_owned());
                }
            }
            text.drain(..whole);
        }
    }
    connections
}

/// Takes one event, which must be the next one of its topic. Comments are heartbeats.
fn take<'a>(block: &'a str, progress: &mut Progress) -> Option<&'a str> {
    if block.starts_with(':') {
        return None;
    }
    if let Some(id) = block.strip_prefix("event: position\ndata: \nid: ") {
        return Some(id);
    }
    let (data, id) = block.strip_prefix("data: ")?.split_once("\nid: ").unwrap_or_else(|| panic!("{block:?}"));
    let (topic, number) = data.split_once(' ').unwrap();
    let next = progress.get_mut(&topic.parse().unwrap()).expect("a topic of this reader");
    assert_eq!(number.parse(), Ok(*next), "topic {topic}: none lost, none twice, none out of order");
    *next += 1;
    Some(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_cut_at_random_lose_repeat_and_reorder_nothing() {
    rlimit::increase_nofile_limit(8192).unwrap();
    let retention = [("RETENTION_EVENTS", "10000"), ("RETENTION_BYTES", "268435456")];
    let dashboard = dashboard(&retention).await;
    let (http, url): (Http, Arc<str>) = (http(), dashboard.url.as_str().into());
    let opened = Arc::new(Semaphore::new(0));
    let readers: Vec<_> =
        (0..STREAMS).map(|seed| tokio::spawn(reader(http.clone(), url.clone(), seed, opened.clone()))).collect();
    let _all = timeout(BOUND, opened.acquire_many(STREAMS as u32)).await.expect("all streams open in time").unwrap();

    let publishers: Vec<_> = (0..TOPICS)
        .map(|topic| {
            let (http, url) = (http.clone(), url.clone());
            tokio::spawn(async move {
                for number in 0..EVENTS / TOPICS {
                    publish(&http, &url, &format!("load/{topic}"), format!("{topic} {number}")).await;
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let mut connections = 0;
    for reader in readers {
        connections += reader.await.unwrap();
    }
    println!("{STREAMS} streams took {connections} connections for {EVENTS} events");
    assert!(connections > 2 * STREAMS, "the connections were cut: {connections} connections");
}

/// nginx sends this request by default with `proxy_http_version 1.1`.
#[tokio::test]
async fn a_response_to_connection_close_does_not_say_keep_alive() {
    let dashboard = dashboard(&[]).await;
    let mut socket = TcpStream::connect(dashboard.url.strip_prefix("http://").unwrap()).await.unwrap();
    let request = "GET /events?topic=a HTTP/1.1\r\nhost: x.test\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(BOUND, socket.read_u8()).await.expect("the head in time").unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("connection: close\r\n"), "{head}");
}
