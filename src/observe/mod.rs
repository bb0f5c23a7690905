//! Observers for metrics and logs.
//!
//! They implement the `Observer` trait of the `client` folder with the `metrics` and `tracing` crates, each behind a feature. No other
//! folder knows them.

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

#[cfg(feature = "metrics")]
pub use self::metrics::MetricsObserver;
#[cfg(feature = "tracing")]
pub use self::tracing::TracingObserver;
