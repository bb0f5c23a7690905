//! Rust clients.

use std::time::Duration;

use eventsource_client::{Client, ClientBuilder, ReconnectOptions, Response, SSE};
use futures_util::StreamExt;
use http::StatusCode;
use launchdarkly_sdk_transport::HyperTransport;
use reqwest_eventsource::EventSource;
use tokio::task::JoinHandle;

use crate::{
    client::{Event, Observation, Report},
    resume,
};

type Failure = Box<dyn std::error::Error>;

pub(crate) fn reqwest_eventsource(url: String, report: Report) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut source = event_source(&url).expect("a client");
        while let Some(next) = source.next().await {
            let _ = report.send(match next {
                Ok(reqwest_eventsource::Event::Open) => Observation::Open,
                Ok(reqwest_eventsource::Event::Message(event)) => {
                    Observation::Event(Event { event_type: event.event, data: event.data, id: event.id })
                }
                Err(error) => Observation::Error(error.to_string()),
            });
        }
    })
}

/// A stream of events that reconnects.
fn event_source(url: &str) -> Result<EventSource, Failure> {
    // The time of three heartbeats.
    let client = reqwest::Client::builder().read_timeout(Duration::from_secs(45)).build()?;
    Ok(EventSource::new(client.get(url))?)
}

pub(crate) fn eventsource_client(url: String, report: Report) -> JoinHandle<()> {
    follow_with_eventsource_client(url, report, true)
}

/// Without the lines that the guide shows for it.
pub(crate) fn eventsource_client_alone(url: String, report: Report) -> JoinHandle<()> {
    follow_with_eventsource_client(url, report, false)
}

fn follow_with_eventsource_client(url: String, report: Report, stops_at_204: bool) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut stream = client(&url).expect("a client").stream();
        while let Some(next) = stream.next().await {
            let _ = report.send(match next {
                Ok(SSE::Connected(it)) if stops_at_204 && is_over(it.response()) => break,
                Ok(SSE::Connected(_)) => Observation::Open,
                Ok(SSE::Event(event)) => {
                    let id = event.id.unwrap_or_default();
                    Observation::Event(Event { event_type: event.event_type, data: event.data, id })
                }
                Ok(SSE::Comment(_)) => continue,
                Err(error) => Observation::Error(error.to_string()),
            });
        }
    })
}

/// Without this check, the client reconnects to a stream that has ended.
fn is_over(response: &Response) -> bool {
    response.status() == StatusCode::NO_CONTENT
}

/// A client whose `stream()` reconnects, also if the first connection fails.
fn client(url: &str) -> Result<impl Client, Failure> {
    let again = ReconnectOptions::reconnect(true).retry_initial(true).delay(Duration::from_millis(500));
    // The time of three heartbeats.
    let transport = HyperTransport::builder().read_timeout(Duration::from_secs(45)).build_http()?;
    Ok(ClientBuilder::for_url(url)?.reconnect(again.build()).build_with_transport(transport))
}

pub(crate) fn sse_stream(url: String, report: Report) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (opens, errors) = (report.clone(), report.clone());
        let on_event = |event: sse_stream::Sse, id: &str| {
            let event_type = event.event.unwrap_or_else(|| "message".to_owned());
            let data = event.data.unwrap_or_default();
            let _ = report.send(Observation::Event(Event { event_type, data, id: id.to_owned() }));
        };
        let on_open = || drop(opens.send(Observation::Open));
        let on_error = |error: Failure| drop(errors.send(Observation::Error(error.to_string())));
        resume::follow(&url, on_event, on_open, on_error).await.expect("a client");
    })
}
