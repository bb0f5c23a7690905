//! How many bytes the log has from a place on.
//!
//! It is pure: no clock, no lock, no task.

use crate::backplane::Place;

/// The bytes of the blocks that were read.
///
/// It knows the sums at a few hundred places, whatever the length of the log. So what it says may be too little by a part in a few hundred.
#[derive(Debug, Default)]
pub(crate) struct Volume {
    total: u64,
    /// Places, each with the bytes before it.
    sums: Vec<(Place, u64)>,
    /// How many bytes are between two of them.
    step: u64,
}

impl Volume {
    const MOST: usize = 512;
    const LEAST_STEP: u64 = 1024;

    /// Adds a block.
    pub(crate) fn add(&mut self, place: Place, bytes: u64) {
        let is_due = |(last, before): &(Place, u64)| *last < place && self.total - before >= self.step;
        if self.sums.last().is_none_or(is_due) {
            self.sums.push((place, self.total));
        }
        self.total += bytes;
        if self.sums.len() > Self::MOST {
            let mut nth = 0;
            self.sums.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.step = (self.step * 2).max(Self::LEAST_STEP);
        }
    }

    /// Returns how many bytes were read from a place on.
    pub(crate) fn from(&self, place: Place) -> u64 {
        let at = self.sums.partition_point(|(sum_at, _)| *sum_at < place);
        self.sums.get(at).map_or(0, |(_, before)| self.total - before)
    }

    /// Forgets what was read before a place.
    pub(crate) fn forget_before(&mut self, place: Place) {
        let gone = self.sums.partition_point(|(sum_at, _)| *sum_at < place);
        // The one before says what begins in the middle.
        self.sums.drain(..gone.saturating_sub(1));
        if self.sums.len() < Self::MOST / 8 {
            self.step /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_was_read_from_a_place_on_but_for_a_small_part(blocks in prop::collection::vec(1u64..3000, 1..5000), from: prop::sample::Index, forgotten: prop::sample::Index) {
            let at = |ms| Place { ms, seq: 0 };
            let mut volume = Volume::default();
            for (place, bytes) in (1..).zip(&blocks) {
                volume.add(at(place), *bytes);
            }
            prop_assert!(volume.sums.len() <= Volume::MOST);
            let from = from.index(blocks.len());
            volume.forget_before(at(1 + forgotten.index(from + 1) as u64));
            let all: u64 = blocks.iter().sum();
            let exact: u64 = blocks[from..].iter().sum();
            let said = volume.from(at(1 + from as u64));
            prop_assert!(said <= exact && exact - said <= all / 100 + 2 * Volume::LEAST_STEP + 3000, "{} of {}", said, exact);
        }
    }
}
