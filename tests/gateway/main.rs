//! The gateway example as a real process, between real clients and real upstreams on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{ChildStderr, Command},
};

#[path = "../support/bodies.rs"]
mod bodies;
#[path = "../support/client.rs"]
mod client;
mod connections;
#[path = "../../examples/gateway/delivered.rs"]
mod delivered;
#[path = "../../examples/gateway/events.rs"]
mod events;
#[path = "../support/example.rs"]
mod example;
mod failures;
mod framing;
mod hiding;
#[path = "../support/listener.rs"]
mod listener;
mod names;
#[path = "../support/other_address.rs"]
mod other_address;
mod proxying;
mod reading_events;
mod recording_bounds;
mod recordings;
mod retrying;
mod shares;
#[path = "../support/spec.rs"]
mod spec;
mod streams;
#[path = "../support/time_limit.rs"]
mod time_limit;
#[path = "../support/upstream.rs"]
mod upstream;
use bodies::AnyBody;
use client::Client;
use example::{Example, Server};
use listener::listen;
use upstream::upstream;

static GATEWAY: Example = Example::named("gateway");

/// A running gateway.
struct Gateway {
    server: Server,
    address: SocketAddr,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Gateway {
    async fn start(upstream: &str, flags: &[&str]) -> Self {
        let mut command = GATEWAY.command();
        command.args(["--listen", "127.0.0.1:0", "--upstream", upstream]).args(flags);
        Self::started(command).await
    }

    async fn started(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let mut server = Server::start(&mut command).await;
        let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
        let stderr = BufReader::new(server.process.stderr.take().unwrap()).lines();
        Self { server, address, stderr }
    }

    async fn client(&self, version: Version) -> Client {
        Client::connect(self.address, version).await
    }
}

async fn upstream_once(response: Response<AnyBody>) -> String {
    let once = Arc::new(Mutex::new(Some(response)));
    upstream(move |_| {
        let response = once.lock().unwrap().take().expect("one request");
        async { response }
    })
    .await
}

/// An upstream that answers every request's head with this text and closes the connection.
async fn raw_upstream(answer: &'static str) -> String {
    let address = listen(move |mut socket| async move {
        read_until(&mut socket, "\r\n\r\n").await;
        socket.write_all(answer.as_bytes()).await.unwrap();
    });
    format!("http://{}", address.await)
}

/// The next data of the body, or `None` at its end. HTTP/2 may end with an empty frame.
async fn next_data(response: &mut Response<Incoming>) -> Option<Bytes> {
    loop {
        let data = response.frame().await?.unwrap().into_data().unwrap();
        if !data.is_empty() {
            return Some(data);
        }
    }
}

/// Skips the opening of a stream, which the gateway sends before the upstream sends anything.
async fn begun(mut response: Response<Incoming>) -> Response<Incoming> {
    assert_eq!(next_data(&mut response).await.unwrap(), ":\n\n");
    response
}

async fn raw(address: SocketAddr, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(socket.read_u8().await.unwrap()));
    }
    text
}

/// A bound on failure. The time to build the gateway does not count.
async fn within_20_s(test: impl Future<Output = ()>) {
    GATEWAY.executable();
    time_limit::within_20_s(test).await;
}
