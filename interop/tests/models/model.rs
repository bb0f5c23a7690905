//! A fake model, with the streams of two APIs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{sync::watch, task::yield_now, time::sleep};

use crate::{
    bodies::{AnyBody, AnyError, event_stream},
    upstream::upstream,
};

/// How many tokens an answer has.
pub(crate) const TOKENS: usize = 2000;

/// What happens in the middle of an answer.
#[derive(Clone)]
pub(crate) enum Middle {
    Nothing,
    /// It is silent for this time.
    Pauses(Duration),
    /// The answer goes on when this is `true`.
    Waits(watch::Receiver<bool>),
    /// The same, but the model breaks then.
    Dies(watch::Receiver<bool>),
}

pub(crate) struct Model {
    pub(crate) url: String,
    /// How often it was asked with each key.
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Model {
    /// `silence`: how long it thinks before it sends the head of its answer.
    pub(crate) async fn start(silence: Duration, middle: Middle) -> Self {
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let counts = Arc::clone(&asked);
        let url = upstream(move |request: Request<Incoming>| {
            let key = request.headers()["idempotency-key"].to_str().unwrap().to_owned();
            *counts.lock().unwrap().entry(key).or_default() += 1;
            answer(request, silence, middle.clone())
        });
        Self { url: url.await, asked }
    }

    pub(crate) fn asked(&self, key: &str) -> usize {
        self.asked.lock().unwrap().get(key).copied().unwrap_or_default()
    }
}

async fn answer(request: Request<Incoming>, silence: Duration, middle: Middle) -> Response<AnyBody> {
    let events = match request.uri().path() {
        "/v1/chat/completions" => openai(),
        "/v1/messages" => anthropic(),
        other => panic!("{other}"),
    };
    request.into_body().collect().await.unwrap();
    sleep(silence).await;
    let half = events.len() / 2;
    let frames = stream::iter(events.into_iter().enumerate()).then(move |(number, event)| {
        let middle = if number == half { middle.clone() } else { Middle::Nothing };
        async move {
            match middle {
                Middle::Nothing => {}
                Middle::Pauses(time) => sleep(time).await,
                Middle::Waits(mut goes_on) => drop(goes_on.wait_for(|it| *it).await.unwrap()),
                Middle::Dies(mut dies) => {
                    drop(dies.wait_for(|it| *it).await.unwrap());
                    return Err(AnyError::from("the model dies"));
                }
            }
            if number % 50 == 0 {
                // As a model does, it sends a few tokens at a time.
                yield_now().await;
            }
            Ok(Frame::data(Bytes::from(event)))
        }
    });
    event_stream(StreamBody::new(frames).boxed_unsync())
}

pub(crate) fn token(number: usize) -> String {
    format!("t{number} \u{e9}\n")
}

/// All tokens, joined.
pub(crate) fn text() -> String {
    (0..TOKENS).map(token).collect()
}

fn openai() -> Vec<String> {
    let chunk = |delta: Value, stop: Value| {
        let choices = json!([{ "index": 0, "delta": delta, "finish_reason": stop }]);
        let chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": choices,
        });
        format!("data: {chunk}\n\n")
    };
    let tokens = (0..TOKENS).map(|number| chunk(json!({ "content": token(number) }), Value::Null));
    let first = chunk(json!({ "role": "assistant", "content": "" }), Value::Null);
    let last = [chunk(json!({}), json!("stop")), "data: [DONE]\n\n".to_owned()];
    std::iter::once(first).chain(tokens).chain(last).collect()
}

fn anthropic() -> Vec<String> {
    let event = |mut data: Value, kind: &str| {
        data["type"] = kind.into();
        format!("event: {kind}\ndata: {data}\n\n")
    };
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 },
    });
    let first = [
        event(json!({ "message": message }), "message_start"),
        event(json!({ "index": 0, "content_block": { "type": "text", "text": "" } }), "content_block_start"),
        event(json!({}), "ping"),
    ];
    let tokens = (0..TOKENS).map(|number| {
        let delta = json!({ "type": "text_delta", "text": token(number) });
        event(json!({ "index": 0, "delta": delta }), "content_block_delta")
    });
    let stop = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    let last = [
        event(json!({ "index": 0 }), "content_block_stop"),
        event(json!({ "delta": stop, "usage": { "output_tokens": TOKENS } }), "message_delta"),
        event(json!({}), "message_stop"),
    ];
    first.into_iter().chain(tokens).chain(last).collect()
}
