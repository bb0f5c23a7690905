//! tower-http's `CatchPanicLayer`. In both orders, a panic leaves nothing behind in the registry.

use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_sse::{CloseReason, Limit};

use crate::test_server::{TestServer, text};

#[tokio::test]
async fn a_panic_before_the_response_is_a_500_and_leaves_nothing_behind() {
    in_both_orders!(CatchPanicLayer::new(), async |test_server: TestServer| {
        let answer = test_server.get("/panic").await;
        assert_eq!(answer.status(), 500);
        assert_eq!(text(answer).await, "Service panicked");
        let stats = test_server.registry.stats();
        assert_eq!((stats.clients, stats.subscriptions), (0, 0));
    });
}

#[tokio::test]
async fn a_panic_releases_the_slot_in_both_orders() {
    let [outside, inside] = [Limit::streams(1), Limit::streams(1)];
    behind!(
        |sse| ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(sse.limit(outside.clone())),
        async |test_server: TestServer| {
            assert_eq!(test_server.get("/panic").await.status(), 500);
            assert_eq!(outside.open_streams(), 0);
        }
    );
    behind!(
        |sse| ServiceBuilder::new().layer(sse.limit(inside.clone())).layer(CatchPanicLayer::new()),
        async |test_server: TestServer| {
            assert_eq!(test_server.get("/panic").await.status(), 500);
            assert_eq!(inside.open_streams(), 0);
        }
    );
}

#[tokio::test]
async fn a_panic_of_an_open_stream_is_not_caught_and_ends_its_client() {
    in_both_orders!(CatchPanicLayer::new(), async |test_server: TestServer| {
        let stream = test_server.open("/panic-later").await;
        let had = stream.breaks().await;
        assert!(had.starts_with("event: position\n") && had.contains("\n\ndata: own\n\n"), "{had:?}");
        test_server.until_open(0).await;
        assert_eq!(test_server.registry.stats().subscriptions, 0);
        assert_eq!(test_server.closed(CloseReason::ClientDisconnected), 2, "including one client that left before");
    });
}

#[tokio::test]
async fn an_outer_layer_catches_panics_of_sse_layers_closures_too() {
    behind!(
        |sse| ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(sse.metadata(|request| {
            assert_ne!(request.uri.path(), "/bad", "the program's");
            Some(())
        })),
        async |test_server: TestServer| assert_eq!(test_server.get("/bad").await.status(), 500)
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(sse.metadata(|request| {
                assert_ne!(request.uri.path(), "/bad", "the program's");
                Some(())
            }))
            .layer(CatchPanicLayer::new()),
        async |test_server: TestServer| {
            test_server.streams().await;
            assert!(test_server.try_send(crate::client::get("/bad")).await.is_err(), "the connection is closed");
        }
    );
}
