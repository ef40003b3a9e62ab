//! Counts what test executables say (libtest's text), skips included.
//!
//! libtest knows passed, failed and ignored. A test that finds that it cannot run prints a line `SKIP: reason` and
//! returns, which libtest counts as passed: such a test is counted as skipped here, once, however much it prints.

use std::{collections::BTreeSet, fmt, ops::AddAssign};

/// Sums over everything that ran.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and executables that ended without a result.
    pub failed: u64,
    /// Tests that said why they cannot run, and ignored ones.
    pub skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Counts {
    /// From a text that ends with a line as it is displayed; without one, or without `success`, something has failed.
    pub fn of_last_line(text: &str, success: bool) -> Self {
        let words: Vec<&str> = text.trim_end().lines().last().unwrap_or_default().split(' ').collect();
        let number = |text: &str| text.parse().ok();
        let mut counts = match words.as_slice() {
            [passed, "passed,", failed, "failed,", skipped, "skipped"] => number(passed)
                .zip(number(failed))
                .zip(number(skipped))
                .map(|((passed, failed), skipped)| Self { passed, failed, skipped }),
            _ => None,
        }
        .unwrap_or(Self { failed: 1, ..Self::default() });
        if !success && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }
}

/// Reads the output of one executable, line by line.
#[derive(Debug, Default)]
pub struct Reader {
    counts: Counts,
    results: usize,
    section: Option<String>,
    skipped: BTreeSet<String>,
    reasons: Vec<String>,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.section = Some(name.to_owned());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.counts += parse(result);
            self.results += 1;
            self.section = None;
        } else if let Some(at) = skip_at(line) {
            // Past libtest's capture there is no section: then every line is a test of its own.
            let test = self.section.clone().unwrap_or_else(|| format!("line {}", self.reasons.len()));
            if self.skipped.insert(test.clone()) {
                self.reasons.push(format!("{test}: {}", line[at + "SKIP:".len()..].trim()));
            }
        }
    }

    /// What it came to; `success` is whether the executable ended with 0.
    pub fn finish(mut self, success: bool) -> (Counts, Vec<String>) {
        let skipped = (self.skipped.len() as u64).min(self.counts.passed);
        self.counts.passed -= skipped;
        self.counts.skipped += skipped;
        if !success && self.counts.failed == 0 {
            self.counts.failed = 1;
        }
        if self.results == 0 && success {
            // It ended with 0 but never said how its tests went.
            self.counts.failed += 1;
        }
        (self.counts, self.reasons)
    }
}

/// Where a skip begins: at the line's begin, or behind the name that libtest printed without ending its line.
fn skip_at(line: &str) -> Option<usize> {
    if line.starts_with("SKIP:") {
        return Some(0);
    }
    line.starts_with("test ").then(|| line.find(" ... SKIP:").map(|at| at + " ... ".len())).flatten()
}

/// `ok. 3 passed; 0 failed; 1 ignored; ...`
fn parse(result: &str) -> Counts {
    let number = |what: &str| {
        let words: Vec<&str> = result.split_whitespace().collect();
        let at = words.iter().position(|word| word.trim_end_matches(';') == what);
        at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
    };
    Counts { passed: number("passed"), failed: number("failed"), skipped: number("ignored") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str, success: bool) -> (Counts, Vec<String>) {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish(success)
    }

    #[test]
    fn a_test_that_says_skip_is_no_pass() {
        let text = "test a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- b stdout ----\nSKIP: no v2\nSKIP: again\n\n\
            test result: ok. 2 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let (counts, reasons) = count(text, true);
        assert_eq!(counts, Counts { passed: 1, failed: 0, skipped: 4 });
        assert_eq!(reasons, ["b: no v2"]);
    }

    #[test]
    fn uncaptured_skips_count_line_by_line() {
        let text = "test a ... SKIP: one\nok\nSKIP: two\ntest b ... ok\n\
            test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(count(text, true).0, Counts { passed: 1, failed: 0, skipped: 2 });
    }

    #[test]
    fn an_executable_that_dies_has_failed() {
        assert_eq!(count("test a ... ", false).0.failed, 1);
        assert_eq!(count("test a ... ", true).0.failed, 1);
        let text = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(count(text, false).0, Counts { passed: 1, failed: 2, skipped: 0 });
    }

    #[test]
    fn a_last_line_is_read_as_it_is_written() {
        let counts = Counts { passed: 108, failed: 0, skipped: 14 };
        assert_eq!(Counts::of_last_line(&format!("1 passed\n{counts}\n"), true), counts);
        assert_eq!(Counts::of_last_line(&counts.to_string(), false).failed, 1);
        for nothing in ["", "killed", "a passed, b failed, c skipped"] {
            assert_eq!(Counts::of_last_line(nothing, true), Counts { passed: 0, failed: 1, skipped: 0 });
        }
    }

    #[test]
    fn several_results_add_up() {
        let one = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(count(&one.repeat(3), true).0.passed, 3);
        assert_eq!(Counts { passed: 1, failed: 2, skipped: 3 }.to_string(), "1 passed, 2 failed, 3 skipped");
    }
}
