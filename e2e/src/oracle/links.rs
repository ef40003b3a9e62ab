//! Links of the host: those of the first process's network namespace.

use std::fs;

use super::Facts;

pub fn look(facts: &mut Facts) {
    // Ours may be a namespace of the test's own, and its links are looked at there.
    let text = fs::read_to_string("/proc/1/net/dev").unwrap_or_default();
    facts.extend(names(&text).map(|name| format!("link of the host {name}")));
}

/// Two lines of heading, then `name: counters`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_the_counters() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3\nveth1a2b: 0 0 0\n";
        assert_eq!(names(text).collect::<Vec<_>>(), ["lo", "veth1a2b"]);
    }
}
