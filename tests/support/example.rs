//! An example of this crate as a real process.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
};

/// A running example. It is killed when this is dropped.
pub(crate) struct Example {
    /// Where it listens: `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    process: Child,
    _output: Lines<BufReader<ChildStdout>>,
}

impl Example {
    /// Starts an example that prints `listening on URL` when it is ready.
    pub(crate) async fn start(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut process = tokio::process::Command::new(build(name))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example starts");
        let mut output = BufReader::new(process.stdout.take().expect("its output is piped")).lines();
        let line = output.next_line().await.expect("readable output").expect("a line of output");
        let url = line.strip_prefix("listening on ").expect("the address that it listens on").to_owned();
        Self { url, process, _output: output }
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.expect("it was running");
    }
}

/// Builds an example as the test itself was built, and says where it is. `cargo test` has built it already, unless it was
/// asked for one test alone.
fn build(name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--all-features", "--example", name, "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "the example {name} builds");
    // The test is in `deps`, beside `examples`.
    let test = env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("two folders above");
    profile.join("examples").join(name)
}
