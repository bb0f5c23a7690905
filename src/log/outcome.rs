//! How a topic has ended.

/// How a topic that a producer filled has ended. What a reader has to know most is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Whole,
    Cancelled,
    Failed,
}

/// Where a topic has ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// After this number nothing comes.
    pub(crate) number: u64,
    pub(crate) outcome: Outcome,
    /// The number before is that of an event that came with the end.
    pub(crate) has_last_word: bool,
}

impl End {
    /// In one word, so that nobody sees half of it. It is never 0.
    pub(crate) fn encode(self) -> u64 {
        let outcome = match self.outcome {
            Outcome::Whole => 1,
            Outcome::Cancelled => 2,
            Outcome::Failed => 3,
        };
        self.number << 3 | u64::from(self.has_last_word) << 2 | outcome
    }

    pub(crate) fn decode(word: u64) -> Option<Self> {
        let outcome = match word & 3 {
            1 => Outcome::Whole,
            2 => Outcome::Cancelled,
            3 => Outcome::Failed,
            _ => return None,
        };
        Some(Self { number: word >> 3, outcome, has_last_word: word & 4 > 0 })
    }
}
