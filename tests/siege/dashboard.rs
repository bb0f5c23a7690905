//! The dashboard with 512 file descriptors.

use std::net::SocketAddr;

use http::{StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use crate::{
    alone,
    bodies::any,
    client::{Client, VERSIONS, get, request},
    example::{Example, Server},
    siege::{self, Siege, Times},
};

static DASHBOARD: Example = Example::named("dashboard");

#[tokio::test]
async fn other_clients_are_served_within_a_second_during_a_siege() {
    alone(&DASHBOARD, async {
        let mut command = siege::with_few_files(DASHBOARD.executable());
        let server = Server::start(command.env("PORT", "0")).await;
        let address: SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
        let mut reader = Client::connect(address, Version::HTTP_11).await;
        let mut stream = reader.send(get("/events?topic=news")).await.unwrap();

        let mut siege = Siege::lay(address, "/publish/other").await;
        let mut times = Times::default();
        for _ in 0..20 {
            let (time, status) = siege::get(address, "/").await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            times.note(time);
            for version in VERSIONS {
                let begun = Instant::now();
                let mut client = Client::connect(address, version).await;
                siege::way().await;
                let published = request("POST", "/publish/news", any(Full::from("still here")));
                assert_eq!(client.send(published).await.unwrap().status(), StatusCode::OK);
                times.note(begun.elapsed());
            }
        }
        times.are_within_a_second();
        assert!(siege.left() > 100, "{} are left", siege.left());
        // An open stream is not ended for another request.
        let mut text = String::new();
        while text.matches("still here").count() < 40 {
            let frame = stream.frame().await.expect("no end").unwrap();
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    })
    .await;
}

#[tokio::test]
async fn requests_without_bodies_that_are_renewed_keep_out_nobody_whose_head_is_under_way() {
    alone(&DASHBOARD, async {
        let mut command = siege::with_few_files(DASHBOARD.executable());
        let server = Server::start(command.env("PORT", "0")).await;
        let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
        siege::renewals_keep_nobody_out(address, ("/publish/other", "/stats"), (siege::FILES, 110)).await;
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn streams_of_few_addresses_leave_connections_for_others() {
    alone(&DASHBOARD, async {
        let mut command = siege::with_few_files(DASHBOARD.executable());
        let server = Server::start(command.env("PORT", "0")).await;
        let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
        siege::streams_leave_connections_for_others(address, "/events?topic=news", "/stats").await;
    })
    .await;
}
