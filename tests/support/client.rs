//! An HTTP client of one connection, over HTTP/1.1 or HTTP/2 with prior knowledge.

use std::net::SocketAddr;

use http::{HeaderValue, Request, Response, Uri, Version, header::HOST};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::bodies::AnyBody;

pub(crate) const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

pub(crate) enum Client {
    Http1(http1::SendRequest<AnyBody>),
    Http2(http2::SendRequest<AnyBody>),
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, version: Version) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let socket = TokioIo::new(socket);
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    pub(crate) async fn send(&mut self, mut request: Request<AnyBody>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                let host = request.uri().authority().map_or("server.test", |authority| authority.as_str());
                let host = HeaderValue::from_str(host).unwrap();
                request.headers_mut().insert(HOST, host);
                if let Some(target) = request.uri().path_and_query().cloned() {
                    *request.uri_mut() = Uri::from(target);
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

pub(crate) fn get(target: &str) -> Request<AnyBody> {
    request("GET", target, AnyBody::default())
}

pub(crate) fn request(method: &str, target: &str, body: AnyBody) -> Request<AnyBody> {
    Request::builder().method(method).uri(format!("http://server.test{target}")).body(body).unwrap()
}
