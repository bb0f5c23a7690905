//! How a registry stands with its engine.

use std::{fmt, time::SystemTime};

/// How a registry stands with its [backplane](crate::backplane): see [`Registry::health`](crate::Registry::health).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// The registry has no backplane, or it reads the engine's log and appends to it.
    Following,
    /// The registry reads what the engine retains, for the first time.
    Loading,
    /// The engine cannot be reached. Open streams go on, and get what is published when the engine is back.
    Away {
        /// Since when.
        since: SystemTime,
        /// What happened last.
        reason: String,
    },
    /// The engine has no room for more events. What is published waits until it has.
    Full {
        /// What the engine says.
        reason: String,
    },
    /// The engine refuses this registry, until somebody changes something: credentials, permissions, versions, configuration.
    Refused {
        /// What the engine says.
        reason: String,
    },
}

impl Health {
    /// Whether events get through now, in both directions.
    #[must_use]
    pub fn is_following(&self) -> bool {
        *self == Self::Following
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Following => f.write_str("following"),
            Self::Loading => f.write_str("loading"),
            Self::Away { reason, .. } => write!(f, "the engine is away: {reason}"),
            Self::Full { reason } => write!(f, "the engine is full: {reason}"),
            Self::Refused { reason } => write!(f, "the engine refuses: {reason}"),
        }
    }
}

/// What the reading and the writing task say of the engine.
#[derive(Debug, Clone, Default)]
pub(super) struct Signs {
    pub(super) is_loaded: bool,
    pub(super) reading: Option<Trouble>,
    pub(super) writing: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    Away { since: SystemTime, reason: String },
    Full { reason: String },
    Refused { reason: String },
}

impl Signs {
    /// Sets what is wrong with one direction. If it was away before, it has been away since then.
    pub(super) fn set(sign: &mut Option<Trouble>, trouble: Trouble) {
        match (sign, trouble) {
            (Some(Trouble::Away { reason, .. }), Trouble::Away { reason: latest, .. }) => *reason = latest,
            (sign, trouble) => *sign = Some(trouble),
        }
    }

    pub(super) fn health(&self) -> Health {
        let troubles = || [&self.reading, &self.writing].into_iter().flatten();
        let refused = troubles().find(|trouble| matches!(trouble, Trouble::Refused { .. }));
        match refused.or_else(|| troubles().next()).cloned() {
            Some(Trouble::Away { since, reason }) => Health::Away { since, reason },
            Some(Trouble::Full { reason }) => Health::Full { reason },
            Some(Trouble::Refused { reason }) => Health::Refused { reason },
            None if self.is_loaded => Health::Following,
            None => Health::Loading,
        }
    }
}

/// The engine refused the registry, so that it will not be ready: see [`Registry::ready`](crate::Registry::ready).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackplaneRefused {
    pub(super) reason: String,
}

impl fmt::Display for BackplaneRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backplane refuses: {}", self.reason)
    }
}

impl std::error::Error for BackplaneRefused {}
