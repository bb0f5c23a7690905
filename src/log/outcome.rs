//! How a topic ended.

/// How a producer's topic ended. In order: the greatest is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Finished,
    Cancelled,
    Failed,
}

/// Where and how a topic ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// No event comes after this number.
    pub(crate) number: u64,
    pub(crate) outcome: Outcome,
    /// The number before is that of the last event, which was published with the end.
    pub(crate) has_last_word: bool,
}

impl End {
    /// Encodes the end as one word that is never 0, so that it is read and written atomically.
    pub(crate) fn encode(self) -> u64 {
        let outcome = match self.outcome {
            Outcome::Finished => 1,
            Outcome::Cancelled => 2,
            Outcome::Failed => 3,
        };
        self.number << 3 | u64::from(self.has_last_word) << 2 | outcome
    }

    pub(crate) fn decode(word: u64) -> Option<Self> {
        let outcome = match word & 3 {
            1 => Outcome::Finished,
            2 => Outcome::Cancelled,
            3 => Outcome::Failed,
            _ => return None,
        };
        Some(Self { number: word >> 3, outcome, has_last_word: word & 4 > 0 })
    }
}
