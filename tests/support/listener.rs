//! A loopback server of any kind.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// Serves connections on a free port, and returns its address.
pub(crate) async fn listen<S>(mut serve: impl FnMut(TcpStream) -> S + Send + 'static) -> SocketAddr
where
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            tokio::spawn(serve(socket));
        }
    });
    address
}
