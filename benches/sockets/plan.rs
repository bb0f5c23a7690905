//! The plan: each rate, each side, and what came of it.

use std::{env, time::Duration};

use nix::sys::resource::{UsageWho, getrusage};

use crate::{
    child::{self, Server},
    load::{Arrivals, Load},
    memory,
    server::{self, Behind, Side},
    wire,
};

/// For five thousand streams, and whatever else is open.
const FILES: u64 = 19_000;

struct Plan {
    streams: usize,
    length: Duration,
    rates: Vec<u32>,
    sides: Vec<Side>,
    /// The server's, and the load's.
    cores: (usize, usize),
}

struct Outcome {
    arrivals: Arrivals,
    expected: u64,
    /// From when the first was due to the last arrival, as a multiple of what the plan says.
    took: f64,
    /// Of the server process, in microseconds.
    time_per_delivery: f64,
    /// Before the first event, and after the last.
    memory_per_stream: [f64; 2],
    /// How busy the load was, at most 1.
    load: f64,
}

impl Plan {
    fn of(arguments: &[String], cores: (usize, usize)) -> Self {
        let is_quick = arguments.iter().any(|argument| argument == "--quick");
        let side = arguments.iter().skip_while(|argument| *argument != "--side").nth(1);
        let side = side.map(|name| Side::named(name).expect("ours or axum"));
        let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u32>().ok());
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
            sides: side.map_or(vec![Side::Ours, Side::Axums], |side| vec![side]),
            cores,
        }
    }

    fn run(&self, side: Side, rate: u32) -> Outcome {
        let mut server = Server::start(side, Behind::AxumServe, self.cores.0);
        let empty = server.usage();
        let mut load = Load::open(server.address, self.streams);
        let idle = server.usage();
        let events = self.length.as_secs() * u64::from(rate);
        let load_before = own_time();
        let from = server.publish(rate, events);
        // Some sides never get there.
        let arrivals = load.run(events, from + self.length * 4 + Duration::from_secs(5));
        let (load_after, until) = (own_time(), wire::now());
        let done = server.usage();
        let per_stream =
            |usage: &child::Usage| usage.resident.saturating_sub(empty.resident) as f64 / 1024.0 / self.streams as f64;
        Outcome {
            expected: events * self.streams as u64,
            took: arrivals.last.saturating_sub(from).as_secs_f64() / self.length.as_secs_f64(),
            time_per_delivery: (done.time - idle.time).as_secs_f64() * 1e6 / arrivals.events.max(1) as f64,
            memory_per_stream: [per_stream(&idle), per_stream(&done)],
            load: (load_after - load_before).as_secs_f64() / until.saturating_sub(from).as_secs_f64(),
            arrivals,
        }
    }
}

impl Outcome {
    fn print(&self, side: Side) {
        let Arrivals { events, missing, misplaced, foreign, closed, latencies, .. } = &self.arrivals;
        println!(
            "  {:<4}  {events:>10} of {:<10} {:>5.2} x the time   {:>6.2} us a delivery   p50 {:>8.1} ms   p99 {:>8.1} ms   \
             {:>5.1} KiB a stream, {:>5.1} after   load {:>3.0} %",
            side.name(),
            self.expected,
            self.took,
            self.time_per_delivery,
            latencies.quantile(0.5),
            latencies.quantile(0.99),
            self.memory_per_stream[0],
            self.memory_per_stream[1],
            self.load * 100.0,
        );
        if *events != self.expected || missing + misplaced + foreign > 0 || *closed > 0 {
            println!(
                "        {missing} missing, {} not there when the wait ended, {misplaced} misplaced, {foreign} blocks foreign, {closed} streams closed",
                self.expected.saturating_sub(events + missing)
            );
        }
    }

    fn is_whole(&self) -> bool {
        let Arrivals { events, missing, misplaced, foreign, closed, .. } = &self.arrivals;
        *events == self.expected && missing + misplaced + foreign == 0 && *closed == 0
    }
}

/// The time that this process has had of its core.
fn own_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("its own usage");
    let of = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    of(usage.user_time()) + of(usage.system_time())
}

/// What the ratio of the times per delivery may be at most, and how late the last event.
fn budget(rate: u32) -> &'static str {
    match rate {
        20 => "budget 0.85",
        400 => "budget 0.45, and all arrive within 1.10 x the time",
        1_000 => "budget: all arrive, within 1.10 x the time",
        _ => "no budget",
    }
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
    let mut is_whole = true;
    for rate in &plan.rates {
        println!("{rate} events/s");
        let outcomes: Vec<_> = plan.sides.iter().map(|side| (*side, plan.run(*side, *rate))).collect();
        for (side, outcome) in &outcomes {
            outcome.print(*side);
            is_whole &= *side != Side::Ours || outcome.is_whole();
        }
        if let [(_, ours), (_, axums)] = &outcomes[..] {
            println!("  ratio {:.2} ({})", ours.time_per_delivery / axums.time_per_delivery, budget(*rate));
        }
    }
    assert!(is_whole, "of ours, events are missing, or were not in order");
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
