//! The texts of cgroup files. Every parser takes any bytes and never panics.

/// Highest CPU or node number that we believe in (the kernel's largest NR_CPUS is 8192).
const MAX_CPUSET_INDEX: u32 = 65_535;

/// One line of PSI (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PsiData {
    /// Share of time stalled over 10 s, in percent.
    pub avg10: f64,
    /// Over 60 s.
    pub avg60: f64,
    /// Over 300 s.
    pub avg300: f64,
    /// Stalled time in nanoseconds (the kernel counts microseconds).
    pub total_ns: u64,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Psi {
    /// Some task was stalled.
    pub some: PsiData,
    /// All tasks were stalled.
    pub full: PsiData,
}

/// `key value` lines: the values of `keys`, 0 for those that are missing.
pub(crate) fn flat<const N: usize>(text: &str, keys: [&str; N]) -> [u64; N] {
    let mut values = [0; N];
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        if let Some(index) = keys.iter().position(|wanted| *wanted == key) {
            values[index] = value.trim().parse().unwrap_or(0);
        }
    }
    values
}

/// A single number; `max` and v1's "unlimited" (a page below 2^63) are `None`.
pub(crate) fn limit(text: &str) -> Option<u64> {
    let value: u64 = text.trim().parse().ok()?;
    (value < UNLIMITED).then_some(value)
}

/// What v1 says for "no limit" is PAGE_COUNTER_MAX in bytes, which depends on the page size.
pub(crate) const UNLIMITED: u64 = i64::MAX as u64 & !0xffff;

/// A pressure file; `None` if it holds no `some` line.
pub(crate) fn psi(text: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    let mut seen = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let data = match words.next() {
            Some("some") => {
                seen = true;
                &mut psi.some
            }
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = percent(value),
                "avg60" => data.avg60 = percent(value),
                "avg300" => data.avg300 = percent(value),
                "total" => data.total_ns = value.parse::<u64>().unwrap_or(0).saturating_mul(1000),
                _ => {}
            }
        }
    }
    seen.then_some(psi)
}

fn percent(text: &str) -> f64 {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0).unwrap_or(0.0)
}

/// Process ids, one a line; 0 stands for a process that our pid namespace cannot name.
pub(crate) fn pids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 0).collect()
}

/// One line of /proc/PID/cgroup (cgroups(7)): controllers (none for v2) and path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Membership<'a> {
    pub controllers: Vec<&'a str>,
    pub path: &'a str,
}

/// The lines of /proc/PID/cgroup.
pub(crate) fn memberships(text: &str) -> Vec<Membership<'_>> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let controllers = controllers.split(',').filter(|name| !name.is_empty()).collect();
            path.starts_with('/').then_some(Membership { controllers, path })
        })
        .collect()
}

/// A list such as `0-3,5` (cpuset(7), list format), as inclusive ranges; `None` if it is not one.
pub(crate) fn cpuset(text: &str) -> Option<Vec<(u32, u32)>> {
    let index = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|index: &u32| digits && *index <= MAX_CPUSET_INDEX)
    };
    text.split(',')
        .map(|part| match part.split_once('-') {
            None => index(part).map(|only| (only, only)),
            Some((first, last)) => index(first).zip(index(last)).filter(|(first, last)| first <= last),
        })
        .collect()
}

/// Whether one list holds another.
pub(crate) fn cpuset_eq(one: &str, other: &str) -> bool {
    let expand = |text: &str| {
        cpuset(text).map(|ranges| {
            ranges
                .into_iter()
                .flat_map(|(first, last)| first..=last)
                .collect::<std::collections::BTreeSet<_>>()
        })
    };
    one == other || expand(one).is_some_and(|set| Some(set) == expand(other))
}

/// `cpu.max`: quota (`None`: max) and period in microseconds.
pub(crate) fn cpu_max(text: &str) -> (Option<i64>, Option<i64>) {
    let mut words = text.split_ascii_whitespace();
    (words.next().and_then(|word| word.parse().ok()), words.next().and_then(|word| word.parse().ok()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flat_files_by_key() {
        assert_eq!(flat("a 1\nb 22\nb_c 3\nbad\nd x\n", ["b", "a", "none", "d"]), [22, 1, 0, 0]);
    }

    #[test]
    fn limits_know_both_words_for_none() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("1048576\n"), Some(1_048_576));
    }

    #[test]
    fn psi_of_the_kernel() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=1234\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
        let psi = psi(text).unwrap();
        assert_eq!((psi.some.avg10, psi.some.total_ns, psi.full.total_ns), (1.5, 1_234_000, 7_000));
        assert_eq!(super::psi(""), None);
    }

    #[test]
    fn memberships_of_hybrid_and_v2() {
        let text = "9:name=systemd:/a\n3:cpu,cpuacct:/a:b\n0::/c\n";
        let found = memberships(text);
        assert_eq!(found[0], Membership { controllers: vec!["name=systemd"], path: "/a" });
        assert_eq!(found[1], Membership { controllers: vec!["cpu", "cpuacct"], path: "/a:b" });
        assert_eq!(found[2], Membership { controllers: vec![], path: "/c" });
    }

    #[test]
    fn cpuset_lists() {
        assert_eq!(cpuset("0-3,5"), Some(vec![(0, 3), (5, 5)]));
        for bad in ["", "a", "3-1", "1-", "-1", "1,,2", "0-4294967295", "+1", "1-2-3", " 1"] {
            assert_eq!(cpuset(bad), None, "{bad:?}");
        }
        assert!(cpuset_eq("0-2", "0,1,2") && !cpuset_eq("0-2", "0-3"));
    }

    #[test]
    fn cpu_max_with_and_without_quota() {
        assert_eq!(cpu_max("max 100000\n"), (None, Some(100_000)));
        assert_eq!(cpu_max("50000 100000\n"), (Some(50_000), Some(100_000)));
        assert_eq!(cpu_max(""), (None, None));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*|[a-z0-9=:,/. \n-]*") {
            let _ = (flat(&text, ["a", "total"]), limit(&text), psi(&text), cpu_max(&text));
            let _ = (pids(&text), memberships(&text), cpuset(&text), cpuset_eq(&text, "0"));
        }

        #[test]
        fn pids_that_were_written_are_read(wanted in proptest::collection::vec(1..i32::MAX, 0..50)) {
            let text = wanted.iter().map(i32::to_string).collect::<Vec<_>>().join("\n");
            prop_assert_eq!(pids(&text), wanted);
        }

        #[test]
        fn ranges_that_were_written_are_read(ranges in proptest::collection::vec((0..500_u32, 0..50_u32), 1..20)) {
            let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
            let text: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            prop_assert_eq!(cpuset(&text.join(",")), Some(ranges));
        }

        #[test]
        fn flat_values_that_were_written_are_read(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(flat(&format!("x {b}\na {a}\n"), ["a", "x"]), [a, b]);
        }
    }
}
