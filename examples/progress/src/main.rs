//! The progress of jobs as event streams, on plain hyper: HTTP/1.1, and HTTP/2 with prior knowledge, on one port.
//!
//! ```text
//! cargo run -p progress
//! curl -i -X POST 'http://127.0.0.1:3000/jobs?steps=50'             # says where the job is
//! curl -N http://127.0.0.1:3000/jobs/ID                             # its progress, from the beginning
//! curl -N --http2-prior-knowledge http://127.0.0.1:3000/jobs/ID
//! curl -i http://127.0.0.1:3000/jobs/ID -H 'last-event-id: ID OF ITS LAST EVENT'      # 204: there is no more
//! curl -i -X DELETE http://127.0.0.1:3000/jobs/ID                   # stops it
//! ```
//!
//! - The layer goes around a tower service, and `hyper_util` serves that: `examples/support/connections.rs`, which gives up who sends
//!   no request, and makes room for who does. The crate is here without its default features, so
//!   there is no axum, and no JSON library.
//! - A job fills its topic through a `Producer`, whether or not anybody reads. When it is done, it ends the topic: readers get what
//!   is left, and their streams end. An `EventSource` comes back then, with the last id, and gets a 204, which makes it stop.
//! - A job that was stopped ends with the event `cancelled` instead of `done`, one that broke with `failed`. Who has had that gets a 410.
//! - What a job has published is forgotten five minutes after its end. Then it is a 404.
//! - On SIGINT and SIGTERM, streams of jobs that are running may go on for `FINISH_MS`.
//!
//! Environment: `PORT` (3000; 0 picks one), `STEP_MS` (how long a step of a job takes, 200), `MAX_JOBS` (that run at once, 100),
//! `FINISH_MS` (10000).

#[path = "../../support/connections.rs"]
mod connections;
mod jobs;
#[path = "../../support/signals.rs"]
mod signals;
#[path = "../../support/sockets.rs"]
mod sockets;

use std::{convert::Infallible, env, error::Error, future, io, sync::Arc, time::Duration};

use hyper::Request;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, make::Shared};
use tower_sse::{Drain, Registry, RegistryConfig, Retention, SseLayer};

use crate::{
    connections::{Connections, RequestBody},
    jobs::Jobs,
    signals::Signals,
    sockets::Patience,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Who comes late gets all of a job.
    let retention = Retention::default().events(jobs::MAX_EVENTS);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    let step = Duration::from_millis(setting("STEP_MS", 200)?);
    let finish = Duration::from_millis(setting("FINISH_MS", 10_000)?);
    let jobs = Arc::new(Jobs::new(&registry, step, setting::<u16>("MAX_JOBS", 100)?.into()));
    let service = ServiceBuilder::new()
        .layer(SseLayer::new(&registry).finish_on_drain(true))
        .service_fn(move |request: Request<RequestBody>| future::ready(Ok::<_, Infallible>(jobs.answer(&request))));

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From here on, it ends in order when it is told to.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(Patience::default(), 1);
    tokio::select! {
        () = connections.serve(listener, Shared::new(service)) => {}
        _ = signals.next() => {}
    }
    let window = Duration::from_secs(2);
    let drain = registry.drain(Drain::within(window).finish_within(finish));
    // It waits for all connections, and some peers may read nothing.
    tokio::join!(drain, connections.close_within(finish.max(window) + Duration::from_secs(1)));
    Ok(())
}

/// A number from the environment. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
