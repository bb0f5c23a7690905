//! The chat example as a real process over real sockets: what its page, `curl` and a client library get.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use eventsource_stream::{Event, Eventsource};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_stream::{StreamExt, iter};

use crate::{
    BOUND,
    example::{Example, Server},
    text,
};

static LLM: Example = Example::named("llm");

/// The server and a client of it.
struct Chat {
    server: Server,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Chat {
    /// `token_ms` is 1 for answers that end soon, and more for answers that are still being written when the test ends.
    async fn start(token_ms: &str) -> Self {
        let server = Server::start(LLM.command().env("PORT", "0").env("TOKEN_MS", token_ms)).await;
        Self { server, http: Client::builder(TokioExecutor::new()).build_http() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.server.url)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        last_event_id: &str,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(self.url(path));
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        timeout(BOUND, self.http.request(request)).await.expect("an answer in time").unwrap()
    }

    /// Sends a prompt. Returns the number of the answer, or the error response.
    async fn ask(&self, path: &str, prompt: &str) -> Result<u64, (StatusCode, String)> {
        let response = self.send(Method::POST, path, "", prompt.to_owned()).await;
        let status = response.status();
        let text = text(response).await;
        if status != StatusCode::ACCEPTED {
            return Err((status, text));
        }
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        Ok(told["answer"].as_u64().unwrap())
    }

    /// The events of an answer after the last one that the reader got.
    async fn open(&self, answer: &str, last_event_id: &str) -> Response<Incoming> {
        self.send(Method::GET, &format!("{answer}/events"), last_event_id, "").await
    }

    /// All events of an answer, up to a clean end.
    async fn whole(&self, answer: &str) -> Vec<Event> {
        events(self.open(answer, "").await).await
    }
}

/// The complete events of a body, without the position event. The body may be cut off.
async fn parse(body: impl Into<Bytes>) -> Vec<Event> {
    let body = iter([Ok::<_, std::convert::Infallible>(body.into())]);
    body.eventsource().map(|event| event.unwrap()).filter(|event| event.event != "position").collect().await
}

/// All events of a stream that ends cleanly.
async fn events(response: Response<Incoming>) -> Vec<Event> {
    assert_eq!(response.status(), StatusCode::OK);
    parse(text(response).await).await
}

/// Reads a stream until this many bytes have come after its opening, or to its end.
async fn read(stream: &mut Response<Incoming>, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < opening(&text) + bytes {
        match timeout(BOUND, stream.frame()).await.unwrap_or_else(|_| panic!("no frame in time after {text:?}")) {
            Some(frame) => text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap()),
            None => break,
        }
    }
    text
}

/// The length of the opening: a `retry:` and the position event.
fn opening(text: &str) -> usize {
    let position = text.find("event: position\n").and_then(|at| Some(at + text[at..].find("\n\n")? + 2));
    position.unwrap_or_default()
}

/// The text of an answer.
fn said(events: &[Event]) -> String {
    events.iter().filter(|event| event.event == "message").map(|event| event.data.as_str()).collect()
}

/// The reason that the writer gave for the end, if any.
fn reason(events: &[Event]) -> Option<&str> {
    events.last().filter(|event| event.event == "end").map(|event| event.data.as_str())
}

fn last_id(events: &[Event]) -> &str {
    events.last().map_or("", |event| &event.id)
}

/// A number that looks random and is the same in each run.
fn some_number(seed: impl Hash, bound: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    (hasher.finish() % bound as u64) as usize
}

#[tokio::test]
async fn an_answer_has_several_paragraphs_and_many_tokens() {
    let chat = Chat::start("0").await;
    let n = chat.ask("chats/mine/messages", "What is a lighthouse\nfor?").await.unwrap();
    let wire = text(chat.open(&format!("chats/mine/answers/{n}"), "").await).await;
    assert!(wire.split("\n\n").nth(1).unwrap().starts_with("event: position\ndata: \nid: "), "{wire}");
    let answer = parse(wire).await;
    let text = said(&answer);
    assert_eq!(reason(&answer), Some("done"));
    assert!(answer.len() > 200 && text.split_whitespace().count() >= 150, "{text}");
    assert!(
        text.split("\n\n").count() >= 4 && !text.is_ascii() && text.contains("“What is a lighthouse for?”"),
        "{text}"
    );
}

#[tokio::test]
async fn a_reader_that_is_cut_often_gets_what_an_uninterrupted_reader_gets() {
    let chat = Chat::start("1").await;
    for seed in 0..3 {
        let n = chat.ask(&format!("chats/cut-{seed}/messages"), "What is a cut?").await.unwrap();
        let answer = format!("chats/cut-{seed}/answers/{n}");
        let cut = async {
            let (mut arrived, mut connections) = (Vec::new(), 0);
            while reason(&arrived).is_none() {
                let mut stream = chat.open(&answer, last_id(&arrived)).await;
                assert_eq!(stream.status(), StatusCode::OK);
                // The reader must make progress. An event has less than 100 bytes.
                let bytes = 100 + some_number((seed, connections), 400);
                let text = read(&mut stream, bytes).await;
                // The rest did not arrive. The cut may be in the middle of an event or even of a character.
                let bytes = opening(&text) + bytes;
                let events =
                    parse(String::from_utf8_lossy(&text.as_bytes()[..bytes.min(text.len())]).into_owned()).await;
                assert!(!events.is_empty(), "after {arrived:?}");
                arrived.extend(events);
                connections += 1;
            }
            (arrived, connections)
        };
        let (whole, (arrived, connections)) = tokio::join!(chat.whole(&answer), cut);
        assert!(connections > 20, "the reader was cut: {connections} connections");
        assert_eq!(said(&arrived), said(&whole));
        assert_eq!(arrived, whole, "the same events with the same ids");
    }
}

#[tokio::test]
async fn a_reader_that_comes_after_the_end_gets_the_whole_answer_and_then_a_204() {
    let chat = Chat::start("1").await;
    let n = chat.ask("chats/mine/messages", "What is late?").await.unwrap();
    let answer = format!("chats/mine/answers/{n}");
    let live = chat.whole(&answer).await;
    assert_eq!(reason(&live), Some("done"));
    assert_eq!(chat.whole(&answer).await, live);
    let rest = events(chat.open(&answer, &live[live.len() - 3].id).await).await;
    assert_eq!(rest, live[live.len() - 2..], "a reader that lacks the last events gets them");

    let nothing = chat.open(&answer, last_id(&live)).await;
    assert_eq!((nothing.status(), nothing.headers().get("content-type")), (StatusCode::NO_CONTENT, None));
    assert_eq!(text(nothing).await, "");
    let by_query = chat.send(Method::GET, &format!("{answer}/events?lastEventId={}", last_id(&live)), "", "").await;
    assert_eq!(by_query.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_client_library_that_reconnects_gets_the_answer_once_and_stops() {
    use reqwest_eventsource::{Error, Event, EventSource};

    let chat = Chat::start("1").await;
    let n = chat.ask("chats/mine/messages", "What is once?").await.unwrap();
    let mut client = EventSource::get(chat.url(&format!("chats/mine/answers/{n}/events")));
    let (mut arrived, mut ends) = (Vec::new(), Vec::new());
    while let Some(next) = timeout(BOUND, client.next()).await.expect("the client stops") {
        match next {
            Ok(Event::Open) => {}
            Ok(Event::Message(event)) if event.event == "position" => {}
            Ok(Event::Message(event)) => arrived.push(event),
            Err(Error::StreamEnded) => ends.push(StatusCode::OK),
            Err(Error::InvalidStatusCode(status, _)) => ends.push(StatusCode::from_u16(status.as_u16()).unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(ends, [StatusCode::OK, StatusCode::NO_CONTENT]);
    assert_eq!(arrived, chat.whole(&format!("chats/mine/answers/{n}")).await);
}

#[tokio::test]
async fn a_second_prompt_is_refused_while_an_answer_is_written() {
    let chat = Chat::start("50").await;
    let n = chat.ask("chats/mine/messages", "first").await.unwrap();
    let (status, sentence) = chat.ask("chats/mine/messages", "second").await.unwrap_err();
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(sentence, "an answer is being written in this chat already");
    let other = chat.ask("chats/another/messages", "second").await.unwrap();
    assert!(other > n, "another chat is free");
}

#[tokio::test]
async fn one_of_many_simultaneous_prompts_is_accepted() {
    let chat = Chat::start("50").await;
    let path = "chats/mine/messages";
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let request = Request::post(chat.url(path)).body(Full::new(Bytes::from("at once"))).unwrap();
        asking.spawn(chat.http.request(request));
    }
    let statuses: Vec<_> = asking.join_all().await.into_iter().map(|response| response.unwrap().status()).collect();
    let taken = statuses.iter().filter(|status| **status == StatusCode::ACCEPTED).count();
    let refused = statuses.iter().filter(|status| **status == StatusCode::CONFLICT).count();
    assert_eq!((taken, refused), (1, 19), "{statuses:?}");
}

#[tokio::test]
async fn a_replacing_prompt_ends_the_old_answer_with_its_text_so_far() {
    let chat = Chat::start("50").await;
    let first = chat.ask("chats/mine/messages", "first").await.unwrap();
    let replaced = format!("chats/mine/answers/{first}");
    let mut reader = chat.open(&replaced, "").await;
    let mut wire = read(&mut reader, 200).await;

    let second = chat.ask("chats/mine/messages?instead=true", "second").await.unwrap();
    wire += &text(reader).await;
    let seen = parse(wire).await;
    assert_eq!(reason(&seen), Some("replaced"));
    assert!(seen.len() > 3, "{seen:?}");
    assert_eq!(chat.whole(&replaced).await, seen, "the replaced answer keeps its text and gets no more");
    assert_eq!(chat.open(&replaced, last_id(&seen)).await.status(), StatusCode::GONE);

    let mut reader = chat.open(&format!("chats/mine/answers/{second}"), "").await;
    let started = parse(read(&mut reader, 200).await).await;
    assert!(started.len() > 3 && reason(&started).is_none(), "{started:?}");
    assert_eq!(chat.ask("chats/mine/messages", "third").await.unwrap_err().0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_stopped_answer_ends_with_the_text_so_far_and_says_so() {
    let chat = Chat::start("50").await;
    let n = chat.ask("chats/mine/messages", "first").await.unwrap();
    let answer = format!("chats/mine/answers/{n}");
    let mut reader = chat.open(&answer, "").await;
    let mut wire = read(&mut reader, 200).await;

    assert_eq!(chat.send(Method::DELETE, &answer, "", "").await.status(), StatusCode::NO_CONTENT);
    // The chat is free at once, even before the reader has seen the end.
    chat.ask("chats/mine/messages", "second").await.unwrap();
    wire += &text(reader).await;
    let seen = parse(wire).await;
    assert!(seen.len() > 3 && reason(&seen) == Some("stopped"), "{seen:?}");
    assert_eq!(chat.whole(&answer).await, seen);
    assert_eq!(chat.open(&answer, last_id(&seen)).await.status(), StatusCode::GONE);
    assert_eq!(
        chat.send(Method::DELETE, &answer, "", "").await.status(),
        StatusCode::NO_CONTENT,
        "a second stop is the same"
    );
}

#[tokio::test]
async fn a_failed_answer_does_not_look_complete() {
    let chat = Chat::start("1").await;
    let n = chat.ask("chats/mine/messages", "Please break in the middle").await.unwrap();
    let answer = format!("chats/mine/answers/{n}");
    let seen = chat.whole(&answer).await;
    assert_eq!((seen.len(), reason(&seen)), (21, Some("failed")));
    assert_eq!(chat.whole(&answer).await, seen, "a later reader is told too");
    let gone = chat.open(&answer, last_id(&seen)).await;
    assert_eq!(gone.status(), StatusCode::GONE);
    assert_eq!(text(gone).await, "a topic of the stream failed");
    chat.ask("chats/mine/messages", "another").await.unwrap();
}

#[tokio::test]
async fn a_reader_that_leaves_does_not_stop_the_answer() {
    let chat = Chat::start("1").await;
    let n = chat.ask("chats/mine/messages", "Who is there?").await.unwrap();
    let answer = format!("chats/mine/answers/{n}");
    let mut reader = chat.open(&answer, "").await;
    let seen = parse(read(&mut reader, 200).await).await;
    drop(reader);
    // The answer has ended when the next prompt is accepted. Nobody reads until then.
    let next = async {
        while chat.ask("chats/mine/messages", "Who else?").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, next).await.expect("the answer ends");
    let whole = chat.whole(&answer).await;
    assert_eq!(reason(&whole), Some("done"));
    assert!(whole.starts_with(&seen) && said(&whole).split_whitespace().count() >= 150, "{whole:?}");
}

#[tokio::test]
async fn all_readers_of_a_chat_get_the_same_questions_in_the_same_order() {
    let chat = Chat::start("0").await;
    let mut early = chat.send(Method::GET, "chats/mine/events", "", "").await;
    let mut asked = Vec::new();
    for prompt in ["one\ntwo", "drei – “vier”", "<b>five</b>"] {
        let n = chat.ask("chats/mine/messages?instead=true", prompt).await.unwrap();
        asked.push(serde_json::json!({ "answer": n, "text": prompt }));
    }
    chat.ask("chats/another/messages", "not for them").await.unwrap();
    let mut late = chat.send(Method::GET, "chats/mine/events", "", "").await;
    for reader in [&mut early, &mut late] {
        let mut heard = Vec::new();
        let mut wire = String::new();
        while heard.len() < asked.len() {
            wire += &read(reader, 1).await;
            heard = parse(wire.clone()).await;
        }
        assert!(heard.iter().all(|event| event.event == "question"));
        let heard: Vec<serde_json::Value> = heard.iter().map(|it| serde_json::from_str(&it.data).unwrap()).collect();
        assert_eq!(heard, asked);
    }
    let numbers: BTreeSet<_> = asked.iter().map(|question| question["answer"].as_u64()).collect();
    assert_eq!(numbers.len(), asked.len(), "each answer has its own number");
}

#[tokio::test]
async fn bad_requests_get_a_4xx_that_says_what_is_wrong() {
    let chat = Chat::start("1").await;
    let n = chat.ask("chats/mine/messages", "an answer of this chat only").await.unwrap();
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let name = "a chat's name has 1 to 64 letters, digits, `-` and `_`";
    let (long, large) = ("x".repeat(65), "x".repeat((16 << 10) + 1));
    let cases = [
        // There is no such answer, or it belongs to another chat.
        (&get, "chats/mine/answers/99/events".to_owned(), "", 404, "this chat has no answer 99, or no longer"),
        (&get, format!("chats/other/answers/{n}/events"), "", 404, "this chat has no answer"),
        (&delete, "chats/mine/answers/99".to_owned(), "", 404, "this chat has no answer 99, or no longer"),
        (&get, "nowhere".to_owned(), "", 404, "there is nothing at this address"),
        // Names that are more than one segment: a pattern, and another chat's answer.
        (&get, "chats/*/events".to_owned(), "", 400, name),
        (&get, "chats/**/events".to_owned(), "", 400, name),
        (&get, format!("chats/mine%2Fanswers%2F{n}/events"), "", 400, name),
        (&get, format!("chats/*/answers/{n}/events"), "", 400, name),
        (&get, "chats/mine/answers/*/events".to_owned(), "", 400, "`*`"),
        (&post, format!("chats/mine%2Fanswers%2F{n}/messages"), "forged", 400, name),
        (&post, "chats/$client/messages".to_owned(), "x", 400, name),
        (&post, "chats/a%0Ab/messages".to_owned(), "x", 400, name),
        (&post, format!("chats/{long}/messages"), "x", 400, name),
        (&delete, format!("chats/a%2Fb/answers/{n}"), "", 400, name),
        // Bad prompts.
        (&post, "chats/mine/messages".to_owned(), " \n", 400, "the prompt is empty"),
        (&post, "chats/mine/messages?instead=perhaps".to_owned(), "x", 400, "instead"),
        (&post, "chats/mine/messages".to_owned(), &large, 413, "length limit exceeded"),
    ];
    for (method, path, body, status, sentence) in cases {
        let response = chat.send(method.clone(), &path, "", body.to_owned()).await;
        assert_eq!(response.status(), status, "{method} {path}");
        let text = text(response).await;
        assert!(text.contains(sentence), "{method} {path}: {text}");
    }
    chat.ask("chats/large/messages", &large[1..]).await.unwrap();
}

#[tokio::test]
async fn an_id_that_was_never_issued_gets_a_gap_and_then_the_whole_answer() {
    let chat = Chat::start("0").await;
    let n = chat.ask("chats/mine/messages", "What is a gap?").await.unwrap();
    let answer = format!("chats/mine/answers/{n}");
    let whole = chat.whole(&answer).await;
    let again = events(chat.open(&answer, "nonsense").await).await;
    assert_eq!(again[0].event, "gap");
    assert_eq!(again[1..], whole);
}

#[tokio::test]
async fn an_answer_from_before_a_restart_is_a_404_and_readers_stop() {
    let mut before = Chat::start("50").await;
    let n = before.ask("chats/mine/messages", "What is gone?").await.unwrap();
    let answer = format!("chats/mine/answers/{n}");
    let mut reader = before.open(&answer, "").await;
    let seen = parse(read(&mut reader, 200).await).await;
    before.server.process.kill().await.unwrap();
    let after = Chat::start("50").await;
    assert_eq!(after.open(&answer, last_id(&seen)).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_setting_that_is_not_a_number_gets_an_error_that_names_it() {
    for (name, value) in [("TOKEN_MS", "fast"), ("PORT", "70000")] {
        let output = LLM.command().env("PORT", "0").env(name, value).output();
        let output = timeout(BOUND, output).await.expect("the process exits in time").unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(&format!("{name}=\\\"{value}\\\"")), "{error}");
    }
}

#[tokio::test]
async fn the_page_needs_no_other_file() {
    let chat = Chat::start("1").await;
    let page = text(chat.send(Method::GET, "", "", "").await).await;
    assert!(page.contains("<html") && page.contains("/tower-sse.js"));
    assert!(!page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org/").count());
    assert!(!page.contains("https://") && !page.contains("innerHTML"));
}
