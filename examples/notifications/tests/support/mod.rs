//! The program as a process, and its users.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpSocket, process::Command, time::timeout};

#[path = "../../../../tests/support/bodies.rs"]
pub(crate) mod bodies;
#[path = "../../../../tests/support/client.rs"]
pub(crate) mod client;
#[allow(dead_code, reason = "cargo has built this program already")]
#[path = "../../../../tests/support/example.rs"]
pub(crate) mod example;
use bodies::{AnyBody, any};
use client::Client;
use example::Server;

/// The time after which a step has failed.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
pub(crate) const STREAM: &str = "/api/notifications";

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the step takes too long")
}

pub(crate) async fn start(environment: &[(&str, &str)]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notifications"));
    // The clients ask for this host, see `client.rs`.
    command
        .env("HOSTS", "server.test")
        .env("PORT", "0")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    within(Server::start(&mut command)).await
}

/// A user with a cookie, or without one.
pub(crate) struct Visitor {
    pub(crate) address: SocketAddr,
    pub(crate) cookie: Option<String>,
    pub(crate) version: Version,
    /// A user with a different client address.
    pub(crate) from: Option<IpAddr>,
}

impl Visitor {
    pub(crate) fn of(server: &Server) -> Self {
        Self::at(server.url.strip_prefix("http://").unwrap().parse().unwrap())
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, cookie: None, version: Version::HTTP_11, from: None }
    }

    pub(crate) async fn named(server: &Server, name: &str) -> Self {
        let mut visitor = Self::of(server);
        visitor.log_in(name).await;
        visitor
    }

    pub(crate) async fn log_in(&mut self, name: &str) {
        let answer = self.send(self.login(name)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax"), "{cookie}");
        self.cookie = cookie.split(';').next().map(str::to_owned);
    }

    pub(crate) fn login(&self, name: &str) -> Request<AnyBody> {
        let mut login = self.request(&Method::POST, "/login", &format!("name={name}"));
        login.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        login
    }

    async fn connect(&self) -> Client {
        let Some(from) = self.from else { return Client::connect(self.address, self.version).await };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let socket = TokioIo::new(socket.connect(self.address).await.unwrap());
        let (sender, connection) = http1::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        Client::Http1(sender)
    }

    pub(crate) fn request(&self, method: &Method, target: &str, text: &str) -> Request<AnyBody> {
        let mut request = client::request(method.as_str(), target, any(Full::from(text.to_owned())));
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
        }
        request
    }

    pub(crate) async fn send(&self, request: Request<AnyBody>) -> Response<Incoming> {
        within(async { self.connect().await.send(request).await.unwrap() }).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response<Incoming> {
        self.get_with(target, &[]).await
    }

    pub(crate) async fn get_with(&self, target: &str, headers: &[(&'static str, &str)]) -> Response<Incoming> {
        let mut request = self.request(&Method::GET, target, "");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        self.send(request).await
    }

    /// Publishes an event. Returns its id, and the number of clients that get it.
    pub(crate) async fn post(&self, target: &str, text: &str) -> (String, u64) {
        let answer = self.send(self.request(&Method::POST, target, text)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let receipt: serde_json::Value = serde_json::from_str(&all(answer).await).unwrap();
        (receipt["id"].as_str().unwrap().to_owned(), receipt["clients"].as_u64().unwrap())
    }
}

pub(crate) async fn clients(visitor: &Visitor) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&all(visitor.get("/stats").await).await).unwrap();
    stats["clients"].as_u64().unwrap()
}

pub(crate) async fn all(response: Response<Incoming>) -> String {
    let body = within(response.into_body().collect()).await.expect("a clean end").to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// Reads a stream until `has_it` returns true for the received text.
pub(crate) async fn until(stream: &mut Response<Incoming>, has_it: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !(has_it(&text) && text.ends_with("\n\n")) {
        let frame = within(stream.frame()).await.unwrap_or_else(|| panic!("the stream ends after {text:?}")).unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    text
}

/// The bytes after the position event with which a stream with topics begins.
pub(crate) fn after_the_position(text: &str) -> &str {
    let position = text.strip_prefix("event: position\ndata: \nid: ").expect(text);
    position.split_once("\n\n").expect(text).1
}

/// The data of the next events, as many as the test expects.
pub(crate) async fn expect(stream: &mut Response<Incoming>, expected: &[&str]) {
    let text = until(stream, |text| text.matches("data: {").count() >= expected.len()).await;
    let found: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .map(|json| serde_json::from_str::<serde_json::Value>(&format!("{{{json}")).unwrap())
        .map(|data| format!("{} {}", data["from"].as_str().unwrap(), data["text"].as_str().unwrap()))
        .collect();
    assert_eq!(found, expected);
}
