//! The clients under test. A driver for each client reports what the client sees.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use crate::{browser, curl, rust};

/// What a client reports to the program that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observation {
    Open,
    Event(Event),
    Error(String),
    /// The client has closed, and will not reconnect.
    Closed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event_type: String,
    pub(crate) data: String,
    /// The last event id, as the client reports it.
    pub(crate) id: String,
}

/// The type of the position event.
pub(crate) const POSITION: &str = "position";

impl Event {
    /// Whether this is not an event of a program: a position event, or the comment at the beginning of a stream, which
    /// some clients report as an event.
    fn is_ours(&self, begins: bool) -> bool {
        self.event_type == POSITION || begins && *self == Self { event_type: "message".to_owned(), ..Self::default() }
    }
}

/// The channel on which a driver in this process reports.
pub(crate) type Report = mpsc::UnboundedSender<Observation>;

/// A client, without what it does.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) driver: Driver,
    /// The rows that need the lines that the guide shows for this client.
    pub(crate) with_lines: &'static [&'static str],
    /// The client waits at least this multiple of the time that `retry` asks for.
    pub(crate) waits: f64,
}

impl Client {
    /// The interval of heartbeats where they matter. Ours takes a stream for dead that is silent for three of them, so it must not be
    /// shorter than what a busy machine needs.
    pub(crate) fn heartbeat(&self) -> Duration {
        if self.name.starts_with("tower-sse") { Duration::from_secs(1) } else { Duration::from_millis(50) }
    }

    /// The client waits at most this multiple of the time that `retry` asks for. Ours spreads those that come back.
    pub(crate) fn waits_at_most(&self) -> f64 {
        if self.name.starts_with("tower-sse") { 1.5 } else { self.waits.max(1.0) }
    }
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

/// The rows that need a client that still runs when it is time to reconnect.
const WAITING: &[&str] = &["retry", "cut", "first cut", "filtered", "odd id", "gap", "farewell", "reconnect"];
/// The rows that need a client that reconnects.
const COMING_BACK: &[&str] =
    &["retry", "cut", "first cut", "filtered", "odd id", "gap", "farewell", "204", "503", "reconnect"];

/// Those rows, and the rows that need a `cache` mode that does not delay a request.
const FETCH_IN_FIREFOX: &[&str] =
    &["twice", "retry", "cut", "first cut", "filtered", "odd id", "gap", "farewell", "204", "503", "reconnect"];

pub(crate) const CLIENTS: &[Client] = &[
    Client { name: "tower-sse.js in Chromium", driver: Driver::Chromium("tower-sse"), with_lines: &[], waits: 1.0 },
    Client { name: "tower-sse.js in Firefox", driver: Driver::Firefox("tower-sse"), with_lines: &[], waits: 1.0 },
    Client { name: "Chromium", driver: Driver::Chromium("eventsource"), with_lines: &[], waits: 1.0 },
    Client { name: "Firefox", driver: Driver::Firefox("eventsource"), with_lines: &[], waits: 1.0 },
    Client { name: "fetch in Chromium", driver: Driver::Chromium("fetch"), with_lines: COMING_BACK, waits: 1.0 },
    Client { name: "fetch in Firefox", driver: Driver::Firefox("fetch"), with_lines: FETCH_IN_FIREFOX, waits: 1.0 },
    Client { name: "eventsource", driver: Driver::Node("eventsource.mjs"), with_lines: WAITING, waits: 1.0 },
    Client { name: "undici", driver: Driver::Node("undici.mjs"), with_lines: WAITING, waits: 1.0 },
    Client {
        name: "@microsoft/fetch-event-source",
        driver: Driver::Chromium("fetch-event-source"),
        // The client takes the end of a response for the end of the stream, and any response that is no stream for an
        // error.
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

/// Clients without the lines that the guide shows for them.
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

/// The programs that run drivers.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) node: PathBuf,
    pub(crate) node_drivers: PathBuf,
    pub(crate) python: PathBuf,
    /// The address of Chromium's DevTools.
    pub(crate) chromium: String,
    /// The address that opens pages in Firefox.
    pub(crate) firefox: SocketAddr,
}

impl Client {
    /// Starts the client on a stream. `types` are the event types that an `EventSource` must listen to.
    pub(crate) fn follow(&self, tools: &Tools, url: &str, types: &[&str]) -> Run {
        self.start(tools, url, types, 1)
    }

    /// Starts the client twice on the same stream, at the same time. A browser uses one page for both.
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
        // Node warns about experimental APIs.
        command.arg(url).args(types).env("NODE_NO_WARNINGS", "1").env("NO_PROXY", "127.0.0.1");
        Run::of(
            command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the process starts"),
        )
    }
}

/// A running client. It is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Run {
    observations: mpsc::UnboundedReceiver<Observation>,
    /// What the client has reported.
    pub(crate) seen: Vec<Observation>,
    _driver: Running,
}

#[derive(Debug)]
enum Running {
    Process { _child: Child },
    Task(#[allow(dead_code, reason = "only its drop is used")] Aborted),
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
        tokio::spawn(pass_on(child.stdout.take().expect("the stream is piped"), report));
        Self { observations, seen: Vec::new(), _driver: Running::Process { _child: child } }
    }

    fn of_task(task: &JoinHandle<()>, observations: mpsc::UnboundedReceiver<Observation>) -> Self {
        Self { observations, seen: Vec::new(), _driver: Running::Task(Aborted(task.abort_handle())) }
    }

    /// The client's next report. A driver that has exited does not reconnect, so its client is closed.
    pub(crate) async fn next(&mut self) -> Observation {
        let next = self.observations.recv().await.unwrap_or(Observation::Closed);
        self.seen.push(next.clone());
        next
    }

    pub(crate) async fn opened(&mut self) {
        while self.next().await != Observation::Open {
            assert_ne!(self.seen.last(), Some(&Observation::Closed), "the stream does not open: {:?}", self.seen);
        }
    }

    /// The next event that the client reports, of any kind. `None` if the client is closed.
    pub(crate) async fn anything(&mut self) -> Option<Event> {
        loop {
            match self.next().await {
                Observation::Event(event) => return Some(event),
                Observation::Closed => return None,
                Observation::Open | Observation::Error(_) => {}
            }
        }
    }

    /// The next event of a program. `None` if the client is closed.
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

    /// The next event of a program. `None` if the client reports anything else first.
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

    /// Reads until the client knows this position, or any position. Returns `false` if the client is closed.
    pub(crate) async fn stands(&mut self, at: Option<&str>) -> bool {
        while let Some(event) = self.anything().await {
            if event.event_type == POSITION && at.is_none_or(|at| event.id == at) {
                return true;
            }
        }
        false
    }

    /// All events up to and including the one with this data.
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

/// Forwards a driver's reports until the receiver is dropped.
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
