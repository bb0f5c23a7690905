//! The result of a bench: a line for each question. `scripts/bench` collects the lines of all benches in one table.
//!
//! `result: what | ours | theirs | ratio | budget | met`
//!
//! The last field is `yes`, `no`, or `-` without a budget.

use std::env;

/// The budget of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Budget {
    /// At most this multiple of theirs.
    Times(f64),
    /// At most this much more than theirs.
    More(f64),
    /// The budget is a maximum.
    AtMost(f64),
    /// The budget is a minimum.
    AtLeast(f64),
    /// No budget: the figure is only compared.
    None,
}

impl Budget {
    fn text(self, unit: &str) -> String {
        match self {
            Self::Times(times) => format!("<= {times:.2} x"),
            Self::More(more) => format!("<= {} more", figure(more, unit)),
            Self::AtMost(most) => format!("<= {}", figure(most, unit)),
            Self::AtLeast(least) => format!(">= {}", figure(least, unit)),
            Self::None => "-".into(),
        }
    }

    fn is_met(self, ours: f64, theirs: Option<f64>) -> Option<bool> {
        match self {
            Self::Times(times) => Some(ours <= times * theirs?),
            Self::More(more) => Some(ours <= more + theirs?),
            Self::AtMost(most) => Some(ours <= most),
            Self::AtLeast(least) => Some(ours >= least),
            Self::None => None,
        }
    }
}

/// Prints a line of the table. `theirs` is the alternative, or the same without the layer, in the same run.
pub(crate) fn result(what: &str, unit: &str, ours: f64, theirs: impl Into<Option<f64>>, budget: Budget) {
    let theirs = theirs.into();
    let met = match budget.is_met(ours, theirs) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    println!(
        "result: {what} | {} | {} | {} | {} | {met}",
        figure(ours, unit),
        or_none(theirs.map(|theirs| figure(theirs, unit))),
        // A figure without a unit is not a cost, so it has no ratio.
        or_none(theirs.filter(|_| !unit.is_empty()).map(|theirs| format!("{:.3}", ours / theirs))),
        budget.text(unit),
    );
}

/// Three digits, as no measurement here is more exact.
fn figure(number: f64, unit: &str) -> String {
    let digits = match number.abs() {
        whole if whole.fract() == 0.0 => 0,
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$} {unit}").trim_end().to_owned()
}

/// The arguments of a bench, without the flags of `cargo bench` itself.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// `--quick`: takes a second or two, and only checks that the bench runs and its assertions hold. Its figures mean
    /// nothing.
    pub(crate) is_quick: bool,
    pub(crate) numbers: Vec<usize>,
    pub(crate) words: Vec<String>,
}

impl Arguments {
    pub(crate) fn new() -> Self {
        let mut all = Self { is_quick: false, numbers: Vec::new(), words: Vec::new() };
        for argument in env::args().skip(1) {
            match argument.parse() {
                Ok(number) => all.numbers.push(number),
                Err(_) if argument == "--quick" => all.is_quick = true,
                Err(_) if argument.starts_with('-') => {}
                Err(_) => all.words.push(argument),
            }
        }
        all
    }

    /// The number that was given at this place. The default depends on whether the run is quick.
    pub(crate) fn number(&self, at: usize, whole: usize, quick: usize) -> usize {
        self.numbers.get(at).copied().unwrap_or_else(|| self.pick(whole, quick))
    }

    pub(crate) fn pick<T>(&self, whole: T, quick: T) -> T {
        if self.is_quick { quick } else { whole }
    }
}
