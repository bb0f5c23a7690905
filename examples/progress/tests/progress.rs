//! Tests the program as a process, over HTTP/1.1 and HTTP/2.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, process::Stdio, time::Duration};

use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{process::Command, time::timeout};

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../../tests/support/client.rs"]
mod client;
#[allow(dead_code, reason = "cargo has built this program already")]
#[path = "../../../tests/support/example.rs"]
mod example;
#[path = "../../../tests/support/strangers.rs"]
mod strangers;
use bodies::AnyBody;
use client::{Client, VERSIONS};
use example::Server;

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("the step takes too long")
}

/// The program, and the HTTP version of the requests.
struct TestServer {
    server: Server,
    version: Version,
}

async fn on_both(environment: &[(&str, &str)], test: impl AsyncFn(TestServer)) {
    for version in VERSIONS {
        eprintln!("over {version:?}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_progress"));
        command.env("PORT", "0").envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
        let server = within(Server::start(&mut command)).await;
        test(TestServer { server, version }).await;
    }
}

impl TestServer {
    async fn send(&self, request: Request<AnyBody>) -> Response<Incoming> {
        let address: SocketAddr = self.server.url.strip_prefix("http://").unwrap().parse().unwrap();
        within(async { Client::connect(address, self.version).await.send(request).await.unwrap() }).await
    }

    async fn ask(&self, method: &str, target: &str) -> Response<Incoming> {
        self.send(client::request(method, target, AnyBody::default())).await
    }

    async fn resume(&self, target: &str, id: &str) -> Response<Incoming> {
        let mut request = client::get(target);
        request.headers_mut().insert("last-event-id", id.parse().unwrap());
        self.send(request).await
    }

    /// Starts a job, and returns its path.
    async fn start(&self, steps: u32) -> String {
        let answer = self.ask("POST", &format!("/jobs?steps={steps}")).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        assert_eq!(text(answer).await, format!("{location}\n"));
        location
    }
}

async fn text(response: Response<Incoming>) -> String {
    let body = within(response.into_body().collect()).await.expect("a clean end").to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// The first events of a stream after its position event, at least this many.
async fn first(stream: &mut Response<Incoming>, count: usize) -> String {
    let mut text = String::new();
    while text.matches("\n\n").count() <= count {
        let frame = within(stream.frame()).await.unwrap_or_else(|| panic!("the stream ends after {text:?}")).unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    text
}

/// All events of a job from this step on, without the ids. Nothing is missing, and nothing comes twice.
fn steps(from: u32, of: u32) -> Vec<String> {
    let steps = (from..=of).map(|done| format!("event: progress\ndata: {{\"done\":{done},\"of\":{of}}}"));
    steps.chain([format!("event: done\ndata: {{\"of\":{of}}}")]).collect()
}

/// The events and their ids, without the position event.
fn events(text: &str) -> Vec<(&str, &str)> {
    let blocks = text.strip_suffix("\n\n").unwrap_or(text).split("\n\n");
    blocks
        .filter(|block| !block.starts_with("event: position\n"))
        .map(|block| block.split_once("\nid: ").expect(text))
        .collect()
}

fn without_ids(text: &str) -> Vec<&str> {
    events(text).into_iter().map(|(event, _)| event).collect()
}

#[tokio::test]
async fn a_reader_gets_a_job_from_its_beginning_to_its_end() {
    on_both(&[("STEP_MS", "5")], async |test_server| {
        let job = test_server.start(30).await;
        let stream = test_server.ask("GET", &job).await;
        assert_eq!((stream.status(), stream.version()), (StatusCode::OK, test_server.version));
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.headers()["cache-control"], "no-cache, no-transform");
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        assert_eq!(stream.headers().contains_key("connection"), test_server.version == Version::HTTP_11);
        let early = text(stream).await;
        assert!(early.starts_with("event: position\ndata: \nid: "), "{early}");
        assert_eq!(without_ids(&early), steps(1, 30));
        let late = text(test_server.ask("GET", &job).await).await;
        assert_eq!(events(&late), events(&early), "a reader that comes after the end gets the same");
    })
    .await;
}

#[tokio::test]
async fn a_cut_stream_resumes_and_the_job_goes_on_meanwhile() {
    on_both(&[("STEP_MS", "20")], async |test_server| {
        let job = test_server.start(20).await;
        let mut stream = test_server.ask("GET", &job).await;
        let begin = first(&mut stream, 3).await;
        drop(stream);
        let (last, id) = *events(&begin).last().unwrap();
        let next = last.strip_prefix("event: progress\ndata: {\"done\":").unwrap().strip_suffix(",\"of\":20}").unwrap();
        let next = next.parse::<u32>().unwrap() + 1;
        // Another client reads the job to its end.
        assert_eq!(without_ids(&text(test_server.ask("GET", &job).await).await), steps(1, 20));
        assert_eq!(without_ids(&text(test_server.resume(&job, id).await).await), steps(next, 20));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_read_a_whole_job_gets_a_204() {
    on_both(&[("STEP_MS", "1")], async |test_server| {
        let job = test_server.start(3).await;
        let all = text(test_server.ask("GET", &job).await).await;
        let (_, last_id) = *events(&all).last().unwrap();
        for _ in 0..2 {
            let answer = test_server.resume(&job, last_id).await;
            assert_eq!(answer.status(), StatusCode::NO_CONTENT);
            assert!(!answer.headers().contains_key("content-type"));
            assert_eq!(text(answer).await, "");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stopped_job_ends_its_streams_without_a_done_event() {
    on_both(&[("STEP_MS", "100"), ("MAX_JOBS", "1")], async |test_server| {
        let job = test_server.start(1000).await;
        let mut stream = test_server.ask("GET", &job).await;
        first(&mut stream, 1).await;
        let busy = test_server.ask("POST", "/jobs").await;
        assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(test_server.ask("DELETE", &job).await.status(), StatusCode::NO_CONTENT);
        let told = text(stream).await;
        assert!(!told.contains("event: done") && told.contains("event: cancelled\n"), "{told}");
        let (_, last_id) = *events(&told).last().unwrap();
        assert_eq!(test_server.resume(&job, last_id).await.status(), StatusCode::GONE);
        assert_eq!(test_server.ask("DELETE", &job).await.status(), StatusCode::NOT_FOUND);
        // Its slot is free again.
        within(async {
            while test_server.ask("POST", "/jobs").await.status() != StatusCode::ACCEPTED {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn responses_that_are_no_stream_are_the_same_without_the_layer() {
    on_both(&[], async |test_server| {
        let job = test_server.start(1000).await;
        for (method, target, status, expected) in [
            ("GET", "/nowhere", StatusCode::NOT_FOUND, "there is nothing here\n"),
            ("GET", "/jobs/nothing", StatusCode::NOT_FOUND, "there is no such job, or none any more\n"),
            ("GET", "/jobs/", StatusCode::NOT_FOUND, "there is no such job, or none any more\n"),
            ("DELETE", "/jobs/*", StatusCode::NOT_FOUND, "no such job is running\n"),
            ("POST", "/jobs?steps=0", StatusCode::BAD_REQUEST, "steps: a number from 1 to 1000\n"),
            ("GET", "/jobs", StatusCode::METHOD_NOT_ALLOWED, "what goes here is POST\n"),
            ("PUT", &job, StatusCode::METHOD_NOT_ALLOWED, "what goes here is GET, HEAD, DELETE\n"),
        ] {
            let answer = test_server.ask(method, target).await;
            assert_eq!(answer.status(), status, "{method} {target}");
            assert_eq!(answer.headers()["content-length"], *expected.len().to_string(), "{method} {target}");
            for absent in ["cache-control", "x-accel-buffering", "connection"] {
                assert!(!answer.headers().contains_key(absent), "{method} {target}: {absent}");
            }
            assert_eq!(answer.headers().contains_key("allow"), status == StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(text(answer).await, expected, "{method} {target}");
        }
        let head = test_server.ask("HEAD", &job).await;
        assert_eq!(
            (head.status(), &head.headers()["content-type"]),
            (StatusCode::OK, &"text/event-stream".parse().unwrap())
        );
        assert_eq!(text(head).await, "");
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_lets_jobs_finish_that_are_done_in_time() {
    on_both(&[("STEP_MS", "30"), ("FINISH_MS", "3000")], async |mut test_server| {
        let soon = test_server.start(20).await;
        let late = test_server.start(1000).await;
        let (mut soon, late) = (test_server.ask("GET", &soon).await, test_server.ask("GET", &late).await);
        let mut all = first(&mut soon, 1).await;
        example::signal(&test_server.server.process, nix::sys::signal::Signal::SIGTERM);
        let (rest, cut) = tokio::join!(text(soon), text(late));
        all.push_str(&rest);
        assert_eq!(without_ids(&all), steps(1, 20));
        assert!(!cut.contains("event: done"));
        assert!(cut.ends_with("\n\n") && events(&cut).len() > 20, "the stream ends cleanly, at a boundary, and later");
        assert_eq!(within(test_server.server.process.wait()).await.unwrap().code(), Some(0));
    })
    .await;
}

#[test]
fn the_program_does_not_depend_on_axum() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "progress", "--edges", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.lines().any(|line| line.starts_with("tower-sse ")), "{tree}");
    let not_needed = ["axum", "serde"];
    assert!(!tree.lines().any(|line| not_needed.iter().any(|name| line.starts_with(name))), "{tree}");
}

#[tokio::test]
async fn pages_of_other_sites_cannot_start_or_stop_jobs() {
    on_both(&[], async |test_server| {
        let address = test_server.server.url.strip_prefix("http://").unwrap().parse().unwrap();
        let job = test_server.start(1000).await;
        strangers::pages_of_other_sites_change_nothing(address, &[("POST", "/jobs"), ("DELETE", &job)], "").await;
    })
    .await;
}
