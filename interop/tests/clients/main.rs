//! Tests clients of other projects in every way that matters. The results are the matrix in the guide.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod browser;
mod client;
mod curl;
#[path = "../../../tests/support/example.rs"]
mod example;
mod guide;
mod matrix;
mod relay;
mod resume;
mod rust;
mod scenarios;
#[path = "../../../tests/support/spec.rs"]
mod spec;
mod stage;
mod upstream;

use std::{
    io::{self, Write},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    browser::{Chromium, Firefox},
    client::{ALONE, CLIENTS, Client, Driver, Tools},
    matrix::Matrix,
    scenarios::{MEASURED, SCENARIOS, Scenario},
    stage::Stage,
};

/// The time limit of each step.
const BOUND: Duration = Duration::from_secs(120);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the step takes too long")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_does_what_the_guide_says() {
    let (node, node_drivers) = (interop::node(), interop::npm("node"));
    let chromium = Chromium::start().await;
    let firefox = Firefox::start(&node, &node_drivers).await;
    let tools = Tools {
        node,
        node_drivers,
        python: interop::python("python"),
        chromium: chromium.devtools.clone(),
        firefox: firefox.pages,
    };
    let stage = Arc::new(within(Stage::set(tools)).await);
    let all = SCENARIOS.iter().flat_map(|scenario| CLIENTS.iter().map(move |client| (scenario, client)));
    let matrix: Matrix = run(&stage, all).await;
    let alone = matrix::ALONE.iter().map(|(name, row, _)| {
        let client = ALONE.iter().find(|client| client.name == *name).expect("a client");
        (SCENARIOS.iter().find(|(rows, _)| rows.contains(row)).expect("a scenario"), client)
    });
    let alone: Matrix = run(&stage, alone).await;
    let programs = programs(&stage.tools, &chromium.version, &firefox.version);
    chromium.stop().await;
    firefox.stop().await;
    // Printed past the test harness's capture, as the person who runs the test wants to see it.
    writeln!(io::stdout(), "a quiet stream is open so long after its head: {}\n", stage.quiet()).expect("a reader");
    let surprises = [matrix::surprises(&matrix), matrix::surprises_alone(&alone)].concat();
    assert!(surprises.is_empty(), "not as expected:\n{}", surprises.join("\n"));
    let found = matrix::render(&matrix);
    writeln!(io::stdout(), "{programs}\n\n{found}").expect("a reader");
    guide::has("matrix", &found, &format!("{programs}\n"));
}

/// The number of turns at the same time. Some scenarios wait, and some work. A page in Firefox takes several turns.
const TURNS: u32 = 8;

async fn run(stage: &Arc<Stage>, what: impl Iterator<Item = (&'static Scenario, &'static Client)>) -> Matrix {
    let turns = Arc::new(Semaphore::new(TURNS as usize));
    let mut runs = JoinSet::new();
    for ((rows, scenario), client) in what {
        let (stage, turns) = (Arc::clone(stage), Arc::clone(&turns));
        runs.spawn(async move {
            let turn = match client.driver {
                // Measurements run alone.
                _ if *rows == MEASURED => TURNS,
                Driver::Firefox(_) => 2,
                _ => 1,
            };
            let turn = turns.acquire_many(turn).await.expect("the semaphore is open");
            let mut found = timeout(BOUND, scenario(&stage, client)).await;
            if found.is_err() {
                // A browser may hang on a busy machine. Then it is tried once more, alone.
                eprintln!("{} was stuck at {rows:?}", client.name);
                drop(turn);
                let _alone = turns.acquire_many(TURNS).await.expect("the semaphore is open");
                found = timeout(BOUND, scenario(&stage, client)).await;
            }
            let found = found.unwrap_or_else(|_| rows.iter().map(|row| (*row, "stuck".to_owned())).collect());
            found.into_iter().map(|(row, found)| ((client.name, row), found))
        });
    }
    runs.join_all().await.into_iter().flatten().collect()
}

#[test]
fn the_clients_ran_with_the_lines_in_the_guide() {
    guide::snippets_are_in(&["node", "page", "python", "tests/clients"]);
}

/// The versions that no lock file pins.
fn programs(tools: &Tools, chromium: &str, firefox: &str) -> String {
    let says = |program: &Path| {
        let output = Command::new(program).arg("--version").output().expect("a version");
        let text = String::from_utf8(output.stdout).expect("text");
        text.split_whitespace().find(|word| word.contains('.')).expect("a version").trim_start_matches('v').to_owned()
    };
    let (node, python, curl) = (says(&tools.node), says(&tools.python), says(&interop::program("curl")));
    format!("Chromium {chromium}, curl {curl}, Firefox {firefox}, Node {node}, Python {python}")
}
