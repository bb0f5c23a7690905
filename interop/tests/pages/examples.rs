//! What people do on the pages of the dashboard, the notifications and the chat.

use serde_json::{Value, json};

use super::{
    DASHBOARD, Page,
    example::{Example, Server},
    within,
};

static NOTIFICATIONS: Example = Example::package("notifications");
static LLM: Example = Example::named("llm");

/// A program beside the page.
struct Program {
    http: reqwest::Client,
    url: String,
}

impl Program {
    fn beside(server: &Server) -> Self {
        Self { http: reqwest::Client::builder().no_proxy().build().unwrap(), url: server.url.clone() }
    }

    async fn publish(&self, topic: &str, data: &str) {
        let request = self.http.post(format!("{}/publish/{topic}", self.url)).body(data.to_owned());
        assert_eq!(within(request.send()).await.unwrap().status().as_u16(), 200);
    }

    async fn json(&self, path: &str) -> Value {
        let answer = within(self.http.get(format!("{}{path}", self.url)).send()).await.unwrap();
        serde_json::from_str(&within(answer.text()).await.unwrap()).unwrap()
    }

    /// Waits until the server's answer is as it should be.
    async fn until(&self, path: &str, is_right: impl Fn(&Value) -> bool) {
        within(async { while !is_right(&self.json(path).await) {} }).await;
    }
}

/// The topics of all streams, of which there can be two for a moment.
fn topics(clients: &Value) -> Vec<&str> {
    let clients = clients.as_array().unwrap();
    let mut names: Vec<_> =
        clients.iter().flat_map(|it| it["subscriptions"].as_array().unwrap()).map(|it| it.as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_dashboard_goes_on_after_a_pause_and_a_cut_and_its_topics_come_and_go_on_the_open_stream() {
    // Nothing is published but by this test, and whoever pauses is still listed.
    let environment = [("PORT", "0"), ("PRICES_MS", "0"), ("GRACE_MS", "600000")];
    let server = Server::start(DASHBOARD.command().envs(environment)).await;
    let program = Program::beside(&server);
    let mut page = Page::open(&format!("{}/?topic=orders", server.url)).await;
    page.shows("#phase[data-phase=live]", "live").await;
    page.shows("#notice", "Connected to 1 topic.").await;
    program.publish("orders", "order 1").await;
    page.shows("#streamList", "order 1").await;

    let adds = async |page: &mut Page, topic: &str| {
        page.fills("#topicName", topic).await;
        page.clicks("#topicForm button").await;
    };
    adds(&mut page, "news/*").await;
    page.shows("#topicAnswer", "Subscribed to news/*.").await;
    program.until("/clients", |clients| topics(clients) == ["news/*", "orders", "state/viewers"]).await;
    program.publish("news/today", "some news").await;
    page.shows("#streamList", "some news").await;
    adds(&mut page, "news//").await;
    page.shows("#topicAnswer[data-tone=bad]", "news//").await;
    assert_eq!(page.texts("#chips span").await, ["orders", "news/*"]);
    assert_eq!(page.texts("#reconnects").await, ["0"], "the stream stayed open");

    page.clicks("#pause").await;
    page.shows("#phase[data-phase=closed]", "closed · paused").await;
    program.until("/clients", |clients| topics(clients).is_empty()).await;
    for topic in ["orders", "news/today", "orders"] {
        program.publish(topic, "missed").await;
    }
    page.clicks("#pause").await;
    page.shows("#notice[data-tone=good]", "resumed: 3 missed events came again in order").await;
    page.until("document.querySelectorAll('#streamList .replay .tag').length === 3").await;
    page.clicks("#cut").await;
    page.shows("#notice[data-tone=good]", "resumed: no event was missed").await;
    page.shows("#phase[data-phase=live]", "live").await;
    page.shows("#reconnects", "2").await;

    // A topic that a stream had from its beginning is removed with a new stream, which goes on.
    page.clicks("[aria-label='Unsubscribe from orders']").await;
    program.until("/clients", |clients| topics(clients) == ["news/*", "state/viewers"]).await;
    program.publish("orders", "for nobody").await;
    program.publish("news/today", "the last news").await;
    page.shows("#streamList", "the last news").await;
    assert!(!page.texts("#streamList").await[0].contains("for nobody"));
    page.close().await;
}

#[tokio::test]
async fn the_tabs_of_a_user_have_one_stream_of_notifications_and_a_logout_ends_it_in_all_of_them() {
    let server = Server::start(NOTIFICATIONS.command().envs([("PORT", "0"), ("LOG", "error")])).await;
    let program = Program::beside(&server);
    let mut page = Page::open(&server.url).await;
    page.fills("[name=name]", "ada").await;
    page.clicks("#login button").await;
    page.shows("#state[data-live=true]", "Logged in as ada.").await;
    for tab in [1, 2] {
        page.does(json!({ "tab": tab })).await;
        page.shows("#state[data-live=true]", "Logged in as ada.").await;
    }
    page.fills("[name=to]", "ada").await;
    page.fills("[name=text]", "Tea is ready").await;
    page.clicks("#send button").await;
    for tab in [0, 1, 2] {
        page.does(json!({ "tab": tab })).await;
        page.shows("#list .notification", "ada: Tea is ready").await;
        assert_eq!(page.texts("#list li").await.len(), 1, "tab {tab}");
    }
    // A follower asks once when it is new. After that, there is the stream of one tab.
    program.until("/stats", |stats| stats["clients"] == 1).await;

    page.clicks("#logout").await;
    for tab in [2, 1, 0] {
        page.does(json!({ "tab": tab })).await;
        page.shows("#state", "Logged out.").await;
        page.shows("#login button", "Log in").await;
    }
    program.until("/stats", |stats| stats["clients"] == 0).await;
    page.close().await;
}

#[tokio::test]
async fn an_answer_of_the_chat_goes_on_after_a_reload_with_each_token_once() {
    let server = Server::start(LLM.command().envs([("PORT", "0"), ("TOKEN_MS", "20")])).await;
    let mut page = Page::open(&format!("{}/#chat", server.url)).await;
    page.shows("#phase[data-phase=open]", "open").await;
    page.fills("#prompt", "What is a lighthouse for?").await;
    page.clicks("#send").await;
    page.until("Number(document.querySelector('#tokens').textContent) > 5").await;
    page.does(json!({ "reload": true })).await;
    page.until("document.querySelector('.answer .mark')?.dataset.label === '↻ went on after the reload'").await;
    page.shows(".answer[data-state=done]", "complete").await;
    page.shows("#phase[data-phase=open]", "open").await;
    let answer = page.texts(".answer .text").await;
    // A tab that comes after the end has the answer from the server in one go.
    page.does(json!({ "tab": 1 })).await;
    page.shows(".answer[data-state=done]", "complete").await;
    assert_eq!(page.texts(".answer .text").await, answer);
    assert!(answer[0].len() > 100, "{answer:?}");
    page.close().await;
}
