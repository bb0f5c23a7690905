//! The supervisor: it starts the nodes, stops them, kills them, and serves the page.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path, State as Shared},
    http::StatusCode,
    response::Html,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::{csrf::CsrfLayer, timeout::TimeoutLayer};

use crate::{
    BoxError,
    life::{Kind, Life},
    node::Node,
    patience,
    sockets::Patience,
};

const NODES: usize = 3;

pub(crate) struct Supervisor {
    kind: Kind,
    page_port: u16,
    nodes: [Mutex<Place>; NODES],
}

/// A node's place, whether or not there is a node.
struct Place {
    /// 0 if it has not been started yet and may have any.
    port: u16,
    state: State,
}

enum State {
    Stopped,
    Starting,
    Running(Life),
    Stopping,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running(_) => "running",
            Self::Stopping => "stopping",
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Start,
    Stop,
    Kill,
}

/// Why an order was not carried out.
type Problem = (StatusCode, String);

impl Supervisor {
    /// `base`: the nodes have the ports after it. `None`: any ports.
    pub(crate) fn new(kind: Kind, page_port: u16, base: Option<u16>) -> Self {
        let port = |n: u16| base.map_or(0, |base| base + n);
        let nodes = [1, 2, 3].map(|n| Mutex::new(Place { port: port(n), state: State::Stopped }));
        Self { kind, page_port, nodes }
    }

    /// How many servers this process has, which share its limit on open files.
    pub(crate) fn share(&self) -> u64 {
        match self.kind {
            Kind::Threads(_) => NODES as u64 + 1,
            Kind::Processes { .. } => 1,
        }
    }

    pub(crate) async fn start_all(&self) -> Result<(), BoxError> {
        let started = tokio::try_join!(self.start(1), self.start(2), self.start(3));
        Ok(started.map(drop).map_err(|(_, sentence)| sentence)?)
    }

    /// Stops what runs.
    pub(crate) async fn stop_all(&self) {
        let _ = tokio::join!(self.end(1, Order::Stop), self.end(2, Order::Stop), self.end(3, Order::Stop));
    }

    pub(crate) fn addresses(&self) -> Vec<(usize, String)> {
        (1..=NODES).filter_map(|n| Some((n, url(self.place(n).ok()?.port)))).collect()
    }

    fn place(&self, n: usize) -> Result<MutexGuard<'_, Place>, Problem> {
        let unknown = || (StatusCode::NOT_FOUND, format!("there is no node {n}: the nodes are 1 to {NODES}"));
        let place = n.checked_sub(1).and_then(|at| self.nodes.get(at)).ok_or_else(unknown)?;
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = match &mut place.state {
            State::Running(life) => life.has_ended(),
            _ => false,
        };
        if has_ended {
            place.state = State::Stopped;
        }
        Ok(place)
    }

    async fn start(&self, n: usize) -> Result<(), Problem> {
        let port = {
            let mut place = self.place(n)?;
            match place.state {
                State::Stopped => place.state = State::Starting,
                _ => return Err(conflict(n, &place.state)),
            }
            place.port
        };
        let started = async {
            let node = Node { n, port, page_port: self.page_port, share: self.share(), patience: patience()? };
            self.kind.start(node).await
        };
        let started = started.await;
        let mut place = self.place(n)?;
        match started {
            Ok((life, port)) => *place = Place { port, state: State::Running(life) },
            Err(error) => {
                place.state = State::Stopped;
                return Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
            }
        }
        Ok(())
    }

    /// Returns when the node has ended.
    async fn end(&self, n: usize, order: Order) -> Result<(), Problem> {
        let life = {
            let mut place = self.place(n)?;
            match mem::replace(&mut place.state, State::Stopping) {
                State::Running(life) => life,
                other => {
                    place.state = other;
                    return Err(conflict(n, &place.state));
                }
            }
        };
        let ended = match order {
            Order::Kill => life.kill().await,
            _ => life.stop().await,
        };
        self.place(n)?.state = State::Stopped;
        ended.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

fn conflict(n: usize, state: &State) -> Problem {
    (StatusCode::CONFLICT, format!("node {n} is {}", state.name()))
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

pub(crate) fn app(supervisor: Arc<Supervisor>, patience: Patience) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route_service("/tower-sse.js", tower_sse::script())
        .route("/nodes", get(nodes))
        .route("/nodes/{n}/{order}", post(order))
        // Refuses requests that change something, if a browser sends them for a page of another site.
        .layer(CsrfLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, patience.time()))
        .with_state(supervisor)
}

async fn nodes(Shared(supervisor): Shared<Arc<Supervisor>>) -> Json<Value> {
    let row = |n| {
        let place = supervisor.place(n).ok()?;
        let process = match &place.state {
            State::Running(life) => life.process_id(),
            _ => None,
        };
        Some(json!({ "n": n, "url": url(place.port), "state": place.state.name(), "process": process }))
    };
    Json((1..=NODES).filter_map(row).collect())
}

async fn order(
    Shared(supervisor): Shared<Arc<Supervisor>>,
    Path((n, order)): Path<(usize, Order)>,
) -> Result<StatusCode, Problem> {
    // A task of its own carries it out to the end, even if the client does not wait for it.
    let carried_out = tokio::spawn(async move {
        match order {
            Order::Start => supervisor.start(n).await,
            Order::Stop | Order::Kill => supervisor.end(n, order).await,
        }
    });
    match carried_out.await {
        Ok(carried_out) => carried_out.map(|()| StatusCode::NO_CONTENT),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
