//! Reads event streams in tests of your own handlers.
//!
//! A [`TestStream`] reads the response of a service that is called in the same task. It needs no socket, no client and
//! no sleep.
//!
//! The crate uses tokio's clock. In a test with a paused clock, hours pass in no time: for heartbeats, the [maximum
//! age](crate::SseLayer::max_age) of streams, the age of retained events, and the window of a
//! [drain](crate::Registry::drain).
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, routing::get};
//! use http::Request;
//! use tower::ServiceExt;
//! use tower_sse::{
//!     ClientHandle, Event, EventStream, Registry, SseLayer, SubscribeError,
//!     test_util::{Received, TestStream},
//! };
//!
//! async fn news(client: ClientHandle) -> Result<EventStream, SubscribeError> {
//!     client.subscribe("news")?;
//!     Ok(client.into_stream())
//! }
//!
//! // In a test: #[tokio::test(start_paused = true)]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::time::pause();
//! let registry = Registry::new();
//! let app: Router = Router::new().route("/news", get(news)).layer(SseLayer::new(&registry));
//!
//! let response = app.clone().oneshot(Request::get("/news").body(Body::empty())?).await?;
//! let mut stream = TestStream::new(response)?;
//! assert_eq!(registry.stats().clients, 1);
//!
//! registry.publish("news", Event::data("it works").event("headline"))?;
//! let event = stream.next_event().await?.expect("the stream goes on");
//! assert_eq!((event.event_type.as_str(), event.data.as_str()), ("headline", "it works"));
//!
//! // A minute of silence.
//! let heartbeats = stream.received_within(Duration::from_secs(60)).await?;
//! assert!(heartbeats.iter().all(|it| *it == Received::Comment(String::new())) && heartbeats.len() >= 3);
//!
//! // The client leaves, misses something, and comes back.
//! let last_event_id = stream.last_event_id().to_owned();
//! drop(stream);
//! registry.publish("news", Event::data("missed"))?;
//! let request = Request::get("/news").header("last-event-id", last_event_id).body(Body::empty())?;
//! let mut stream = TestStream::new(app.oneshot(request).await?)?;
//! assert_eq!(stream.ready_events()?[0].data, "missed");
//! # Ok(())
//! # }
//! ```

mod decoder;
mod received;
mod test_stream;

pub use self::{
    received::{Received, ReceivedEvent},
    test_stream::{NotAnEventStream, TestStream},
};
