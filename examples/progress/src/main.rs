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
//! - The layer goes around a tower service, and `hyper_util` serves that. The crate is here without its default features, so
//!   there is no axum, and no JSON library.
//! - A job fills its topic through a `Producer`, whether or not anybody reads. When it is done, it ends the topic: readers get what
//!   is left, and their streams end. An `EventSource` comes back then, with the last id, and gets a 204, which makes it stop.
//! - A job that was stopped ends with the event `cancelled` instead of `done`, one that broke with `failed`. Who has had that gets a 410.
//! - What a job has published is forgotten five minutes after its end. Then it is a 404.
//! - On SIGINT and SIGTERM, streams of jobs that are running may go on for `FINISH_MS`.
//!
//! Environment: `PORT` (3000; 0 picks one), `STEP_MS` (how long a step of a job takes, 200), `MAX_JOBS` (that run at once, 100),
//! `FINISH_MS` (10000).

mod jobs;

use std::{convert::Infallible, env, error::Error, io, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::ServiceBuilder;
use tower_sse::{Drain, Registry, RegistryConfig, Retention, SseLayer};

use crate::jobs::Jobs;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Who comes late gets all of a job.
    let retention = Retention::default().events(jobs::MAX_EVENTS);
    let registry = Registry::with_config(RegistryConfig::default().topic_retention(retention));
    let step = Duration::from_millis(setting("STEP_MS", 200)?);
    let finish = Duration::from_millis(setting("FINISH_MS", 10_000)?);
    let jobs = Arc::new(Jobs::new(&registry, step, setting::<u16>("MAX_JOBS", 100)?.into()));
    let layer = SseLayer::new(&registry).let_finish(true);

    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 3000)?)).await?;
    let told_to_end = told_to_end()?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = GracefulShutdown::new();
    tokio::select! {
        () = accept(listener, &layer, &jobs, &connections) => {}
        () = told_to_end => {}
    }
    let drain = registry.drain(Drain::within(Duration::from_secs(2)).finish_within(finish));
    // It waits for all connections, and some may be stuck.
    let closed = timeout(finish.max(Duration::from_secs(2)) + Duration::from_secs(1), connections.shutdown());
    let _ = tokio::join!(drain, closed);
    Ok(())
}

async fn accept(listener: TcpListener, layer: &SseLayer, jobs: &Arc<Jobs>, connections: &GracefulShutdown) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::spawn(serve(socket, layer.clone(), Arc::clone(jobs), connections.watcher()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: they come back as streams end.
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, layer: SseLayer, jobs: Arc<Jobs>, watcher: Watcher) {
    // Events are small writes that somebody waits for.
    let _ = socket.set_nodelay(true);
    let service = ServiceBuilder::new().layer(layer).service_fn(move |request| {
        let jobs = Arc::clone(&jobs);
        async move { Ok::<_, Infallible>(jobs.answer(&request)) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    // With a timer, hyper gives up a client that takes more than 30 s to send a request's head.
    server.http1().timer(TokioTimer::new());
    // Finds peers of HTTP/2 that are gone. For those of HTTP/1.1, the socket has to be told how long to wait for them.
    server.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(15));
    let connection = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
    // An error is a client that left, or does not speak HTTP.
    let _ = watcher.watch(connection.into_owned()).await;
}

/// Ctrl-C, or what service managers send. From this call on, neither ends the program of itself.
#[cfg(unix)]
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

/// A number from the environment. What is there and is none is an error that names it.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T, io::Error> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("{name}={text:?} is not a number that fits"))),
    }
}
