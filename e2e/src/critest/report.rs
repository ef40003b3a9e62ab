//! What ginkgo's JSON report says (types.Report of github.com/onsi/ginkgo/v2): counts, and why a spec did not run.
//!
//! critest skips in silence, so each skipped spec is named with its reason.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use holdfast_e2e::registry::read_json;
use serde_json::Value;

/// How a run went.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    /// Name, and the first lines of what was wrong.
    failed: Vec<(String, String)>,
    /// Names by reason.
    skipped: BTreeMap<String, Vec<String>>,
    success: bool,
}

/// Specs that -ginkgo.focus, -ginkgo.skip or a label leaves out; their names say nothing.
const NOT_CHOSEN: &str = "not chosen by critest's flags (the benchmarks are not, without -benchmark)";

impl Report {
    /// Reads a report; `success` is whether critest ended with 0.
    pub fn read(path: &Path, success: bool) -> Result<Self> {
        let suites = read_json(path)?;
        let mut report = Self { success, ..Self::default() };
        for suite in suites.as_array().context("a report without suites")? {
            for spec in suite["SpecReports"].as_array().into_iter().flatten() {
                report.add(spec);
            }
            for reason in suite["SpecialSuiteFailureReasons"].as_array().into_iter().flatten() {
                report.failed.push(("the suite".to_owned(), text(reason)));
            }
        }
        if !success && report.failed.is_empty() {
            report.failed.push(("critest".to_owned(), "it ended with an error: see its log".to_owned()));
        }
        Ok(report)
    }

    /// A run that left no report.
    pub fn none(success: bool) -> Self {
        let failed = if success {
            Vec::new()
        } else {
            vec![("critest".to_owned(), "it left no report: see its log".to_owned())]
        };
        Self { failed, success, ..Self::default() }
    }

    /// Counts it as a failure if other than `wanted` specs have passed: critest skips in silence.
    pub fn expect(&mut self, wanted: usize) {
        if self.passed != wanted && self.failed.is_empty() {
            let problem = format!("{wanted} specs have to pass on this machine, but {} did", self.passed);
            self.failed.push(("the whole run".to_owned(), problem));
        }
    }

    /// Whether nothing failed.
    pub fn success(&self) -> bool {
        self.success && self.failed.is_empty()
    }

    /// The last line.
    pub fn counts(&self) -> String {
        let skipped: usize = self.skipped.values().map(Vec::len).sum();
        format!("{} passed, {} failed, {skipped} skipped", self.passed, self.failed.len())
    }

    /// Why some were skipped, and what failed.
    pub fn print(&self) {
        for (reason, names) in &self.skipped {
            if reason == NOT_CHOSEN {
                println!("    skipped: {} {NOT_CHOSEN}", names.len());
                continue;
            }
            for name in names {
                println!("    skipped: {name}: {reason}");
            }
        }
        for (name, message) in &self.failed {
            println!("    FAILED: {name}");
            for line in gist(message) {
                println!("        {line}");
            }
        }
    }

    fn add(&mut self, spec: &Value) {
        let is_spec = spec["LeafNodeType"] == "It";
        let message = text(&spec["Failure"]["Message"]);
        match spec["State"].as_str().unwrap_or_default() {
            "passed" if is_spec => self.passed += 1,
            "skipped" | "pending" if is_spec => {
                let reason = if message.is_empty() { NOT_CHOSEN.to_owned() } else { message };
                self.skipped.entry(reason).or_default().push(name(spec));
            }
            // A node of the suite's own.
            "passed" | "skipped" | "pending" => {}
            state => self.failed.push((name(spec), format!("{state}: {message}"))),
        }
    }
}

/// The first lines of a message, up to the dump of a Go value; the log has it all.
fn gist(message: &str) -> Vec<String> {
    let noise = |line: &&str| line.is_empty() || line.starts_with("<*") || *line == "Unexpected error:";
    let lines = message.lines().map(str::trim).take_while(|line| *line != "{");
    lines.filter(|line| !noise(line)).take(4).map(|line| line.chars().take(300).collect()).collect()
}

/// The containers' texts and the spec's own, as ginkgo prints them.
fn name(spec: &Value) -> String {
    let mut words: Vec<String> =
        spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text).collect();
    let leaf = text(&spec["LeafNodeText"]);
    // The suite's own nodes have no text.
    words.push(if leaf.is_empty() { text(&spec["LeafNodeType"]) } else { leaf });
    words.join(" ")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(kind: &str, leaf: &str, state: &str, message: &str) -> Value {
        let mut spec = json!({"LeafNodeType": kind, "LeafNodeText": leaf, "State": state,
            "ContainerHierarchyTexts": ["[k8s.io] Things"]});
        if !message.is_empty() {
            spec["Failure"] = json!({"Message": message});
        }
        spec
    }

    fn report(specs: &[Value], success: bool) -> Report {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.json");
        std::fs::write(&path, json!([{"SpecReports": specs}]).to_string()).expect("write");
        Report::read(&path, success).expect("read")
    }

    #[test]
    fn every_spec_counts_once_with_its_reason() {
        let specs = [
            spec("SynchronizedBeforeSuite", "", "passed", ""),
            spec("It", "a", "passed", ""),
            spec("It", "b", "skipped", "no AppArmor"),
            spec("It", "c", "skipped", ""),
            spec("It", "d", "failed", "expected\nthis"),
            spec("It", "e", "timedout", ""),
        ];
        let report = report(&specs, false);
        assert_eq!(report.counts(), "1 passed, 2 failed, 2 skipped");
        assert_eq!(report.skipped["no AppArmor"], ["[k8s.io] Things b"]);
        assert_eq!(report.skipped[NOT_CHOSEN], ["[k8s.io] Things c"]);
        assert_eq!(report.failed[0], ("[k8s.io] Things d".to_owned(), "failed: expected\nthis".to_owned()));
        assert!(!report.success());
    }

    #[test]
    fn a_whole_run_has_a_number_of_passed_specs() {
        let specs = [spec("It", "a", "passed", ""), spec("It", "b", "skipped", "no such feature")];
        let mut report = report(&specs, true);
        report.expect(1);
        assert!(report.success());
        report.expect(2);
        assert_eq!(report.counts(), "1 passed, 1 failed, 1 skipped");
        assert!(!report.success() && report.failed[0].1.starts_with("2 specs have to pass"));
    }

    #[test]
    fn the_gist_is_what_people_read() {
        let message = "failed: failed to exec\nUnexpected error:\n    <*status.Error | 0x1a>: \n    \
            rpc error: code = Unimplemented\n    {\n        s: {\n    more\n";
        assert_eq!(gist(message), ["failed: failed to exec", "rpc error: code = Unimplemented"]);
    }

    #[test]
    fn an_error_without_a_failed_spec_is_a_failure() {
        let passed = [spec("It", "a", "passed", "")];
        assert!(report(&passed, true).success());
        assert_eq!(report(&passed, false).counts(), "1 passed, 1 failed, 0 skipped");
        let suite = [spec("SynchronizedBeforeSuite", "", "failed", "no runtime")];
        assert_eq!(report(&suite, false).counts(), "0 passed, 1 failed, 0 skipped");
        assert!(!Report::none(false).success() && Report::none(true).success());
    }
}
