//! A TCP proxy that fails on request.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};
use tower_sse::backplane::Redis;

/// What the proxy does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// The port of the server to which new connections go.
    server: u16,
    /// Connections from before a cut end.
    cuts: u32,
    hold_requests: bool,
    hold_answers: bool,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State { server, cuts: 0, hold_requests: false, hold_answers: false }));
        let sender = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, sender.subscribe()));
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn engine(&self) -> Redis {
        Redis::at(&self.url()).unwrap()
    }

    /// Closes all connections. New ones are accepted.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Leads new connections to another server, as when a name is pointed elsewhere.
    pub(crate) fn lead_to(&self, server: u16) {
        self.state.send_modify(|state| state.server = server);
    }

    /// Keeps the bytes that go to the server, and those of new connections.
    pub(crate) fn hold_requests(&self) {
        self.state.send_modify(|state| state.hold_requests = true);
    }

    /// Keeps the bytes that come from the server, and those of new connections.
    pub(crate) fn hold_answers(&self) {
        self.state.send_modify(|state| state.hold_answers = true);
    }

    /// Passes on what was held, and all that follows.
    pub(crate) fn pass(&self) {
        self.state.send_modify(|state| (state.hold_requests, state.hold_answers) = (false, false));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn connect(client: TcpStream, mut state: watch::Receiver<State>) {
    let State { server, cuts, .. } = *state.borrow();
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let requests = copy(client_reads, server_writes, state.clone(), |state| state.hold_requests);
    let answers = copy(server_reads, client_writes, state.clone(), |state| state.hold_answers);
    // The cut comes first: what is held then is not passed on.
    tokio::select! {
        biased;
        _ = state.wait_for(|state| state.cuts != cuts) => {}
        () = requests => {}
        () = answers => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    is_held: impl Fn(&State) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if state.wait_for(|state| !is_held(state)).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
