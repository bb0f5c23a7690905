//! The monitor: a sample of the machine once a second, and alerts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tower_sse::Registry;

use crate::{
    App,
    machine::{Counters, Sample},
    orders::now,
    problem::{Problem, problem},
    publish, topics,
};

pub(crate) const LEVELS: [&str; 3] = ["info", "warn", "error"];
/// How long [`work`] keeps a core busy.
const WORK: Duration = Duration::from_secs(4);

pub(crate) struct Monitor {
    registry: Registry,
    has_figures: bool,
    works: AtomicBool,
}

impl Monitor {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), has_figures: Counters::read().is_ok(), works: AtomicBool::new(false) }
    }

    pub(crate) fn has_figures(&self) -> bool {
        self.has_figures
    }

    /// Publishes samples and alerts while the process runs. Without `/proc` there is nothing to publish.
    pub(crate) async fn watch(self: Arc<Self>, pause: Duration) {
        let mut ticks = interval(pause.max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alerts = Alerts::default();
        let mut before: Option<(Counters, Instant)> = None;
        let mut number = 0_u64;
        loop {
            let at = ticks.tick().await.into_std();
            let Ok(counters) = Counters::read() else { return };
            if let Some((last, then)) = &before {
                let sample = counters.since(last, (at - *then).as_secs_f64());
                number += 1;
                publish(&self.registry, topics::MONITOR, &to_json(number, &sample));
                for (level, text) in alerts.note(&sample) {
                    let alert = json!({ "n": number, "level": level, "text": text, "at": now() });
                    publish(&self.registry, &format!("alerts/{level}"), &alert);
                }
            }
            before = Some((counters, at));
        }
    }
}

fn to_json(number: u64, sample: &Sample) -> Value {
    json!({
        // Without a hole, so that a page can check that it has missed nothing.
        "n": number,
        "at": now(),
        "cpu": tenths(sample.cpu),
        "busiest": tenths(sample.busiest),
        "used": sample.memory.used,
        "memory": sample.memory.all,
        "received": sample.received.round(),
        "sent": sample.sent.round(),
    })
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Tells once when a figure crosses a threshold, and once when it is well below again.
#[derive(Default)]
struct Alerts {
    core: usize,
    memory: usize,
    has_begun: bool,
}

impl Alerts {
    fn note(&mut self, sample: &Sample) -> Vec<(&'static str, String)> {
        let mut told = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            told.push((LEVELS[0], "The monitor has begun.".to_owned()));
        }
        let memory = 100.0 * sample.memory.used as f64 / sample.memory.all.max(1) as f64;
        for (state, name, value, thresholds) in [
            (&mut self.core, "the busiest core", sample.busiest, [85.0, 97.0]),
            (&mut self.memory, "memory", memory, [85.0, 95.0]),
        ] {
            let level = thresholds.iter().filter(|threshold| value >= **threshold).count();
            let is_well_below = value < thresholds[0] - 15.0;
            if level > *state {
                told.push((LEVELS[level], format!("{value:.0} % of {name} is in use.")));
                *state = level;
            } else if *state > 0 && is_well_below {
                told.push((LEVELS[0], format!("{value:.0} % of {name} is in use: all is well again.")));
                *state = 0;
            }
        }
        told
    }
}

/// Keeps one core busy for a few seconds.
pub(crate) async fn work(State(App { monitor, .. }): State<App>) -> Result<Json<Value>, Problem> {
    if monitor.works.swap(true, Ordering::Relaxed) {
        return Err(problem(StatusCode::CONFLICT, "a core is busy already"));
    }
    let ends = Works(monitor);
    // A thread of its own: the runtime's are for short work.
    let worker = thread::Builder::new().name("work".to_owned()).spawn(move || {
        let begin = Instant::now();
        while begin.elapsed() < WORK {
            std::hint::spin_loop();
        }
        drop(ends);
    });
    worker.map_err(|error| problem(StatusCode::SERVICE_UNAVAILABLE, format!("no thread: {error}")))?;
    Ok(Json(json!({ "seconds": WORK.as_secs() })))
}

/// A core is busy until this is dropped.
struct Works(Arc<Monitor>);

impl Drop for Works {
    fn drop(&mut self) {
        self.0.works.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Memory;

    fn sample(busiest: f64) -> Sample {
        Sample { cpu: 1.0, busiest, memory: Memory { used: 1, all: 10 }, received: 0.0, sent: 0.0 }
    }

    #[test]
    fn an_alert_is_told_once_for_each_threshold_and_once_when_all_is_well_again() {
        let mut alerts = Alerts { has_begun: true, ..Alerts::default() };
        let mut levels = |busiest| alerts.note(&sample(busiest)).into_iter().map(|it| it.0).collect::<Vec<_>>();
        let told: Vec<_> = [10.0, 90.0, 91.0, 99.0, 90.0, 80.0, 60.0, 60.0, 99.0].map(&mut levels).concat();
        assert_eq!(told, ["warn", "error", "info", "error"]);
    }
}
