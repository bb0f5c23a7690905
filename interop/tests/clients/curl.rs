//! curl prints the bytes of a stream. The test parses them by the standard.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt, process::Command, task::JoinHandle};

use crate::{
    client::{Event, Observation, Report},
    spec,
};

pub(crate) fn follow(url: String, report: Report) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut reader = Reader { report, last_event_id: String::new(), delay: Duration::from_secs(1) };
        while reader.read(&url).await {
            tokio::time::sleep(reader.delay).await;
        }
    })
}

struct Reader {
    report: Report,
    last_event_id: String,
    delay: Duration,
}

impl Reader {
    /// Runs curl once. Returns `false` if the stream has ended for good.
    async fn read(&mut self, url: &str) -> bool {
        let mut command = Command::new(interop::program("curl"));
        // With `--retry`, curl waits as long as `retry-after` says when it is refused.
        command.args(["--no-buffer", "--silent", "--fail", "--retry", "3", "--include", "--noproxy", "*"]);
        command.args(["--header", "accept: text/event-stream"]);
        command.args(["--header", &format!("last-event-id: {}", self.last_event_id)]).arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut curl = command.spawn().expect("curl starts");
        let mut stdout = curl.stdout.take().expect("the stream is piped");
        let (mut received, mut told, mut is_open) = (Vec::new(), 0, false);
        loop {
            let before = received.len();
            if !stdout.read_buf(&mut received).await.is_ok_and(|bytes| bytes > 0) {
                break;
            }
            if !has_blank_line(&received[before.saturating_sub(3)..]) {
                continue;
            }
            let Some((head, body)) = last_answer(&received) else { continue };
            if head.starts_with("HTTP/1.1 204") {
                return false;
            }
            if !head.starts_with("HTTP/1.1 200") {
                continue;
            }
            if !is_open {
                self.tell(Observation::Open);
                is_open = true;
            }
            let parsed = spec::parse(body);
            if let Some(ms) = parsed.retries.last() {
                self.delay = Duration::from_millis(*ms);
            }
            for message in &parsed.messages[told..] {
                // An id of an earlier response is not in this one.
                if message.own_id.is_some() || !message.last_event_id.is_empty() {
                    self.last_event_id.clone_from(&message.last_event_id);
                }
                let (event_type, data) = (message.event_type.clone(), message.data.clone());
                self.tell(Observation::Event(Event { event_type, data, id: self.last_event_id.clone() }));
            }
            told = parsed.messages.len();
        }
        let status = curl.wait().await.expect("the exit of curl");
        self.tell(Observation::Error(status.to_string()));
        true
    }

    fn tell(&self, observation: Observation) {
        let _ = self.report.send(observation);
    }
}

fn has_blank_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|at| matches!(at, b"\n\n" | b"\r\r")) || bytes.windows(4).any(|at| at == b"\r\n\r\n")
}

/// curl may have been refused before, and prints those heads too.
fn last_answer(mut bytes: &[u8]) -> Option<(String, &[u8])> {
    loop {
        let end = bytes.windows(4).position(|at| at == b"\r\n\r\n")? + 4;
        let (head, body) = bytes.split_at(end);
        if !body.starts_with(b"HTTP/1.1 ") {
            return Some((String::from_utf8_lossy(head).into_owned(), body));
        }
        bytes = body;
    }
}
