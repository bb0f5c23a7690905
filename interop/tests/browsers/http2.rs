//! Servers that end connections and streams of HTTP/2.

use std::time::Duration;

use h2::Reason;
use serde_json::json;

use crate::{
    SECURE,
    browser::{Browser, Kind, Tab},
    in_both, page,
    server::{Server, Site},
    stage::{all_have_next, open},
    tls::Tunnel,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_each_event_after_each_end_of_http2() {
    in_both(run).await;
}

async fn run(kind: Kind) {
    let site = Site::new(Duration::from_secs(2));
    let (browser, mut server) = tokio::join!(Browser::start(kind), site.start_with_tls(None));
    server.publish().await;
    let tunnel = Tunnel::start(server.address).await;
    let url = |options| page(SECURE, tunnel.port, &options).replace("http:", "https:");
    // Two tabs share, and one is alone.
    let mut tabs = open(&browser, 2, &url(json!({ "user": "ada" }))).await;
    tabs.push(browser.open(&url(json!({}))).await);
    all_have_next(&server, &tabs).await;
    server.until_streams(|streams| streams == 2).await;

    go_away(&server, &tabs).await;
    for (number, reason) in REASONS.into_iter().enumerate() {
        // An event has about 70 bytes.
        reset(&server, &tabs, reason, 15 * number).await;
    }
    deploy(&mut server, &tabs).await;
    // The last one: after it, the tabs may poll.
    lose(&tunnel, &server, &tabs).await;
    for tab in tabs {
        tab.close().await;
    }
    server.until_streams(|streams| streams == 0).await;
    browser.stop().await;
}

/// The streams go on, and what is asked for next is in another connection.
async fn go_away(server: &Server, tabs: &[Tab]) {
    tabs[0].begins("GOAWAY");
    let alone = tabs.last().unwrap();
    let opens = alone.report().await["opens"].clone();
    let connections = server.http2.connections();
    assert!(connections > 0, "the browser does not use HTTP/2");
    server.http2.go_away();
    // What comes after the first event comes after GOAWAY.
    for _ in 0..3 {
        all_have_next(server, tabs).await;
    }
    alone.ask("page.toggle('extra')").await;
    server.publish_on("extra", 1).await;
    alone.until("page.has(1, 'extra')").await;
    assert!(server.http2.connections() > connections, "the connection that goes away is still used");
    let report = alone.report().await;
    assert_eq!(report["opens"], opens, "{report:#}");
    server.until_streams(|streams| streams == 2).await;
    alone.ask("page.toggle('extra')").await;
    // The last stream leaves the connection.
    alone.ask("page.stream.reconnect()").await;
    alone.until(&format!("page.report.opens > {opens}")).await;
    all_have_next(server, tabs).await;
}

const REASONS: [Reason; 5] =
    [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM];

/// The streams end after so many bytes of an event.
async fn reset(server: &Server, tabs: &[Tab], reason: Reason, place: usize) {
    tabs[0].begins(&format!("RST_STREAM with {reason:?} after {place} bytes of an event"));
    let mut with_streams = Vec::new();
    for tab in tabs {
        let report = tab.report().await;
        if report["role"] != "follower" {
            with_streams.push((tab, report["opens"].clone()));
        }
        tab.ask("void (page.states.splice(0), page.bytes = page.stream.stats.bytes)").await;
    }
    assert_eq!(with_streams.len(), 2);
    server.http2.hold_after(place);
    for _ in 0..2 {
        server.publish().await;
    }
    for (tab, _) in &with_streams {
        // Otherwise the server would drop what it has not sent.
        tab.until(&format!("page.stream.stats.bytes >= page.bytes + {place}")).await;
    }
    server.http2.reset(reason);
    for (tab, opens) in &with_streams {
        tab.until(&format!("page.report.opens > {opens}")).await;
    }
    all_have_next(server, tabs).await;
    for tab in tabs {
        assert!(tab.times_live().await > 0, "it was live meanwhile");
    }
    server.until_streams(|streams| streams == 2).await;
}

/// The network loses the connections, and tells nobody. Requests go into a connection that is lost until the browser gives it up: Chromium does
/// after 20 seconds.
async fn lose(tunnel: &Tunnel, server: &Server, tabs: &[Tab]) {
    tabs[0].begins("a lost connection");
    let connections = server.http2.connections();
    for tab in tabs {
        tab.ask("void page.states.splice(0)").await;
    }
    tunnel.lose_all();
    for tab in tabs {
        tab.until("!page.report.caughtUp").await;
    }
    all_have_next(server, tabs).await;
    for tab in tabs {
        assert!(tab.times_live().await > 0, "it was live meanwhile");
    }
    assert!(server.http2.connections() > connections, "nothing was lost");
}

/// GOAWAY, then the end of the streams, then of the server. The next one has its events.
async fn deploy(server: &mut Server, tabs: &[Tab]) {
    tabs[0].begins("a deploy");
    server.http2.go_away();
    all_have_next(server, tabs).await;
    for _ in 0..2 {
        server.publish().await;
    }
    server.drain().await;
    let (site, address) = (server.site.clone(), server.address);
    *server = site.start_with_tls(Some(address)).await;
    all_have_next(server, tabs).await;
    server.until_streams(|streams| streams == 2).await;
}
