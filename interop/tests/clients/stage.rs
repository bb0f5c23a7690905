//! The servers that clients are tested against.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex, time::Duration};

use axum::{Router, routing::get, serve::ListenerExt};
use http::StatusCode;
use serde_json::Value;
use tokio::net::TcpListener;
use tower_sse::{ClientHandle, EventStream, SseLayer, SubscribeError, Subscription};

use crate::{
    client::Tools,
    example::{Example, Server},
    upstream::Upstream,
};

static DASHBOARD: Example = Example::named("dashboard");
static GATEWAY: Example = Example::named("gateway");

pub(crate) struct Stage {
    pub(crate) tools: Tools,
    pub(crate) upstream: Upstream,
    /// A gateway in front of the upstream.
    pub(crate) gateway: Server,
    pub(crate) dashboard: Dashboard,
    /// A gateway in front of the dashboard.
    pub(crate) dashboard_gateway: Server,
    /// A dashboard that retains five events per topic.
    pub(crate) forgetful_dashboard: Dashboard,
    /// How long each client took to report that a silent stream is open.
    pub(crate) quiet: Mutex<BTreeMap<&'static str, Duration>>,
}

impl Stage {
    pub(crate) async fn set(tools: Tools) -> Self {
        let upstream = Upstream::start().await;
        let dashboard = Dashboard::start(&[]).await;
        Self {
            tools,
            gateway: gateway(&format!("http://{}", upstream.address)).await,
            dashboard_gateway: gateway(&dashboard.server.url).await,
            upstream,
            dashboard,
            forgetful_dashboard: Dashboard::start(&[("RETENTION_EVENTS", "5")]).await,
            quiet: Mutex::default(),
        }
    }

    /// How long each client took to report that a silent stream is open, as text.
    pub(crate) fn quiet(&self) -> String {
        let told = self.quiet.lock().unwrap();
        Vec::from_iter(told.iter().map(|(name, took)| format!("{name} {took:.1?}"))).join(", ")
    }
}

async fn gateway(upstream: &str) -> Server {
    Server::start(GATEWAY.command().args(["--listen", "127.0.0.1:0", "--upstream", upstream])).await
}

/// The dashboard with its default settings, except these.
pub(crate) struct Dashboard {
    pub(crate) server: Server,
    http: reqwest::Client,
}

impl Dashboard {
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = DASHBOARD.command();
        let server = Server::start(command.env("PORT", "0").envs(settings.iter().copied())).await;
        Self { server, http: reqwest::Client::builder().no_proxy().build().expect("a client") }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address(&self.server.url)
    }

    /// Publishes, and returns the event's id.
    pub(crate) async fn publish(&self, topic: &str, event_type: &str, data: &str) -> String {
        let mut url = format!("{}/publish/{topic}", self.server.url);
        if event_type != "message" {
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("event", event_type).finish();
            url = format!("{url}?{query}");
        }
        let answer = self.http.post(url).body(data.to_owned()).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let receipt: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
        receipt["id"].as_str().expect("an id").to_owned()
    }
}

pub(crate) fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").and_then(|address| address.parse().ok()).expect("an address")
}

/// The topic of [`serve`].
pub(crate) const TOPIC: &str = "news";

/// The attribute of events that the filter of [`serve`] hides.
#[derive(Debug, Clone)]
pub(crate) struct Hidden;

/// Serves a stream of the topic behind this layer. Returns its address.
pub(crate) async fn serve(layer: SseLayer) -> SocketAddr {
    async fn stream(client: ClientHandle) -> Result<EventStream, SubscribeError> {
        client.subscribe(Subscription::to(TOPIC).filter(|event, _| event.attribute::<Hidden>().is_none()))?;
        Ok(client.into_stream())
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let listener = listener.tap_io(|connection| connection.set_nodelay(true).expect("an option"));
    let app = Router::new().route("/", get(stream)).layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}
