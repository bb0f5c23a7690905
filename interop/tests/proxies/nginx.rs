//! nginx as a real process, with a configuration of its own.

use std::{
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::within_20_s;

/// A running nginx. It is stopped when this is dropped.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    process: Child,
    log: mpsc::UnboundedReceiver<String>,
    _folder: TempDir,
}

impl Nginx {
    /// An nginx that proxies everything, with default settings otherwise.
    pub(crate) async fn before(upstream: &str) -> Self {
        Self::with(upstream, "").await
    }

    /// An nginx that proxies everything, with these directives in its `location /`.
    pub(crate) async fn with(upstream: &str, directives: &str) -> Self {
        Self::start(|listen| format!("server {{ listen {listen}; {} }}", location("/", upstream, directives))).await
    }

    /// An nginx that also accepts HTTP/2 with prior knowledge.
    pub(crate) async fn with_http2(upstream: &str) -> Self {
        Self::start(|listen| format!("server {{ listen {listen} http2; {} }}", location("/", upstream, ""))).await
    }

    /// `http` returns the content of the `http` block for the address to listen on.
    pub(crate) async fn start(http: impl Fn(SocketAddr) -> String) -> Self {
        Self::start_with("", http).await
    }

    /// `main` is the configuration outside the `http` block, with or without an `events` block.
    pub(crate) async fn start_with(main: &str, http: impl Fn(SocketAddr) -> String) -> Self {
        // nginx cannot pick a free port by itself, and another process may take a port that is free now.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            if let Some(nginx) = within_20_s(Self::start_at(free, main, &http(free))).await {
                return nginx;
            }
        }
        panic!("no port is free");
    }

    /// Returns `None` if the address is taken.
    async fn start_at(address: SocketAddr, main: &str, http: &str) -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(folder.path().join("nginx.conf"), configuration(main, http)).unwrap();
        let mut process = Command::new(interop::program("nginx"))
            .args(["-c", "nginx.conf", "-e", "stderr", "-p"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (lines, log) = mpsc::unbounded_channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let mut nginx = Self { address, process, log, _folder: folder };
        nginx.logs(&["start worker process ", "Address already in use"]).await.contains("start worker").then_some(nginx)
    }

    /// Waits until nginx has logged one of these texts.
    pub(crate) async fn logs(&mut self, texts: &[&str]) -> String {
        let mut so_far = String::new();
        while let Some(line) = self.log.recv().await {
            if texts.iter().any(|text| line.contains(text)) {
                return line;
            }
            writeln!(so_far, "{line}").unwrap();
        }
        panic!("nginx ended:\n{so_far}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.process.id().try_into().unwrap());
        // A process that has exited already gets no signal.
        let _ = kill(id, signal);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM also ends the workers. A SIGKILL would leave them behind.
        self.signal(Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

pub(crate) fn location(path: &str, upstream: &str, directives: &str) -> String {
    format!("location {path} {{ proxy_pass {upstream}; {directives} }}")
}

fn configuration(main: &str, http: &str) -> String {
    // Otherwise the workers run as `nobody`, who may not read the folder.
    let user = if Uid::effective().is_root() { "user root;" } else { "" };
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders: String = kinds.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
    let events = if main.contains("events") { "" } else { "events {}" };
    format!(
        "daemon off; pid pid; error_log stderr notice; {user}\n{main}\n{events}\n\
         http {{\naccess_log off;\n{folders}{http}\n}}\n"
    )
}
