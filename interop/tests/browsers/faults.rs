//! What networks and servers do to a stream, one thing at a time.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::{
    browser::{Kind, Tab},
    in_both,
    relay::{Break, Mode, Next},
    stage::Stage,
    within,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_each_event_after_each_fault() {
    in_both(run).await;
}

/// A response that a proxy could give.
fn answer(status: &str, headers: &str, body: &str) -> Next {
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    Next::Answer { bytes: format!("{head}{body}").into_bytes(), ends: true }
}

/// An answer, and what becomes of the stream.
struct Refusal {
    status: &'static str,
    headers: &'static str,
    body: &'static str,
    /// Why the stream is closed for good. `None`: it is tried again, not before so many milliseconds.
    closes: Option<&'static str>,
    after: u64,
}

const AGAIN: Refusal = Refusal { status: "", headers: "", body: "", closes: None, after: 0 };

const REFUSALS: [Refusal; 11] = [
    Refusal { status: "401 Unauthorized", body: "who are you?", ..AGAIN },
    Refusal { status: "408 Request Timeout", ..AGAIN },
    Refusal { status: "429 Too Many Requests", headers: "retry-after: 1\r\n", after: 1000, ..AGAIN },
    Refusal { status: "503 Service Unavailable", headers: "retry-after: 1\r\n", after: 1000, ..AGAIN },
    Refusal { status: "502 Bad Gateway", headers: "content-type: text/html\r\n", body: "<h1>502</h1>", ..AGAIN },
    // The name in the log of the browser is that of the redirect.
    Refusal { status: "307 Temporary Redirect", headers: "location: /events?topic=numbers&hello=1\r\n", ..AGAIN },
    Refusal { status: "204 No Content", closes: Some("ended"), ..AGAIN },
    Refusal { status: "403 Forbidden", closes: Some("refused"), ..AGAIN },
    Refusal { status: "404 Not Found", closes: Some("refused"), ..AGAIN },
    Refusal {
        status: "200 OK",
        headers: "content-type: text/html\r\n",
        body: "<h1>log in</h1>",
        closes: Some("refused"),
        ..AGAIN
    },
    Refusal {
        status: "200 OK",
        headers: "content-type: text/event-streams\r\n",
        body: "data: 1\n\n",
        closes: Some("refused"),
        ..AGAIN
    },
];

impl Stage {
    /// The page has what is published next.
    async fn has_next(&self, tab: &Tab) {
        self.all_have_next(std::slice::from_ref(tab)).await;
    }

    async fn leave(&self, tab: Tab) {
        tab.close().await;
        self.server.until_streams(|streams| streams == 0).await;
        self.relay.mend();
    }
}

async fn run(kind: Kind) {
    let stage = Stage::start(kind, Duration::from_millis(500)).await;
    refusals(&stage).await;
    bytes(&stage).await;
    cuts(&stage).await;
    mute(&stage).await;
    stage.browser.stop().await;
}

async fn refusals(stage: &Stage) {
    for refusal in REFUSALS {
        stage.browser.begins(&format!("{}, {}", refusal.status, refusal.headers.trim_end()));
        let before = stage.relay.seen().len();
        stage.relay.next([answer(refusal.status, refusal.headers, refusal.body)]);
        let tab = stage.open(&json!({})).await;
        if let Some(why) = refusal.closes {
            tab.until(&format!("page.report.phase === 'closed' && page.report.why === '{why}'")).await;
            assert_eq!(stage.relay.seen().len(), before + 1);
        } else {
            stage.has_next(&tab).await;
            let seen = &stage.relay.seen()[before..];
            assert_eq!(seen.len(), 2, "{seen:#?}");
            let between = seen[1].0 - seen[0].0;
            assert!(between >= Duration::from_millis(refusal.after), "{between:?}");
        }
        stage.leave(tab).await;
    }
}

/// The same events in other bytes.
async fn bytes(stage: &Stage) {
    stage.browser.begins("an endless line");
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\ndata: ";
    stage.relay.next([Next::Answer { bytes: format!("{head}{}", "x".repeat(100_000)).into_bytes(), ends: false }]);
    let tab = stage.open(&json!({ "maxEvent": 65_536 })).await;
    tab.until("page.report.phase === 'closed' && page.report.why === 'too large'").await;
    stage.leave(tab).await;

    stage.browser.begins("byte by byte");
    stage.relay.mode(Mode::OneByOne);
    let tab = stage.open(&json!({})).await;
    for _ in 0..5 {
        stage.has_next(&tab).await;
    }
    stage.leave(tab).await;

    stage.browser.begins("compressed");
    let tab = stage.open(&json!({ "url": "/events/gzip" })).await;
    for _ in 0..5 {
        stage.has_next(&tab).await;
    }
    let answer = stage.relay.answers().pop().unwrap();
    assert!(answer.contains("content-encoding: "), "{answer}");
    stage.leave(tab).await;
}

/// The connection breaks at many places of the response, while events come.
async fn cuts(stage: &Stage) {
    for how in [Break::Close, Break::Reset, Break::HalfOpen] {
        stage.browser.begins(&format!("{how:?} at many places"));
        // The head has about 250 bytes, and the first events about as many.
        stage.relay.next((0..8).map(|place| Next::Break(place * 67, how)));
        let tab = stage.open(&json!({ "backoff": { "base": 1, "cap": 1 } })).await;
        within(async {
            while stage.relay.has_next() {
                stage.server.publish().await;
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        stage.has_next(&tab).await;
        stage.leave(tab).await;
    }
    stage.browser.begins("a head that breaks off");
    for head in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-type: text/ev"] {
        stage.relay.next([Next::Answer { bytes: head.as_bytes().to_vec(), ends: true }]);
        let tab = stage.open(&json!({})).await;
        stage.has_next(&tab).await;
        stage.leave(tab).await;
    }
    stage.browser.begins("a stall");
    let tab = stage.open(&json!({})).await;
    stage.has_next(&tab).await;
    stage.relay.break_all(20, Break::Stall);
    stage.has_next(&tab).await;
    assert_eq!(tab.report().await["opens"], 2);
    stage.leave(tab).await;
}

/// The network shows nothing before a response ends.
async fn mute(stage: &Stage) {
    stage.browser.begins("a mute network");
    stage.relay.mode(Mode::AtTheEnd);
    let tab = stage.open(&json!({ "connectTimeout": 1000 })).await;
    for _ in 0..3 {
        stage.has_next(&tab).await;
        assert_eq!(tab.report().await["transport"], "poll");
    }
    stage.relay.mend();
    // As when the device changes to another network.
    for is_offline in [true, false] {
        tab.does("offline", json!({ "is": is_offline })).await;
    }
    tab.until("page.report.transport === 'stream' && page.report.phase === 'open'").await;
    stage.has_next(&tab).await;
    stage.leave(tab).await;
}
