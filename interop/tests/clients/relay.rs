//! A relay between a client and a server. It records what the server sends, and breaks connections on request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) url: String,
    wire: Arc<Wire>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Wire {
    /// The server's address. `None`: new connections wait.
    target: watch::Sender<Option<SocketAddr>>,
    /// The relay breaks after this many more bytes.
    breaks_after: watch::Sender<Option<usize>>,
    /// What the server sent.
    seen: Mutex<Vec<u8>>,
    changes: watch::Sender<usize>,
}

impl Relay {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let wire = Arc::new(Wire {
            target: watch::channel(Some(target)).0,
            breaks_after: watch::channel(None).0,
            seen: Mutex::default(),
            changes: watch::channel(0).0,
        });
        let accepted = Arc::clone(&wire);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepted).carry(client));
            }
        });
        Self { url, wire, accepting: accepting.abort_handle() }
    }

    /// Breaks all connections after this many more bytes from the server. New connections wait until
    /// [`mend`](Self::mend).
    pub(crate) async fn break_after(&self, bytes: usize, cause: impl Future<Output = ()>) {
        self.wire.breaks_after.send_replace(Some(bytes));
        cause.await;
        self.wire.target.subscribe().wait_for(Option::is_none).await.expect("the relay runs");
    }

    /// Makes new connections wait.
    pub(crate) fn hold(&self) {
        self.wire.target.send_replace(None);
    }

    pub(crate) fn mend(&self, target: SocketAddr) {
        self.wire.breaks_after.send_replace(None);
        self.wire.target.send_replace(Some(target));
    }

    /// Waits until `look` finds something in what the server has sent.
    pub(crate) async fn has_seen<T>(&self, look: impl Fn(&str) -> Option<T>) -> T {
        let mut changes = self.wire.changes.subscribe();
        loop {
            if let Some(found) = look(&String::from_utf8_lossy(&self.wire.seen.lock().unwrap())) {
                return found;
            }
            changes.changed().await.expect("the relay runs");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.wire.breaks_after.send_replace(Some(0));
    }
}

impl Wire {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let mut target = self.target.subscribe();
        let Ok(Some(address)) = target.wait_for(Option::is_some).await.map(|target| *target) else { return };
        // A server that does not accept connections is treated like one that closes them.
        let Ok(mut server) = TcpStream::connect(address).await else { return };
        client.set_nodelay(true).expect("an option");
        server.set_nodelay(true).expect("an option");
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
        let up = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
        let down = async {
            let mut breaks = self.breaks_after.subscribe();
            let mut buffer = vec![0; 16 << 10];
            loop {
                if *breaks.borrow_and_update() == Some(0) {
                    self.target.send_replace(None);
                    return;
                }
                let read = tokio::select! {
                    read = from_server.read(&mut buffer) => read.unwrap_or(0),
                    _ = breaks.changed() => continue,
                };
                let allowed = breaks.borrow().map_or(read, |left| left.min(read));
                if read == 0 || to_client.write_all(&buffer[..allowed]).await.is_err() {
                    return;
                }
                self.seen.lock().unwrap().extend_from_slice(&buffer[..allowed]);
                self.changes.send_modify(|changes| *changes += 1);
                self.breaks_after.send_if_modified(|left| match left {
                    Some(left) => {
                        // The relay may have been told to break meanwhile.
                        *left = left.saturating_sub(allowed);
                        true
                    }
                    None => false,
                });
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }
}
