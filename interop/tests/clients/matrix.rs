//! The expected result of each client, and the table in the guide.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use crate::client::CLIENTS;

/// The results, by client and row.
pub(crate) type Matrix = BTreeMap<(&'static str, &'static str), String>;

/// The rows, and their names in the guide.
pub(crate) const ROWS: &[(&str, &str)] = &[
    ("open", "opens `text/event-stream`"),
    ("charset", "opens `text/event-stream; charset=utf-8`"),
    ("upper case", "opens an upstream's `Text/Event-Stream`"),
    ("quiet", "opens a quiet stream at once"),
    ("twice", "opens a second stream of the same URL"),
    ("data", "data arrives exactly"),
    ("types", "event types"),
    ("ids", "ids"),
    ("inherited ids", "the id of an event without one"),
    ("line ends", "an upstream's stream, byte by byte"),
    ("mark", "an upstream's byte-order mark"),
    ("position", "`event: position`, which a stream with subscriptions begins with"),
    ("comment", "a comment, which a stream without any begins with"),
    ("blank", "heartbeat `:` and a blank line, the default"),
    ("text", "heartbeat `: text` and a blank line"),
    ("line", "heartbeat `: text` in a single line"),
    ("event", "heartbeat as an event"),
    ("retry", "obeys `retry`"),
    ("cut", "resumes after a cut"),
    ("first cut", "resumes after a cut before its first event"),
    ("filtered", "resumes after all events were filtered out"),
    ("odd id", "resumes after an upstream's id outside ASCII"),
    ("gap", "sees a gap"),
    ("farewell", "farewell, and then the next server"),
    ("204", "204 stops it"),
    ("503", "503 with `retry-after`"),
    ("reconnect", "`RefusedResponse::reconnect()`"),
];

const TABLES: &[&[&str]] = &[
    &["tower-sse.js in Chromium", "tower-sse.js in Firefox"],
    &["Chromium", "Firefox", "fetch in Chromium", "fetch in Firefox", "@microsoft/fetch-event-source"],
    &["eventsource", "undici", "eventsource-parser"],
    &["httpx-sse", "sseclient-py", "aiohttp-sse-client"],
    &["reqwest-eventsource", "eventsource-client", "sse-stream", "curl"],
];

/// A client that does not do what it should in some rows. Its other rows are `yes`.
pub(crate) struct Deviation {
    pub(crate) clients: &'static [&'static str],
    /// The rows, and the expected results.
    pub(crate) found: &'static [(&'static str, &'static str)],
    cell: &'static str,
    what: &'static str,
    remedy: &'static str,
}

pub(crate) const DEVIATIONS: &[Deviation] = &[
    Deviation {
        clients: &["Chromium", "Firefox", "eventsource", "undici", "reqwest-eventsource"],
        found: &[("503", "gives up")],
        cell: "gives up",
        what: "Any status but 200 ends the client for good, whatever `retry-after` says. The standard requires this.",
        remedy: "Use `RefusedResponse::reconnect()`.",
    },
    Deviation {
        clients: &[
            "fetch in Chromium",
            "fetch in Firefox",
            "@microsoft/fetch-event-source",
            "eventsource-parser",
            "httpx-sse",
            "sseclient-py",
            "aiohttp-sse-client",
            "reqwest-eventsource",
            "eventsource-client",
            "sse-stream",
            "curl",
        ],
        found: &[("position", "not invisible")],
        cell: "an event",
        what: "A program gets events of all types: those of the type `position` too, which have an id and no data. \
               A stream begins with one, and a heartbeat may come with one.",
        remedy: "Ignore types that you do not know.",
    },
    Deviation {
        clients: &["Firefox"],
        found: &[("inherited ids", "not of a block without data")],
        cell: "partly",
        what: "The client drops the id of a block without data.",
        remedy: "Send `data:` with every `id:`, even if it is empty. This crate does.",
    },
    Deviation {
        clients: &["@microsoft/fetch-event-source"],
        found: &[("comment", "not invisible"), ("blank", "not invisible"), ("text", "not invisible")],
        cell: "partly",
        what: "Every blank line is a message. The first comment of a stream, a heartbeat, and a `retry` without an event are messages without data, type and id.",
        remedy: "Use `Heartbeat::single_line()`, or skip messages without data.",
    },
    Deviation {
        clients: &["@microsoft/fetch-event-source"],
        found: &[("data", "not a leading line end"), ("line ends", "not no colon, only those")],
        cell: "partly",
        what: "The client loses line ends at the beginning of the data, ignores a field without a colon, and dispatches an event without data.",
        remedy: "Send JSON.",
    },
    Deviation {
        clients: &["@microsoft/fetch-event-source"],
        found: &[("inherited ids", "not an event without one has the one before, of a block without data")],
        cell: "no",
        what: "A message without an id does not get the id of the message before it. The client still resumes from the right id.",
        remedy: "Store the last id if the program needs it. All events of the registry have an id.",
    },
    Deviation {
        clients: &["@microsoft/fetch-event-source"],
        found: &[("odd id", "fails again and again")],
        cell: "no",
        what: "`fetch` accepts only Latin-1 in headers, so the client never reconnects.",
        remedy: "Use ASCII ids. All ids of this crate are ASCII.",
    },
    Deviation {
        clients: &["httpx-sse"],
        found: &[("blank", "not invisible"), ("text", "not invisible")],
        cell: "partly",
        what: "After the first id, every blank line is an event. A heartbeat, and a `retry` without an event, are events without data.",
        remedy: "Use `Heartbeat::single_line()`, or skip events without data.",
    },
    Deviation {
        clients: &["httpx-sse"],
        found: &[("line ends", "not only those")],
        cell: "partly",
        what: "The client dispatches an event without data.",
        remedy: "Skip events without data.",
    },
    Deviation {
        clients: &["sseclient-py"],
        found: &[("inherited ids", "not an event without one has the one before, of a block without data")],
        cell: "no",
        what: "An event without an id does not get the id of the event before it.",
        remedy: "Store the last id, as the code below does. All events of the registry have an id.",
    },
    Deviation {
        clients: &["sseclient-py", "reqwest-eventsource"],
        found: &[("reconnect", "not the delay")],
        cell: "own delay",
        what: "The client ignores a `retry` without data: in `RefusedResponse::reconnect()`, in `SseLayer::reconnect_delay`, and in `Drain::reconnect_delay` without a farewell.",
        remedy: "Set the delay in the client.",
    },
    Deviation {
        clients: &["aiohttp-sse-client"],
        found: &[("data", "not leading spaces, trailing line ends")],
        cell: "partly",
        what: "The client loses all spaces at the beginning of a data line, and all line ends at the end of the data. By default, a line of more than 512 KiB stops the client.",
        remedy: "Send JSON. Use a session with a larger `read_bufsize`.",
    },
    Deviation {
        clients: &["aiohttp-sse-client"],
        found: &[("line ends", "not CR, only those")],
        cell: "partly",
        what: "The client does not take CR alone for a line end.",
        remedy: "Use LF. The registry's events do.",
    },
    Deviation {
        clients: &["aiohttp-sse-client"],
        found: &[("retry", "later"), ("reconnect", "later")],
        cell: "twice as long",
        what: "The client waits twice the given time.",
        remedy: "Nothing, or set half the time.",
    },
    Deviation {
        clients: &["aiohttp-sse-client"],
        found: &[("503", "comes back sooner")],
        cell: "own delay",
        what: "The client's error does not contain `retry-after`.",
        remedy: "Wait a few seconds before you reconnect.",
    },
    Deviation {
        clients: &["eventsource-client"],
        found: &[("retry", "sooner")],
        cell: "half to all of it",
        what: "The client waits between half of the time and all of it, and twice as long after each failure.",
        remedy: "Nothing. This spreads the clients that come back.",
    },
    Deviation {
        clients: &["eventsource-client"],
        found: &[("503", "comes back sooner"), ("reconnect", "not the delay")],
        cell: "own delay",
        what: "The client ignores `retry-after`, and a `retry` without data.",
        remedy: "Set the delay in `ReconnectOptions`.",
    },
];

/// The purpose of the lines that the guide shows.
const LINES: &[(&str, &str, &str)] = &[
    (
        "eventsource, undici",
        "While the client waits to reconnect, it does not keep Node running. A program without other work exits.",
        "Keep a timer or a socket open.",
    ),
    (
        "@microsoft/fetch-event-source",
        "The end of a response stops the client. A response that is no stream, such as a 204, is an error, and the client reconnects after it.",
        "Throw in `onclose`, and check the response in `onopen`.",
    ),
    (
        "fetch in Firefox",
        "A request waits for up to 20 s while another request of the same URL is open.",
        "Set `cache: \"no-store\"`.",
    ),
    (
        "fetch in browsers, eventsource-parser, httpx-sse, sseclient-py, sse-stream, curl",
        "The client reads one response and does not reconnect.",
        "Write a loop.",
    ),
    (
        "aiohttp-sse-client",
        "The client reconnects when a response ends. A broken connection and an error status raise an error.",
        "Write a loop around it.",
    ),
    (
        "eventsource-client",
        "The client takes a 204 for a stream that ended, and reconnects again and again.",
        "Check the status of each response.",
    ),
];

/// The results of some clients without the lines.
pub(crate) const ALONE: &[(&str, &str, &str)] = &[
    ("eventsource", "retry", "gives up"),
    ("undici", "retry", "gives up"),
    ("@microsoft/fetch-event-source", "retry", "gives up"),
    ("@microsoft/fetch-event-source", "503", "comes back sooner"),
    ("fetch in Firefox", "twice", "waits"),
    ("aiohttp-sse-client", "data", TOO_LONG_A_LINE),
    ("aiohttp-sse-client", "cut", "gives up"),
    ("aiohttp-sse-client", "503", "gives up"),
    ("eventsource-client", "204", "comes back"),
];

/// The result of a client that ends at too long a line.
const TOO_LONG_A_LINE: &str = "not leading spaces, trailing line ends, 600 KB in a line, a type, \
                               a type with dots and spaces, a Unicode type, only those";

/// Returns the number of the note, if the client deviates in this row.
fn deviation(client: &str, row: &str) -> Option<(usize, &'static Deviation)> {
    let is_it = |it: &Deviation| it.clients.contains(&client) && it.found.iter().any(|(name, _)| *name == row);
    let (index, found) = DEVIATIONS.iter().enumerate().find(|(_, it)| is_it(it))?;
    Some((index + 1, found))
}

/// Returns the results that differ from the expected ones.
pub(crate) fn surprises(matrix: &Matrix) -> Vec<String> {
    let mut surprises = Vec::new();
    for client in CLIENTS {
        for (row, _) in ROWS {
            let expected = deviation(client.name, row)
                .and_then(|(_, it)| it.found.iter().find(|(name, _)| name == row))
                .map_or("yes", |(_, found)| found);
            let found = matrix.get(&(client.name, *row)).map_or("nothing", String::as_str);
            if found != expected {
                surprises.push(format!("{} | {row} | expected {expected:?}, found {found:?}", client.name));
            }
        }
    }
    surprises
}

/// Returns the results without the lines that differ from the expected ones.
pub(crate) fn surprises_alone(matrix: &Matrix) -> Vec<String> {
    let unexpected = ALONE.iter().filter(|(client, row, expected)| matrix[&(*client, *row)] != *expected);
    let tell = |(client, row, expected): &(&'static str, &'static str, &str)| {
        format!("{client} alone | {row} | expected {expected:?}, found {:?}", matrix[&(*client, *row)])
    };
    unexpected.map(tell).collect()
}

/// The tables, as they are in the guide.
pub(crate) fn render(matrix: &Matrix) -> String {
    let mut text = String::new();
    for clients in TABLES {
        let versions = clients.iter().map(|name| match version(name) {
            Some(version) => format!("`{name}` {version}"),
            None => (*name).to_owned(),
        });
        writeln!(text, "| | {} |", Vec::from_iter(versions).join(" | ")).unwrap();
        writeln!(text, "|---|{}", "---|".repeat(clients.len())).unwrap();
        for (row, title) in ROWS {
            let cells = clients.iter().map(|name| cell(name, row, &matrix[&(*name, *row)]));
            writeln!(text, "| {title} | {} |", Vec::from_iter(cells).join(" | ")).unwrap();
        }
        writeln!(text).unwrap();
    }
    writeln!(text, "`*`: only with the code below.\n").unwrap();
    writeln!(text, "| | client | what it does not do | what to do about it |\n|---|---|---|---|").unwrap();
    for (clients, what, remedy) in LINES {
        writeln!(text, "| \\* | {clients} | {what} | {remedy} |").unwrap();
    }
    for (index, it) in DEVIATIONS.iter().enumerate() {
        let clients = it.clients.join(", ");
        writeln!(text, "| {} | {clients} | {} | {} |", index + 1, it.what, it.remedy).unwrap();
    }
    text
}

fn cell(name: &str, row: &str, found: &str) -> String {
    let client = CLIENTS.iter().find(|client| client.name == name).unwrap();
    let lines = if client.with_lines.contains(&row) { "\\*" } else { "" };
    match deviation(name, row) {
        Some((number, it)) => format!("{}{lines} ({number})", it.cell),
        None => format!("{found}{lines}"),
    }
}

/// The version that a lock file pins. Chromium and curl are the machine's.
fn version(client: &str) -> Option<String> {
    let npm: Value = serde_json::from_str(include_str!("../../node/package-lock.json")).unwrap();
    if let Some(version) = npm["packages"][format!("node_modules/{client}")]["version"].as_str() {
        return Some(version.to_owned());
    }
    let python = include_str!("../../python/requirements.txt");
    if let Some(version) = python.lines().find_map(|line| line.strip_prefix(client)?.strip_prefix("==")) {
        return Some(version.to_owned());
    }
    let rust = include_str!("../../../Cargo.lock");
    // If there are several versions, the lock file says which one this crate uses.
    let (_, ours) = rust.split_once("name = \"interop\"\n")?;
    let ours = ours.split("[[package]]").next()?.split_once(&format!(" \"{client} "));
    let any = || rust.split_once(&format!("name = \"{client}\"\nversion = \""));
    Some(ours.or_else(any)?.1.split_once('"')?.0.to_owned())
}
