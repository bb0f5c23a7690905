//! Three nodes that share one log of events, and a page whose stream goes on at another node when its node stops.
//!
//! ```text
//! cargo run --example cluster --features script
//! curl -N http://127.0.0.1:3103/events
//! curl http://127.0.0.1:3101/publish/news -d 'it works'
//! ```
//!
//! By default, the three nodes are in this process, and share a log in its memory. With Redis or Valkey, they are three processes:
//!
//! ```text
//! cargo run --example cluster --features redis,script -- --redis redis://127.0.0.1:6379
//! ```
//!
//! Open the page at <http://127.0.0.1:3100>. It publishes an event each second, through any node. Kill the node of its stream: the page goes on
//! at the next node after the last event that it has. It counts the gaps, and the events that it missed or got twice. Try it with `kill -9` too:
//! the page shows the process id of each node that is a process.
//!
//! Each node has its own port, its own registry and its own clients:
//!
//! - `GET /events?topic=a&topic=b/*`: the events of these topics and patterns, or all events. It resumes from `Last-Event-ID`, a header or the
//!   parameter `?lastEventId=`. The ids are the same at all nodes. Without an id, it begins with the oldest retained event.
//! - `POST /publish/{topic}`: publishes the body. The response is `{"id": "...", "node": n}`, and says that the event is stored. It is a 503 if the
//!   log does not store the event within five seconds, or if too many events wait for the log.
//! - `GET /health`: 200, or a 503 with the reason. It is for a load balancer.
//! - `GET /node`: the node's number, its newest position, its open streams, and its health.
//!
//! The page's port is the supervisor of the nodes:
//!
//! - `GET /`: the page. `GET /nodes`: the nodes, their addresses and their states.
//! - `POST /nodes/{n}/stop`: stops a node as a deployment does: its streams end, and their clients go on elsewhere.
//! - `POST /nodes/{n}/kill`: ends a node in the middle of whatever it does. A process is killed with SIGKILL.
//! - `POST /nodes/{n}/start`: starts it again. It loads what the log retains, and then accepts requests.
//!
//! In this example, anybody may publish, and stop nodes. Pages of other sites cannot do this through a visitor's browser.
//!
//! On SIGINT and SIGTERM, the program stops all nodes, and exits. A second signal exits at once.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3100 | the port of the page; the nodes have the three ports after it; 0 picks free ports |
//! | `GONE_AFTER_MS` | 30000 | how long a peer may send no request, take to send a body, or answer nothing; at least 1000 |

#[path = "../support/connections.rs"]
mod connections;
mod life;
mod node;
#[path = "../support/signals.rs"]
mod signals;
#[path = "../support/sockets.rs"]
mod sockets;
mod supervisor;

use std::{env, error::Error, io, process, str::FromStr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tower_sse::{RegistryConfig, backplane::Memory};

use crate::{
    connections::Connections, life::Kind, node::Node, signals::Signals, sockets::Patience, supervisor::Supervisor,
};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: cluster [--redis URL]";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments = Arguments::of(env::args().skip(1))?;
    match arguments.node {
        Some(n) => be_a_node(n, arguments.redis.as_deref()).await,
        None => supervise(arguments.redis).await,
    }
}

async fn supervise(redis: Option<String>) -> Result<(), BoxError> {
    let port: u16 = setting("PORT", 3100)?;
    if port != 0 && port.checked_add(3).is_none() {
        return Err(format!("PORT={port} leaves no room for three ports after it").into());
    }
    let kind = match redis {
        // The processes of the nodes find the server. Here, the address is only checked.
        Some(url) => with_redis(RegistryConfig::default(), &url).map(|_| Kind::Processes { redis: url })?,
        None => Kind::Threads(Memory::new()),
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let page_port = listener.local_addr()?.port();
    let supervisor = Arc::new(Supervisor::new(kind, page_port, (port != 0).then_some(port)));
    supervisor.start_all().await?;
    // From now on, a signal stops the nodes first.
    let mut signals = Signals::new()?;
    println!("listening on http://127.0.0.1:{page_port}");
    for (n, url) in supervisor.addresses() {
        println!("node {n}: {url}");
    }
    let patience = patience()?;
    let connections = Connections::new(patience, supervisor.share());
    let app = supervisor::app(Arc::clone(&supervisor), patience);
    tokio::select! {
        () = connections.serve(listener, app.into_make_service()) => {}
        _ = signals.next() => {}
    }
    tokio::select! {
        () = supervisor.stop_all() => Ok(()),
        code = signals.next() => process::exit(code),
    }
}

/// The supervisor starts the program so. `PORT` is then the node's own port.
async fn be_a_node(n: usize, redis: Option<&str>) -> Result<(), BoxError> {
    let url = redis.ok_or(USAGE)?;
    let config = with_redis(node::config(), url)?;
    let node =
        Node { n, port: setting("PORT", 0)?, page_port: setting("PAGE_PORT", 3100)?, share: 1, patience: patience()? };
    let mut signals = Signals::new()?;
    let stop = async {
        tokio::select! {
            _ = signals.next() => {}
            () = life::supervisor_ends() => {}
        }
    };
    node.run(config, |port| println!("listening on http://127.0.0.1:{port}"), stop).await
}

#[cfg(feature = "redis")]
fn with_redis(config: RegistryConfig, url: &str) -> Result<RegistryConfig, BoxError> {
    Ok(config.backplane(tower_sse::backplane::Redis::at(url)?.stream("tower-sse-cluster")))
}

#[cfg(not(feature = "redis"))]
fn with_redis(_: RegistryConfig, _: &str) -> Result<RegistryConfig, BoxError> {
    Err("--redis needs the feature `redis`: cargo run --example cluster --features redis,script -- --redis URL".into())
}

struct Arguments {
    redis: Option<String>,
    node: Option<usize>,
}

impl Arguments {
    fn of(mut given: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let mut arguments = Self { redis: None, node: None };
        while let Some(name) = given.next() {
            match (&*name, given.next()) {
                ("--redis", Some(url)) => arguments.redis = Some(url),
                ("--node", Some(n)) => arguments.node = Some(n.parse()?),
                ("--redis" | "--node", None) => return Err(format!("{name} has no value; {USAGE}").into()),
                _ => return Err(format!("there is no argument {name:?}; {USAGE}").into()),
            }
        }
        Ok(arguments)
    }
}

pub(crate) fn patience() -> Result<Patience, io::Error> {
    Ok(Patience::of(Duration::from_millis(setting("GONE_AFTER_MS", 30_000)?)))
}

/// Reads a number from the environment. A value that is not a number is an error, and the error names the variable.
fn setting<T: FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
