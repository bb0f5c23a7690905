//! Event streams through proxies: nginx and the gateway example in front of the dashboard example, all as real
//! processes.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::{Instant, timeout};

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../../tests/support/client.rs"]
mod client;
#[path = "../../../tests/support/example.rs"]
mod example;
mod gateways;
mod nginx;
#[path = "../../../tests/support/spec.rs"]
mod spec;
mod through_nginx;
#[path = "../../../tests/support/time_limit.rs"]
mod time_limit;
use bodies::{AnyBody, any};
use client::{Client, get, request};
use example::{Example, Server};
use time_limit::within_20_s;

static DASHBOARD: Example = Example::named("dashboard");
static GATEWAY: Example = Example::named("gateway");

/// A running dashboard, and a direct connection to it.
struct Dashboard {
    server: Server,
    client: Client,
}

impl Dashboard {
    /// A dashboard that sends almost no heartbeats.
    async fn silent() -> Self {
        Self::start(&[("HEARTBEAT_MS", "3600000")]).await
    }

    async fn start(environment: &[(&str, &str)]) -> Self {
        let mut command = DASHBOARD.command();
        let server = Server::start(command.env("PORT", "0").envs(environment.iter().copied())).await;
        let client = Client::connect(address(&server.url), Version::HTTP_2).await;
        Self { server, client }
    }

    fn url(&self) -> &str {
        &self.server.url
    }

    async fn ask(&mut self, method: &str, target: &str, body: impl Into<Bytes>) -> Value {
        let body = any(Full::new(body.into()));
        let response = within_20_s(self.client.send(request(method, target, body))).await.unwrap();
        assert!(response.status().is_success(), "{target}: {}", response.status());
        let body = within_20_s(response.into_body().collect()).await.unwrap().to_bytes();
        if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() }
    }

    /// Publishes, and returns the event's id.
    async fn publish(&mut self, topic: &str, data: impl Into<Bytes>) -> String {
        let receipt = self.ask("POST", &format!("/publish/{topic}"), data).await;
        receipt["id"].as_str().unwrap().to_owned()
    }

    async fn open_streams(&mut self) -> u64 {
        self.ask("GET", "/stats", "").await["clients"].as_u64().unwrap()
    }

    /// Waits until this many streams are open.
    async fn has_streams(&mut self, number: u64) {
        within_20_s(async { while self.open_streams().await != number {} }).await;
    }

    /// Waits until this many streams are open, while `opening` gets no response.
    async fn has_streams_while(&mut self, number: u64, opening: &mut (impl Future<Output = Stream> + Unpin)) {
        tokio::select! {
            () = self.has_streams(number) => {}
            _ = opening => panic!("the response came"),
        }
    }

    /// Ends all open streams cleanly.
    async fn end_streams(&mut self) {
        for client in self.ask("GET", "/clients", "").await.as_array().unwrap() {
            self.ask("DELETE", &format!("/streams/{}", client["number"]), "").await;
        }
    }
}

/// An event stream, and what has been received of it.
struct Stream {
    response: Response<Incoming>,
    bytes: Vec<u8>,
}

impl Stream {
    async fn open(address: SocketAddr, version: Version, target: &str) -> Self {
        Self::of(&mut Client::connect(address, version).await, get(target)).await
    }

    async fn resume(address: SocketAddr, version: Version, target: &str, id: &str) -> Self {
        let mut request = get(target);
        request.headers_mut().insert("last-event-id", HeaderValue::from_str(id).unwrap());
        Self::of(&mut Client::connect(address, version).await, request).await
    }

    async fn of(client: &mut Client, request: Request<AnyBody>) -> Self {
        let response = within_20_s(client.send(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, bytes: Vec::new() }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// All received events by the standard, without the position event.
    fn messages(&self) -> Vec<spec::Message> {
        let mut messages = spec::parse(&self.bytes).messages;
        messages.retain(|message| message.event_type != "position");
        messages
    }

    /// The next bytes. `None` at a clean end.
    async fn next(&mut self) -> Option<hyper::Result<Bytes>> {
        let frame = self.response.frame().await?;
        let data = frame.map(|frame| frame.into_data().expect("no trailers"));
        self.bytes.extend(data.iter().flatten());
        Some(data)
    }

    /// Reads until this text has been received. Returns the time.
    async fn has(&mut self, text: &str) -> Instant {
        let mut from = 0;
        within_20_s(async {
            while !self.bytes[from..].windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
                from = self.bytes.len().saturating_sub(text.len());
                self.next().await.expect("no end").expect("no error");
            }
        })
        .await;
        Instant::now()
    }

    /// Reads one heartbeat, or several late ones. The position event may come first.
    async fn next_heartbeat(&mut self) {
        let next = within_20_s(self.next()).await.expect("no end").expect("no error");
        let mut next = next.to_vec();
        if let Some(at) = next.windows(16).position(|bytes| bytes == b"event: position\n") {
            let end = next[at..].windows(2).position(|bytes| bytes == b"\n\n").expect("the whole block");
            next.drain(at..at + end + 2);
        }
        assert!(next.chunks(3).all(|heartbeat| heartbeat == b":\n\n"), "{next:?}");
    }

    /// Reads to the end, and returns how it ends.
    async fn end(&mut self) -> hyper::Result<()> {
        within_20_s(async {
            while self.next().await.transpose()?.is_some() {}
            Ok(())
        })
        .await
    }

    /// Whether this text is received within this time.
    async fn comes_within(&mut self, text: &str, time: Duration) -> bool {
        timeout(time, self.has(text)).await.is_ok()
    }

    /// Whether no bytes at all come within this time.
    async fn is_silent_for(&mut self, time: Duration) -> bool {
        timeout(time, self.next()).await.is_err()
    }
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}
