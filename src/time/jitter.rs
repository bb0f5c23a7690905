//! Jitter: random differences, so that many streams do not do the same thing at the same time again.

use std::time::Duration;

/// Returns a delay between half of `delay` and one and a half times `delay`. `spread`: a random number that chooses it.
pub(crate) fn jittered(delay: Duration, spread: u32) -> Duration {
    scaled(delay, 0.5 + share(spread))
}

/// Returns a time between 80 and 100 % of `time`.
pub(crate) fn shortened(time: Duration, spread: u32) -> Duration {
    scaled(time, 1.0 - 0.2 * share(spread))
}

pub(crate) fn random() -> u32 {
    // Without randomness there is no jitter. That is acceptable: only a busy server is worse off.
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

fn share(spread: u32) -> f64 {
    f64::from(spread) / f64::from(u32::MAX)
}

fn scaled(time: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn times_are_spread_around_or_below_the_requested_time() {
        assert_eq!([0, u32::MAX].map(|spread| jittered(2 * SECOND, spread)), [SECOND, 3 * SECOND]);
        assert_eq!([0, u32::MAX].map(|spread| shortened(10 * SECOND, spread)), [10 * SECOND, 8 * SECOND]);
        assert_eq!(jittered(Duration::MAX, u32::MAX), Duration::MAX);
    }
}
