//! tower-http's `CatchPanicLayer`: either way a panic leaves nothing behind in the registry.

use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_sse::{CloseReason, Limit};

use crate::house::{House, text};

#[tokio::test]
async fn a_panic_before_the_answer_is_a_500_in_both_orders_and_leaves_nothing_behind() {
    in_both_orders!(CatchPanicLayer::new(), async |house: House| {
        let answer = house.get("/panic").await;
        assert_eq!(answer.status(), 500);
        assert_eq!(text(answer).await, "Service panicked");
        let stats = house.registry.stats();
        assert_eq!((stats.clients, stats.subscriptions), (0, 0));
    });
}

#[tokio::test]
async fn a_panic_gives_the_place_back_in_both_orders() {
    let [outside, inside] = [Limit::streams(1), Limit::streams(1)];
    behind!(
        |sse| ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(sse.limit(outside.clone())),
        async |house: House| {
            assert_eq!(house.get("/panic").await.status(), 500);
            assert_eq!(outside.open_streams(), 0);
        }
    );
    behind!(
        |sse| ServiceBuilder::new().layer(sse.limit(inside.clone())).layer(CatchPanicLayer::new()),
        async |house: House| {
            assert_eq!(house.get("/panic").await.status(), 500);
            assert_eq!(inside.open_streams(), 0);
        }
    );
}

#[tokio::test]
async fn a_panic_of_a_stream_that_has_begun_is_not_caught_in_either_order_and_its_client_is_over() {
    in_both_orders!(CatchPanicLayer::new(), async |house: House| {
        let stream = house.open("/panic-later").await;
        let had = stream.breaks().await;
        assert!(had.starts_with("event: position\n") && had.contains("\n\ndata: own\n\n"), "{had:?}");
        house.until_open(0).await;
        assert_eq!(house.registry.stats().subscriptions, 0);
        assert_eq!(house.closed(CloseReason::ClientDisconnected), 2, "and one that left before");
    });
}

#[tokio::test]
async fn outside_what_the_layer_itself_is_given_to_call_is_caught_too() {
    behind!(
        |sse| ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(sse.metadata(|request| {
            assert_ne!(request.uri.path(), "/bad", "the program's");
            Some(())
        })),
        async |house: House| assert_eq!(house.get("/bad").await.status(), 500)
    );
    behind!(
        |sse| ServiceBuilder::new()
            .layer(sse.metadata(|request| {
                assert_ne!(request.uri.path(), "/bad", "the program's");
                Some(())
            }))
            .layer(CatchPanicLayer::new()),
        async |house: House| {
            house.streams().await;
            assert!(house.try_send(crate::client::get("/bad")).await.is_err(), "the connection is gone");
        }
    );
}
