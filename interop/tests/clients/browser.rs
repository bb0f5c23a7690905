//! The browsers. One process of each shows all pages.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
};

use crate::{
    client::{Report, pass_on},
    within,
};

/// A headless Chromium.
#[derive(Debug)]
pub(crate) struct Chromium {
    pub(crate) devtools: String,
    pub(crate) version: String,
    process: Child,
    profile: PathBuf,
}

impl Chromium {
    pub(crate) async fn start() -> Self {
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", std::process::id()));
        let mut command = Command::new(interop::program("chromium"));
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]);
        command.arg("--remote-debugging-port=0").arg(format!("--user-data-dir={}", profile.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("the process starts");
        let mut stderr = BufReader::new(process.stderr.take().expect("the stream is piped")).lines();
        let devtools = within(async {
            loop {
                let line = stderr.next_line().await.expect("text").expect("the address of Chromium's DevTools");
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return address.to_owned();
                }
            }
        })
        .await;
        // Chromium writes warnings for as long as it runs. Reading them keeps its pipe empty.
        tokio::spawn(async move { while let Ok(Some(_)) = stderr.next_line().await {} });
        let about = devtools.replace("ws://", "http://");
        let about = format!("{}/json/version", about.split("/devtools").next().expect("an address"));
        let about = reqwest::get(about).await.expect("DevTools").text().await.expect("text");
        let about: Value = serde_json::from_str(&about).expect("JSON");
        let version = about["Browser"].as_str().and_then(|name| name.split('/').nth(1)).expect("a version").to_owned();
        Self { devtools, version, process, profile }
    }

    pub(crate) async fn stop(mut self) {
        let _ = self.process.kill().await;
        // Chromium's child processes end after it, and may still write.
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// A headless Firefox and its driver. The driver ends when its standard input ends, so no Firefox outlives the test.
#[derive(Debug)]
pub(crate) struct Firefox {
    pub(crate) pages: SocketAddr,
    pub(crate) version: String,
    process: Child,
    stdin: ChildStdin,
}

impl Firefox {
    pub(crate) async fn start(node: &Path, drivers: &Path) -> Self {
        let mut command = Command::new(node);
        command.arg(drivers.join("firefox.mjs")).env("FIREFOX", interop::program("firefox-esr"));
        command.env("PAGES", interop::drivers("page"));
        // Firefox's profile is in this folder, and is removed with it.
        command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the process starts");
        let stdin = process.stdin.take().expect("the stream is piped");
        let mut stdout = BufReader::new(process.stdout.take().expect("the stream is piped")).lines();
        let ready = within(stdout.next_line()).await.expect("text").expect("a line when Firefox is ready");
        let ready: Value = serde_json::from_str(&ready).expect("JSON");
        let port = ready["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        let version = ready["version"].as_str().expect("a version").to_owned();
        Self { pages: SocketAddr::from(([127, 0, 0, 1], port)), version, process, stdin }
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stdin);
        assert!(
            within(self.process.wait()).await.expect("the exit of the driver").success(),
            "Firefox does not exit cleanly"
        );
    }
}

/// Shows a page until the task is aborted.
pub(crate) fn show_in_firefox(pages: SocketAddr, wanted: &Value, report: Report) -> JoinHandle<()> {
    let wanted = format!("{wanted}\n");
    tokio::spawn(async move {
        let mut firefox = TcpStream::connect(pages).await.expect("Firefox's driver listens");
        firefox.write_all(wanted.as_bytes()).await.expect("Firefox's driver reads");
        pass_on(firefox, report).await;
    })
}
