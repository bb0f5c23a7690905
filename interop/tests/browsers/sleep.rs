//! The machine sleeps for longer than a stream may be silent.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::{
    SECURE,
    browser::{Kind, Tab},
    in_both, page,
    relay::Break,
    stage::{Stage, all_have_all, open},
};

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_slept_have_each_event_whatever_happened_meanwhile() {
    in_both(run).await;
}

const HEARTBEAT: Duration = Duration::from_millis(500);
/// A page takes a stream for dead after three heartbeats.
const SLEEP: Duration = HEARTBEAT.saturating_mul(4);
/// Tabs that share take the one with the stream for dead after two of its words, and an answer that does not come: 12 seconds.
const LONG_SLEEP: Duration = Duration::from_secs(13);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// The network has lost the connections, and tells nobody.
    Silence,
    /// The server is killed, and another one has its events.
    Restart,
    /// The server ends its streams, and another one has its events.
    Deploy,
}

async fn run(kind: Kind) {
    let mut stage = Stage::start(kind, HEARTBEAT).await;
    let mut tabs = open(&stage.browser, 2, &page(SECURE, stage.relay.port, &json!({ "user": "ada" }))).await;
    tabs.push(stage.open(&json!({})).await);
    stage.all_have_next(&tabs).await;
    for (meanwhile, time) in [
        (Meanwhile::Nothing, SLEEP),
        (Meanwhile::Silence, SLEEP),
        (Meanwhile::Deploy, SLEEP),
        (Meanwhile::Restart, LONG_SLEEP),
    ] {
        stage.browser.begins(&format!("{meanwhile:?} in a sleep of {time:?}"));
        nap(&mut stage, &tabs, meanwhile, time).await;
    }
    // Those that share have one again.
    stage.server.until_streams(|streams| streams == 2).await;
    stage.browser.stop().await;
}

async fn nap(stage: &mut Stage, tabs: &[Tab], meanwhile: Meanwhile, time: Duration) {
    let alone = tabs.last().unwrap();
    let opens = alone.report().await["opens"].as_u64().unwrap();
    for tab in tabs {
        tab.ask("void page.states.splice(0)").await;
    }
    stage.browser.halt(true).await;
    stage.server.publish().await;
    let address = stage.server.address;
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Silence => stage.relay.break_all(0, Break::Stall),
        Meanwhile::Restart => stage.server.kill().await,
        Meanwhile::Deploy => stage.server.drain().await,
    }
    if stage.server.is_over() {
        let site = stage.server.site.clone();
        stage.server = site.start_at(false, address).await;
    }
    sleep(time).await;
    stage.server.publish().await;
    stage.browser.halt(false).await;
    // Nothing is published that could wake them.
    all_have_all(&stage.server, tabs).await;
    stage.all_have_next(tabs).await;
    if meanwhile != Meanwhile::Nothing {
        assert!(alone.report().await["opens"].as_u64().unwrap() > opens, "it has still the stream of before");
        assert!(alone.times_live().await > 0, "it was live meanwhile");
    }
}
