//! The progress of jobs as event streams, on plain hyper: HTTP/1.1, and HTTP/2 with prior knowledge, on one port.
//!
//! ```text
//! cargo run -p progress
//! curl -i -X POST 'http://127.0.0.1:3000/jobs?steps=50'             # returns the job's path
//! curl -N http://127.0.0.1:3000/jobs/ID                             # its progress, from the beginning
//! curl -N --http2-prior-knowledge http://127.0.0.1:3000/jobs/ID
//! curl -i http://127.0.0.1:3000/jobs/ID -H 'last-event-id: ID OF ITS LAST EVENT'      # 204: no further event will come
//! curl -i -X DELETE http://127.0.0.1:3000/jobs/ID                   # stops it
//! ```
//!
//! - The layer goes around a tower service, and hyper-util serves the service: `examples/support/connections.rs`, which
//!   closes connections that send no request, and makes room for new clients. The crate is used without its default
//!   features, so there is no axum and no JSON library.
//! - A job fills its topic through a `Producer`, whether or not anybody reads. When the job is done, it ends the topic.
//!   Readers then get the remaining events, and their streams end. An `EventSource` reconnects with the last id, gets a
//!   204, and stops.
//! - The last event of a job is `done`. If somebody stopped the job, it is `cancelled`. If the job failed, it is
//!   `failed`. A client that has read `cancelled` or `failed` gets a 410 when it reconnects.
//! - The events of a job are forgotten five minutes after its end. After that, the job is a 404.
//! - On SIGINT and SIGTERM, streams of running jobs may continue for `FINISH_MS`.
//!
//! Environment:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `PORT` | 3000 | the port; 0 picks a free port |
//! | `STEP_MS` | 200 | how long a step of a job takes |
//! | `MAX_JOBS` | 100 | jobs that run at once |
//! | `FINISH_MS` | 10000 | how long streams of running jobs may continue after a signal |

#[path = "../../support/connections.rs"]
mod connections;
mod jobs;
#[path = "../../support/settings.rs"]
mod settings;
#[path = "../../support/signals.rs"]
mod signals;
#[path = "../../support/sockets.rs"]
mod sockets;

use std::{convert::Infallible, error::Error, future, sync::Arc, time::Duration};

use hyper::Request;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, make::Shared};
use tower_http::csrf::CsrfLayer;
use tower_sse::{Drain, Registry, RegistryConfig, Retention, SseLayer};

use crate::{
    connections::{Connections, RequestBody},
    jobs::Jobs,
    settings::setting,
    signals::Signals,
    sockets::Patience,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Retain all events of a job, so that a late reader gets the whole job.
    let retention = Retention::default().events(jobs::MAX_EVENTS);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    let step = Duration::from_millis(setting("STEP_MS", 200)?);
    let finish = Duration::from_millis(setting("FINISH_MS", 10_000)?);
    let jobs = Arc::new(Jobs::new(&registry, step, setting::<u16>("MAX_JOBS", 100)?.into()));
    let service = ServiceBuilder::new()
        .layer(SseLayer::new(&registry).finish_on_drain(true))
        // Refuses requests that change something, if a browser sends them for a page of another site.
        .layer(CsrfLayer::new())
        .service_fn(move |request: Request<RequestBody>| future::ready(Ok::<_, Infallible>(jobs.answer(&request))));

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    // From now on, a signal starts a graceful shutdown.
    let mut signals = Signals::new()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = Connections::new(Patience::default(), 1);
    tokio::select! {
        () = connections.serve(listener, Shared::new(service)) => {}
        _ = signals.next() => {}
    }
    let window = Duration::from_secs(2);
    let drain = registry.drain(Drain::within(window).finish_within(finish));
    // `close_within` has a timeout, because some peers may read nothing.
    tokio::join!(drain, connections.close_within(finish.max(window) + Duration::from_secs(1)));
    Ok(())
}
