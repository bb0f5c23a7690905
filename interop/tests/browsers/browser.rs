//! A real browser with several tabs, used by the driver `interop/node/tabs.mjs`.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{Mutex as AsyncMutex, oneshot},
    time::timeout,
};

use crate::{BOUND, within};

/// How the driver ends when it has killed its browser.
const KILLED: i32 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chromium,
    Firefox,
}

/// The driver ends when its standard input ends, so no browser outlives the test.
pub(crate) struct Browser {
    pub(crate) kind: Kind,
    driver: AsyncMutex<Child>,
    stdin: AsyncMutex<Option<ChildStdin>>,
    news: Arc<News>,
    last: AtomicU64,
}

#[derive(Default)]
struct News {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    uncaught: Mutex<Vec<String>>,
}

impl Browser {
    pub(crate) async fn start(kind: Kind) -> Arc<Self> {
        Self::start_with(kind, None).await
    }

    /// A browser that keeps its tabs in this folder, and restores them when it is started again.
    pub(crate) async fn start_in(kind: Kind, profile: &Path) -> Arc<Self> {
        Self::start_with(kind, Some(profile)).await
    }

    async fn start_with(kind: Kind, profile: Option<&Path>) -> Arc<Self> {
        let (node, drivers) =
            tokio::task::spawn_blocking(|| (interop::node(), interop::npm("node"))).await.expect("the driver");
        let (name, program) = match kind {
            Kind::Chromium => ("chrome", interop::program("chromium")),
            Kind::Firefox => ("firefox", interop::program("firefox-esr")),
        };
        let mut command = Command::new(node);
        command.arg(drivers.join("tabs.mjs")).env("BROWSER", name).env("PROGRAM", program);
        // The browser's profile is in this folder, and is removed with it.
        command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
        if let Some(profile) = profile {
            command.env("PROFILE", profile);
        }
        let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the process starts");
        let stdin = driver.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        within(lines.next_line()).await.expect("text").expect("a line when the browser is ready");
        let news = Arc::new(News::default());
        tokio::spawn({
            let news = Arc::clone(&news);
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    news.hear(serde_json::from_str(&line).expect("JSON"));
                }
                // Whoever waits for an answer gets none.
                news.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
        let (driver, stdin) = (AsyncMutex::new(driver), AsyncMutex::new(Some(stdin)));
        Arc::new(Self { kind, driver, stdin, news, last: AtomicU64::new(0) })
    }

    /// Says what a test does next in this browser.
    pub(crate) fn begins(&self, what: &str) {
        eprintln!("{:?}: {what}", self.kind);
    }

    /// Does something, and returns the value. An error is one of the driver or of the page.
    pub(crate) async fn tries(&self, what: &Value) -> Result<Value, String> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        self.news.waiting.lock().unwrap().insert(id, sender);
        let mut line = what.clone();
        line["id"] = id.into();
        self.stdin.lock().await.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let answer = timeout(BOUND, answer).await.unwrap_or_else(|_| panic!("this takes too long: {what}"));
        let mut answer = answer.unwrap_or_else(|_| panic!("the browser ends at {what}"));
        match answer["error"].take() {
            Value::String(error) => Err(error),
            _ => Ok(answer["value"].take()),
        }
    }

    pub(crate) async fn does(&self, what: Value) -> Value {
        self.tries(&what).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Opens a tab with the page of the tests, at this address.
    pub(crate) async fn open(self: &Arc<Self>, url: &str) -> Tab {
        self.open_for("", url).await
    }

    /// Opens a tab of somebody whose browser this is not.
    pub(crate) async fn open_for(self: &Arc<Self>, user: &str, url: &str) -> Tab {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let tab = Tab { browser: Arc::clone(self), number };
        tab.does("open", json!({ "url": url, "user": user })).await;
        tab
    }

    /// The tab with this address, which was open when the browser ended.
    pub(crate) async fn restored(self: &Arc<Self>, url: &str) -> Tab {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let tab = Tab { browser: Arc::clone(self), number };
        tab.does("restored", json!({ "url": url })).await;
        tab
    }

    /// The whole browser stands still, as in a machine that sleeps, or goes on.
    pub(crate) async fn halt(&self, is_halted: bool) {
        self.does(json!({ "does": "halt", "is": is_halted })).await;
    }

    /// Kills all processes of the browser. Its driver ends with it.
    pub(crate) async fn kill(&self) {
        let mut stdin = self.stdin.lock().await.take().unwrap();
        stdin.write_all(format!("{}\n", json!({ "does": "kill" })).as_bytes()).await.unwrap();
        let status = within(self.driver.lock().await.wait()).await.unwrap();
        assert_eq!(status.code(), Some(KILLED), "{status}");
        assert_eq!(*self.news.uncaught.lock().unwrap(), Vec::<String>::new(), "a page throws");
    }

    pub(crate) async fn stop(&self) {
        drop(self.stdin.lock().await.take());
        assert!(within(self.driver.lock().await.wait()).await.unwrap().success(), "the browser does not exit cleanly");
        assert_eq!(*self.news.uncaught.lock().unwrap(), Vec::<String>::new(), "a page throws");
    }
}

impl News {
    fn hear(&self, said: Value) {
        if let Some(uncaught) = said["uncaught"].as_str() {
            self.uncaught.lock().unwrap().push(uncaught.to_owned());
        } else if let Some(waiting) = self.waiting.lock().unwrap().remove(&said["id"].as_u64().expect("a number")) {
            // The test may no longer wait.
            let _ = waiting.send(said);
        }
    }
}

#[derive(Clone)]
pub(crate) struct Tab {
    browser: Arc<Browser>,
    number: u64,
}

impl Tab {
    pub(crate) fn begins(&self, what: &str) {
        self.browser.begins(what);
    }

    pub(crate) async fn does(&self, does: &str, mut what: Value) -> Value {
        what["does"] = does.into();
        what["tab"] = self.number.into();
        self.browser.does(what).await
    }

    /// The value of a script in the page.
    pub(crate) async fn ask(&self, script: &str) -> Value {
        self.does("ask", json!({ "script": script })).await
    }

    /// Waits until a script is true in the page. Otherwise the panic says how the page is.
    pub(crate) async fn until(&self, script: &str) {
        let what = json!({ "does": "until", "tab": self.number, "script": script });
        let is_true = timeout(BOUND - BOUND / 10, self.browser.tries(&what)).await;
        if !matches!(is_true, Ok(Ok(_))) {
            let ask = json!({ "does": "ask", "tab": self.number, "script": "({ report: page.report, states: page.states.slice(-30) })" });
            let report = self.browser.tries(&ask).await;
            panic!("never true: {script}\n{}", report.map_or_else(|error| error, |report| report.to_string()));
        }
    }

    pub(crate) async fn report(&self) -> Value {
        self.ask("page.report").await
    }

    /// How often the page went live. `page.states` can be emptied.
    pub(crate) async fn times_live(&self) -> usize {
        let states = self.ask("page.states").await;
        let live = states.as_array().unwrap().iter().map(|state| state["caughtUp"] == true);
        let live: Vec<bool> = live.collect();
        live.windows(2).filter(|two| !two[0] && two[1]).count()
    }

    pub(crate) async fn show(&self) {
        self.does("show", json!({})).await;
    }

    pub(crate) async fn close(self) {
        self.does("close", json!({})).await;
    }
}
