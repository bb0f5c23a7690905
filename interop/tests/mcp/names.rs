//! What the servers of the SDKs do against the pages of other sites (DNS rebinding), directly and through the gateway.

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
    spec, within_20_s,
};

const ORIGIN: &str = "http://127.0.0.1:6274";

/// Of the TypeScript package.
async fn typescript() -> Server {
    let (node, packages) = tokio::task::spawn_blocking(|| (interop::node(), interop::npm("mcp"))).await.unwrap();
    Server::start(Command::new(node).arg(packages.join("secret.mjs")).kill_on_drop(true)).await
}

/// Of the Python package.
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

/// What somebody is told who asks a server for its secret, by this name of it.
async fn ask(server: &Server, version: Version, host: &str, origin: Option<&str>) -> (StatusCode, Value) {
    let address: SocketAddr = server.url.trim_start_matches("http://").parse().unwrap();
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

#[tokio::test]
async fn the_servers_of_the_sdks_refuse_and_answer_the_same_through_the_gateway_as_directly() {
    let servers = [(typescript().await, StatusCode::FORBIDDEN), (python().await, StatusCode::MISDIRECTED_REQUEST)];
    for (server, foreign_host) in &servers {
        let gateway = gateway(&server.url, &[]).await;
        for (host, origin, status) in [
            ("127.0.0.1:{port}", None, StatusCode::OK),
            ("localhost:{port}", None, StatusCode::OK),
            ("127.0.0.1:{port}", Some(ORIGIN), StatusCode::OK),
            ("page.test:{port}", None, *foreign_host),
            ("page.test:{port}", Some(ORIGIN), *foreign_host),
            // What the browser of somebody sends who is at a page that has moved its own name to 127.0.0.1.
            ("page.test:{port}", Some("http://page.test:{port}"), *foreign_host),
            ("127.0.0.1.page.test:{port}", None, *foreign_host),
            ("127.0.0.1:{port}", Some("http://page.test"), StatusCode::FORBIDDEN),
            ("127.0.0.1:{port}", Some("null"), StatusCode::FORBIDDEN),
        ] {
            let direct = ask(server, Version::HTTP_11, host, origin).await;
            assert_eq!(direct.0, status, "{host} {origin:?}: {}", direct.1);
            assert_eq!(direct.1.to_string().contains("the secret"), status == StatusCode::OK, "{}", direct.1);
            for version in VERSIONS {
                assert_eq!(ask(&gateway, version, host, origin).await, direct, "{version:?} {host} {origin:?}");
            }
        }
    }
}

#[tokio::test]
async fn names_that_the_gateway_allows_are_all_that_a_server_is_asked_by() {
    for server in [typescript().await, python().await] {
        let checks = gateway(&server.url, &["--host", "127.0.0.1"]).await;
        let replaces = gateway(&server.url, &["--host", "mcp.test", "--upstream-host"]).await;
        for version in VERSIONS {
            for (gateway, host, expected) in [
                (&checks, "127.0.0.1:{port}", StatusCode::OK),
                (&checks, "page.test:{port}", StatusCode::MISDIRECTED_REQUEST),
                // The server does not know this name, and is told its own.
                (&replaces, "mcp.test", StatusCode::OK),
                (&replaces, "127.0.0.1:{port}", StatusCode::MISDIRECTED_REQUEST),
                (&replaces, "page.test:{port}", StatusCode::MISDIRECTED_REQUEST),
            ] {
                let (status, said) = ask(gateway, version, host, None).await;
                assert_eq!(status, expected, "{version:?} {host}: {said}");
                assert_eq!(said.to_string().contains("the secret"), expected == StatusCode::OK, "{said}");
            }
            // The origin is the client's all the same.
            let (status, said) = ask(&replaces, version, "mcp.test", Some("http://page.test")).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{said}");
        }
    }
}
