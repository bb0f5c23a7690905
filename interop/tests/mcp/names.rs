//! The SDKs' servers and DNS rebinding by pages of other sites, directly and through the gateway.

use std::net::SocketAddr;

use http::{HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    GATEWAY,
    bodies::any,
    client::{Client, VERSIONS},
    example::Server,
    nginx::Nginx,
    spec, within_20_s,
};

const ORIGIN: &str = "http://127.0.0.1:6274";

/// The server of the TypeScript package.
async fn typescript() -> Server {
    let (node, packages) = tokio::task::spawn_blocking(|| (interop::node(), interop::npm("mcp"))).await.unwrap();
    Server::start(Command::new(node).arg(packages.join("secret.mjs")).kill_on_drop(true)).await
}

/// The server of the Python package.
async fn python() -> Server {
    let python = tokio::task::spawn_blocking(|| interop::python("mcp/python")).await.unwrap();
    let server = interop::drivers("mcp/python").join("secret_server.py");
    Server::start(Command::new(python).arg(server).kill_on_drop(true)).await
}

async fn gateway(upstream: &str, flags: &[&str]) -> Server {
    let mut command = GATEWAY.command();
    command.args(["--listen", "127.0.0.1:0", "--heartbeat-ms", "5", "--upstream", upstream]).args(flags);
    Server::start(&mut command).await
}

/// Asks a server for its secret, with this host and origin. Returns the response.
async fn ask(url: &str, version: Version, host: &str, origin: Option<&str>) -> (StatusCode, Value) {
    let address: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
    let host = host.replace("{port}", &address.port().to_string());
    let call =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "secret", "arguments": {} } });
    let mut request = Request::post(format!("http://{host}/mcp"))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .body(any(Full::from(call.to_string())))
        .unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", HeaderValue::from_str(origin).unwrap());
    }
    let response = within_20_s(Client::connect(address, version).await.send(request)).await.unwrap();
    let status = response.status();
    let is_stream = response.headers().get("content-type").is_some_and(|it| it == "text/event-stream");
    let body = within_20_s(response.into_body().collect()).await.unwrap().to_bytes();
    if !is_stream {
        return (status, Value::String(String::from_utf8(body.to_vec()).unwrap()));
    }
    let messages = spec::parse(&body).messages;
    assert_eq!(messages.len(), 1, "{messages:?}");
    (status, serde_json::from_str(&messages[0].data).unwrap())
}

/// A host, an origin, and whether they may ask.
const NINE: [(&str, Option<&str>, Who); 9] = [
    ("127.0.0.1:{port}", None, Who::May),
    ("localhost:{port}", None, Who::May),
    ("127.0.0.1:{port}", Some(ORIGIN), Who::May),
    ("page.test:{port}", None, Who::ForeignHost),
    ("page.test:{port}", Some(ORIGIN), Who::ForeignHost),
    // The browser of a visitor sends this from a page whose site has pointed its own name to 127.0.0.1.
    ("page.test:{port}", Some("http://page.test:{port}"), Who::ForeignHost),
    ("127.0.0.1.page.test:{port}", None, Who::ForeignHost),
    ("127.0.0.1:{port}", Some("http://page.test"), Who::ForeignOrigin),
    ("127.0.0.1:{port}", Some("null"), Who::ForeignOrigin),
];

#[derive(Clone, Copy)]
enum Who {
    May,
    ForeignHost,
    ForeignOrigin,
}

/// Each server, and its status for a foreign host.
async fn servers() -> [(Server, StatusCode); 2] {
    [(typescript().await, StatusCode::FORBIDDEN), (python().await, StatusCode::MISDIRECTED_REQUEST)]
}

#[tokio::test]
async fn the_sdks_servers_refuse_the_same_requests_behind_the_gateway() {
    for (server, foreign_host) in &servers().await {
        let gateway = gateway(&server.url, &[]).await;
        for (host, origin, who) in NINE {
            let status = match who {
                Who::May => StatusCode::OK,
                Who::ForeignHost => *foreign_host,
                Who::ForeignOrigin => StatusCode::FORBIDDEN,
            };
            let direct = ask(&server.url, Version::HTTP_11, host, origin).await;
            assert_eq!(direct.0, status, "{host} {origin:?}: {}", direct.1);
            assert_eq!(direct.1.to_string().contains("the secret"), status == StatusCode::OK, "{}", direct.1);
            for version in VERSIONS {
                assert_eq!(ask(&gateway.url, version, host, origin).await, direct, "{version:?} {host} {origin:?}");
            }
        }
    }
}

const GUIDE: &str = include_str!("../../../src/guide/mcp_proxies.md");

#[tokio::test]
async fn through_the_nginx_of_the_guide_they_refuse_and_answer_the_same_too() {
    for (server, _) in &servers().await {
        let keeps = nginx_of_the_guide(server.url.trim_start_matches("http://")).await;
        let url = format!("http://{}", keeps.address);
        for (host, origin, _) in NINE {
            let direct = ask(&server.url, Version::HTTP_11, host, origin).await;
            assert_eq!(ask(&url, Version::HTTP_11, host, origin).await, direct, "{host} {origin:?}");
        }

        // With nginx's default configuration, the servers cannot refuse.
        let replaces = Nginx::before(&server.url).await;
        let url = format!("http://{}", replaces.address);
        let (status, said) = ask(&url, Version::HTTP_11, "page.test:{port}", None).await;
        assert!(status == StatusCode::OK && said.to_string().contains("the secret"), "{status} {said}");
    }
}

/// The configuration of the guide, before this server and at this address.
async fn nginx_of_the_guide(upstream: &str) -> Nginx {
    let (_, configuration) = GUIDE.split_once("```nginx\n").unwrap();
    let (configuration, _) = configuration.split_once("```").unwrap();
    let (_, port) = upstream.rsplit_once(':').unwrap();
    let configuration =
        configuration.replace("127.0.0.1:8000", upstream).replace("localhost:8000", &format!("localhost:{port}"));
    Nginx::start(|listen| configuration.replace("127.0.0.1:8080", &listen.to_string())).await
}

#[tokio::test]
async fn the_nginx_of_the_guide_passes_nothing_that_only_a_proxy_may_say_and_no_name_of_the_server_in_a_redirect() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let upstream = crate::upstream::upstream(move |request| {
        let seen = seen.clone();
        async move {
            let redirect = request.headers()["accept"].clone();
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            seen.send((head.headers, body)).unwrap();
            let mut response = http::Response::new(any(Full::default()));
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert("location", redirect);
            response
        }
    })
    .await;
    let address = upstream.trim_start_matches("http://");
    let nginx = nginx_of_the_guide(address).await;
    let local = upstream.replace("127.0.0.1", "localhost");
    for (redirect, expected) in [
        (format!("{upstream}/a?b"), "/a?b"),
        (format!("{local}/a"), "/a"),
        ("http://page.test/a".to_owned(), "http://page.test/a"),
    ] {
        let passed = [
            ("accept", redirect.as_str()),
            ("origin", "http://page.test"),
            ("authorization", "Bearer secret"),
            ("content-type", "application/json"),
            ("last-event-id", "7"),
            ("mcp-session-id", "s"),
            ("mcp-protocol-version", "2025-06-18"),
        ];
        let claims = [
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-port",
            "x-original-url",
            "x-real-ip",
            "remote-user",
            "true-client-ip",
            "cf-connecting-ip",
            "forwarded",
            "x_forwarded_for",
            "x-something-new",
        ];
        let mut request = Request::post("http://mcp.test:8080/mcp").body(any(Full::from("{}"))).unwrap();
        for (name, value) in passed.into_iter().chain(claims.map(|name| (name, "192.0.2.1"))) {
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        let mut client = Client::connect(nginx.address, Version::HTTP_11).await;
        let response = within_20_s(client.send(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::FOUND);
        let location = response.headers()["location"].to_str().unwrap();
        assert_eq!(location, expected);
        let (headers, body) = requests.recv().await.unwrap();
        assert_eq!(body, "{}");
        assert_eq!(headers["host"], "mcp.test:8080");
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
        for (name, value) in passed {
            assert_eq!(headers[name], value, "{name}");
        }
        let claimed: Vec<_> = claims.into_iter().filter(|name| headers.contains_key(*name)).collect();
        assert!(claimed.is_empty(), "{claimed:?}");
    }
}

#[tokio::test]
async fn the_guides_gateways_accept_only_the_configured_hosts() {
    let server = typescript().await;
    let commands = GUIDE.lines().filter_map(|line| line.strip_prefix("cargo run --example gateway -- "));
    let expected = [
        [("127.0.0.1:{port}", StatusCode::OK), ("page.test", StatusCode::MISDIRECTED_REQUEST)],
        [("mcp.example.com", StatusCode::OK), ("127.0.0.1:{port}", StatusCode::MISDIRECTED_REQUEST)],
        // The server does not know this name.
        [("mcp.example.com", StatusCode::FORBIDDEN), ("page.test", StatusCode::MISDIRECTED_REQUEST)],
    ];
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), expected.len());
    for (command, expected) in commands.into_iter().zip(expected) {
        let (listen, rest) =
            command.strip_prefix("--listen ").unwrap().split_once(" --upstream http://127.0.0.1:8000 ").unwrap();
        assert!(listen.ends_with(":8080"), "{command}");
        let gateway = gateway(&server.url, &rest.split(' ').collect::<Vec<_>>()).await;
        for version in VERSIONS {
            for (host, status) in expected {
                assert_eq!(ask(&gateway.url, version, host, None).await.0, status, "{command}: {host}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_is_asked_only_by_hosts_that_the_gateway_allows() {
    for server in [typescript().await, python().await] {
        let checks = gateway(&server.url, &["--host", "127.0.0.1"]).await;
        let replaces = gateway(&server.url, &["--host", "mcp.test", "--upstream-host"]).await;
        for version in VERSIONS {
            for (gateway, host, expected) in [
                (&checks, "127.0.0.1:{port}", StatusCode::OK),
                (&checks, "page.test:{port}", StatusCode::MISDIRECTED_REQUEST),
                // The server does not know this name, but the gateway sends the server's own.
                (&replaces, "mcp.test", StatusCode::OK),
                (&replaces, "127.0.0.1:{port}", StatusCode::MISDIRECTED_REQUEST),
                (&replaces, "page.test:{port}", StatusCode::MISDIRECTED_REQUEST),
            ] {
                let (status, said) = ask(&gateway.url, version, host, None).await;
                assert_eq!(status, expected, "{version:?} {host}: {said}");
                assert_eq!(said.to_string().contains("the secret"), expected == StatusCode::OK, "{said}");
            }
            // The origin is still the client's.
            let (status, said) = ask(&replaces.url, version, "mcp.test", Some("http://page.test")).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{said}");
        }
    }
}
