//! The official clients: whole answers, and those of a model that dies.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{sync::watch, time::Instant};

use crate::{
    clients::{Client, Report},
    curl::heartbeats,
    gateway, gateway_with,
    model::{Middle, Model, text, token},
    within_3_min,
};

/// How long a model thinks, as long as many proxies wait.
const SILENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_official_clients_read_2000_tokens_after_20_s_of_silence_whole() {
    within_3_min(async {
        let model = Model::start(SILENCE, Middle::Nothing).await;
        let gateway = gateway(&model.url, &["--open-after-ms", "2000", "--heartbeat-ms", "1000"]).await;
        let began = Instant::now();
        let all = Client::ALL.map(|client| {
            let url = &gateway.url;
            async move { (client, client.read(url, &format!("{client:?}")).await) }
        });
        for (client, report) in join_all(all).await {
            let whole = Report { text: text(), stop: Some(client.stop().to_owned()), error: None };
            assert!(report == whole, "{client:?}: {} bytes, {:?}, {:?}", report.text.len(), report.stop, report.error);
            assert_eq!(model.asked(&format!("{client:?}")), 1);
        }
        assert!(began.elapsed() >= SILENCE);
        // The same question again: from the recording, at once, and without the model.
        for client in Client::ALL {
            let report = client.read(&gateway.url, &format!("{client:?}")).await;
            assert!(report.text == text() && report.error.is_none(), "{client:?}: {:?}", report.error);
            assert_eq!(model.asked(&format!("{client:?}")), 1);
        }
    })
    .await;
}

/// Where there are ids, a blank line after a heartbeat is an event for the clients in Python. So recordings have none.
#[tokio::test]
async fn heartbeats_in_the_middle_of_an_answer_change_nothing_for_the_official_clients() {
    within_3_min(async {
        let blank_line = ["--heartbeat-ms", "3"];
        let single_line = ["--heartbeat-ms", "3", "--single-line-heartbeats"];
        let records = ["--heartbeat-ms", "3", "--record"];
        for flags in [&blank_line[..], &single_line, &records] {
            let model = Model::start(Duration::ZERO, Middle::Pauses(Duration::from_millis(300))).await;
            let gateway = gateway_with(&model.url, flags).await;
            let heartbeats = heartbeats(&gateway.url).await;
            assert!(heartbeats > 10, "{heartbeats}");
            let all = Client::ALL.map(|client| {
                let url = &gateway.url;
                async move { (client, client.read(url, &format!("{client:?}")).await) }
            });
            for (client, report) in join_all(all).await {
                let is_whole = report.text == text() && report.stop.as_deref() == Some(client.stop());
                assert!(is_whole && report.error.is_none(), "{client:?} {flags:?}: {:?}", report.error);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn two_of_each_official_client_are_told_that_the_model_died() {
    within_3_min(async {
        let (_die, dies) = watch::channel(true);
        let model = Model::start(Duration::from_millis(100), Middle::Dies(dies)).await;
        let gateway = gateway(&model.url, &[]).await;
        let twice = Client::ALL.into_iter().flat_map(|client| [client, client]).map(|client| {
            let url = &gateway.url;
            async move { (client, client.read(url, &format!("{client:?}")).await) }
        });
        for (client, report) in join_all(twice).await {
            let error = report.error.expect("an error");
            assert!(error.contains("The upstream broke in the middle of its answer"), "{client:?}: {error}");
            assert!(report.text.starts_with(&token(0)) && report.stop.is_none(), "{client:?}");
            assert_eq!(model.asked(&format!("{client:?}")), 1);
        }
    })
    .await;
}
