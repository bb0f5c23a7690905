//! Code that reconnects and resumes a stream that `sse-stream` reads. The guide quotes the rest of this file.

use std::{error::Error, time::Duration};

use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, header};
use sse_stream::{Sse, SseStream};

/// Calls `on_event` with each event of a stream and the last event id. Reconnects until the server says that the stream
/// has ended.
pub(crate) async fn follow(
    url: &str,
    mut on_event: impl FnMut(Sse, &str),
    on_open: impl Fn(),
    on_error: impl Fn(Box<dyn Error>),
) -> reqwest::Result<()> {
    // The time of three heartbeats.
    let client = Client::builder().read_timeout(Duration::from_secs(45)).build()?;
    let (mut last_event_id, mut delay) = (String::new(), Duration::from_secs(1));
    loop {
        let mut request = client.get(url).header(header::ACCEPT, "text/event-stream");
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", &last_event_id);
        }
        let mut pause = None;
        let response = request.send().await.and_then(|response| {
            pause = retry_after(&response);
            response.error_for_status()
        });
        match response {
            Ok(response) if response.status() == StatusCode::NO_CONTENT => return Ok(()),
            Ok(response) => {
                on_open();
                let mut events = SseStream::from_bytes_stream(response.bytes_stream());
                while let Some(event) = events.next().await {
                    let Ok(event) = event.map_err(|error| on_error(error.into())) else { break };
                    if let Some(id) = &event.id {
                        last_event_id.clone_from(id);
                    }
                    if let Some(ms) = event.retry {
                        delay = Duration::from_millis(ms);
                    }
                    // A block without data is not an event.
                    if event.data.is_some() {
                        on_event(event, &last_event_id);
                    }
                }
            }
            Err(error) => on_error(error.into()),
        }
        tokio::time::sleep(pause.unwrap_or(delay)).await;
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
