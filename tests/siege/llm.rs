//! The chat with 512 file descriptors.

use std::net::SocketAddr;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use crate::{
    alone,
    client::{VERSIONS, get},
    example::{Example, Server},
    other_address::{OTHER, client_from},
    siege,
};

static LLM: Example = Example::named("llm");

async fn with_few_files() -> (Server, SocketAddr) {
    let mut command = siege::with_few_files(LLM.executable());
    let server = Server::start(command.env("PORT", "0")).await;
    let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    (server, address)
}

#[tokio::test]
async fn requests_without_bodies_that_are_renewed_keep_out_nobody_whose_head_is_under_way() {
    alone(&LLM, async {
        let (_server, address) = with_few_files().await;
        siege::renewals_keep_nobody_out(address, ("/chats/a/messages", "/"), (siege::FILES, 110)).await;
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn streams_of_few_addresses_leave_connections_for_others() {
    alone(&LLM, async {
        let (_server, address) = with_few_files().await;
        siege::streams_leave_connections_for_others(address, "/chats/a/events", "/").await;
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_has_a_share_of_the_streams_and_is_told_to_come_back_and_others_have_theirs() {
    alone(&LLM, async {
        let (_server, address) = with_few_files().await;
        let mut streams = Vec::new();
        let mut refused = 0;
        for _ in 0..siege::FILES {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"GET /chats/a/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let opening = siege::read_until(&mut socket, "\n\n").await;
            assert!(opening.starts_with("HTTP/1.1 200 ") && opening.contains("retry: "), "{opening}");
            refused += usize::from(opening.contains("\r\ncontent-length: ") || opening.contains("connection: close"));
            streams.push(socket);
        }
        assert!(refused > siege::FILES / 2, "{refused}");
        for version in VERSIONS {
            let begun = Instant::now();
            let mut client = client_from(OTHER, address, version).await;
            siege::way().await;
            let mut stream = client.send(get("/chats/b/events")).await.unwrap();
            assert_eq!(stream.status(), StatusCode::OK);
            let mut text = String::new();
            while !text.contains("event: position") {
                let frame = stream.frame().await.expect("no end").unwrap();
                text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
            }
            assert!(begun.elapsed().as_secs() < 1, "{:?}", begun.elapsed());
        }
    })
    .await;
}
