//! A node that remembers over restarts: in this process, and as a dashboard that is killed while it is published to.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tower_sse::{
    Event, Registry, RegistryConfig, Resume, TopicState,
    backplane::{File, FileError},
};

use super::{
    example::Server,
    nodes::data_of,
    processes::{DASHBOARD, request},
    redis_server,
};

fn new_file() -> PathBuf {
    redis_server::new_folder().join("events.db")
}

/// A node over the file. The task of the registry before gives the file back when it ends.
async fn node(path: &PathBuf) -> Registry {
    let engine = loop {
        match File::open(path) {
            Err(FileError::Locked { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let registry = Registry::with_config(RegistryConfig::default().backplane(engine));
    registry.ready().await.unwrap();
    registry
}

#[tokio::test]
async fn a_client_resumes_over_a_restart_as_if_nothing_had_been() {
    let path = new_file();
    let mut ids = Vec::new();
    {
        let registry = node(&path).await;
        for number in 0..10 {
            let position = registry.publish("t", Event::data(number.to_string())).unwrap().await.unwrap();
            ids.push(position.to_string());
        }
        registry.start_producer("ended").unwrap().end();
        registry.flushed().await;
    }
    for _ in 0..2 {
        let registry = node(&path).await;
        let client = registry.connect();
        client.resume_from(&ids[3]).unwrap();
        client.subscribe("t").unwrap();
        assert_eq!(client.resume(), Resume::Continued);
        let mut events = client.into_events();
        for number in 4..ids.len() {
            assert_eq!(data_of(&mut events).await, number.to_string());
        }
        assert_eq!(registry.topic_state("ended"), Some(TopicState::Ended));
        let more = registry.publish("t", Event::data(ids.len().to_string())).unwrap().await.unwrap();
        ids.push(more.to_string());
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_topic_whose_producer_died_with_the_process_is_told_to_have_failed() {
    let path = new_file();
    {
        let registry = node(&path).await;
        let producer = registry.start_producer("answer").unwrap();
        producer.publish(Event::data("Once")).unwrap().await.unwrap();
        // As if the process was killed: the producer never says how it ended.
        std::mem::forget(producer);
        registry.flushed().await;
    }
    // The registry that was forgotten holds the file, so a copy of it is what the next process finds.
    let copy = path.with_file_name("copy.db");
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_str().unwrap().replace("events.db", "copy.db");
        fs::copy(&from, from.with_file_name(name)).unwrap();
    }
    let registry = node(&copy).await;
    assert_eq!(registry.topic_state("answer"), Some(TopicState::Producing));
    let failed = async {
        while registry.topic_state("answer") != Some(TopicState::Failed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), failed).await.expect("it fails within a minute");
}

async fn connect(address: SocketAddr) -> http1::SendRequest<Full<Bytes>> {
    loop {
        if let Ok(socket) = TcpStream::connect(address).await {
            let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
            tokio::spawn(connection);
            return sender;
        }
        tokio::task::yield_now().await;
    }
}

async fn start(address: SocketAddr, path: &PathBuf) -> Server {
    let mut command = DASHBOARD.command();
    command.env("PORT", address.port().to_string()).env("FILE", path).env("PRICES_MS", "0");
    Server::start(&mut command).await
}

/// Sends a request whose answer may not come.
async fn text(sender: &mut http1::SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Option<String> {
    let answer = sender.send_request(request).await.ok()?;
    assert!(answer.status().is_success(), "{}", answer.status());
    Some(String::from_utf8(answer.into_body().collect().await.ok()?.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_dashboard_that_is_killed_while_it_is_published_to_has_all_that_it_answered() {
    let (path, address) = (new_file(), SocketAddr::from(([127, 0, 0, 1], redis_server::Server::free_port())));
    let mut answered: Vec<(String, String)> = Vec::new();
    let mut first = None;
    for life in 0..4 {
        let mut server = start(address, &path).await;
        let mut sender = connect(address).await;
        for number in 0..200 {
            if number == 150 {
                // In the middle of it: the next answers may not come.
                server.process.start_kill().unwrap();
            }
            let data = format!("{life}-{number}");
            let publishing = request("POST", "/publish/t", "", data.clone());
            let Some(answer) = text(&mut sender, publishing).await else { break };
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            answered.push((answer["id"].as_str().unwrap().to_owned(), data));
        }
        server.process.wait().await.unwrap();
        first.get_or_insert_with(|| answered[0].0.clone());
    }
    let _server = start(address, &path).await;
    let mut sender = connect(address).await;
    let stream = sender.send_request(request("GET", "/events?topic=t", &first.unwrap(), String::new())).await.unwrap();
    let (mut body, mut got) = (stream.into_body(), String::new());
    let last = format!("id: {}\n", answered.last().unwrap().0);
    while !got.contains(&last) {
        let frame = timeout(Duration::from_secs(20), body.frame()).await.expect("it comes soon").unwrap().unwrap();
        got.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(!got.contains("event: gap"), "{got}");
    let field = |block: &str, name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let events: Vec<(String, String)> =
        got.split("\n\n").filter_map(|block| Some((field(block, "id: ")?, field(block, "data: ")?))).collect();
    // Events that were stored while the process was killed may be there without an answer.
    let mut rest = events.iter();
    for expected in &answered[1..] {
        assert!(rest.any(|event| event == expected), "{expected:?} is missing or out of order");
    }
    let ids: Vec<tower_sse::Position> = events.iter().map(|(id, _)| id.parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|one, other| one < other), "ids go up");
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}
