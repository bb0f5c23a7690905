//! What the machine does, from Linux' `/proc`.

use std::{fs, io};

/// Counters of the system at a moment. All of them grow, but the memory.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    /// All cores together, and then each core.
    cores: Vec<Core>,
    memory: Memory,
    received: u64,
    sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Core {
    busy: u64,
    all: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    /// In bytes.
    pub(crate) used: u64,
    pub(crate) all: u64,
}

/// What happened between two moments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// In percent of all cores.
    pub(crate) cpu: f64,
    /// In percent of the core that did most.
    pub(crate) busiest: f64,
    pub(crate) memory: Memory,
    /// In bytes a second, of all interfaces but the loopback.
    pub(crate) received: f64,
    pub(crate) sent: f64,
}

impl Counters {
    /// Reads them. On another system than Linux this is an error.
    pub(crate) fn read() -> io::Result<Self> {
        let file = |name: &str| fs::read_to_string(format!("/proc/{name}"));
        Self::parse(&file("stat")?, &file("meminfo")?, &file("net/dev")?)
            .ok_or_else(|| io::Error::other("/proc does not look as on Linux"))
    }

    fn parse(stat: &str, meminfo: &str, net: &str) -> Option<Self> {
        let cores: Vec<_> = stat.lines().filter(|line| line.starts_with("cpu")).filter_map(Core::parse).collect();
        let kibibytes = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let all = kibibytes("MemTotal")? << 10;
        let memory = Memory { used: all.saturating_sub(kibibytes("MemAvailable")? << 10), all };
        let (mut received, mut sent) = (0, 0);
        for (_, numbers) in net.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo")
        {
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            received += numbers.first()?;
            sent += numbers.get(8)?;
        }
        (!cores.is_empty()).then_some(Self { cores, memory, received, sent })
    }

    pub(crate) fn since(&self, before: &Self, seconds: f64) -> Sample {
        let loads: Vec<_> = self.cores.iter().zip(&before.cores).map(|(now, before)| now.load_since(*before)).collect();
        let cpu = loads.first().copied().unwrap_or_default();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Sample {
            cpu,
            busiest: loads.into_iter().skip(1).fold(cpu, f64::max),
            memory: self.memory,
            received: rate(self.received, before.received),
            sent: rate(self.sent, before.sent),
        }
    }
}

impl Core {
    /// `cpu0 user nice system idle iowait irq softirq steal guest guest_nice`. The time of guests is in that of users.
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|it| it.parse().ok()).collect();
        let all = numbers.iter().sum();
        Some(Self { all, busy: all - numbers.get(3)? - numbers.get(4)? })
    }

    fn load_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let busy = self.busy.saturating_sub(before.busy).min(all);
        if all == 0 { 0.0 } else { 100.0 * busy as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        1000 kB\nMemFree:  10 kB\nMemAvailable:     400 kB\n";

    fn counters(stat: &str, net: &str) -> Counters {
        let net = format!("Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n{net}");
        Counters::parse(stat, MEMINFO, &net).unwrap()
    }

    #[test]
    fn a_sample_is_what_happened_between_two_readings() {
        let before = counters(
            "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 5 0 5 40 0 0 0 0\ncpu1 5 0 5 40 0 0 0 0\nintr 5\n",
            "    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 100 1 0 0 0 0 0 0 200 2\n",
        );
        let after = counters(
            "cpu  60 0 10 130 0 0 0 0 0 0\ncpu0 55 0 5 40 0 0 0 0\ncpu1 5 0 5 90 0 0 0 0\nintr 5\n",
            "    lo: 99 0 0 0 0 0 0 0 99 0\n  eth0: 300 1 0 0 0 0 0 0 700 2\n",
        );
        let memory = Memory { used: 600 << 10, all: 1000 << 10 };
        let expected = Sample { cpu: 50.0, busiest: 100.0, memory, received: 100.0, sent: 250.0 };
        assert_eq!(after.since(&before, 2.0), expected);
    }

    #[test]
    fn a_counter_that_went_back_is_no_traffic() {
        let stat = "cpu  10 0 10 80 0 0 0 0\n";
        let (before, after) = (counters(stat, "eth0: 100 1 0 0 0 0 0 0 200 2\n"), counters(stat, ""));
        let sample = after.since(&before, 1.0);
        assert_eq!((sample.cpu, sample.received, sample.sent), (0.0, 0.0, 0.0));
    }

    #[test]
    fn other_texts_are_no_counters() {
        assert!(Counters::parse("", MEMINFO, "").is_none());
        assert!(Counters::parse("cpu  10 0 10 80 0 0 0 0\n", "", "").is_none());
        assert!(Counters::parse("cpu  10 0 10 80 0 0 0 0\n", MEMINFO, "eth0: 1 2\n").is_none());
    }
}
