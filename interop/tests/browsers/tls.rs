//! HTTPS, with HTTP/2, and what a server does to its connections and streams.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::header,
    middleware,
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use h2::Reason;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{copy, copy_bidirectional, sink},
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    task::AbortHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

#[derive(Clone)]
pub(crate) struct Http2 {
    go_away: broadcast::Sender<()>,
    cuts: watch::Sender<Cut>,
    connections: Arc<AtomicUsize>,
}

/// What happens to the event streams that are open.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// They stand still after so many more bytes.
    After(usize),
    /// RST_STREAM.
    Reset(Reason),
}

impl Default for Http2 {
    fn default() -> Self {
        let (cuts, connections) = (watch::channel(Cut::After(usize::MAX)).0, Arc::default());
        Self { go_away: broadcast::channel(1).0, cuts, connections }
    }
}

impl Http2 {
    /// Sends GOAWAY in all connections. Their streams go on.
    pub(crate) fn go_away(&self) {
        // There may be no connection.
        let _ = self.go_away.send(());
    }

    pub(crate) fn hold_after(&self, bytes: usize) {
        self.cuts.send_replace(Cut::After(bytes));
    }

    pub(crate) fn reset(&self, reason: Reason) {
        self.cuts.send_replace(Cut::Reset(reason));
    }

    /// How many connections with HTTP/2 there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) async fn serve(self, listener: TcpListener, routes: Router) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let cuts = self.cuts.clone();
        let breakable = move |response| std::future::ready(breakable(response, &cuts));
        let routes = routes.layer(middleware::map_response(breakable));
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(self.clone().carry(socket, acceptor.clone(), routes.clone()));
        }
    }

    async fn carry(self, socket: TcpStream, acceptor: TlsAcceptor, routes: Router) {
        socket.set_nodelay(true).unwrap();
        let Ok(socket) = acceptor.accept(socket).await else { return };
        if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.connections.fetch_add(1, Ordering::SeqCst);
        }
        let mut go_away = self.go_away.subscribe();
        let server = auto::Builder::new(TokioExecutor::new());
        let connection = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(routes));
        tokio::pin!(connection);
        loop {
            tokio::select! {
                Ok(()) = go_away.recv() => connection.as_mut().graceful_shutdown(),
                // The browser decides how the connection ends.
                _ = connection.as_mut() => return,
            }
        }
    }
}

fn breakable(response: Response, cuts: &watch::Sender<Cut>) -> Response {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    if content_type.is_none_or(|name| !name.as_bytes().starts_with(b"text/event-stream")) {
        return response;
    }
    let cuts = cuts.subscribe();
    response.map(|body| {
        let body = BreakableBody { body: body.into_data_stream(), cuts, left: usize::MAX };
        Body::from_stream(stream::unfold(body, BreakableBody::next))
    })
}

struct BreakableBody {
    body: BodyDataStream,
    cuts: watch::Receiver<Cut>,
    left: usize,
}

impl BreakableBody {
    async fn next(mut self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        loop {
            let frame = tokio::select! {
                biased;
                Ok(()) = self.cuts.changed() => {
                    let cut = *self.cuts.borrow_and_update();
                    match cut {
                        Cut::After(bytes) => self.left = bytes,
                        Cut::Reset(reason) => return Some((Err(axum::Error::new(h2::Error::from(reason))), self)),
                    }
                    continue;
                }
                frame = self.body.next(), if self.left > 0 => frame?,
            };
            let frame = frame.map(|mut bytes| {
                bytes.truncate(self.left);
                self.left -= bytes.len();
                bytes
            });
            return Some((frame, self));
        }
    }
}

/// Carries bytes between the browser and a server.
pub(crate) struct Tunnel {
    pub(crate) port: u16,
    losses: watch::Sender<()>,
    accepting: AbortHandle,
}

impl Tunnel {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let losses = watch::channel(()).0;
        let lost = losses.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut lost = lost.subscribe();
                tokio::spawn(async move {
                    // While there is no server, connections are closed.
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        // The browser decides how the connection ends.
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        Ok(()) = lost.changed() => drop(copy(&mut client, &mut sink()).await),
                    }
                });
            }
        });
        Self { port, losses, accepting: accepting.abort_handle() }
    }

    /// Nothing arrives any more in all connections, and nobody is told.
    pub(crate) fn lose_all(&self) {
        self.losses.send_replace(());
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
