//! tower-http's `CompressionLayer` and `DecompressionLayer`. Compression goes outside of `SseLayer`, decompression
//! inside.

use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header::CONTENT_ENCODING};
use hyper::body::Incoming;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    compression::{CompressionLayer, predicate::Predicate},
    decompression::{Decompression, DecompressionBody, DecompressionLayer},
};
use tower_sse::{CloseReason, Event, Heartbeat};

use crate::{
    bodies::AnyBody,
    client::get,
    handlers::PLAIN,
    test_server::{HEARTBEAT, Stream, TestServer, until},
};

const ENCODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

/// Compresses every response.
fn forced() -> CompressionLayer<impl Predicate> {
    CompressionLayer::new().compress_when(|_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| true)
}

/// A text that is larger than every buffer on the way and hard to compress.
fn large() -> String {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:08x}", state >> 32)
    })
    .take(1 << 15)
    .collect()
}

impl TestServer {
    /// The response of a client that decompresses while it reads.
    async fn decompressed(&self, target: &str, encoding: &'static str) -> http::Response<DecompressionBody<Incoming>> {
        let client = Decompression::new(service_fn(async |mut request: http::Request<AnyBody>| {
            request.headers_mut().insert("accept-encoding", HeaderValue::from_static(encoding));
            let answer = self.try_send(request).await;
            assert_eq!(answer.as_ref().unwrap().headers()[CONTENT_ENCODING], encoding);
            answer
        }));
        client.oneshot(get(target)).await.expect("an answer")
    }

    async fn streams_compressed(&self) {
        for encoding in ENCODINGS {
            let mut stream = Stream::of(self.decompressed("/own", encoding).await).having("data: own\n\n").await;
            for text in ["one", "two"] {
                stream.had.clear();
                stream.until(":\n\n").await;
                self.publish(text);
                stream.until(&format!("data: {text}\n")).await;
            }
            self.close_all();
            stream.ends().await;
            self.until_open(0).await;
        }
    }
}

#[tokio::test]
async fn event_streams_are_not_compressed_by_default_in_both_orders() {
    in_both_orders!(CompressionLayer::new(), async |test_server: TestServer| {
        for encoding in ENCODINGS {
            let stream = Stream::of(test_server.get_with("/own", "accept-encoding", encoding).await);
            assert!(!stream.headers.contains_key("content-encoding"));
            let mut stream = stream.having("data: own\n\n").await;
            test_server.publish("one");
            stream.until("data: one\n").await;
            stream.until(":\n\n").await;
            let answer = test_server.decompressed("/plain", encoding).await;
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            assert_eq!(body, PLAIN);
        }
    });
}

#[tokio::test]
async fn with_forced_outer_compression_events_and_heartbeats_arrive_at_once() {
    behind!(|sse| ServiceBuilder::new().layer(forced()).layer(sse), async |test_server: TestServer| {
        test_server.streams_compressed().await;
    });
    // No later bytes come that could flush the event out.
    behind!(
        |sse| ServiceBuilder::new().layer(forced()).layer(sse.heartbeat(Heartbeat::off())),
        async |test_server: TestServer| {
            for encoding in ENCODINGS {
                let mut stream = Stream::of(test_server.decompressed("/news", encoding).await);
                for text in ["one", "two", &large()] {
                    let receipt = test_server.registry.publish("news", Event::data(text)).unwrap();
                    stream.until(&format!("id: {}\n\n", receipt.position().expect("a position"))).await;
                    assert!(stream.had.contains(text));
                }
            }
        }
    );
}

#[tokio::test]
async fn with_forced_inner_compression_nothing_can_be_inserted() {
    behind!(|sse| ServiceBuilder::new().layer(sse).layer(forced()), async |test_server: TestServer| {
        for encoding in ENCODINGS {
            let mut stream = Stream::of(test_server.decompressed("/own", encoding).await).having("data: own\n\n").await;
            assert_eq!(stream.headers["x-accel-buffering"], "no");
            assert_eq!(test_server.registry.stats().clients, 1, "the stream is counted");
            test_server.publish("one");
            stream.lasts(5 * HEARTBEAT).await;
            assert_eq!(stream.had, "data: own\n\n");
            drop(stream);
            test_server.until_open(0).await;
        }
    });
}

#[tokio::test]
async fn with_forced_inner_compression_a_registrys_stream_ends_at_once() {
    behind!(|sse| ServiceBuilder::new().layer(sse).layer(forced()), async |test_server: TestServer| {
        for encoding in ENCODINGS {
            assert_eq!(Stream::of(test_server.decompressed("/news", encoding).await).ends().await, "");
        }
        until(|| test_server.closed(CloseReason::BodyEnded) == 4).await;
    });
}

/// As in a proxy that requests compressed responses.
#[tokio::test]
async fn a_stream_decompressed_inside_gets_heartbeats_and_events() {
    behind!(
        |sse| ServiceBuilder::new().layer(sse).layer(DecompressionLayer::new()).layer(forced()),
        async |test_server: TestServer| {
            let mut stream = test_server.open("/own").await;
            assert!(!stream.headers.contains_key("content-encoding"));
            stream.until("data: own\n\n").await;
            stream.until(":\n\n").await;
            test_server.publish("one");
            stream.until("data: one\n").await;
        }
    );
}

#[tokio::test]
async fn a_stream_decompressed_outside_gets_no_heartbeats_or_events() {
    behind!(
        |sse| ServiceBuilder::new().layer(DecompressionLayer::new()).layer(sse).layer(forced()),
        async |test_server: TestServer| {
            let mut stream = test_server.open("/own").await.having("data: own\n\n").await;
            test_server.publish("one");
            stream.lasts(5 * HEARTBEAT).await;
            assert_eq!(stream.had, "data: own\n\n");
        }
    );
}

#[tokio::test]
async fn decompression_composes_in_both_orders() {
    in_both_orders!(DecompressionLayer::new());
}

/// The layer decides after the handler has responded, and keeps the body.
#[tokio::test]
async fn a_client_that_accepts_no_encoding_gets_a_406_with_a_stream_body() {
    let refused = "identity;q=0";
    behind!(|sse| ServiceBuilder::new().layer(CompressionLayer::new()).layer(sse), async |test_server: TestServer| {
        let answer = test_server.get_with("/news", "accept-encoding", refused).await;
        assert_eq!(answer.status(), 406);
        assert_eq!(test_server.registry.stats().clients, 1);
        drop(answer);
        test_server.until_open(0).await;
    });
    behind!(|sse| ServiceBuilder::new().layer(sse).layer(CompressionLayer::new()), async |test_server: TestServer| {
        let answer = test_server.get_with("/news", "accept-encoding", refused).await;
        assert_eq!(answer.status(), 406);
        assert_eq!(test_server.registry.stats().clients, 0);
    });
}
