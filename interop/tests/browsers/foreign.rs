//! Servers of other projects: they say no hello, and not all have ids.

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
    routing::get,
};
use futures_util::{Stream, stream};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    time::{Instant, sleep_until},
};

use crate::{
    SECURE,
    browser::{Browser, Kind},
    in_both, page,
    relay::{Break, Relay},
    server::Site,
    stage::relay_with_pages,
    within,
};

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_other_servers_are_told_as_they_are() {
    in_both(run).await;
}

const SERVERS: [&str; 3] = ["/events/axum", "/events/better-sse", "/events/sse-starlette"];

async fn run(kind: Kind) {
    let site = Site::new(Duration::from_secs(1));
    let (browser, relay) = tokio::join!(Browser::start(kind), relay_with_pages(&site));
    let drivers =
        tokio::task::spawn_blocking(|| (interop::node(), interop::npm("servers"), interop::python("servers/python")));
    let (node, servers, python) = drivers.await.unwrap();
    let mut processes = Vec::new();
    let mut start = async |path, program, script| {
        let (process, address) = start(program, script).await;
        processes.push(process);
        relay.route(path, Some(address));
    };
    relay.route(SERVERS[0], Some(axum().await));
    start(SERVERS[1], node, servers.join("better-sse.mjs")).await;
    start(SERVERS[2], python, interop::drivers("servers/python/with_sse_starlette.py")).await;

    for url in SERVERS {
        with_ids(&browser, &relay, url).await;
        without_ids(&browser, &relay, url).await;
    }
    browser.stop().await;
}

/// Nothing is lost over a cut, whether the page knows that the server has no hello or not.
async fn with_ids(browser: &Arc<Browser>, relay: &Relay, url: &'static str) {
    for (hello, breaks) in [(false, [Break::Close, Break::Stall]), (true, [Break::Reset, Break::Close])] {
        browser.begins(&format!("{url}, with ids, hello: {hello}"));
        let before = relay.seen().len();
        let options = json!({ "url": format!("{url}?ids"), "topics": [], "hello": hello });
        let tab = browser.open(&page(SECURE, relay.port, &options)).await;
        for (opens, how) in breaks.into_iter().enumerate() {
            let has_more = "page.had = page.kept.seen.all?.last, page.report.caughtUp && page.had > (page.before ?? 0)";
            tab.until(has_more).await;
            tab.ask("void (page.before = page.had + 5)").await;
            relay.break_all(60, how);
            tab.until(&format!("page.report.opens > {} && ({has_more})", opens + 1)).await;
        }
        let report = tab.report().await;
        assert_eq!(report["wrong"], json!([]), "{report:#}");
        let seen = &relay.seen()[before..];
        // Where the machine is busy, the first attempts can be given up before an event.
        let mut has_id = seen.iter().map(|(_, head)| head.contains("\r\nlast-event-id: ")).skip_while(|has_id| !has_id);
        assert!(has_id.clone().count() >= 2 && has_id.all(|has_id| has_id), "{seen:#?}");
        // It was not live at its beginning, and not between two connections.
        assert!(tab.times_live().await >= 2);
        tab.close().await;
    }
}

/// What came during a cut is lost, and the client does not say anything else: it asks for nothing, and is not live meanwhile.
async fn without_ids(browser: &Arc<Browser>, relay: &Relay, url: &'static str) {
    browser.begins(&format!("{url}, without ids"));
    let before = relay.seen().len();
    let options = json!({ "url": url, "topics": [], "hello": false });
    let tab = browser.open(&page(SECURE, relay.port, &options)).await;
    tab.until("page.report.caughtUp && page.kept.seen.all?.last > 0").await;
    relay.break_all(0, Break::Reset);
    tab.until("page.report.caughtUp && page.report.opens > 1").await;
    assert_eq!(tab.ask("page.stream.lastEventId").await, "");
    let seen = &relay.seen()[before..];
    assert!(seen.iter().all(|(_, head)| !head.contains("last-event-id")), "{seen:#?}");
    assert!(tab.times_live().await >= 2);
    let wrong = tab.ask("page.kept.wrong.filter((what) => what.startsWith('live while'))").await;
    assert_eq!(wrong, json!([]));
    tab.close().await;
}

/// Starts a server that prints its port, and ends with its standard input.
async fn start(program: impl AsRef<std::ffi::OsStr>, script: std::path::PathBuf) -> (Child, SocketAddr) {
    let mut command = Command::new(program);
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().expect("the process starts");
    let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
    let port: u16 = within(lines.next_line()).await.unwrap().expect("a port").parse().unwrap();
    (process, ([127, 0, 0, 1], port).into())
}

/// axum's `Sse`: an event each 50 ms.
async fn axum() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/events/axum", get(numbers)).with_state(Instant::now());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

async fn numbers(
    State(begin): State<Instant>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    const BEAT: Duration = Duration::from_millis(50);
    let has_ids = query.is_some_and(|query| query.contains("ids"));
    let newest = u32::try_from(begin.elapsed().as_millis() / BEAT.as_millis()).unwrap();
    let after = headers.get("last-event-id").map_or(newest, |id| id.to_str().unwrap().parse().unwrap());
    let events = stream::unfold(after + 1, move |number| async move {
        sleep_until(begin + BEAT * number).await;
        let event = Event::default().data(number.to_string()).retry(2 * BEAT);
        Some((Ok(if has_ids { event.id(number.to_string()) } else { event }), number + 1))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
