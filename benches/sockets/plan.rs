//! The plan: each rate with each side, and its outcome.

use std::{env, time::Duration};

use nix::sys::resource::{UsageWho, getrusage};

use crate::{
    child::{self, Server},
    load::{Arrivals, Load},
    memory,
    server::{self, Behind, Side},
    table::{Budget, result},
    wire,
};

/// For five thousand streams, and other open files.
const FILES: u64 = 19_000;

const HEADING: [&str; 2] = [
    "                  arrived               plan's   server a   in the       latency:           memory a stream:     busy:      server had",
    "                                         time    delivery   system     half  99 of 100      idle      after  server  load   to wait",
];

struct Plan {
    streams: usize,
    length: Duration,
    rates: Vec<u32>,
    sides: Vec<Side>,
    behind: Behind,
    rounds: usize,
    /// The server's core, and the load's.
    cores: (usize, usize),
}

struct Outcome {
    arrivals: Arrivals,
    expected: u64,
    /// The time from the first event's due time to the last arrival, as a multiple of the plan's time.
    took: f64,
    /// The server process's time per delivery, in microseconds.
    time_per_delivery: f64,
    /// The part of that time that was spent in the system, at most 1.
    in_system: f64,
    /// Before the first event, and after the last.
    memory_per_stream: [f64; 2],
    /// How busy the server and the load were, each at most 1. A server that cannot write each event separately is
    /// always busy: it uses its whole core, and events that it does not write in time go out with the next ones.
    busy: [f64; 2],
    /// The part of the time in which something else used the server's core, at most 1.
    without_core: f64,
}

impl Plan {
    fn of(arguments: &[String], cores: (usize, usize)) -> Self {
        let is_quick = arguments.iter().any(|argument| argument == "--quick");
        let named = |option| arguments.iter().skip_while(|argument| *argument != option).nth(1);
        let side = |name| Side::named(name).expect("a side");
        let sides = named("--sides").map(|names| names.split(',').map(side).collect());
        let behind = named("--behind").map(|name| Behind::named(name).expect("how connections are served"));
        let rounds = named("--rounds").map(|number| number.parse().expect("a number of rounds"));
        let positional = arguments.iter().take_while(|argument| *argument != "--rounds");
        let mut numbers = positional.filter_map(|argument| argument.parse::<u32>().ok());
        let streams = numbers.next().unwrap_or(if is_quick { 200 } else { 5_000 });
        let seconds = numbers.next().unwrap_or(if is_quick { 1 } else { 5 });
        let mut rates: Vec<u32> = numbers.collect();
        if rates.is_empty() {
            rates = if is_quick { vec![100] } else { vec![20, 100, 400, 1_000] };
        }
        Self {
            streams: streams as usize,
            length: Duration::from_secs(seconds.into()),
            rates,
            sides: sides.unwrap_or(vec![Side::Ours, Side::Batched, Side::Axums]),
            behind: behind.unwrap_or(Behind::AxumServe),
            rounds: rounds.unwrap_or(1),
            cores,
        }
    }

    fn run(&self, side: Side, rate: u32) -> Outcome {
        let mut server = Server::start(side, self.behind, self.cores.0);
        let empty = server.usage();
        let mut load = Load::open(server.address, self.streams);
        let idle = server.usage();
        let events = self.length.as_secs() * u64::from(rate);
        let load_before = own_time();
        let from = server.publish(rate, events);
        // Some sides never receive all events.
        let arrivals = load.run(events, from + self.length * 4 + Duration::from_secs(5));
        let (load_after, until) = (own_time(), wire::now());
        let done = server.usage();
        let per_stream =
            |usage: &child::Usage| usage.resident.saturating_sub(empty.resident) as f64 / 1024.0 / self.streams as f64;
        let passed = until.saturating_sub(from).as_secs_f64();
        let (user, system) = (done.user - idle.user, done.system - idle.system);
        Outcome {
            expected: events * self.streams as u64,
            took: arrivals.last.saturating_sub(from).as_secs_f64() / self.length.as_secs_f64(),
            time_per_delivery: (user + system).as_secs_f64() * 1e6 / arrivals.events.max(1) as f64,
            in_system: system.as_secs_f64() / (user + system).as_secs_f64(),
            memory_per_stream: [per_stream(&idle), per_stream(&done)],
            busy: [user + system, load_after - load_before].map(|time| time.as_secs_f64() / passed),
            without_core: (done.waited - idle.waited).as_secs_f64() / passed,
            arrivals,
        }
    }
}

impl Outcome {
    fn print(&self, side: Side) {
        let Arrivals { events, missing, misplaced, foreign, closed, latencies, .. } = &self.arrivals;
        println!(
            "  {:<7} {events:>9} of {:<9} {:>6.2} x  {:>6.2} us   {:>3.0} %  {:>7.1} ms {:>7.1} ms  {:>5.1} KiB  {:>5.1} KiB  {:>3.0} % {:>3.0} %    {:>3.0} %",
            side.name(),
            self.expected,
            self.took,
            self.time_per_delivery,
            self.in_system * 100.0,
            latencies.quantile(0.5),
            latencies.quantile(0.99),
            self.memory_per_stream[0],
            self.memory_per_stream[1],
            self.busy[0] * 100.0,
            self.busy[1] * 100.0,
            self.without_core * 100.0,
        );
        if !self.is_whole() {
            let never = self.expected.saturating_sub(events + missing);
            println!(
                "        {missing} missing, {never} not there when the wait ended, {misplaced} misplaced, {foreign} \
                 blocks that are none of the plan's, {closed} streams closed"
            );
        }
    }

    fn is_whole(&self) -> bool {
        let Arrivals { events, missing, misplaced, foreign, closed, .. } = &self.arrivals;
        *events == self.expected && missing + misplaced + foreign == 0 && *closed == 0
    }
}

/// The CPU time of this process.
fn own_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("its own usage");
    let of = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    of(usage.user_time()) + of(usage.system_time())
}

/// The budget of the time per delivery, relative to axum's.
fn budget(rate: u32) -> Budget {
    match rate {
        20 => Budget::Times(0.85),
        400 => Budget::Times(0.45),
        _ => Budget::None,
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn compare(plan: &Plan) {
    let example = wire::data(1, Duration::ZERO).len();
    let (server, load) = plan.cores;
    println!(
        "{} streams, events of {example} bytes of data, {:?} a rate; the server on core {server}, the load on core {load}",
        plan.streams, plan.length
    );
    if server == load {
        println!("there is one core only: the load takes its time from the server");
    }
    HEADING.iter().for_each(|line| println!("{line}"));
    let mut is_whole = true;
    for rate in &plan.rates {
        println!("{rate} events/s");
        let mut times = vec![Vec::new(); plan.sides.len()];
        let mut lengths = vec![Vec::new(); plan.sides.len()];
        for _ in 0..plan.rounds {
            for (at, side) in plan.sides.iter().enumerate() {
                let outcome = plan.run(*side, *rate);
                outcome.print(*side);
                is_whole &= !matches!(side, Side::Ours | Side::Batched) || outcome.is_whole();
                times[at].push(outcome.time_per_delivery);
                lengths[at].push(outcome.took);
            }
        }
        let axums = plan.sides.iter().position(|side| *side == Side::Axums);
        for (at, side) in plan.sides.iter().enumerate().filter(|(_, side)| **side != Side::Axums) {
            let what = format!("a server at {rate} events/s, {}", side.name());
            let of_axum = |all: &[Vec<f64>]| axums.map(|axums| median(all[axums].clone()));
            result(&format!("{what}: a delivery"), "us", median(times[at].clone()), of_axum(&times), budget(*rate));
            let length = format!("{what}: length of the run");
            result(&length, "x", median(lengths[at].clone()), of_axum(&lengths), Budget::AtMost(1.1));
        }
    }
    assert!(is_whole, "this crate lost events, or sent them out of order");
}

pub(crate) fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    rlimit::increase_nofile_limit(FILES).expect("the limit of open files");
    if let [first, side, behind, core] = &arguments[..] {
        if first == "--serve" {
            child::pin(core.parse().expect("a core"));
            let (side, behind) = (Side::named(side).expect("a side"), Behind::named(behind).expect("a server"));
            return server::serve(side, behind);
        }
    }
    let cores = child::cores();
    child::pin(cores.1);
    match arguments.iter().any(|argument| argument == "memory") {
        true => memory::print(&arguments, cores.0),
        false => compare(&Plan::of(&arguments, cores)),
    }
}
