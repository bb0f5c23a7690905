//! Counts millions of latencies in buckets that are at most a thirty-second wide.

const FINE: u32 = 5;

/// Counts by size.
pub(crate) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; 64 << FINE], count: 0 }
    }

    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.buckets[bucket(nanoseconds)] += 1;
        self.count += 1;
    }

    /// The latency that this part of all events does not exceed, in milliseconds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil() as u64;
        let mut seen = 0;
        let at = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map_or(0.0, |at| upper_end(at) as f64 / 1e6)
    }
}

fn bucket(number: u64) -> usize {
    let shift = (u64::BITS - number.leading_zeros()).saturating_sub(FINE + 1);
    ((shift as usize) << FINE) + (number >> shift) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let shift = (bucket >> FINE).saturating_sub(1);
    let top = bucket - (shift << FINE);
    ((top as u64) << shift) + (1 << shift) - 1
}
