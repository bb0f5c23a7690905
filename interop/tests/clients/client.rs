//! What is tested: clients, each behind a driver that tells what it sees.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use crate::{browser, curl, rust};

/// What a client tells the program that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observation {
    Open,
    Event(Event),
    Error(String),
    /// It does not come back.
    Closed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event_type: String,
    pub(crate) data: String,
    /// The last event id, as the client tells it.
    pub(crate) id: String,
}

/// The type of the event that says where a stream stands.
pub(crate) const POSITION: &str = "position";

impl Event {
    /// Whether it is no program's: where a stream stands, or the comment that a stream begins with, which some take for an
    /// event.
    fn is_ours(&self, begins: bool) -> bool {
        self.event_type == POSITION || begins && *self == Self { event_type: "message".to_owned(), ..Self::default() }
    }
}

/// Where a driver in this process says what it sees.
pub(crate) type Report = mpsc::UnboundedSender<Observation>;

/// What is known of a client but what it does.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) driver: Driver,
    /// What it does with the lines that the guide shows for it, and not by itself.
    pub(crate) with_lines: &'static [&'static str],
    /// How much of the time that `retry` says it waits at least.
    pub(crate) waits: f64,
}

#[derive(Debug)]
pub(crate) enum Driver {
    /// A page in Chromium.
    Chromium(&'static str),
    /// A page in Firefox.
    Firefox(&'static str),
    Node(&'static str),
    Python(&'static str),
    Task(fn(String, Report) -> JoinHandle<()>),
}

/// What takes a client that is there when the time to come back has come.
const WAITING: &[&str] = &["retry", "cut", "first cut", "filtered", "odd id", "gap", "farewell", "reconnect"];
/// What has to do with coming back.
const COMING_BACK: &[&str] =
    &["retry", "cut", "first cut", "filtered", "odd id", "gap", "farewell", "204", "503", "reconnect"];

/// That, and what takes a `cache` that does not hold a request back.
const FETCH_IN_FIREFOX: &[&str] =
    &["twice", "retry", "cut", "first cut", "filtered", "odd id", "gap", "farewell", "204", "503", "reconnect"];

pub(crate) const CLIENTS: &[Client] = &[
    Client { name: "Chromium", driver: Driver::Chromium("eventsource"), with_lines: &[], waits: 1.0 },
    Client { name: "Firefox", driver: Driver::Firefox("eventsource"), with_lines: &[], waits: 1.0 },
    Client { name: "fetch in Chromium", driver: Driver::Chromium("fetch"), with_lines: COMING_BACK, waits: 1.0 },
    Client { name: "fetch in Firefox", driver: Driver::Firefox("fetch"), with_lines: FETCH_IN_FIREFOX, waits: 1.0 },
    Client { name: "eventsource", driver: Driver::Node("eventsource.mjs"), with_lines: WAITING, waits: 1.0 },
    Client { name: "undici", driver: Driver::Node("undici.mjs"), with_lines: WAITING, waits: 1.0 },
    Client {
        name: "@microsoft/fetch-event-source",
        driver: Driver::Chromium("fetch-event-source"),
        // It takes the end of a response for the end of all, and any answer that is no stream for an error.
        with_lines: &["retry", "farewell", "204", "503", "reconnect"],
        waits: 1.0,
    },
    Client {
        name: "eventsource-parser",
        driver: Driver::Node("eventsource-parser.mjs"),
        with_lines: COMING_BACK,
        waits: 1.0,
    },
    Client { name: "httpx-sse", driver: Driver::Python("with_httpx_sse.py"), with_lines: COMING_BACK, waits: 1.0 },
    Client { name: "sseclient-py", driver: Driver::Python("with_sseclient.py"), with_lines: COMING_BACK, waits: 1.0 },
    Client {
        name: "aiohttp-sse-client",
        driver: Driver::Python("with_aiohttp_sse_client.py"),
        with_lines: &["cut", "first cut", "filtered", "gap", "503"],
        waits: 2.0,
    },
    Client {
        name: "reqwest-eventsource",
        driver: Driver::Task(rust::reqwest_eventsource),
        with_lines: &[],
        waits: 1.0,
    },
    Client {
        name: "eventsource-client",
        driver: Driver::Task(rust::eventsource_client),
        with_lines: &["204"],
        waits: 0.5,
    },
    Client { name: "sse-stream", driver: Driver::Task(rust::sse_stream), with_lines: COMING_BACK, waits: 1.0 },
    Client { name: "curl", driver: Driver::Task(curl::follow), with_lines: COMING_BACK, waits: 1.0 },
];

/// Some without the lines that the guide shows for them.
pub(crate) const ALONE: &[Client] = &[
    Client { name: "eventsource", driver: Driver::Node("eventsource-alone.mjs"), with_lines: &[], waits: 1.0 },
    Client { name: "undici", driver: Driver::Node("undici-alone.mjs"), with_lines: &[], waits: 1.0 },
    Client {
        name: "@microsoft/fetch-event-source",
        driver: Driver::Chromium("fetch-event-source-alone"),
        with_lines: &[],
        waits: 1.0,
    },
    Client { name: "fetch in Firefox", driver: Driver::Firefox("fetch-alone"), with_lines: &[], waits: 1.0 },
    Client {
        name: "aiohttp-sse-client",
        driver: Driver::Python("with_aiohttp_sse_client_alone.py"),
        with_lines: &[],
        waits: 2.0,
    },
    Client {
        name: "eventsource-client",
        driver: Driver::Task(rust::eventsource_client_alone),
        with_lines: &[],
        waits: 0.5,
    },
];

/// What drivers that are processes are run with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) node: PathBuf,
    pub(crate) node_drivers: PathBuf,
    pub(crate) python: PathBuf,
    /// Where Chromium's DevTools are.
    pub(crate) chromium: String,
    /// Where pages in Firefox are asked for.
    pub(crate) firefox: SocketAddr,
}

impl Client {
    /// Lets it follow a stream. `types`: those that an `EventSource` has to be told of.
    pub(crate) fn follow(&self, tools: &Tools, url: &str, types: &[&str]) -> Run {
        self.start(tools, url, types, 1)
    }

    /// Lets it follow the same stream twice at the same time: in one page, if it is a page's.
    pub(crate) fn follow_twice(&self, tools: &Tools, url: &str) -> Vec<Run> {
        match self.driver {
            Driver::Chromium(_) | Driver::Firefox(_) => vec![self.start(tools, url, &[], 2)],
            _ => vec![self.follow(tools, url, &[]), self.follow(tools, url, &[])],
        }
    }

    fn start(&self, tools: &Tools, url: &str, types: &[&str], times: usize) -> Run {
        let mut command = match self.driver {
            Driver::Task(task) => {
                let (report, observations) = mpsc::unbounded_channel();
                return Run::of_task(&task(url.to_owned(), report), observations);
            }
            Driver::Firefox(page) => {
                let (report, observations) = mpsc::unbounded_channel();
                let wanted = json!({ "page": page, "url": url, "types": types, "times": times });
                return Run::of_task(&browser::show_in_firefox(tools.firefox, &wanted, report), observations);
            }
            Driver::Chromium(page) => {
                let mut command = Command::new(&tools.node);
                command.arg(tools.node_drivers.join("chromium.mjs")).args([page, &times.to_string()]);
                command.env("CHROMIUM", &tools.chromium).env("PAGES", interop::drivers("page"));
                command
            }
            Driver::Node(driver) => {
                let mut command = Command::new(&tools.node);
                command.arg(tools.node_drivers.join(driver));
                command
            }
            Driver::Python(driver) => {
                let mut command = Command::new(&tools.python);
                command.arg("-B").arg(interop::drivers("python").join(driver));
                command
            }
        };
        // Warnings tell that an API is experimental.
        command.arg(url).args(types).env("NODE_NO_WARNINGS", "1").env("NO_PROXY", "127.0.0.1");
        Run::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts"))
    }
}

/// A client that follows a stream. It is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Run {
    observations: mpsc::UnboundedReceiver<Observation>,
    /// What it has told.
    pub(crate) seen: Vec<Observation>,
    _driver: Running,
}

#[derive(Debug)]
enum Running {
    Process { _child: Child },
    Task(#[allow(dead_code, reason = "it is for its drop")] Aborted),
}

#[derive(Debug)]
struct Aborted(AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Run {
    fn of(mut child: Child) -> Self {
        let (report, observations) = mpsc::unbounded_channel();
        tokio::spawn(pass_on(child.stdout.take().expect("it is piped"), report));
        Self { observations, seen: Vec::new(), _driver: Running::Process { _child: child } }
    }

    fn of_task(task: &JoinHandle<()>, observations: mpsc::UnboundedReceiver<Observation>) -> Self {
        Self { observations, seen: Vec::new(), _driver: Running::Task(Aborted(task.abort_handle())) }
    }

    /// What it tells next. A driver that ends does not come back.
    pub(crate) async fn next(&mut self) -> Observation {
        let next = self.observations.recv().await.unwrap_or(Observation::Closed);
        self.seen.push(next.clone());
        next
    }

    pub(crate) async fn opened(&mut self) {
        while self.next().await != Observation::Open {
            assert_ne!(self.seen.last(), Some(&Observation::Closed), "it does not open: {:?}", self.seen);
        }
    }

    /// The next of all that it takes for an event. `None`: it is closed.
    pub(crate) async fn anything(&mut self) -> Option<Event> {
        loop {
            match self.next().await {
                Observation::Event(event) => return Some(event),
                Observation::Closed => return None,
                Observation::Open | Observation::Error(_) => {}
            }
        }
    }

    /// The next event of a program. `None`: it is closed.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            let begins = self.seen.last() == Some(&Observation::Open);
            match self.next().await {
                Observation::Event(event) if !event.is_ours(begins) => return Some(event),
                Observation::Closed => return None,
                Observation::Event(_) | Observation::Open | Observation::Error(_) => {}
            }
        }
    }

    /// The next event of a program. `None`: something else went wrong first.
    pub(crate) async fn event_at_once(&mut self) -> Option<Event> {
        loop {
            let begins = self.seen.last() == Some(&Observation::Open);
            match self.next().await {
                Observation::Event(event) if !event.is_ours(begins) => return Some(event),
                Observation::Error(_) | Observation::Closed => return None,
                Observation::Event(_) | Observation::Open => {}
            }
        }
    }

    /// Until it knows that it stands there, or anywhere. `false`: it is closed.
    pub(crate) async fn stands(&mut self, at: Option<&str>) -> bool {
        while let Some(event) = self.anything().await {
            if event.event_type == POSITION && at.is_none_or(|at| event.id == at) {
                return true;
            }
        }
        false
    }

    /// All events up to the one with this data, and that one too.
    pub(crate) async fn events_until(&mut self, data: &str) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            let is_last = event.data == data;
            events.push(event);
            if is_last {
                break;
            }
        }
        events
    }

    pub(crate) async fn closed(&mut self) {
        while self.next().await != Observation::Closed {}
    }
}

/// What a driver says, as long as somebody wants to know.
pub(crate) async fn pass_on(said: impl AsyncRead + Unpin, report: Report) {
    let mut lines = BufReader::new(said).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if report.send(observation(&line)).is_err() {
            break;
        }
    }
}

fn observation(line: &str) -> Observation {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(event) = value.get("event") {
        Observation::Event(Event {
            event_type: text(&event["type"]),
            data: text(&event["data"]),
            id: text(&event["id"]),
        })
    } else if let Some(error) = value.get("error") {
        Observation::Error(text(error))
    } else if value.get("open").is_some() {
        Observation::Open
    } else {
        assert!(value.get("closed").is_some(), "{line}");
        Observation::Closed
    }
}
