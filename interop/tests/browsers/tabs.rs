//! Several tabs of one browser.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    PLAIN, SECURE,
    browser::{Browser, Kind, Tab},
    in_both, page,
    server::{Server, Site, private},
    stage::{Stage, all_have_next, leader, open},
};

const HEARTBEAT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_on_https_have_one_stream() {
    in_both(on_https).await;
}

async fn on_https(kind: Kind) {
    let browser = Browser::start(kind).await;
    let server = Site::new(HEARTBEAT).start_with_tls(None).await;
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
    log_out(&server, &tabs).await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_tab_with_the_stream_is_killed_frozen_or_stuck_the_others_go_on() {
    in_both(lose_leaders).await;
}

const STUCK: &str = "
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { for (const end = Date.now() + 25_000; Date.now() < end; ); };
    port2.postMessage(0);
";

async fn lose_leaders(kind: Kind) {
    let stage = Stage::start(kind, HEARTBEAT).await;
    let mut tabs = open(&stage.browser, 4, &page(SECURE, stage.relay.port, &json!({ "user": "ada" }))).await;
    stage.all_have_next(&tabs).await;

    stage.browser.begins("killed");
    leader(&mut tabs).await.does("crash", json!({})).await;
    tabs[0].show().await;
    stage.all_have_next(&tabs).await;

    stage.browser.begins("frozen");
    // Firefox waits for the visible tab when another one is shown, so that is not the one that stands still.
    let frozen = leader(&mut tabs).await;
    tabs[0].show().await;
    frozen.does("freeze", json!({ "is": true })).await;
    tabs[1].show().await;
    stage.all_have_next(&tabs).await;
    frozen.does("freeze", json!({ "is": false })).await;
    tabs.push(frozen);
    stage.all_have_next(&tabs).await;

    stage.browser.begins("stuck");
    // It holds its lock, and hears of nothing.
    let stuck = leader(&mut tabs).await;
    tabs[0].show().await;
    // A hidden page gets its timers late, but not its messages.
    stuck.ask(STUCK).await;
    tabs[1].show().await;
    stage.all_have_next(&tabs).await;
    tabs[1].until("page.report.role === 'leader'").await;
    stage.all_have_next(&tabs).await;
    tabs.push(stuck);
    stage.all_have_next(&tabs).await;
    stage.server.until_streams(|streams| streams == 1).await;
    stage.browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_in_one_browser_share_no_stream_and_no_event() {
    in_both(two_users).await;
}

async fn two_users(kind: Kind) {
    let stage = Stage::start(kind, HEARTBEAT).await;
    let server = &stage.server;
    let of =
        |user: &str| page(SECURE, stage.relay.port, &json!({ "user": user, "topics": ["numbers", private(user)] }));
    let mut all = Vec::new();
    for user in USERS.iter().cycle().take(4) {
        all.push((*user, stage.browser.open(&of(user)).await));
    }
    only_own_events(&stage, &all, 1).await;
    server.until_streams(|streams| streams == 2).await;
    assert_eq!(server.users(), USERS);

    // The tabs of a user have one stream less, and another. Those of the other one notice nothing.
    for (number, user, how) in [(2, "ada", "crash"), (3, "bob", "close")] {
        let (own, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| *name == user);
        let opens = opens(&others).await;
        let mut own: Vec<Tab> = own.into_iter().map(|(_, tab)| tab).collect();
        let lost = leader(&mut own).await;
        lost.does(how, json!({})).await;
        server.site.change_token();
        own[0].show().await;
        others.extend(own.into_iter().map(|tab| (user, tab)));
        all = others;
        only_own_events(&stage, &all, number).await;
        server.until_streams(|streams| streams == 2).await;
        assert_eq!(server.users(), USERS);
        assert_eq!(self::opens(&all[..all.len() - 1]).await, opens);
    }

    // A user cannot have what is another one's.
    let (_, bob) = all.iter().find(|(user, _)| *user == "bob").unwrap();
    bob.ask(&format!("void page.stream.topic('{}')", private("ada"))).await;
    bob.until("page.kept.wrong.length === 1").await;
    server.publish_on(&private("ada"), 4).await;
    server.publish_on(&private("bob"), 4).await;
    bob.until(&format!("page.has(4, '{}')", private("bob"))).await;
    let report = bob.report().await;
    let refused = format!("{} is refused: it belongs to another user", private("ada"));
    assert_eq!(report["wrong"], json!([refused]));
    assert_eq!(report["seen"].as_object().unwrap().keys().collect::<Vec<_>>(), ["numbers", &private("bob")]);

    // Another browser has nothing in common with this one.
    let other = stage.browser.open_for("another browser", &of("ada")).await;
    stage.all_have_next(&[other]).await;
    server.until_streams(|streams| streams == 3).await;
    assert_eq!(server.users(), ["ada", "ada", "bob"]);
    stage.browser.stop().await;
}

const USERS: [&str; 2] = ["ada", "bob"];

async fn opens(tabs: &[(&str, Tab)]) -> Vec<Value> {
    join_all(tabs.iter().map(async |(_, tab)| tab.report().await["opens"].clone())).await
}

/// All tabs get what is for all, and what is for their users. Nothing else ever came.
async fn only_own_events(stage: &Stage, tabs: &[(&str, Tab)], number: u64) {
    for user in USERS {
        stage.server.publish_on(&private(user), number).await;
    }
    for (user, tab) in tabs {
        stage.all_have_next(std::slice::from_ref(tab)).await;
        tab.until(&format!("page.has({number}, '{}')", private(user))).await;
        let report = tab.report().await;
        assert_eq!(report["wrong"], json!([]), "{report:#}");
        assert_eq!(report["seen"].as_object().unwrap().keys().collect::<Vec<_>>(), ["numbers", &private(user)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_on_plain_http_are_exact_when_they_are_shown() {
    in_both(on_plain_http).await;
}

async fn on_plain_http(kind: Kind) {
    let stage = Stage::start(kind, HEARTBEAT).await;
    let tabs = open(&stage.browser, 8, &page(PLAIN, stage.relay.port, &json!({ "user": "ada" }))).await;
    for tab in &tabs {
        assert_eq!(tab.report().await["isSecure"], false);
    }
    for tab in tabs.iter().chain(&tabs) {
        tab.show().await;
        stage.all_have_next(std::slice::from_ref(tab)).await;
    }
    // Those that nobody sees leave their connections to others.
    stage.server.until_streams(|streams| streams == 1).await;
    log_out(&stage.server, &tabs).await;
    stage.browser.stop().await;
}

/// A logout in one tab closes the streams of all, also of those that are parked.
async fn log_out(server: &Server, tabs: &[Tab]) {
    tabs[0].ask("page.tabs.close(), 0").await;
    for tab in tabs {
        tab.until("page.stream.state.phase === 'closed'").await;
    }
    server.until_streams(|streams| streams == 0).await;
}
