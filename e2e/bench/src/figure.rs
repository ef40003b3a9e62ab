//! What is printed.

use std::time::Instant;

use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// `ms`, `s`, `KiB` or `MiB/s`.
    pub unit: &'static str,
    /// The value; of many samples, the one in the middle.
    pub value: f64,
    /// The 95th percentile of many samples.
    pub p95: Option<f64>,
}

impl Figure {
    /// A figure that was taken once.
    pub fn single(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, p95: None }
    }

    /// A step that took so many milliseconds, each time; `None` if there was no time.
    pub fn step(name: impl Into<String>, mut milliseconds: Vec<f64>) -> Option<Self> {
        milliseconds.sort_by(f64::total_cmp);
        let last = milliseconds.len().checked_sub(1)?;
        let at = |share: f64| milliseconds[(last as f64 * share).round() as usize];
        Some(Self { name: name.into(), unit: "ms", value: at(0.5), p95: Some(at(0.95)) })
    }
}

/// Since then.
pub fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}
