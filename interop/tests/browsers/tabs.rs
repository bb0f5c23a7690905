//! Several tabs of one browser.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    PLAIN, SECURE,
    browser::{Browser, Kind, Tab},
    page,
    relay::Relay,
    server::{Server, Site},
};

async fn serve() -> (Relay, Server) {
    let relay = Relay::start().await;
    let server = Site::new(Duration::from_secs(5)).start().await;
    relay.route("/", Some(server.address));
    server.publish().await;
    (relay, server)
}

/// All tabs have what is published next, and nothing else was wrong.
async fn all_have_next(server: &Server, tabs: &[Tab]) {
    server.publish().await;
    let has_it = format!("page.has({})", server.site.last());
    for tab in tabs {
        tab.until(&has_it).await;
        let report = tab.report().await;
        assert_eq!(report["wrong"], json!([]), "{report:#}");
    }
}

/// Takes the tab out that has the stream.
async fn leader(tabs: &mut Vec<Tab>) -> Tab {
    let roles = join_all(tabs.iter().map(Tab::report)).await;
    let leaders: Vec<usize> = (0..tabs.len()).filter(|at| roles[*at]["role"] == "leader").collect();
    assert_eq!(leaders.len(), 1, "{roles:#?}");
    tabs.remove(leaders[0])
}

async fn open(browser: &Arc<Browser>, count: usize, url: &str) -> Vec<Tab> {
    let mut tabs = Vec::new();
    for _ in 0..count {
        tabs.push(browser.open(url).await);
    }
    tabs
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_of_chromium_on_https_have_one_stream() {
    on_https(Kind::Chromium).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_of_firefox_on_https_have_one_stream() {
    on_https(Kind::Firefox).await;
}

async fn on_https(kind: Kind) {
    let browser = Browser::start(kind).await;
    let server = Site::new(Duration::from_secs(5)).start_with_tls().await;
    server.publish().await;
    let url = page(SECURE, server.address.port(), &json!({ "user": "ada" })).replace("http:", "https:");
    let mut tabs = open(&browser, 8, &url).await;
    all_have_next(&server, &tabs).await;
    server.until_streams(|streams| streams == 1).await;
    // When the one with the stream is closed, the others go on.
    for _ in 0..2 {
        leader(&mut tabs).await.close().await;
        all_have_next(&server, &tabs).await;
        server.until_streams(|streams| streams == 1).await;
    }
    for tab in tabs {
        tab.close().await;
    }
    server.until_streams(|streams| streams == 0).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_tab_with_the_stream_is_killed_frozen_or_stuck_the_others_go_on() {
    let browser = Browser::start(Kind::Chromium).await;
    let (relay, server) = serve().await;
    let url = page(SECURE, relay.port, &json!({ "user": "ada" }));
    let mut tabs = open(&browser, 4, &url).await;
    all_have_next(&server, &tabs).await;

    leader(&mut tabs).await.does("crash", json!({})).await;
    tabs[0].show().await;
    all_have_next(&server, &tabs).await;

    let frozen = leader(&mut tabs).await;
    frozen.does("freeze", json!({ "is": true })).await;
    tabs[0].show().await;
    all_have_next(&server, &tabs).await;
    frozen.does("freeze", json!({ "is": false })).await;
    tabs.push(frozen);
    all_have_next(&server, &tabs).await;

    // It holds its lock, and hears of nothing.
    let stuck = leader(&mut tabs).await;
    stuck.ask("void setTimeout(() => { for (const end = Date.now() + 25_000; Date.now() < end; ); })").await;
    tabs[0].show().await;
    all_have_next(&server, &tabs).await;
    let reports = join_all(tabs.iter().map(Tab::report)).await;
    assert!(reports.iter().any(|report| report["role"] == "leader"), "{reports:#?}");
    tabs.push(stuck);
    all_have_next(&server, &tabs).await;
    server.until_streams(|streams| streams == 1).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_two_users_do_not_share() {
    let browser = Browser::start(Kind::Chromium).await;
    let (relay, server) = serve().await;
    let of = |user: &str| page(SECURE, relay.port, &json!({ "user": user }));
    let mut adas = open(&browser, 2, &of("ada")).await;
    let mut bobs = open(&browser, 2, &of("bob")).await;
    all_have_next(&server, &adas).await;
    all_have_next(&server, &bobs).await;
    server.until_streams(|streams| streams == 2).await;
    for tabs in [&mut adas, &mut bobs] {
        leader(tabs).await;
    }
    // Another browser has nothing in common with this one.
    let other = browser.open_for("another browser", &of("ada")).await;
    all_have_next(&server, &[other]).await;
    server.until_streams(|streams| streams == 3).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_of_chromium_on_plain_http_are_exact_when_they_are_shown() {
    on_plain_http(Kind::Chromium).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_of_firefox_on_plain_http_are_exact_when_they_are_shown() {
    on_plain_http(Kind::Firefox).await;
}

async fn on_plain_http(kind: Kind) {
    let browser = Browser::start(kind).await;
    let (relay, server) = serve().await;
    let tabs = open(&browser, 8, &page(PLAIN, relay.port, &json!({ "user": "ada" }))).await;
    for tab in &tabs {
        assert_eq!(tab.report().await["isSecure"], false);
    }
    for tab in tabs.iter().chain(&tabs) {
        tab.show().await;
        all_have_next(&server, std::slice::from_ref(tab)).await;
    }
    // Those that nobody sees leave their connections to others.
    server.until_streams(|streams| streams == 1).await;
    browser.stop().await;
}
