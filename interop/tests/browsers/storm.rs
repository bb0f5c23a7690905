//! Many clients lose their server at once.

use std::{net::TcpListener, process::Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::{
    example::{Example, Server},
    within,
};

static DASHBOARD: Example = Example::named("dashboard");

const CLIENTS: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_clients_of_a_killed_server_come_back_spread_and_resume() {
    // Each client has two sockets here.
    let (limit, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit.max(8 * CLIENTS as u64).min(most), most).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = async || {
        let mut command = DASHBOARD.command();
        let limits = ["MAX_STREAMS", "MAX_STREAMS_PER_ADDRESS"].map(|name| (name, CLIENTS.to_string()));
        command.env("PORT", port.to_string()).env("FILE", folder.path().join("events")).envs(limits);
        within(Server::start(command.env("PRICES_MS", "0"))).await
    };
    let mut server = start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut last = 0;
    let mut publish = async |count: u64| {
        for _ in 0..count {
            last += 1;
            let url = format!("http://127.0.0.1:{port}/publish/storm");
            let answer = within(http.post(url).body(last.to_string()).send()).await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.status());
        }
        last
    };

    let drivers = tokio::task::spawn_blocking(|| (interop::node(), interop::npm("node"))).await.unwrap();
    let mut command = Command::new(drivers.0);
    command.arg(drivers.1.join("storm.mjs")).arg(CLIENTS.to_string()).arg(format!("{}/events?topic=storm", server.url));
    command.env("CLIENT", interop::drivers("../js/tower-sse.js")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut node = command.kill_on_drop(true).spawn().unwrap();
    let mut stdin = node.stdin.take().unwrap();
    let mut says = BufReader::new(node.stdout.take().unwrap()).lines();
    let mut hears =
        async || -> Value { serde_json::from_str(&within(says.next_line()).await.unwrap().unwrap()).unwrap() };

    assert_eq!(hears().await, json!({ "live": true }));
    // A client that is cut among these events has had some of them.
    publish(20).await;
    server.process.kill().await.unwrap();
    drop(server);
    let server = start().await;
    let last = publish(20).await;
    stdin.write_all(format!("{}\n", json!({ "last": last })).as_bytes()).await.unwrap();
    let mut said = hears().await;
    let clients: Vec<Value> = serde_json::from_value(said["clients"].take()).unwrap();

    assert_eq!(clients.len(), CLIENTS);
    for client in &clients {
        let expected = json!({ "first": 1, "last": last, "wrong": 0, "resumed": "continued", "caughtUp": true });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(client[name], *value, "{name}: {client}");
        }
    }
    let planned: Vec<u64> = clients.iter().map(|client| client["planned"].as_u64().expect("a pause")).collect();
    let parts = spread(&planned);
    eprintln!("pauses before the first attempt, by tenths of a second: {parts:?}");
    drop(server);
}

/// The pauses are from half a second to one and a half, and no tenth of that has more than half as much again as the others.
fn spread(planned: &[u64]) -> Vec<usize> {
    let mut parts = vec![0; 16];
    for pause in planned {
        assert!((250..=1500).contains(pause), "{pause}");
        parts[usize::try_from(pause / 100).unwrap()] += 1;
    }
    assert!(parts.iter().all(|part| *part <= planned.len() * 3 / 20), "{parts:?}");
    parts
}
