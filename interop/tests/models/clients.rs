//! The programs in `interop/models` that read an answer with an official client.

use std::process::Stdio;

use serde::Deserialize;
use tokio::{process::Command, task::spawn_blocking};

/// An official client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    OpenaiPython,
    OpenaiNode,
    AnthropicPython,
    AnthropicNode,
}

impl Client {
    pub(crate) const ALL: [Self; 4] =
        [Self::OpenaiPython, Self::OpenaiNode, Self::AnthropicPython, Self::AnthropicNode];

    /// How it calls the end of a whole answer.
    pub(crate) fn stop(self) -> &'static str {
        match self {
            Self::OpenaiPython | Self::OpenaiNode => "stop",
            Self::AnthropicPython | Self::AnthropicNode => "end_turn",
        }
    }

    /// Reads an answer, for a question with this key.
    pub(crate) async fn read(self, gateway: &str, key: &str) -> Report {
        let mut command = spawn_blocking(move || self.command()).await.unwrap();
        command.env("GATEWAY", gateway).env("KEY", key).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
        let output = command.kill_on_drop(true).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{self:?}: {error}: {said}"))
    }

    fn command(self) -> Command {
        let python = |program| {
            let mut command = Command::new(interop::python("models/python"));
            command.arg(interop::drivers("models/python").join(program));
            command
        };
        let node = |program| {
            let mut command = Command::new(interop::node());
            command.arg(interop::npm("models").join(program));
            command
        };
        match self {
            Self::OpenaiPython => python("with_openai.py"),
            Self::OpenaiNode => node("openai.mjs"),
            Self::AnthropicPython => python("with_anthropic.py"),
            Self::AnthropicNode => node("anthropic.mjs"),
        }
    }
}

/// What a client got.
#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) stop: Option<String>,
    pub(crate) error: Option<String>,
}
