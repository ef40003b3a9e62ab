//! How many specs have to pass in a run of all: critest skips in silence what a runtime does not advertise, so that "none
//! failed" proves little. The numbers are critest v1.36.0's.

use crate::{benchmarks, flags};

/// On any machine.
const ALWAYS: usize = 108;
/// Where the host has AppArmor.
const APPARMOR: usize = 9;
/// The benchmarks, which run alone.
const BENCHMARKS: usize = 5;

/// Flags that leave specs out, or end critest before it runs any.
const LIMITING: &[&str] = &[
    "ginkgo.focus",
    "ginkgo.focus-file",
    "ginkgo.skip",
    "ginkgo.skip-file",
    "ginkgo.label-filter",
    "ginkgo.dry-run",
    "ginkgo.fail-fast",
    "version",
    "h",
    "help",
];

/// How many have to pass, or `None` if critest's flags choose some of them.
pub fn expected(args: &[String], apparmor: bool) -> Option<usize> {
    if LIMITING.iter().any(|flag| flags::has(args, flag)) {
        return None;
    }
    if flags::has(args, benchmarks::FLAG) {
        return Some(BENCHMARKS);
    }
    Some(ALWAYS + if apparmor { APPARMOR } else { 0 })
}

/// As critest looks for it.
pub fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_of_all_has_a_number() {
        let expected = |line: &str, apparmor| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            expected(&args, apparmor)
        };
        assert_eq!(expected("", false), Some(108));
        assert_eq!(expected("--parallel=3 -websocket-exec", true), Some(117));
        assert_eq!(expected("-benchmark", false), Some(5));
        assert_eq!(expected("-ginkgo.focus=Streaming", false), None);
        assert_eq!(expected("--ginkgo.skip x", true), None);
    }
}
