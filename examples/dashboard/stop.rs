//! How the program ends: gracefully when it is first told to, at once when it is told again.

use std::{io, process, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tower_sse::{Drain, Event, Registry};

use crate::signals::Signals;

/// How long connections may take to close when their streams have ended. One whose peer reads nothing never does.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs a server that stops when `stop` says so, until it is told to.
pub(crate) async fn at_signal(
    mut server: JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
    registry: Registry,
    window: Duration,
    mut signals: Signals,
) -> io::Result<()> {
    tokio::select! {
        ended = &mut server => return ended?,
        _ = signals.next() => {}
    }
    // From now on, there are no new connections, and the streams end.
    let _ = stop.send(());
    let goodbye = Event::data("The server restarts.").event("restart").map_err(io::Error::other)?;
    let gracefully = async {
        let drained = registry.drain(Drain::within(window).farewell(goodbye).retry(Duration::from_secs(2))).await;
        let _ = timeout_at(Instant::now() + PATIENCE, server).await;
        println!("ended {} streams, {} stuck", drained.ended, drained.stuck);
    };
    tokio::select! {
        () = gracefully => Ok(()),
        code = signals.next() => process::exit(code),
    }
}
