//! The registry's events take no more memory than the budget, as the operating system counts it.

use std::{env, fs, process::Command};

use tower_sse::{Event, Registry, RegistryConfig, Retention, Subscription};

/// The memory that this process has in use, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// Publishes events on topics, with their own ids if `own_ids` is 1, while this many patterns match all of them.
/// Returns the largest growth of the memory.
fn flood(budget: usize, [topics, events, size, own_ids, patterns]: [usize; 5]) -> usize {
    let config = RegistryConfig::default().total_retention(Retention::default().bytes(budget));
    let registry = Registry::with_config(config.topic_retention(Retention::default()));
    let data = "x".repeat(size);
    // No client reads the events of these patterns.
    let client = registry.connect();
    ["topic/*", "**", "*/*", "topic/**"][..patterns]
        .iter()
        .for_each(|pattern| client.subscribe(Subscription::matching(*pattern)).unwrap());
    let before = resident();
    let mut most = before;
    for number in 0..events {
        let mut event = Event::data(&data);
        if own_ids == 1 {
            event = event.id(format!("order-{number}")).unwrap();
        }
        registry.publish(format!("topic/{}", number % topics), event).unwrap();
        if number % 1000 == 0 {
            most = most.max(resident());
        }
    }
    let stats = registry.stats();
    assert!(stats.bytes <= budget && stats.bytes > budget / 10 * 9, "{stats:?}");
    println!(
        "{events} events of {size} B on {topics} topics, {patterns} patterns: {} KiB of {} KiB",
        (most - before) / 1024,
        budget / 1024
    );
    most - before
}

/// Each flood runs in a process of its own, so that it cannot use memory that another has freed.
#[test]
fn no_flood_takes_more_memory_than_the_budget() {
    const BUDGET: usize = 64 << 20;
    const FLOOD: &str = "TOWER_SSE_TEST_FLOOD";
    if let Ok(flood_of) = env::var(FLOOD) {
        let numbers: Vec<usize> = flood_of.split(' ').map(|number| number.parse().unwrap()).collect();
        let taken = flood(BUDGET, numbers.try_into().unwrap());
        assert!(taken <= BUDGET, "{taken} bytes for topics, events, size, own ids, patterns {flood_of}");
        return;
    }
    // A thousand topics with a million events of 1 KiB. Then tiny events, and topics with one event each, whose
    // bookkeeping takes most of the memory. Then few large events, ids that are indexed, and patterns with rows of
    // their own.
    for flood_of in [
        "1000 1000000 1024 0 0",
        "1000 1000000 1 0 0",
        "1 1000000 1 0 0",
        "1000000 1000000 1 0 0",
        "10 20000 60000 0 0",
        "1000 1000000 1 1 0",
        "1 1000000 1 1 0",
        "1000000 1000000 1 1 0",
        "1000 1000000 1 0 4",
        "1000000 1000000 1 0 4",
        "1000 1000000 1 1 4",
    ] {
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "memory::no_flood_takes_more_memory_than_the_budget", "--nocapture"])
            .env(FLOOD, flood_of);
        assert!(child.status().unwrap().success(), "topics, events, size, own ids, patterns: {flood_of}");
    }
}
