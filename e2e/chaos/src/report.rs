//! What a run came to, for people and for programs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{
    ledger::Sums,
    left::{self, Left},
};

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// One fault on one runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Name and version.
    pub runtime: String,
    /// The fault, as the command names it.
    pub fault: String,
    /// The seed.
    pub seed: u64,
    /// Kernel, kind of cgroups, and what was started: what two reports must share to be compared.
    pub machine: String,
    /// How long it took.
    pub seconds: f64,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What clients saw.
    pub sums: Sums,
    /// What was left at the end.
    pub left: Left,
    /// Starts that came to nothing, and why.
    pub failed_starts: Vec<String>,
}

impl Report {
    /// Without anything in it.
    pub fn new(runtime: &str, fault: &str, seed: u64) -> Self {
        Self {
            runtime: runtime.to_owned(),
            fault: fault.to_owned(),
            seed,
            machine: machine(),
            seconds: 0.0,
            figures: Vec::new(),
            sums: Sums::default(),
            left: Left::new(),
            failed_starts: Vec::new(),
        }
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.sums.findings.is_empty() && self.left.is_empty() && self.failed_starts.is_empty()
    }

    /// Adds a number.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.push(Figure { name: name.to_owned(), value });
    }

    /// Every number of the table, by its name.
    fn rows(&self) -> Vec<(String, f64)> {
        let mut rows: Vec<(String, f64)> =
            self.figures.iter().map(|figure| (figure.name.clone(), figure.value)).collect();
        rows.push(("starts that failed".to_owned(), self.failed_starts.len() as f64));
        rows.push(("calls answered".to_owned(), self.sums.answered.values().sum::<u64>() as f64));
        rows.push(("calls lost with the daemon".to_owned(), self.sums.lost as f64));
        rows.push(("calls cut by the client".to_owned(), self.sums.cut as f64));
        rows.push(("errors answered".to_owned(), self.sums.errors.values().sum::<u64>() as f64));
        let mut faults = std::collections::BTreeMap::<String, f64>::new();
        // Shown in any case: it is what a reader looks for first.
        faults.insert("WRONG container-lost".to_owned(), 0.0);
        for finding in &self.sums.findings {
            let name = serde_json::to_value(finding.fault).ok();
            let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
            *faults.entry(format!("WRONG {name}")).or_default() += 1.0;
        }
        rows.push(("wrong, all".to_owned(), self.sums.findings.len() as f64));
        rows.extend(faults);
        let left = left::count(&self.left) as f64;
        rows.push(("left, all objects".to_owned(), left));
        if let Some(kills) = self.figures.iter().find(|figure| figure.name == KILLS) {
            rows.push(("left per 100 kills".to_owned(), left * 100.0 / kills.value.max(1.0)));
        }
        rows.extend(self.left.iter().map(|(class, names)| (format!("LEFT {class}"), names.len() as f64)));
        rows
    }

    /// What was wrong or left, with the first few of each.
    pub fn details(&self) -> String {
        let mut text = String::new();
        let mut add = |title: &str, lines: &mut dyn Iterator<Item = String>| {
            let lines: Vec<String> = lines.collect();
            if lines.is_empty() {
                return;
            }
            let _ = writeln!(text, "{title}:");
            for line in lines.iter().take(SHOWN) {
                let _ = writeln!(text, "  {line}");
            }
            if lines.len() > SHOWN {
                let _ = writeln!(text, "  and {} more", lines.len() - SHOWN);
            }
        };
        add("starts that failed", &mut self.failed_starts.iter().cloned());
        let finding = |finding: &crate::ledger::Finding| {
            format!("{:>8} ms {:?}: {}", finding.at_ms, finding.fault, finding.detail)
        };
        add("wrong", &mut self.sums.findings.iter().map(finding));
        add(
            "errors answered",
            &mut self.sums.errors.iter().map(|(kind, number)| format!("{number:>6} {kind}")),
        );
        for (class, names) in &self.left {
            add(&format!("left: {class}"), &mut names.iter().cloned());
        }
        text
    }
}

/// See [`Report::machine`].
fn machine() -> String {
    let uname = rustix::system::uname();
    let cgroups =
        if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let programs = holdfast_e2e::place::programs();
    format!(
        "Linux {}, {cpus} processors, cgroup {cgroups}, programs in {}",
        uname.release().to_string_lossy(),
        programs.display()
    )
}

/// The figure that what is left is compared with.
pub const KILLS: &str = "kills";

/// Lines that are shown of each kind.
const SHOWN: usize = 12;

/// A table with a column for each runtime, for the reports of one fault.
pub fn table(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let mut text = format!("\n{:<44}", format!("fault: {}, seed {}", first.fault, first.seed));
    for report in reports {
        let _ = write!(text, " {:>18}", report.runtime);
    }
    text.push('\n');
    let columns: Vec<Vec<(String, f64)>> = reports.iter().map(Report::rows).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in columns.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let _ = write!(text, "{name:<44}");
        for column in &columns {
            let value = column.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
            let counted = name.starts_with("WRONG ") || name.starts_with("LEFT ");
            let shown = match value {
                Some(value) => number(value),
                None if counted => "0".to_owned(),
                None => "-".to_owned(),
            };
            let _ = write!(text, " {shown:>18}");
        }
        text.push('\n');
    }
    text
}

fn number(value: f64) -> String {
    if value.fract().abs() < f64::EPSILON { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// With one digit behind the point.
pub fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Median, 95th percentile and longest of some times, as figures in milliseconds.
pub fn times(report: &mut Report, name: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = samples.len().saturating_sub(1);
        samples.get((last as f64 * share).round() as usize).copied()
    };
    for (title, share) in [("p50", 0.5), ("p95", 0.95), ("max", 1.0)] {
        if let Some(value) = at(share) {
            report.figure(&format!("{name}, {title}, ms"), (value * 10.0).round() / 10.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(runtime: &str, left: &[&str]) -> Report {
        let mut report = Report::new(runtime, "agent", 7);
        report.figure("kills", 100.0);
        if !left.is_empty() {
            report.left.insert("cgroup".to_owned(), left.iter().map(|&name| name.to_owned()).collect());
        }
        report
    }

    #[test]
    fn runtimes_stand_side_by_side() {
        let (ours, theirs) = (report("ours", &[]), report("theirs", &["a", "b"]));
        assert!(ours.is_clean() && !theirs.is_clean());
        let table = table(&[ours, theirs]);
        let line = |name: &str| {
            let found = table.lines().find(|line| line.starts_with(name));
            found.map(|line| line.split_whitespace().rev().take(2).collect::<Vec<_>>()).unwrap_or_default()
        };
        assert_eq!(line("kills"), ["100", "100"]);
        assert_eq!(line("LEFT cgroup"), ["2", "0"]);
    }

    #[test]
    fn times_have_a_middle_and_an_end() {
        let mut report = report("ours", &[]);
        times(&mut report, "start", (1..=101).map(f64::from).collect());
        let value =
            |name: &str| report.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value);
        assert_eq!(value("start, p50, ms"), Some(51.0));
        assert_eq!(value("start, p95, ms"), Some(96.0));
        assert_eq!(value("start, max, ms"), Some(101.0));
    }
}
