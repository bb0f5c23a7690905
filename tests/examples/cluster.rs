//! The example with three nodes as a real process, over real sockets: its clients go on at another node when theirs is stopped or killed.

use std::{collections::HashSet, fmt::Write, time::Duration};

use eventsource_stream::{Event, Eventsource};
use http::{Method, StatusCode};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::{Stream, StreamExt};
use tower_sse::Position;

use crate::{
    example::{Example, Server},
    strangers::pages_of_other_sites_change_nothing,
};

#[cfg(all(unix, feature = "redis"))]
#[allow(dead_code, reason = "not all of it is asked for here")]
#[path = "../backplane_redis/server.rs"]
mod redis_server;

static CLUSTER: Example = Example::named("cluster");

/// How long anything may take before it counts as failed.
const BOUND: Duration = Duration::from_secs(60);

/// The program, and one who uses it.
struct Cluster {
    server: Server,
    http: Client,
    /// The addresses of the nodes.
    nodes: Vec<String>,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(arguments: &[&str]) -> Self {
        let server = Server::start(CLUSTER.command().args(arguments).env("PORT", "0")).await;
        let http = Client::builder().no_proxy().build().unwrap();
        let mut cluster = Self { server, http, nodes: Vec::new() };
        cluster.nodes = cluster.rows().await.iter().map(|row| row["url"].as_str().unwrap().to_owned()).collect();
        cluster
    }

    fn url(&self, n: usize, path: &str) -> String {
        format!("{}{path}", self.nodes[n - 1])
    }

    /// What the supervisor says of the nodes.
    async fn rows(&self) -> Vec<Value> {
        let answer = sent(self.http.get(format!("{}/nodes", self.server.url))).await.unwrap();
        serde_json::from_str(&text(answer).await).unwrap()
    }

    async fn state(&self, n: usize) -> String {
        self.rows().await[n - 1]["state"].as_str().unwrap().to_owned()
    }

    async fn order(&self, n: usize, order: &str) -> (StatusCode, String) {
        let answer = sent(self.http.post(format!("{}/nodes/{n}/{order}", self.server.url))).await.unwrap();
        (answer.status(), text(answer).await)
    }

    async fn does(&self, n: usize, order: &str) {
        assert_eq!(self.order(n, order).await, (StatusCode::NO_CONTENT, String::new()), "{order} {n}");
    }

    async fn get(&self, n: usize, path: &str) -> (StatusCode, String) {
        let answer = sent(self.http.get(self.url(n, path))).await.unwrap();
        (answer.status(), text(answer).await)
    }

    /// Publishes, and returns the id.
    async fn publish(&self, n: usize, topic: &str, data: &str) -> String {
        published(&self.http, &self.url(n, &format!("/publish/{topic}")), data).await
    }

    /// Publishes at a node, one event after the other, until it is told to stop. It then returns their ids.
    fn publisher(&self, n: usize) -> Publisher {
        let (http, url) = (self.http.clone(), self.url(n, "/publish/flow"));
        let (stop, is_stopped) = watch::channel(false);
        let published = tokio::spawn(async move {
            let mut ids = Vec::new();
            while !*is_stopped.borrow() {
                ids.push(published(&http, &url, &ids.len().to_string()).await);
            }
            ids
        });
        Publisher { stop, published }
    }

    async fn events(&self, n: usize, last_event_id: &str) -> Response {
        let answer = self.open(n, last_event_id).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer
    }

    async fn open(&self, n: usize, last_event_id: &str) -> reqwest::Result<Response> {
        let mut url = self.url(n, "/events");
        if !last_event_id.is_empty() {
            write!(url, "?lastEventId={last_event_id}").unwrap();
        }
        sent(self.http.get(url)).await
    }
}

struct Publisher {
    stop: watch::Sender<bool>,
    published: JoinHandle<Vec<String>>,
}

impl Publisher {
    async fn stop(self) -> Vec<String> {
        self.stop.send_replace(true);
        timeout(BOUND, self.published).await.expect("it stops").unwrap()
    }
}

async fn sent(request: RequestBuilder) -> reqwest::Result<Response> {
    timeout(BOUND, request.send()).await.expect("an answer in time")
}

async fn text(answer: Response) -> String {
    timeout(BOUND, answer.text()).await.expect("the end of the body in time").unwrap()
}

async fn published(http: &Client, url: &str, data: &str) -> String {
    let answer = sent(http.post(url).body(data.to_owned())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let receipt: Value = serde_json::from_str(&text(answer).await).unwrap();
    receipt["id"].as_str().unwrap().to_owned()
}

/// How a stream ended.
#[derive(Debug, PartialEq)]
enum End {
    Clean,
    Broken,
}

/// A client that goes on at another node when its stream ends, as the page does.
struct Reader {
    /// The node that it is connected to.
    n: usize,
    ids: Vec<String>,
    data: Vec<Value>,
    last_id: String,
    gaps: usize,
    /// How its streams ended, and at which nodes.
    ends: Vec<(usize, End)>,
    stream: Box<dyn Stream<Item = Option<Event>> + Send + Unpin>,
}

impl Reader {
    async fn of(cluster: &Cluster, n: usize, last_event_id: &str) -> Self {
        let stream = stream(cluster.events(n, last_event_id).await);
        let last_id = last_event_id.to_owned();
        Self { n, ids: Vec::new(), data: Vec::new(), last_id, gaps: 0, ends: Vec::new(), stream }
    }

    /// Reads until it has so many events. It stays at one node.
    async fn read(&mut self, number: usize) {
        while self.ids.len() < number {
            let next = self.next().await;
            assert!(next.is_none(), "node {} ends the stream: {next:?}", self.n);
        }
    }

    /// Reads until it has so many events, at any nodes.
    async fn read_on(&mut self, cluster: &Cluster, number: usize) {
        while self.ids.len() < number {
            if let Some(end) = self.next().await {
                self.ends.push((self.n, end));
                self.go_on(cluster).await;
            }
        }
    }

    async fn go_on(&mut self, cluster: &Cluster) {
        for _ in 0..cluster.nodes.len() {
            self.n = self.n % cluster.nodes.len() + 1;
            if let Ok(answer) = cluster.open(self.n, &self.last_id).await
                && answer.status() == StatusCode::OK
            {
                self.stream = stream(answer);
                return;
            }
        }
        panic!("no node accepts a stream");
    }

    /// Takes the next event, or returns how the stream ended.
    async fn next(&mut self) -> Option<End> {
        let next = timeout(BOUND, self.stream.next()).await.expect("more of the stream");
        let event = match next {
            Some(Some(event)) => event,
            Some(None) => return Some(End::Broken),
            None => return Some(End::Clean),
        };
        if !event.id.is_empty() {
            self.last_id.clone_from(&event.id);
        }
        match &*event.event {
            "message" => {
                self.ids.push(event.id);
                self.data.push(serde_json::from_str(&event.data).unwrap());
            }
            "gap" => self.gaps += 1,
            _ => {}
        }
        None
    }

    /// It got exactly these, in this order.
    fn got(&self, ids: &[String]) {
        assert_eq!(self.gaps, 0);
        assert_eq!(self.ids, ids);
    }
}

/// The events of a stream. `None` says that it broke.
fn stream(answer: Response) -> Box<dyn Stream<Item = Option<Event>> + Send + Unpin> {
    Box::new(Box::pin(answer.bytes_stream().eventsource().map(Result::ok)))
}

#[tokio::test]
async fn three_nodes_answer() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.nodes.iter().collect::<HashSet<_>>().len(), 3);
    let mut clients = Vec::new();
    for n in 1..=3 {
        assert_eq!(cluster.state(n).await, "running");
        assert_eq!(cluster.get(n, "/health").await, (StatusCode::OK, "following".to_owned()));
        let mut reader = Reader::of(&cluster, n, "").await;
        let id = cluster.publish(n, "news", "x").await;
        reader.read(n).await;
        let about: Value = serde_json::from_str(&cluster.get(n, "/node").await.1).unwrap();
        let position = |text: &str| text.parse::<Position>().unwrap();
        // The nodes append records of their own, too.
        assert!(position(about["position"].as_str().unwrap()) >= position(&id), "{about}");
        let rest = [&about["node"], &about["clients"], &about["health"]];
        assert_eq!(rest, [&json!(n), &json!(1), &json!("following")]);
        clients.push(reader);
        let page = sent(cluster.http.get(cluster.url(n, "/"))).await.unwrap();
        assert_eq!(page.url().as_str(), format!("{}/", cluster.server.url), "the page is at the supervisor");
        assert!(text(page).await.contains("/tower-sse.js"));
    }
}

#[tokio::test]
async fn an_event_of_one_node_reaches_a_client_of_another_with_the_same_id() {
    let cluster = Cluster::start().await;
    let mut readers = Vec::new();
    for n in [1, 3] {
        readers.push(Reader::of(&cluster, n, "").await);
    }
    let ids = [cluster.publish(1, "news/today", "it works").await, cluster.publish(2, "other", "too").await];
    for reader in &mut readers {
        reader.read(2).await;
        reader.got(&ids);
        assert_eq!(reader.data[0], json!({ "node": 1, "topic": "news/today", "text": "it works" }));
        assert_eq!(reader.data[1], json!({ "node": 2, "topic": "other", "text": "too" }));
    }
    // Of one topic only, with what is retained.
    let news = sent(cluster.http.get(cluster.url(2, "/events?topic=news/*"))).await.unwrap();
    let mut news = stream(news).filter_map(|event| event.filter(|event| event.event == "message"));
    assert_eq!(timeout(BOUND, news.next()).await.unwrap().unwrap().id, ids[0]);
}

#[tokio::test]
async fn a_client_of_a_killed_node_goes_on_at_another_and_misses_and_repeats_nothing() {
    client_goes_on(&Cluster::start().await, "kill", None).await;
}

#[tokio::test]
async fn a_client_of_a_stopped_node_goes_on_at_another_and_misses_and_repeats_nothing() {
    client_goes_on(&Cluster::start().await, "stop", Some(End::Clean)).await;
}

/// While a publisher goes on at node 3, the nodes 1 and 2 end, one after the other.
async fn client_goes_on(cluster: &Cluster, order: &str, end: Option<End>) {
    let mut reader = Reader::of(cluster, 1, "").await;
    let publisher = cluster.publisher(3);
    reader.read(20).await;
    for n in [1, 2] {
        assert_eq!(reader.n, n);
        let ((), ()) = tokio::join!(cluster.does(n, order), async {
            // It reads until its stream has ended, and then goes on.
            while reader.n == n {
                let next = reader.ids.len() + 1;
                reader.read_on(cluster, next).await;
            }
        });
        assert_eq!(cluster.state(n).await, "stopped");
        let more = reader.ids.len() + 20;
        reader.read_on(cluster, more).await;
    }
    let ids = publisher.stop().await;
    reader.read_on(cluster, ids.len()).await;
    reader.got(&ids);
    assert_eq!(reader.ends.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2]);
    if let Some(expected) = end {
        assert!(reader.ends.iter().all(|(_, end)| *end == expected), "{:?}", reader.ends);
    }
}

#[tokio::test]
async fn what_a_stopped_node_has_answered_is_stored() {
    let cluster = Cluster::start().await;
    let (http, url) = (cluster.http.clone(), cluster.url(1, "/publish/flow"));
    let (started, mut has_started) = watch::channel(false);
    // Until the node takes no more.
    let publisher = tokio::spawn(async move {
        let mut ids = Vec::new();
        loop {
            match sent(http.post(&url).body("x")).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let receipt: Value = serde_json::from_str(&text(answer).await).unwrap();
                    ids.push(receipt["id"].as_str().unwrap().to_owned());
                    started.send_replace(ids.len() >= 10);
                }
                _ => return ids,
            }
        }
    });
    timeout(BOUND, has_started.wait_for(|started| *started)).await.unwrap().unwrap();
    cluster.does(1, "stop").await;
    let ids = timeout(BOUND, publisher).await.unwrap().unwrap();
    let mut reader = Reader::of(&cluster, 2, "").await;
    reader.read(ids.len()).await;
    reader.got(&ids);
}

#[tokio::test]
async fn a_node_that_is_started_again_has_the_events_of_the_others() {
    restarts(&Cluster::start().await).await;
}

async fn restarts(cluster: &Cluster) {
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(cluster.publish(number % 3 + 1, "t", "before").await);
    }
    cluster.does(1, "kill").await;
    assert!(sent(cluster.http.get(cluster.url(1, "/health"))).await.is_err());
    assert_eq!(cluster.state(1).await, "stopped");
    for number in 0..5 {
        ids.push(cluster.publish(number % 2 + 2, "t", "meanwhile").await);
    }
    cluster.does(1, "start").await;
    assert_eq!(cluster.get(1, "/health").await, (StatusCode::OK, "following".to_owned()));
    ids.push(cluster.publish(1, "t", "after").await);
    let mut all = Reader::of(cluster, 1, "").await;
    all.read(ids.len()).await;
    all.got(&ids);
    let mut resumed = Reader::of(cluster, 1, &ids[4]).await;
    resumed.read(ids.len() - 5).await;
    resumed.got(&ids[5..]);
}

#[tokio::test]
async fn the_log_survives_the_end_of_all_nodes() {
    let cluster = Cluster::start().await;
    let ids = [cluster.publish(1, "t", "x").await, cluster.publish(2, "t", "y").await];
    for n in 1..=3 {
        cluster.does(n, "kill").await;
    }
    cluster.does(3, "start").await;
    let mut reader = Reader::of(&cluster, 3, &ids[0]).await;
    reader.read(1).await;
    reader.got(&ids[1..]);
}

#[tokio::test]
async fn an_order_that_cannot_be_carried_out_is_refused_with_a_sentence() {
    let cluster = Cluster::start().await;
    cluster.does(2, "kill").await;
    let conflict = |sentence: &str| (StatusCode::CONFLICT, sentence.to_owned());
    assert_eq!(cluster.order(1, "start").await, conflict("node 1 is running"));
    assert_eq!(cluster.order(2, "kill").await, conflict("node 2 is stopped"));
    assert_eq!(cluster.order(2, "stop").await, conflict("node 2 is stopped"));
    for n in [0, 4] {
        let unknown = format!("there is no node {n}: the nodes are 1 to 3");
        assert_eq!(cluster.order(n, "kill").await, (StatusCode::NOT_FOUND, unknown));
    }
    assert_eq!(cluster.order(1, "blow-up").await.0, StatusCode::BAD_REQUEST);
    let publish = async |topic: &str, size: usize| {
        let url = cluster.url(1, &format!("/publish/{topic}"));
        sent(cluster.http.post(url).body("x".repeat(size))).await.unwrap().status()
    };
    assert_eq!(publish("a/*", 1).await, StatusCode::BAD_REQUEST);
    assert_eq!(publish("a", (64 << 10) + 1).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(cluster.get(1, "/events?topic=").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn only_the_page_and_programs_change_anything() {
    let cluster = Cluster::start().await;
    let address = |url: &str| url.strip_prefix("http://").unwrap().parse().unwrap();
    pages_of_other_sites_change_nothing(address(&cluster.nodes[0]), &[("POST", "/publish/news")], "its own").await;
    // A node that does not exist, as the orders of its own page are carried out.
    let orders = [("POST", "/nodes/9/kill"), ("POST", "/nodes/9/stop"), ("POST", "/nodes/9/start")];
    pages_of_other_sites_change_nothing(address(&cluster.server.url), &orders, "").await;
    let mut reader = Reader::of(&cluster, 2, "").await;
    reader.read(8).await;
    assert!(reader.data.iter().all(|data| data["text"] == "its own"), "{:?}", reader.data);
}

#[tokio::test]
async fn the_page_reads_and_publishes_at_the_nodes_and_other_pages_do_not() {
    const ALLOWED: &str = "access-control-allow-origin";
    let cluster = Cluster::start().await;
    let page = &cluster.server.url;
    let by_name = page.replace("127.0.0.1", "localhost");
    let ask = async |method: Method, path: &str, origin: &str, site: &str| {
        let request = cluster.http.request(method, cluster.url(2, path)).body("x");
        sent(request.header("origin", origin).header("sec-fetch-site", site)).await.unwrap()
    };
    for (origin, site) in [(page, "same-site"), (&by_name, "cross-site")] {
        for (method, path) in [(Method::GET, "/events"), (Method::GET, "/node"), (Method::POST, "/publish/news")] {
            let answer = ask(method, path, origin, site).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path} {origin}");
            assert_eq!(answer.headers()[ALLOWED], **origin, "{path}");
            assert!(!answer.headers().contains_key("access-control-allow-credentials"));
        }
        // So that a script can read why.
        let refused = ask(Method::POST, "/publish/a/*", origin, site).await;
        assert_eq!(
            (refused.status(), &refused.headers()[ALLOWED]),
            (StatusCode::BAD_REQUEST, &(**origin).try_into().unwrap())
        );
    }
    for other in ["https://evil.test", "http://127.0.0.1:1", "null"] {
        let answer = ask(Method::GET, "/events", other, "cross-site").await;
        assert!(!answer.headers().contains_key(ALLOWED), "{other}");
        let refused = ask(Method::POST, "/publish/news", other, "cross-site").await;
        assert_eq!((refused.status(), refused.headers().get(ALLOWED)), (StatusCode::FORBIDDEN, None), "{other}");
    }
    // A script that reads with `fetch` has to ask before it sends this header.
    let preflight = cluster.http.request(Method::OPTIONS, cluster.url(2, "/events")).header("origin", page.as_str());
    let preflight = preflight.header("access-control-request-method", "GET");
    let answer = sent(preflight.header("access-control-request-headers", "last-event-id")).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["access-control-allow-headers"]),
        (StatusCode::OK, &"last-event-id".try_into().unwrap())
    );
}

#[tokio::test]
async fn a_wrong_argument_or_setting_is_an_error_that_names_it() {
    let cases: [(&[&str], &str, &str); 5] = [
        (&["--redis"], "0", "--redis has no value; usage: cluster [--redis URL]"),
        (&["--nodes", "4"], "0", "there is no argument \\\"--nodes\\\""),
        (&["--node", "1"], "0", "usage: cluster [--redis URL]"),
        (&[], "many", "PORT=\\\"many\\\""),
        (&[], "65533", "PORT=65533 leaves no room for three ports after it"),
    ];
    for (arguments, port, expected) in cases {
        let output = CLUSTER.command().args(arguments).env("PORT", port).output();
        let output = timeout(BOUND, output).await.expect("it gives up").unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(expected), "{arguments:?}: {error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_all_nodes_and_their_streams() {
    let mut cluster = Cluster::start().await;
    let mut reader = Reader::of(&cluster, 2, "").await;
    crate::example::signal(&cluster.server.process, nix::sys::signal::Signal::SIGTERM);
    let end = loop {
        if let Some(end) = reader.next().await {
            break end;
        }
    };
    assert_eq!(end, End::Clean);
    assert!(timeout(BOUND, cluster.server.process.wait()).await.expect("it ends").unwrap().success());
}

/// Three processes, with a server of their own.
#[cfg(all(unix, feature = "redis"))]
mod with_redis {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::{
        redis_server::{Server, WITH_AOF},
        *,
    };

    async fn start() -> (Server, Cluster) {
        let redis = Server::start(&[]);
        let cluster = Cluster::start_with(&["--redis", &redis.url()]).await;
        (redis, cluster)
    }

    async fn processes(cluster: &Cluster) -> Vec<Pid> {
        let id = |row: &Value| Pid::from_raw(row["process"].as_i64().unwrap().try_into().unwrap());
        cluster.rows().await.iter().map(id).collect()
    }

    #[tokio::test]
    async fn a_client_of_a_killed_process_goes_on_at_another_and_misses_and_repeats_nothing() {
        let (_redis, cluster) = start().await;
        assert_eq!(processes(&cluster).await.into_iter().collect::<HashSet<_>>().len(), 3);
        client_goes_on(&cluster, "kill", None).await;
    }

    #[tokio::test]
    async fn a_client_of_a_stopped_process_goes_on_at_another_and_misses_and_repeats_nothing() {
        let (_redis, cluster) = start().await;
        client_goes_on(&cluster, "stop", Some(End::Clean)).await;
    }

    #[tokio::test]
    async fn a_process_that_is_started_again_has_the_events_of_the_others() {
        let (_redis, cluster) = start().await;
        restarts(&cluster).await;
    }

    #[tokio::test]
    async fn a_process_that_somebody_else_kills_counts_as_stopped_and_can_be_started() {
        let (_redis, cluster) = start().await;
        let mut reader = Reader::of(&cluster, 2, "").await;
        kill(processes(&cluster).await[1], Signal::SIGKILL).unwrap();
        let id = cluster.publish(1, "t", "x").await;
        reader.read_on(&cluster, 1).await;
        reader.got(&[id]);
        assert_eq!((reader.n, &*cluster.state(2).await), (3, "stopped"));
        cluster.does(2, "start").await;
        assert_eq!(cluster.get(2, "/health").await.0, StatusCode::OK);
    }

    /// No process is left, whether or not the supervisor could stop them.
    #[tokio::test]
    async fn the_processes_of_the_nodes_end_with_the_supervisor() {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let (_redis, mut cluster) = start().await;
            let mut readers = Vec::new();
            for n in 1..=3 {
                readers.push(Reader::of(&cluster, n, "").await);
            }
            crate::example::signal(&cluster.server.process, signal);
            let ended = timeout(BOUND, cluster.server.process.wait()).await.expect("it ends").unwrap();
            assert_eq!(ended.success(), signal == Signal::SIGTERM);
            for mut reader in readers {
                while reader.next().await.is_none() {}
            }
        }
    }

    /// A node that cannot store an event says so, and open streams go on when the log is back.
    #[tokio::test]
    async fn while_the_log_is_away_health_and_publishing_are_503_with_a_sentence() {
        let mut redis = Server::start(WITH_AOF);
        let cluster = Cluster::start_with(&["--redis", &redis.url()]).await;
        let mut reader = Reader::of(&cluster, 1, "").await;
        let before = cluster.publish(2, "t", "before").await;
        redis.kill();
        let refused = sent(cluster.http.post(cluster.url(2, "/publish/t")).body("meanwhile")).await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let sentence = text(refused).await;
        assert!(sentence.starts_with("the event was not stored within 5 s (the engine is away: "), "{sentence}");
        let (status, sentence) = cluster.get(2, "/health").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(sentence.starts_with("the engine is away: "), "{sentence}");
        redis.start_again();
        reader.read(2).await;
        assert_eq!((&reader.ids[0], &reader.data[1]["text"]), (&before, &json!("meanwhile")));
        assert_eq!((reader.gaps, reader.n), (0, 1));
    }
}
