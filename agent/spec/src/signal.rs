//! Stop signals, as images write them.

/// Names and numbers of signal(7), which are those of every architecture that we run on.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// The first real-time signal that a program can use: the C libraries keep the two before it.
const RTMIN: i32 = 34;
/// The last signal.
pub const LAST: i32 = 64;

/// A signal's number from its number or name, with or without `SIG`, in any case: `15`, `SIGTERM`, `rtmin+3`.
pub fn parse(text: &str) -> Option<i32> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        return text.parse().ok().filter(|number| all_digits && (1..=LAST).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let (base, distance) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (RTMIN, offset(rest, '+')?),
        (_, Some(rest)) => (LAST, -offset(rest, '-')?),
        _ => return None,
    };
    Some(base + distance).filter(|number| (RTMIN..=LAST).contains(number))
}

/// Empty, or a sign and one or two digits.
fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    let fits = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if fits { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("SigQuit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-2", Some(62)),
            ("RTMAX", Some(64)),
            ("64", Some(64)),
            ("SIGRTMIN+30", Some(64)),
            ("SIGRTMIN+31", None),
            ("RTMAX-31", None),
            ("RTMIN-1", None),
            ("RTMIN++1", None),
            ("RTMIN+", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("15x", None),
            ("+15", None),
            ("", None),
            ("SIG", None),
            ("SIGFOO", None),
            ("99999999999", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
