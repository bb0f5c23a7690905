//! The shutdown: graceful at the first signal, immediate at the second.

use std::{io, process, time::Duration};

use tower_sse::{Drain, Event, Registry};

use crate::{connections::Connections, signals::Signals};

/// How long connections may take to close after their streams have ended. If the peer reads nothing, a connection never
/// closes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends all streams within `window`, and then all connections. The program accepts no new connections any more.
pub(crate) async fn in_order(
    registry: &Registry,
    connections: &Connections,
    window: Duration,
    mut signals: Signals,
) -> io::Result<()> {
    let goodbye = Event::data("The server restarts.").event("restart");
    let drain = Drain::within(window).farewell(goodbye).reconnect_delay(Duration::from_secs(2));
    tokio::select! {
        (drained, ()) = async { tokio::join!(registry.drain(drain), connections.close_within(window + PATIENCE)) } => {
            println!("ended {} streams, {} still open", drained.ended, drained.still_open);
            Ok(())
        }
        code = signals.next() => process::exit(code),
    }
}
