//! A browser, a server with numbered events, and the relay between them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    SECURE,
    browser::{Browser, Kind, Tab},
    page,
    relay::Relay,
    server::{Server, Site},
};

pub(crate) struct Stage {
    pub(crate) browser: Arc<Browser>,
    pub(crate) relay: Relay,
    pub(crate) server: Server,
}

/// A relay with the pages. It has no server for the streams yet.
pub(crate) async fn relay_with_pages(site: &Site) -> Relay {
    let relay = Relay::start().await;
    relay.route("/", Some(site.serve_pages().await));
    relay
}

impl Stage {
    pub(crate) async fn start(kind: Kind, heartbeat: Duration) -> Self {
        Self::with(Browser::start(kind), heartbeat).await
    }

    /// The first event is published.
    pub(crate) async fn with(browser: impl Future<Output = Arc<Browser>>, heartbeat: Duration) -> Self {
        let site = Site::new(heartbeat);
        let (browser, relay, server) = tokio::join!(browser, relay_with_pages(&site), site.start());
        for path in ["/events", "/topics"] {
            relay.route(path, Some(server.address));
        }
        server.publish().await;
        Self { browser, relay, server }
    }

    /// Opens a tab of a secure page.
    pub(crate) async fn open(&self, options: &Value) -> Tab {
        self.browser.open(&page(SECURE, self.relay.port, options)).await
    }

    /// All tabs have what is published next, and nothing else was wrong.
    pub(crate) async fn all_have_next(&self, tabs: &[Tab]) {
        all_have_next(&self.server, tabs).await;
    }
}

/// Two events: a page that begins anew instead of resuming gets the last one only.
pub(crate) async fn all_have_next(server: &Server, tabs: &[Tab]) {
    for _ in 0..2 {
        server.publish().await;
    }
    all_have_all(server, tabs).await;
}

pub(crate) async fn all_have_all(server: &Server, tabs: &[Tab]) {
    let has_it = format!("page.has({})", server.site.last());
    for tab in tabs {
        tab.until(&has_it).await;
        let report = tab.report().await;
        assert_eq!(report["wrong"], json!([]), "{report:#}");
    }
}

/// Takes the tab out that has the stream.
pub(crate) async fn leader(tabs: &mut Vec<Tab>) -> Tab {
    let roles = join_all(tabs.iter().map(Tab::report)).await;
    let leaders: Vec<usize> = (0..tabs.len()).filter(|at| roles[*at]["role"] == "leader").collect();
    assert_eq!(leaders.len(), 1, "{roles:#?}");
    tabs.remove(leaders[0])
}

pub(crate) async fn open(browser: &Arc<Browser>, count: usize, url: &str) -> Vec<Tab> {
    let mut tabs = Vec::new();
    for _ in 0..count {
        tabs.push(browser.open(url).await);
    }
    tabs
}
