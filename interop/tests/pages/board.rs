//! What people do in each tab of the board, in a real browser.

use std::net::TcpListener;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Browser, Page,
    example::{Example, Server},
    within,
};

static BOARD: Example = Example::named("board");

async fn start() -> Server {
    Server::start(BOARD.command().env("PORT", "0").env("STEP_MS", "700").env("SAMPLE_MS", "200").env("GRACE_MS", "300"))
        .await
}

/// Each test in each browser.
macro_rules! in_both_browsers {
    ($($name:ident,)*) => {
        mod chromium {
            $(#[tokio::test] async fn $name() { super::$name(super::Browser::Chromium).await; })*
        }
        mod firefox {
            $(#[tokio::test] async fn $name() { super::$name(super::Browser::Firefox).await; })*
        }
    };
}

in_both_browsers! {
    an_order_shows_each_step_once_to_its_end_also_over_a_reload,
    prices_come_and_go_while_the_same_stream_stays_open,
    the_monitors_history_goes_on_after_a_reload_without_a_hole,
    two_people_edit_one_list_and_see_each_other_and_what_was_written_over,
    eight_tabs_of_a_visitor_have_one_stream_also_when_the_tab_that_has_it_is_closed,
    the_page_says_that_it_is_cut_off_and_goes_on_when_the_server_is_back,
    the_tabs_work_by_keyboard_and_nothing_is_wider_than_a_phone,
}

impl Page {
    /// Opens a tab of the board, as somebody with this name.
    async fn board(browser: Browser, server: &Server, tab: &str, name: &str) -> Self {
        let mut page = Self::open_in(browser, &format!("{}/#{tab}", server.url)).await;
        page.is_live().await;
        page.fills("#name", name).await;
        page.clicks("#nameForm button").await;
        page.until(&format!("localStorage.getItem('board name') === {}", json!(json!(name).to_string()))).await;
        page
    }

    async fn is_live(&mut self) {
        self.shows("#stream[data-live=true] #phase", "live").await;
    }

    async fn reloads(&mut self) {
        self.does(json!({ "reload": true })).await;
        self.is_live().await;
    }

    async fn presses(&mut self, key: &str) {
        self.does(json!({ "press": key })).await;
    }

    async fn counts_of_history(&mut self) -> Value {
        self.ask("({ ...document.querySelector('#history').dataset })").await
    }
}

/// A visitor without a browser.
struct Visitor {
    http: reqwest::Client,
    url: String,
    cookie: String,
}

impl Visitor {
    async fn of(server: &Server, name: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let page = within(http.get(&server.url).send()).await.unwrap();
        let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let it = Self { http, url: server.url.clone(), cookie };
        it.sends("PUT", "/me", &json!({ "name": name })).await;
        it
    }

    async fn sends(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = request.header("cookie", &self.cookie).header("content-type", "application/json");
        let answer = within(request.body(body.to_string()).send()).await.unwrap();
        (answer.status().as_u16(), within(answer.text()).await.unwrap())
    }

    async fn gets(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}{path}", self.url)).header("cookie", &self.cookie);
        serde_json::from_str(&within(within(request.send()).await.unwrap().text()).await.unwrap()).unwrap()
    }

    async fn line(&self, id: u64) -> Value {
        let notes = self.gets("/notes").await;
        notes["lines"].as_array().unwrap().iter().find(|line| line["id"] == id).unwrap().clone()
    }
}

async fn an_order_shows_each_step_once_to_its_end_also_over_a_reload(browser: Browser) {
    let server = start().await;
    let mut page = Page::board(browser, &server, "orders", "Ada").await;
    page.fills("#item", "tea").await;
    page.clicks("#orderForm button").await;
    page.shows("#orderList .done", "paid").await;
    page.reloads().await;
    page.until("document.querySelectorAll('[data-state=done] .steps .done').length === 5").await;
    let steps = page.texts("#orderList .steps li span:first-of-type").await;
    assert_eq!(steps, ["received", "paid", "packed", "on its way", "delivered"]);
    page.shows("#unread", "1").await;

    page.fills("#item", "lamp").await;
    page.clicks("#orderForm button").await;
    page.shows("#orderList [data-state=failed]", "it is sold out").await;
    page.shows("#unread", "2").await;
    // A screen reader hears of the last one.
    page.shows("#said", "sold out").await;
    // Orders that have ended are still there, and nobody asks the server for them.
    page.reloads().await;
    assert_eq!(page.texts("#orderList [data-state=failed]").await.len(), 1);
    assert_eq!(page.texts("#orderList [data-state=done] .done").await.len(), 5);
    page.close().await;
}

async fn prices_come_and_go_while_the_same_stream_stays_open(browser: Browser) {
    let server = start().await;
    let mut page = Page::board(browser, &server, "stocks", "Ada").await;
    let points = |symbol: &str| format!("document.querySelector('[data-symbol={symbol}]')?.dataset.points > 3");
    for symbol in ["FERN", "IVYR", "DUNE"] {
        page.until(&points(symbol)).await;
    }
    page.fills("#symbol", "KELP").await;
    page.clicks("#stockForm button").await;
    page.until(&points("KELP")).await;
    page.clicks("[data-symbol=FERN] button").await;
    assert_eq!(page.texts("#stockList .fill").await, ["IVYR", "DUNE", "KELP"]);
    page.until(&points("DUNE")).await;
    // A request is listed when its response has ended.
    let ended = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/events')).length";
    assert_eq!(page.ask(ended).await, 0, "the stream was opened again");
    // The choice survives a reload.
    page.reloads().await;
    page.until(&points("KELP")).await;
    assert_eq!(page.texts("#stockList .fill").await, ["IVYR", "DUNE", "KELP"]);
    page.close().await;
}

async fn the_monitors_history_goes_on_after_a_reload_without_a_hole(browser: Browser) {
    let server = start().await;
    let mut page = Page::board(browser, &server, "monitor", "Ada").await;
    page.until("document.querySelector('#history').dataset.samples >= 15").await;
    page.reloads().await;
    page.until("document.querySelector('#history').dataset.came >= 5").await;
    let counts = page.counts_of_history().await;
    assert!(counts["kept"].as_str().unwrap().parse::<u32>().unwrap() >= 15, "{counts}");
    assert_eq!(counts["missed"], "0");
    let lines =
        page.ask("[...document.querySelectorAll('#charts path.first')].map((path) => path.getAttribute('d'))").await;
    for line in lines.as_array().unwrap() {
        let line = line.as_str().unwrap();
        assert!(line.matches('L').count() >= 15 && line.matches('M').count() == 1, "{line}");
    }

    page.shows("#alertList .info", "The monitor has begun.").await;
    page.clicks("#work").await;
    page.until("/of the busiest core is in use/.test(document.querySelector('#alertList').textContent)").await;
    page.fills("#level", "1").await;
    assert_eq!(page.texts("#alertList .info").await, Vec::<String>::new());
    // The topic is added again, and starts with its last events.
    page.fills("#level", "0").await;
    page.shows("#alertList .info", "The monitor has begun.").await;
    page.close().await;
}

async fn two_people_edit_one_list_and_see_each_other_and_what_was_written_over(browser: Browser) {
    let server = start().await;
    let bystander = Visitor::of(&server, "Linus").await;
    let hostile = "<img src=x onerror=alert(1)>";
    let (mut ada, mut grace) =
        tokio::join!(Page::board(browser, &server, "notes", "Ada"), Page::board(browser, &server, "notes", "Grace"));
    for page in [&mut ada, &mut grace] {
        page.shows("#here .person", "Ada").await;
        page.shows("#here .person", "Grace").await;
        page.until("document.querySelectorAll('#lineList input').length === 3").await;
    }
    let first = "document.querySelector('#lineList input')";
    let reads = |text: &str| format!("{first}.value === {}", json!(text));
    // Grace sees what Ada writes, and where Ada's cursor is.
    ada.clicks("#lineList input").await;
    ada.presses("End").await;
    ada.does(json!({ "type": " and butter" })).await;
    grace.until(&reads("Bread and butter")).await;
    grace.shows("#lineList .cursor", "Ada").await;

    // Grace types on and on, and has not seen what Ada writes meanwhile.
    let typing = format!(
        "globalThis.typing = setInterval(() => {{ const it = {first}; it.value += '.'; \
        it.dispatchEvent(new Event('input', {{ bubbles: true }})); }}, 50)"
    );
    let before = bystander.line(1).await["version"].as_u64().unwrap();
    grace.ask(&typing).await;
    ada.does(json!({ "type": " and jam" })).await;
    within(async { while bystander.line(1).await["text"] != "Bread and butter and jam" {} }).await;
    assert!(bystander.line(1).await["version"].as_u64().unwrap() > before);
    grace.ask("clearInterval(globalThis.typing)").await;
    grace.shows(".conflict", "You wrote over “Bread and butter and jam” by Ada.").await;
    ada.shows(".conflict", "Grace wrote over “Bread and butter and jam” by you.").await;
    ada.shows("#said", "Grace wrote over").await;
    ada.clicks(".conflict button").await;
    grace.until(&reads("Bread and butter and jam")).await;

    // Texts of others are texts, whatever they are.
    bystander.sends("PUT", "/me", &json!({ "name": "<b>Linus</b>" })).await;
    assert_eq!(bystander.sends("PUT", "/notes/2", &json!({ "text": hostile, "base": 1 })).await.0, 200);
    ada.until(&format!(
        "[...document.querySelectorAll('#lineList input')].some(({{ value }}) => value === {})",
        json!(hostile)
    ))
    .await;
    ada.shows("#lineList .by", "<b>Linus</b>").await;

    // A line that is removed is removed for all, and a new one is there for all.
    grace.clicks("[data-id='2'] button").await;
    ada.until("!document.querySelector('[data-id=\"2\"]')").await;
    ada.fills("#newLine", "Honey").await;
    ada.presses("Enter").await;
    grace.until("[...document.querySelectorAll('#lineList input')].at(-1).value === 'Honey'").await;
    // Whoever leaves the tab is not here any more.
    grace.clicks("#ordersTab").await;
    ada.until("document.querySelector('#here').textContent === 'Ada (you)'").await;
    ada.until("!document.querySelector('.cursor')").await;
    ada.close().await;
    grace.close().await;
}

#[tokio::test]
async fn a_notification_is_counted_until_it_is_seen() {
    // Firefox cannot be told to allow notifications.
    let browser = Browser::Chromium;
    let server = start().await;
    let mut ada = Page::board(browser, &server, "notices", "Ada").await;
    let mut grace = Page::board(browser, &server, "orders", "Grace").await;
    ada.fills("#noticeText", "Tea is <ready>").await;
    ada.clicks("#noticeForm button").await;
    ada.shows("#noticeList", "Tea is <ready>").await;
    grace.shows("#unread", "1").await;
    grace.until("document.title === '(1) Board'").await;
    grace.shows("#said", "Ada: Tea is <ready>").await;
    grace.clicks("#noticesTab").await;
    grace.shows("#noticeList li", "Tea is <ready>").await;
    grace.until("document.title === 'Board' && document.querySelector('#unread').hidden").await;
    // It stays seen over a reload, and what is for one visitor is for nobody else.
    grace.clicks("#ordersTab").await;
    grace.reloads().await;
    ada.fills("#noticeTo", "me").await;
    ada.fills("#noticeText", "Only for Ada").await;
    ada.clicks("#noticeForm button").await;
    ada.shows("#noticeList", "Only for Ada").await;
    ada.fills("#noticeTo", "everybody").await;
    ada.fills("#noticeText", "For all").await;
    ada.clicks("#noticeForm button").await;
    grace.shows("#unread", "1").await;
    assert_eq!(grace.texts("#noticeList li span").await, ["For all", "Tea is <ready>"]);
    grace.clicks("#noticesTab").await;

    ada.does(json!({ "allow": "notifications" })).await;
    ada.reloads().await;
    ada.shows("#permission", "The browser tells you when you look elsewhere.").await;
    ada.does(json!({ "hide": true })).await;
    ada.until("document.hidden").await;
    grace.fills("#noticeText", "Look here").await;
    grace.does(json!({ "press": "Enter" })).await;
    ada.until("document.querySelector('#noticeList').textContent.includes('Look here (shown by the browser)')").await;
    ada.until("document.title === '(1) Board'").await;
    ada.does(json!({ "hide": false })).await;
    ada.until("document.title === 'Board'").await;
    ada.close().await;
    grace.close().await;
}

async fn eight_tabs_of_a_visitor_have_one_stream_also_when_the_tab_that_has_it_is_closed(browser: Browser) {
    let server = start().await;
    let mut page = Page::board(browser, &server, "orders", "Ada").await;
    // Over HTTP/1.1, a browser opens six connections to a server.
    for tab in 1..8 {
        page.does(json!({ "tab": tab })).await;
        page.is_live().await;
        let phase = page.ask("document.querySelector('#stream').dataset.phase").await;
        assert_eq!(phase, "following", "tab {tab}");
    }
    page.clicks("#orderForm button").await;
    page.shows("#orderList [data-state=done]", "delivered").await;
    for tab in [0, 4, 7] {
        page.does(json!({ "tab": tab })).await;
        page.shows("#unread", "1").await;
    }
    page.does(json!({ "tab": 0 })).await;
    page.does(json!({ "leave": true })).await;
    page.does(json!({ "tab": 3 })).await;
    page.clicks("#noticesTab").await;
    page.fills("#noticeText", "Who listens now?").await;
    page.clicks("#noticeForm button").await;
    for tab in 1..8 {
        page.does(json!({ "tab": tab })).await;
        page.until("document.querySelector('#noticeList').textContent.includes('Who listens now?')").await;
    }
    page.close().await;
}

async fn the_page_says_that_it_is_cut_off_and_goes_on_when_the_server_is_back(browser: Browser) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let begin = async || Server::start(BOARD.command().env("PORT", port.to_string()).env("STEP_MS", "60000")).await;
    let mut server = begin().await;
    let mut page = Page::board(browser, &server, "orders", "Ada").await;
    page.clicks("#orderForm button").await;
    page.shows("#orderList .done", "received").await;
    server.process.kill().await.unwrap();
    drop(server);
    page.shows("#stream[data-phase=waiting]", "no connection again in").await;
    page.shows("#said", "What you see is old.").await;
    // Meanwhile, an order says what is wrong.
    page.clicks("#orderForm button").await;
    page.shows("#orders .answer", "The server cannot be reached.").await;

    server = begin().await;
    page.is_live().await;
    // The new process does not know the order, and the page does not pretend that it goes on.
    page.shows("#orderList [data-state=failed]", "the server does not know this order any more").await;
    page.clicks("#notesTab").await;
    page.shows("#here .person", "Ada (you)").await;
    page.close().await;
    drop(server);
}

async fn the_tabs_work_by_keyboard_and_nothing_is_wider_than_a_phone(browser: Browser) {
    let server = start().await;
    let mut page = Page::board(browser, &server, "orders", "Ada").await;
    page.ask("document.querySelector('#ordersTab').focus()").await;
    let selected = "[document.activeElement.id, document.querySelector('[aria-selected=true]').id, \
        document.querySelector('[role=tabpanel]:not([hidden])').id, document.querySelectorAll('[role=tab][tabindex=\"-1\"]').length]";
    for (key, tab) in [
        ("ArrowRight", "stocks"),
        ("ArrowRight", "monitor"),
        ("End", "notices"),
        ("ArrowRight", "orders"),
        ("ArrowLeft", "notices"),
        ("Home", "orders"),
    ] {
        page.presses(key).await;
        assert_eq!(page.ask(selected).await, json!([format!("{tab}Tab"), format!("{tab}Tab"), tab, 4]), "{key}");
    }
    page.presses("Tab").await;
    assert_eq!(page.ask("document.activeElement.id").await, "orders");
    let outline = page.ask("getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(outline, "solid", "the focus can be seen");

    page.does(json!({ "size": [360, 740] })).await;
    page.clicks("#orderForm button").await;
    page.shows("#orderList", "order 1").await;
    for tab in ["orders", "stocks", "monitor", "notes", "notices"] {
        page.clicks(&format!("#{tab}Tab")).await;
        // Firefox has a scroll bar beside the page.
        let widths =
            page.ask("(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth])(document.documentElement)").await;
        assert!(widths[0] == widths[1] && widths[0].as_u64() <= Some(360), "{tab}: {widths}");
        // Every field and button has a name.
        let nameless = "[...document.querySelectorAll('input, select, button')].filter((it) => it.checkVisibility() \
            && !it.labels?.length && !it.ariaLabel && !it.textContent.trim()).map((it) => it.outerHTML)";
        assert_eq!(page.ask(nameless).await, json!([]), "{tab}");
    }
    page.close().await;
}

#[tokio::test]
async fn the_server_checks_what_it_is_sent_and_by_whom() {
    let server = start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/events", "/notes"] {
        let answer = within(http.get(format!("{}{path}", server.url)).send()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{path}");
    }
    let page = within(http.get(&server.url).send()).await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");

    // A page of another site, and one whose name points to this machine.
    for (header, value, status) in [("sec-fetch-site", "cross-site", 403), ("host", "page.test", 421)] {
        let request = http.post(format!("{}/notes", server.url)).header(header, value);
        assert_eq!(within(request.body("{}").send()).await.unwrap().status().as_u16(), status, "{header}");
    }

    let (ada, eve) = (Visitor::of(&server, "Ada").await, Visitor::of(&server, "Eve").await);
    let long = "x".repeat(201);
    for (method, path, body, status, sentence) in [
        ("PUT", "/me", json!({ "name": "x".repeat(25) }), 422, "name has 25 characters, and may have 24"),
        ("PUT", "/me", json!({ "name": " " }), 422, "name has to be a text"),
        ("POST", "/orders", json!({ "item": "moon" }), 422, "item has to be one of those that the shop has"),
        ("POST", "/notes", json!({ "text": long }), 422, "text has 201 characters, and may have 200"),
        ("POST", "/notes", json!({ "text": "two\nlines" }), 422, "text has to be one line"),
        ("PUT", "/notes/1", json!({ "text": "x", "base": -1 }), 422, "base has to be a whole number"),
        ("PUT", "/notes/99", json!({ "text": "x", "base": 1 }), 404, "somebody has removed this line"),
        ("POST", "/notes/cursor", json!({ "line": 99, "at": 1 }), 404, "somebody has removed this line"),
        ("POST", "/notices", json!({ "text": "x", "to": "Eve" }), 422, "to has to be everybody, me or me later"),
        ("POST", "/nowhere", json!({}), 404, "there is nothing at this address; the page is at /"),
    ] {
        assert_eq!(ada.sends(method, path, &body).await, (status, sentence.to_owned()), "{method} {path}");
    }

    // Nobody gets somebody else's order, nor changes the topics of somebody else's stream.
    let (status, order) = ada.sends("POST", "/orders", &json!({ "item": "tea" })).await;
    assert_eq!(status, 201);
    let order: Value = serde_json::from_str(&order).unwrap();
    let topic = order["topic"].as_str().unwrap();
    let opens = async |visitor: &Visitor| {
        let request = visitor.http.get(format!("{}/events?hello=1&topic={topic}&topic=notes", visitor.url));
        within(request.header("cookie", &visitor.cookie).send()).await.unwrap()
    };
    let begins = async |stream: &mut reqwest::Response, until: &str| {
        let mut text = String::new();
        while !text.contains(until) {
            text += std::str::from_utf8(&within(stream.chunk()).await.unwrap().expect("an open stream")).unwrap();
        }
        text
    };
    let mut stream = opens(&eve).await;
    let text = begins(&mut stream, "event: live").await;
    assert!(text.contains("event: refused") && !text.contains("\"step\""), "{text}");
    let mut stream = opens(&ada).await;
    let text = begins(&mut stream, "\"step\"").await;
    let client = text.split_once("\"client\":\"").unwrap().1.split('"').next().unwrap();
    let change = json!({ "client": client, "topics": ["notes"] });
    assert_eq!(eve.sends("PUT", "/topics", &change).await.0, 404);
    assert_eq!(ada.sends("PUT", "/topics", &change).await.0, 200);

    // A visitor who is too fast has to wait, and nobody else.
    let nowhere = json!({});
    let answers = join_all((0..200).map(|_| eve.sends("POST", "/notes/cursor", &nowhere))).await;
    let count = |wanted| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert!(count(204) >= 20 && count(429) >= 1 && count(204) + count(429) == 200, "{} {}", count(204), count(429));
    assert_eq!(ada.sends("POST", "/notes/cursor", &json!({})).await.0, 204);
}

#[tokio::test]
async fn the_count_of_unread_notifications_can_be_read_on_a_phone() {
    let server = start().await;
    let mut ada = Page::board(Browser::Chromium, &server, "orders", "Ada").await;
    ada.does(json!({ "size": [360, 740] })).await;
    ada.ask(
        "void fetch('/notices', { method: 'POST', headers: { 'content-type': 'application/json' }, \
        body: JSON.stringify({ text: 'hello', to: 'everybody' }) })",
    )
    .await;
    ada.shows("#unread", "1").await;
    let hidden = "[document.querySelector('#unread'), document.querySelector('[role=tablist]')]\
        .map((it) => it.getBoundingClientRect().right).reduce((count, list) => Math.max(0, count - list))";
    assert_eq!(ada.ask(hidden).await, 0, "so many pixels of it are cut off");
    ada.close().await;
}
