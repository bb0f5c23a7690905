//! The page of the cluster goes on at another node when its node ends, with no gap, and with nothing missed or repeated.

use std::time::Duration;

use super::{
    Page,
    example::{Example, Server},
    within,
};

static CLUSTER: Example = Example::named("cluster");

impl Page {
    /// It is connected to this node, and has events of it.
    async fn is_on(&mut self, n: usize) {
        self.shows("#at[data-phase=open]", &format!("on node {n}")).await;
        self.shows(&format!("#list tr[data-from='{n}']"), "tick").await;
    }

    async fn counts(&mut self, id: &str, number: usize) {
        self.shows(&format!("#{id}[data-count='{number}']"), &number.to_string()).await;
    }
}

#[tokio::test]
async fn the_page_goes_on_at_another_node_when_its_node_is_killed_or_stopped() {
    let server = Server::start(CLUSTER.command().env("PORT", "0")).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let nodes = within(http.get(format!("{}/nodes", server.url)).send()).await.unwrap();
    let nodes: serde_json::Value = serde_json::from_str(&within(nodes.text()).await.unwrap()).unwrap();
    let publish = format!("{}/publish/flow", nodes[2]["url"].as_str().unwrap());
    let (stop, is_stopped) = tokio::sync::watch::channel(false);
    // Others publish at the third node, which lives until the end of this.
    let publisher = tokio::spawn(async move {
        let mut published = 0;
        // A page that draws each event can follow 200 in a second. Ten thousand are retained.
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while !*is_stopped.borrow() {
            pace.tick().await;
            let answer = within(http.post(&publish).body(format!("flow {published}.")).send()).await.unwrap();
            assert_eq!(answer.status().as_u16(), 200);
            published += 1;
        }
        published
    });

    let mut page = Page::open(&server.url).await;
    page.is_on(1).await;
    page.clicks(".node[data-n='1'] .kill").await;
    page.is_on(2).await;
    page.counts("moves", 1).await;
    page.clicks(".node[data-n='1'] .start").await;
    page.shows(".node[data-n='1'] .state", "running").await;
    page.clicks(".node[data-n='2'] .stop").await;
    page.is_on(3).await;
    page.shows(".node[data-n='2'] .state", "stopped").await;
    page.counts("moves", 2).await;

    stop.send_replace(true);
    let published = publisher.await.unwrap();
    assert!(published > 100, "{published}");
    page.shows("#list", &format!("flow {}.", published - 1)).await;
    for id in ["gaps", "repeats", "missed"] {
        page.counts(id, 0).await;
    }
    // The first node again, which has loaded what it missed.
    page.clicks(".node[data-n='3'] .kill").await;
    page.is_on(1).await;
    page.clicks(".node[data-n='1'] .publish").await;
    page.shows("#list tr[data-from='1'][data-by='1']", "a click").await;
    for id in ["gaps", "repeats", "missed"] {
        page.counts(id, 0).await;
    }
    page.close().await;
}
