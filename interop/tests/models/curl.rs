//! curl as a client of the model: the bytes that it gets.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdout, Command},
    sync::watch,
};

use crate::{
    gateway,
    model::{Middle, Model, text},
    spec, within_3_min,
};

/// One curl, and what it has printed.
struct Curl {
    process: Child,
    stdout: ChildStdout,
    bytes: Vec<u8>,
}

impl Curl {
    fn ask(gateway: &str, key: &str, headers: &[&str]) -> Self {
        let mut command = Command::new(interop::program("curl"));
        command.args(["--no-buffer", "--silent", "--noproxy", "*", "--data", r#"{"stream":true}"#]);
        command.args(["-H", "accept: text/event-stream", "-H", "authorization: Bearer secret"]);
        command.args(["-H", &format!("idempotency-key: {key}")]);
        headers.iter().for_each(|header| _ = command.args(["-H", header]));
        command.arg(format!("{gateway}/v1/chat/completions"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        Self { process, stdout, bytes: Vec::new() }
    }

    /// Reads on until it has this many events.
    async fn has(&mut self, events: usize) {
        while self.messages().len() < events {
            assert_ne!(self.stdout.read_buf(&mut self.bytes).await.unwrap(), 0, "more to come");
        }
    }

    /// Reads to the end. Returns all bytes, and the exit code of curl.
    async fn rest(mut self) -> (Vec<u8>, i32) {
        self.stdout.read_to_end(&mut self.bytes).await.unwrap();
        (self.bytes, self.process.wait().await.unwrap().code().unwrap())
    }

    fn messages(&self) -> Vec<spec::Message> {
        spec::parse(&self.bytes).messages
    }
}

/// The joined tokens of some chunks.
fn tokens(messages: &[spec::Message]) -> String {
    let chunks = messages.iter().filter(|message| message.data != "[DONE]" && message.event_type == "message");
    let token = |chunk: Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    chunks.map(|chunk| token(serde_json::from_str(&chunk.data).unwrap())).collect()
}

/// How many heartbeats an answer has, with an empty comment on a line of its own.
pub(crate) async fn heartbeats(gateway: &str) -> usize {
    let (bytes, _) = Curl::ask(gateway, "heartbeats", &[]).rest().await;
    bytes.split(|byte| *byte == b'\n').filter(|line| line == b":").count()
}

/// curl's exit code if a response ends before its end.
const CUT: i32 = 18;
const EARLY: &[&str] = &["--open-after-ms", "20"];
const SILENCE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_killed_curl_that_asks_again_gets_exactly_the_rest_and_the_model_is_asked_once() {
    within_3_min(async {
        let (go_on, goes_on) = watch::channel(false);
        let model = Model::start(SILENCE, Middle::Waits(goes_on)).await;
        let gateway = gateway(&model.url, EARLY).await;
        let mut first = Curl::ask(&gateway.url, "1", &[]);
        first.has(500).await;
        first.process.kill().await.unwrap();
        let begun = first.messages();
        go_on.send(true).unwrap();
        let id = &begun.last().unwrap().last_event_id;
        let again = Curl::ask(&gateway.url, "1", &[&format!("last-event-id: {id}")]);
        let (rest, code) = again.rest().await;
        let rest = spec::parse(&rest).messages;
        assert!(code == 0 && rest.len() > 1000);
        assert!(tokens(&begun) + &tokens(&rest) == text(), "each token once: {} and {}", begun.len(), rest.len());
        assert_eq!(rest.last().unwrap().data, "[DONE]");
        assert_eq!(model.asked("1"), 1);
    })
    .await;
}

#[tokio::test]
async fn two_curls_get_the_same_bytes_and_both_are_told_when_the_model_dies() {
    within_3_min(async {
        let (die, dies) = watch::channel(false);
        for middle in [Middle::Nothing, Middle::Dies(dies)] {
            let lives = matches!(middle, Middle::Nothing);
            let model = Model::start(SILENCE, middle).await;
            let gateway = gateway(&model.url, EARLY).await;
            let mut readers = [(); 2].map(|()| Curl::ask(&gateway.url, "1", &[]));
            for reader in &mut readers {
                reader.has(500).await;
            }
            die.send_replace(true);
            let [first, second] = readers;
            let (first, second) = tokio::join!(first.rest(), second.rest());
            assert!(first == second, "{} and {} bytes", first.0.len(), second.0.len());
            let (bytes, code) = first;
            let messages = spec::parse(&bytes).messages;
            let last = messages.last().unwrap();
            assert_eq!((code, tokens(&messages) == text()), (if lives { 0 } else { CUT }, lives));
            assert_eq!(last.event_type, if lives { "message" } else { "error" }, "{last:?}");
            assert_eq!(model.asked("1"), 1);
        }
    })
    .await;
}
