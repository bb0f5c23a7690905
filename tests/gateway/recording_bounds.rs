//! What bounds recordings, with `--record`.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    GATEWAY, Gateway,
    bodies::AnyBody,
    client::{VERSIONS, request},
    raw,
    recordings::{ADA, Upstream, ask, events, rest, say},
    within_20_s,
};

#[tokio::test]
async fn a_recording_that_nobody_reads_is_bounded_and_ends_its_request_to_the_upstream() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let flags = ["--record", "--record-at-most", "1", "--record-unread-ms", "300"];
            let gateway = Gateway::start(&upstream.url, &flags).await;
            let first = ask(&gateway, version, &[ADA]).await;
            let frames = upstream.next().await;
            let bob = ("authorization", "Bearer bob");
            let refused = ask(&gateway, version, &[bob]).await;
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(refused.headers().contains_key("retry-after"));
            drop(first);
            frames.closed().await;
            // The place is free a moment after the connection to the upstream.
            while ask(&gateway, version, &[bob]).await.status() != StatusCode::OK {}
            assert_eq!(upstream.asked(), 2, "{version:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_recording_that_was_given_up_does_not_look_complete_to_who_comes_back() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record", "--record-unread-ms", "300"]).await;
            let mut first = ask(&gateway, version, &[ADA]).await;
            let frames = upstream.next().await;
            say(&frames, "data: a\n\n").await;
            events(&mut first, 1).await;
            drop(first);
            frames.closed().await;
            let again = ask(&gateway, version, &[ADA]).await;
            assert_eq!(again.status(), StatusCode::OK);
            let (bytes, is_clean) = rest(again).await;
            let text = String::from_utf8(bytes).unwrap();
            assert!(!is_clean && text.contains("event: error"), "{version:?}: clean: {is_clean}, {text}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_recording_counts_for_its_address_without_a_client_and_so_does_each_reader() {
    within_20_s(async {
        for version in VERSIONS {
            let mut upstream = Upstream::start().await;
            let gateway = Gateway::start(&upstream.url, &["--record", "--requests-per-address", "1"]).await;
            let first = ask(&gateway, version, &[ADA]).await;
            let frames = upstream.next().await;
            assert_eq!(ask(&gateway, version, &[ADA]).await.status(), StatusCode::TOO_MANY_REQUESTS, "a reader");
            drop(first);
            // The one reader's place is free a moment later.
            let mut first = loop {
                let answer = ask(&gateway, version, &[ADA]).await;
                if answer.status() == StatusCode::OK {
                    break answer;
                }
            };
            let other = request("POST", "/other", AnyBody::default());
            let other = gateway.client(version).await.send(other).await.unwrap();
            assert_eq!(other.status(), StatusCode::TOO_MANY_REQUESTS, "a request to the upstream");
            say(&frames, "data: a\n\n").await;
            assert_eq!(events(&mut first, 1).await[0].data, "a");
            assert_eq!(upstream.asked(), 1, "{version:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_large_request_first_can_join() {
    within_20_s(async {
        let mut upstream = Upstream::start().await;
        let gateway = Gateway::start(&upstream.url, &["--record", "--heartbeat-ms", "0"]).await;
        // More than the sockets and the gateway take without reading.
        let body = vec![b'x'; 32 << 20];
        let head = format!(
            "POST / HTTP/1.1\r\nhost: server.test\r\nauthorization: a\r\nidempotency-key: 1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut first = raw(gateway.address, &head).await;
        first.write_all(&body).await.unwrap();
        let frames = upstream.next().await;
        let mut second = raw(gateway.address, &head).await;
        second.write_all(&body).await.unwrap();
        say(&frames, "data: a\n\n").await;
        drop(frames);
        for socket in [&mut first, &mut second] {
            let mut received = String::new();
            while !received.ends_with("0\r\n\r\n") {
                received.push(char::from(socket.read_u8().await.unwrap()));
            }
            assert!(received.contains("data: a\n"), "{received}");
        }
        assert_eq!(upstream.asked(), 1);
    })
    .await;
}

#[tokio::test]
async fn flags_that_do_not_go_together_are_refused() {
    within_20_s(async {
        for (flags, problem) in [
            (&["--record-mb", "1"][..], "need --record"),
            (&["--record", "--record-owner", "x-user"], "needs --trusted-proxy"),
            (&["--record", "--record-owner", "x user", "--trusted-proxy", "::1"], "takes the name of a header"),
            (&["--record", "--record-mb", "0"], "a whole number from 1 on"),
            (&["--record-nothing", "1"], "unknown argument"),
            (&["--retry-for-ms", "1"], "needs --retry-upstream"),
        ] {
            let mut command = GATEWAY.command();
            command.args(["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1"]).args(flags);
            let output = command.output().await.unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(2) && said.contains(problem), "{flags:?}: {said}");
        }
    })
    .await;
}
