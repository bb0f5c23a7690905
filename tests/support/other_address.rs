//! A client at another address than the rest. All of 127.0.0.0/8 is this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Version;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;

use crate::client::Client;

pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub(crate) async fn client_from(own: Ipv4Addr, gateway: SocketAddr, version: Version) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::from(own), 0).into()).unwrap();
    let socket = TokioIo::new(socket.connect(gateway).await.unwrap());
    if version == Version::HTTP_2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
        tokio::spawn(connection);
        Client::Http2(sender)
    } else {
        let (sender, connection) = http1::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        Client::Http1(sender)
    }
}
