//! The gateway in front of the dashboard, and in front of another gateway.

use http::Version;

use crate::{Dashboard, GATEWAY, Stream, address, client::VERSIONS, example::Server, spec, spec::Message, within_20_s};

pub(crate) async fn gateway(upstream: &str, flags: &[&str]) -> Server {
    gateway_at("127.0.0.1:0", upstream, flags).await
}

async fn gateway_at(listen: &str, upstream: &str, flags: &[&str]) -> Server {
    let mut command = GATEWAY.command();
    Server::start(command.args(["--listen", listen, "--upstream", upstream]).args(flags)).await
}

/// As often as possible, so that heartbeats come at every place where they could do harm.
const OFTEN: &[&str] = &["--heartbeat-ms", "3"];

#[tokio::test]
async fn two_gateways_pass_every_event_once_in_order_and_unchanged() {
    for version in VERSIONS {
        let mut dashboard = Dashboard::silent().await;
        let inner = gateway(dashboard.url(), OFTEN).await;
        let outer = gateway(&inner.url, OFTEN).await;
        let mut direct = Stream::open(address(dashboard.url()), Version::HTTP_11, "/events?topic=a").await;
        let mut chained = Stream::open(address(&outer.url), version, "/events?topic=a").await;
        for header in ["cache-control", "x-accel-buffering", "content-type"] {
            let all = chained.response.headers().get_all(header);
            assert!(all.iter().eq([&direct.response.headers()[header]]), "{header}: {all:?}");
        }
        let published = publish_all_kinds(&mut dashboard, &mut chained).await;
        direct.has("data: the last one\n").await;
        chained.has("data: the last one\n").await;
        dashboard.end_streams().await;
        for stream in [&mut direct, &mut chained] {
            stream.end().await.expect("a clean end");
        }

        assert!(direct.text().starts_with("event: position\ndata: \nid: "), "the position event");
        let messages = chained.messages();
        assert_eq!(
            messages.iter().map(|message| &message.data).collect::<Vec<_>>(),
            published.iter().collect::<Vec<_>>()
        );
        assert_eq!(messages, direct.messages());
        // The dashboard sends no line that looks like a heartbeat.
        assert_eq!(chained.text().replace(":\n\n", ""), direct.text(), "only heartbeats were added");
        let heartbeats = chained.text().matches(":\n\n").count();
        eprintln!("over {version:?}: {heartbeats} heartbeats between {} events", messages.len());
        assert!(heartbeats > 20, "{heartbeats}");
    }
}

/// Publishes data of all kinds. Returns the data as a client parses it.
async fn publish_all_kinds(dashboard: &mut Dashboard, chained: &mut Stream) -> Vec<String> {
    let mut all = Vec::new();
    for n in 0..300 {
        let data = match n % 6 {
            0 => format!("plain {n}"),
            1 => format!("first line {n}\n\n\nlast line\n"),
            2 => format!("\u{feff}žluťoučký kůň 🦄 {n}"),
            3 => format!("{n} {}", "long ".repeat(20_000)),
            4 => String::new(),
            _ => format!(": looks like a comment {n}\nid: looks like an id\n:"),
        };
        dashboard.publish("a", data.clone()).await;
        // Some events come in bursts, and others between two heartbeats.
        if n % 10 == 0 {
            chained.is_followed_by_a_heartbeat().await;
        }
        all.push(data);
    }
    dashboard.publish("a", "the last one").await;
    all.push("the last one".to_owned());
    all
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_of_an_event_resumes_through_two_gateways() {
    for version in VERSIONS {
        let mut dashboard = Dashboard::silent().await;
        let inner = gateway(dashboard.url(), OFTEN).await;
        let outer = gateway(&inner.url, OFTEN).await;
        let mut stream = Stream::open(address(&outer.url), version, "/events?topic=a").await;
        let whole = dashboard.publish("a", "whole").await;
        stream.has(&format!("id: {whole}\n\n")).await;
        let large = "x".repeat(900_000);
        dashboard.publish("a", large.clone()).await;
        stream.has("data: x").await;
        // The test did not read the stream to its end, so it has not ended.
        let seen = spec::parse(&stream.bytes);
        assert_eq!((stream.messages().len(), &seen.last_event_id), (1, &whole), "the cut is in the middle of an event");
        drop(stream);
        dashboard.has_streams(0).await;
        dashboard.publish("a", "missed").await;

        let mut stream = Stream::resume(address(&outer.url), version, "/events?topic=a", &whole).await;
        stream.has("data: missed\n").await;
        dashboard.publish("a", "live").await;
        stream.has("data: live\n").await;
        dashboard.end_streams().await;
        stream.end().await.expect("a clean end");
        assert_eq!(data(&stream.messages()), [&large, "missed", "live"]);
    }
}

#[tokio::test]
async fn a_killed_gateway_is_an_error_at_the_client_which_then_resumes() {
    for version in VERSIONS {
        let mut dashboard = Dashboard::silent().await;
        let mut inner = gateway(dashboard.url(), OFTEN).await;
        let outer = gateway(&inner.url, OFTEN).await;
        let mut stream = Stream::open(address(&outer.url), version, "/events?topic=a").await;
        let seen = dashboard.publish("a", "seen").await;
        stream.has(&format!("id: {seen}\n\n")).await;
        inner.process.kill().await.unwrap();
        let end = stream.end().await;
        assert!(end.is_err(), "no clean end");
        dashboard.has_streams(0).await;
        dashboard.publish("a", "missed").await;

        let _inner = gateway_at(inner.url.trim_start_matches("http://"), dashboard.url(), OFTEN).await;
        let mut stream = Stream::resume(address(&outer.url), version, "/events?topic=a", &seen).await;
        stream.has("data: missed\n").await;
        dashboard.end_streams().await;
        stream.end().await.expect("a clean end");
        assert_eq!(data(&stream.messages()), ["missed"]);
    }
}

#[tokio::test]
async fn the_dashboard_sees_when_a_client_behind_two_gateways_leaves() {
    for version in VERSIONS {
        let mut dashboard = Dashboard::silent().await;
        let inner = gateway(dashboard.url(), &[]).await;
        let outer = gateway(&inner.url, &[]).await;
        let stream = Stream::open(address(&outer.url), version, "/events?topic=a").await;
        assert_eq!(dashboard.open_streams().await, 1);
        drop(stream);
        dashboard.has_streams(0).await;
    }
}

fn data(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.data.as_str()).collect()
}

impl Stream {
    /// Waits until a heartbeat fills the silence.
    async fn is_followed_by_a_heartbeat(&mut self) {
        let before = self.bytes.len();
        within_20_s(async {
            while !self.bytes[before..].ends_with(b":\n\n") {
                self.next().await.expect("no end").expect("no error");
            }
        })
        .await;
    }
}
