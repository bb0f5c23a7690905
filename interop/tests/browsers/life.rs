//! Half an hour of the life of pages in less than a minute: all intervals of the client and of the server are shortened.
//!
//! `TOWER_SSE_LIFE_SECONDS` is how long it takes, and `TOWER_SSE_LIFE_SEED` makes another one.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep},
};

use crate::{
    PLAIN, SECURE,
    browser::{Browser, Kind, Tab},
    page,
    random::Random,
    relay::{BREAKS, Break, Mode, Next, Relay},
    server::{Server, Site},
    stage::Stage,
};

#[tokio::test(flavor = "multi_thread")]
async fn each_tab_of_chromium_has_each_event_once_and_in_order_whatever_happens() {
    live(Kind::Chromium).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tab_of_firefox_has_each_event_once_and_in_order_whatever_happens() {
    live(Kind::Firefox).await;
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

const ROUND: Duration = Duration::from_secs(10);

async fn live(kind: Kind) {
    let seconds = Duration::from_secs(setting("TOWER_SSE_LIFE_SECONDS", 20));
    let mut random = Random(setting("TOWER_SSE_LIFE_SEED", 1));
    let end = Instant::now() + seconds;
    let mut life = Life::begin(kind).await;
    while Instant::now() < end {
        life.change_tabs(&mut random).await;
        life.round(&mut random, ROUND.min(seconds)).await;
        life.calm().await;
    }
    life.end().await;
}

struct Life {
    browser: Arc<Browser>,
    relay: Relay,
    site: Site,
    server: AsyncMutex<Option<Server>>,
    extras: AtomicU64,
    is_calm: AtomicBool,
    pages: Vec<Page>,
    counts: Mutex<BTreeMap<String, usize>>,
}

struct Page {
    tab: Tab,
    is_sharing: bool,
}

impl Life {
    async fn begin(kind: Kind) -> Self {
        let Stage { browser, relay, server } = Stage::start(kind, Duration::from_millis(500)).await;
        Self {
            browser,
            relay,
            site: server.site.clone(),
            server: AsyncMutex::new(Some(server)),
            extras: AtomicU64::new(0),
            is_calm: AtomicBool::new(false),
            pages: Vec::new(),
            counts: Mutex::default(),
        }
    }

    fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    /// There are two to eight tabs. Half of them share.
    async fn change_tabs(&mut self, random: &mut Random) {
        while self.pages.len() > 1 && (self.pages.len() == 8 || random.one_in(4)) {
            self.pages.swap_remove(random.index(self.pages.len())).tab.close().await;
            self.count("tabs closed");
        }
        for _ in 0..=random.below(4).min(7 - self.pages.len() as u64) {
            let is_sharing = random.one_in(2);
            let host = if is_sharing { SECURE } else { PLAIN };
            let url = page(host, self.relay.port, &json!({ "user": "ada", "resume": "numbers" }));
            self.pages.push(Page { tab: self.browser.open(&url).await, is_sharing });
            self.count("tabs opened");
        }
    }

    async fn round(&self, random: &mut Random, time: Duration) {
        let end = Instant::now() + time;
        self.is_calm.store(false, Ordering::SeqCst);
        let people = join_all(self.pages.iter().map(|page| self.use_page(page, random.split(), end)));
        let network = self.break_network(random.split(), end);
        let deploys = self.deploy(random.split(), end);
        let others = self.change_the_rest(random.split(), end);
        let publisher = self.publish(random.split());
        let all = async {
            tokio::join!(people, network, deploys, others);
            self.is_calm.store(true, Ordering::SeqCst);
        };
        tokio::join!(all, publisher);
    }

    async fn publish(&self, mut random: Random) {
        while !self.is_calm.load(Ordering::SeqCst) {
            if let Some(server) = &*self.server.lock().await {
                let burst = if random.one_in(20) { 50 } else { 1 };
                for _ in 0..burst {
                    server.publish().await;
                }
                if random.one_in(3) {
                    server.publish_on("extra", self.extras.fetch_add(1, Ordering::SeqCst) + 1).await;
                }
            }
            sleep(Duration::from_millis(random.below(60))).await;
        }
    }

    async fn use_page(&self, Page { tab, .. }: &Page, mut random: Random, end: Instant) {
        let is_there = "location.pathname === '/' && !!globalThis.page";
        while pause(&mut random, 300, 3000, end).await {
            match random.below(9) {
                0 | 1 => {
                    self.count("reloads");
                    tab.does("reload", json!({})).await;
                }
                2 | 3 => {
                    self.count("back and forward");
                    tab.ask("void setTimeout(() => location.href = '/other')").await;
                    for step in ["back", "forward"].iter().cycle().take(1 + 2 * random.index(2)) {
                        let is_elsewhere = if *step == "back" { "location.pathname === '/other'" } else { is_there };
                        tab.until(is_elsewhere).await;
                        sleep(Duration::from_millis(random.below(600))).await;
                        tab.ask(&format!("void setTimeout(() => history.{step}())")).await;
                    }
                    tab.until(is_there).await;
                }
                4 | 5 => {
                    self.count("topics added or removed");
                    tab.ask("globalThis.page && page.toggle('extra')").await;
                }
                6 => {
                    self.count("reconnect()");
                    tab.ask("globalThis.page && page.stream.reconnect()").await;
                }
                _ => {
                    self.count("tabs shown");
                    tab.show().await;
                }
            }
        }
    }

    async fn break_network(&self, mut random: Random, end: Instant) {
        while pause(&mut random, 100, 1200, end).await {
            // An event has about 70 bytes, and a head about 250.
            let (after, how) = (random.index(400), BREAKS[random.index(BREAKS.len())]);
            match random.below(8) {
                0 => {
                    self.count("responses that break");
                    self.relay.next([Next::Break(after, how)]);
                }
                1 => {
                    self.count("requests without a response");
                    self.relay.next([Next::Break(0, Break::Close)]);
                }
                2 => {
                    self.count("answers 502");
                    let bytes =
                        b"HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\ncontent-length: 7\r\n\r\n<html/>".to_vec();
                    self.relay.next([Next::Answer { bytes, ends: true }]);
                }
                3 => {
                    self.count("changes of how bytes arrive");
                    let modes = [Mode::AsTheyCome, Mode::AsTheyCome, Mode::OneByOne, Mode::AtTheEnd];
                    self.relay.mode(modes[random.index(modes.len())]);
                }
                _ => {
                    self.count(format!("cuts of all streams: {how:?}"));
                    self.relay.break_all(after, how);
                }
            }
        }
    }

    async fn deploy(&self, mut random: Random, end: Instant) {
        while pause(&mut random, 2000, 6000, end).await {
            let mut place = self.server.lock().await;
            let mut server = place.take().unwrap();
            let address = server.address;
            // Some proxies hold requests while there is no server, and some answer with an error.
            let is_held = random.one_in(2);
            let target = |is_up: bool| {
                ["/events", "/topics"].map(|path| self.relay.route(path, (is_up || !is_held).then_some(address)))
            };
            target(false);
            for _ in 0..random.below(20) {
                server.publish().await;
            }
            if random.one_in(2) {
                self.count("servers drained");
                server.drain().await;
            } else {
                self.count("servers killed");
                server.kill().await;
            }
            sleep(Duration::from_millis(random.below(700))).await;
            *place = Some(self.site.start_at(random.one_in(2), address).await);
            target(true);
        }
    }

    async fn change_the_rest(&self, mut random: Random, end: Instant) {
        self.site.give_old_token();
        while pause(&mut random, 1500, 3000, end).await {
            self.count("tokens changed");
            self.site.change_token();
            if random.one_in(3) {
                self.count("sleeps");
                self.browser.halt(true).await;
                sleep(Duration::from_millis(500 + random.below(3500))).await;
                self.browser.halt(false).await;
            }
        }
    }

    /// All is well again. Each tab gets all that there was.
    async fn calm(&self) {
        self.relay.mend();
        let guard = self.server.lock().await;
        let server = guard.as_ref().unwrap();
        server.publish().await;
        server.publish_on("extra", self.extras.fetch_add(1, Ordering::SeqCst) + 1).await;
        let (last, extras) = (self.site.last(), self.extras.load(Ordering::SeqCst));
        let has_all = format!("page.has({last}) && (!page.extra || page.has({extras}, 'extra'))");
        for Page { tab, is_sharing } in &self.pages {
            tab.show().await;
            tab.until(&has_all).await;
            let report = tab.report().await;
            assert_eq!(report["wrong"], json!([]), "{report:#}");
            assert_eq!(report["isSecure"], *is_sharing, "{report}");
            self.count("tabs found exact");
        }
        // One stream for those that share.
        let sharing = self.pages.iter().any(|page| page.is_sharing);
        let alone = self.pages.iter().filter(|page| !page.is_sharing).count();
        server.until_streams(|streams| streams <= alone + usize::from(sharing)).await;
        self.count("rounds");
    }

    async fn end(mut self) {
        let mut pages = 0;
        let mut restored = 0;
        for Page { tab, .. } in self.pages.drain(..) {
            let report = tab.report().await;
            pages += report["loads"].as_u64().unwrap();
            restored += u64::from(report["isRestored"] == true);
            tab.close().await;
        }
        let gone = Instant::now();
        let server = self.server.lock().await.take().unwrap();
        server.until_streams(|streams| streams == 0).await;
        let after = gone.elapsed();
        self.browser.stop().await;
        let counts = self.counts.lock().unwrap().clone();
        eprintln!(
            "{:?}: {} events, {} streams asked for, {} old tokens; of the last tabs, {pages} loads, {restored} restored; \
             no stream {after:?} after the last page\n{counts:#?}",
            self.browser.kind,
            self.site.last(),
            self.relay.seen().len(),
            self.site.refused.load(Ordering::SeqCst),
        );
        drop(server);
    }
}

/// Waits for a random time. Returns whether the round goes on.
async fn pause(random: &mut Random, least: u64, most: u64, end: Instant) -> bool {
    let wake = Instant::now() + Duration::from_millis(least + random.below(most - least));
    tokio::time::sleep_until(wake.min(end)).await;
    wake < end
}
