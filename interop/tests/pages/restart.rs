//! The page of the dashboard goes on over a restart of the dashboard with `FILE`, with no gap, and with nothing missed or repeated.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{DASHBOARD, Page, example::Server, within};

#[tokio::test]
async fn the_dashboards_page_shows_all_that_was_answered_when_the_dashboard_is_killed_and_started_again() {
    let folder = std::env::temp_dir().join(format!("tower-sse-restart-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = async || {
        let mut command = DASHBOARD.command();
        Server::start(command.env("PORT", port.to_string()).env("FILE", folder.join("events"))).await
    };
    let mut server = start().await;
    let publish = format!("{}/publish/orders", server.url);
    let mut page = Page::open(&format!("{}/?topic=orders", server.url)).await;
    page.shows("#notice", "Connected to").await;

    // While nobody listens, nothing is answered. What was under way may be stored or not.
    let answered = Arc::new(Mutex::new(Vec::<u32>::new()));
    let publisher = tokio::spawn({
        let answered = Arc::clone(&answered);
        async move {
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            for number in 0.. {
                let sent = http.post(&publish).body(format!("order {number}.")).send().await;
                if sent.is_ok_and(|answer| answer.status().is_success()) {
                    answered.lock().unwrap().push(number);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let until = async |count: usize| {
        while answered.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    for count in [20, 60] {
        within(until(count)).await;
        server.process.kill().await.unwrap();
        drop(server);
        server = start().await;
    }
    // The page keeps 200 lines.
    within(until(100)).await;
    publisher.abort();
    let answered = answered.lock().unwrap().clone();
    page.shows("#streamList", &format!("order {}.", answered.last().unwrap())).await;

    let lines = page.texts("#streamList li").await;
    let number = |line: &String| line.split_once("order ")?.1.split_once('.')?.0.parse::<u32>().ok();
    let shown: Vec<u32> = lines.iter().filter_map(number).collect();
    assert!(shown.is_sorted_by(|one, next| one < next), "in order, each once: {shown:?}");
    let missing: Vec<_> = answered.iter().filter(|number| !shown.contains(number)).collect();
    assert!(missing.is_empty(), "{missing:?} were answered and are not shown: {shown:?}");
    assert_eq!(page.texts("#streamList .gap").await, Vec::<String>::new());
    page.close().await;
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}
