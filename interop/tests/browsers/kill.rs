//! The whole browser is killed, and started again with its tabs.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    SECURE,
    browser::{Browser, Kind},
    page,
    stage::{Stage, leader},
    within,
};

/// Chromium restores its tabs, but not always on a machine that is busy. So this is all that is tested there.
#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_a_killed_chromium_leave_no_stream() {
    let profile = profile();
    opened_and_killed(Kind::Chromium, &profile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_of_a_killed_firefox_leave_no_stream_and_no_lock_and_resume_when_they_are_restored() {
    let profile = profile();
    let (mut stage, urls, firsts) = opened_and_killed(Kind::Firefox, &profile).await;
    for _ in 0..3 {
        stage.server.publish().await;
    }

    stage.browser = Browser::start_in(Kind::Firefox, profile.path()).await;
    let mut tabs = Vec::new();
    for url in &urls {
        tabs.push(stage.browser.restored(url).await);
    }
    for (number, (tab, first)) in tabs.iter().zip(firsts).enumerate() {
        tab.show().await;
        tab.until(&format!("globalThis.page && page.has({})", stage.server.site.last())).await;
        let report = tab.report().await;
        assert_eq!(report["wrong"], json!([]), "{report:#}");
        // A page that does not keep what it shows begins with the last event.
        let has_resumed = report["loads"] == 2 && report["seen"]["numbers"]["first"] == first;
        let is_fresh = report["loads"] == 1 && report["seen"]["numbers"]["first"] == stage.server.site.last();
        assert!(if number < 3 { has_resumed } else { is_fresh }, "{number}: {report:#}");
    }
    stage.all_have_next(&tabs).await;
    stage.server.until_streams(|streams| streams == 3).await;
    assert_eq!(stage.server.users(), ["", "ada", "alone"]);
    // Each lock is held by a tab that is there.
    let locks = tabs[0].ask("navigator.locks.query()").await;
    assert_eq!(locks["held"].as_array().map(Vec::len), Some(2), "{locks:#}");
    let mut sharing = tabs.drain(1..3).collect();
    leader(&mut sharing).await.close().await;
    stage.all_have_next(&sharing).await;
    stage.browser.stop().await;
}

const HEARTBEAT: Duration = Duration::from_secs(20);
/// Texts that are nowhere else in a profile, and that no compression hides.
const MARKS: [&str; 4] = ["ΑΒΓΔΕΖΗΘ", "БДЖЗИЛЦЧ", "אבגדהוזח", "กขฃคฅฆงจ"];

fn profile() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Opens tabs, the last of which keeps nothing, and kills the browser. Returns with their addresses the first event of each.
async fn opened_and_killed(kind: Kind, profile: &TempDir) -> (Stage, Vec<String>, Vec<Value>) {
    let stage = Stage::with(Browser::start_in(kind, profile.path()), HEARTBEAT).await;
    let url = |options: Value| page(SECURE, stage.relay.port, &options);
    let keeping =
        [("alone", "a"), ("ada", "b"), ("ada", "c")].map(|(user, key)| url(json!({ "user": user, "resume": key })));
    let urls: Vec<String> = keeping.into_iter().chain([url(json!({}))]).collect();
    let mut tabs = Vec::new();
    for url in &urls {
        tabs.push(stage.browser.open(url).await);
        stage.all_have_next(&tabs).await;
    }
    let mut firsts = Vec::new();
    for (tab, mark) in tabs.iter().zip(MARKS) {
        firsts.push(tab.ask("page.kept.seen.numbers.first").await);
        tab.ask(&format!("sessionStorage.setItem('mark', '{mark}')")).await;
    }
    stage.all_have_next(&tabs).await;
    // The first ones are hidden by the last one. They keep what they had when that happened, and have more by now.
    for tab in &tabs[..3] {
        tab.until("JSON.parse(sessionStorage.getItem('kept'))?.seen.numbers.last < page.kept.seen.numbers.last").await;
    }
    if kind == Kind::Firefox {
        within(are_kept(profile.path())).await;
    }

    stage.browser.kill().await;
    let killed = Instant::now();
    stage.server.until_streams(|streams| streams == 0).await;
    assert!(killed.elapsed() < HEARTBEAT, "{:?}", killed.elapsed());
    (stage, urls, firsts)
}

/// Waits until the browser has written all marks to its disk.
async fn are_kept(profile: &Path) {
    for mark in MARKS {
        let utf16: Vec<u8> = mark.encode_utf16().flat_map(u16::to_le_bytes).collect();
        while !has(profile, mark.as_bytes()) && !has(profile, &utf16) {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Whether a file in this folder has a text. Files come and go.
fn has(folder: &Path, text: &[u8]) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|file| match file.file_type() {
        Ok(kind) if kind.is_dir() => has(&file.path(), text),
        Ok(kind) if kind.is_file() => {
            let bytes = fs::read(file.path()).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text)
        }
        _ => false,
    })
}
