//! The conformance suite of the Model Context Protocol project.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// The results of the suite, by scenario.
pub(crate) type Results = BTreeMap<String, Vec<Check>>;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    pub(crate) id: String,
    /// `SUCCESS`, `WARNING`, `FAILURE`, or `INFO` for what was sent and received.
    pub(crate) status: String,
    error_message: Option<String>,
    #[serde(default)]
    details: Value,
}

/// All scenarios for servers.
pub(crate) const ALL: &[&str] = &["--suite", "all"];

/// Runs these scenarios against the server at this address.
pub(crate) async fn run(url: &str, scenarios: &[&str]) -> Results {
    let (node, suite) = tokio::task::spawn_blocking(|| (interop::node(), interop::npm("mcp"))).await.unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(node);
    command
        .arg(suite.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"))
        .args(["server", "--url", url, "--output-dir"])
        .arg(folder.path())
        .args(scenarios)
        .current_dir(&suite)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // The exit code says whether a check failed. So do the results.
    let output = timeout(Duration::from_secs(180), command.output()).await.expect("the suite takes too long").unwrap();
    let results = read(folder.path());
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!results.is_empty(), "no results: {said}");
    results
}

/// The folders' names are `server-SCENARIO-2026-01-31T12-34-56-789Z`.
fn read(folder: &Path) -> Results {
    const TIME: usize = "-2026-01-31T12-34-56-789Z".len();
    let scenarios = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    scenarios
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let checks = fs::read(entry.path().join("checks.json")).unwrap();
            let mut checks: Vec<Check> = serde_json::from_slice(&checks).unwrap();
            for check in &mut checks {
                leave_out_what_differs(&mut check.details);
                // With each event, the suite notes the last `retry` that has arrived. If two events arrive at once,
                // that is the later one's. Another check covers the right `retry`.
                if let ("incoming-sse-event", Value::Object(details)) = (&*check.id, &mut check.details) {
                    details.remove("retryValue");
                }
            }
            (name[..name.len() - TIME].trim_start_matches("server-").to_owned(), checks)
        })
        .collect()
}

/// Removes what differs from run to run: addresses, times, session ids, and the order of simultaneous requests. Also
/// removes the one header that the layer adds to rmcp's responses.
fn leave_out_what_differs(details: &mut Value) {
    const NAMES: [&str; 9] =
        ["connection", "date", "hostHeader", "mcp-session-id", "originHeader", "results", "serverUrl", "url", "via"];
    match details {
        Value::Object(fields) => {
            fields.retain(|name, _| !NAMES.contains(&name.as_str()));
            fields.values_mut().for_each(leave_out_what_differs);
        }
        Value::Array(values) => values.iter_mut().for_each(leave_out_what_differs),
        _ => {}
    }
}

/// The checks that did not succeed: the scenario, the check, and its status.
pub(crate) fn complaints(results: &Results) -> Vec<[&str; 3]> {
    let all = results.iter().flat_map(|(scenario, checks)| checks.iter().map(move |check| (scenario, check)));
    all.filter(|(_, check)| !["SUCCESS", "INFO"].contains(&check.status.as_str()))
        .map(|(scenario, check)| [scenario.as_str(), &check.id, &check.status])
        .collect()
}
