//! An example of this crate as a real process.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

pub(crate) struct Example {
    /// What cargo calls it.
    kind: &'static str,
    name: &'static str,
    executable: OnceLock<PathBuf>,
}

impl Example {
    pub(crate) const fn named(name: &'static str) -> Self {
        Self { kind: "--example", name, executable: OnceLock::new() }
    }

    /// An example that is a package of its own.
    #[allow(dead_code, reason = "not all tests need one")]
    pub(crate) const fn package(name: &'static str) -> Self {
        Self { kind: "--bin", name, executable: OnceLock::new() }
    }

    /// The process that it starts is killed when it is dropped.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.executable());
        // The tests' clients ask for this host, see `client.rs`.
        command.env("HOSTS", "server.test").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Builds the example with the same profile and target directory as this test. `cargo test` has built it already,
    /// unless it was asked for one test only.
    pub(crate) fn executable(&self) -> &Path {
        self.executable.get_or_init(|| {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
            // `cargo test` sets them for this package. Build scripts that read them would run again, as ring's does.
            let of_this_test = std::env::vars_os().map(|(name, _)| name).filter(|name| {
                let name = name.to_string_lossy();
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            });
            let mut command = std::process::Command::new(env!("CARGO"));
            of_this_test.for_each(|name| _ = command.env_remove(name));
            let output = command
                // With the features of the whole workspace's tests, so that it is built already.
                .args(["build", "--quiet", "--workspace", self.kind, self.name, "--all-features"])
                .arg("--message-format=json-render-diagnostics")
                .args((!cfg!(debug_assertions)).then_some("--release"))
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .env("CARGO_TARGET_DIR", target)
                .stderr(Stdio::inherit())
                .output()
                .expect("cargo runs");
            assert!(output.status.success(), "the example {} does not build", self.name);
            let messages = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            messages
                .map(|line| serde_json::from_slice::<serde_json::Value>(line).expect("a message in JSON"))
                .filter(|message| message["target"]["name"] == self.name)
                .find_map(|message| message["executable"].as_str().map(PathBuf::from))
                .expect("an executable")
        })
    }
}

/// Sends a signal to the process.
#[cfg(unix)]
#[allow(dead_code, reason = "not all tests send a signal")]
pub(crate) fn signal(process: &Child, signal: nix::sys::signal::Signal) {
    let id = process.id().expect("the process runs").try_into().expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).expect("the process exists");
}

/// An example that listens. It is killed when this is dropped.
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`.
    #[allow(dead_code, reason = "not all tests need it")]
    pub(crate) url: String,
    pub(crate) process: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts an example that prints `listening on URL` when it is ready.
    pub(crate) async fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the example starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("the output is piped")).lines();
        let ready = stdout.next_line().await.expect("readable output").expect("a line when it is ready");
        let url = ready.strip_prefix("listening on ").expect("the address of the example").to_owned();
        Self { url, process, _stdout: stdout }
    }
}
