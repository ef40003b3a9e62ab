//! Signals: CRI's enum, the kernel's numbers and the names that images use.

use holdfast_cri::v1::Signal;

use super::Invalid;

/// First and last real-time signal as a C library gives them to programs (it keeps 32 and 33 for itself).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;
/// `SIGRTMIN+15` and `SIGRTMAX-14` are the last and first of CRI's names on either side of the middle.
const RTMIN_NAMED: i32 = 15;

/// CRI's name, the kernel's number. Of two names of one number the usual one stands first.
const TABLE: [(Signal, i32); 34] = [
    (Signal::Sigabrt, libc_number(nix::sys::signal::SIGABRT)),
    (Signal::Sigalrm, libc_number(nix::sys::signal::SIGALRM)),
    (Signal::Sigbus, libc_number(nix::sys::signal::SIGBUS)),
    (Signal::Sigchld, libc_number(nix::sys::signal::SIGCHLD)),
    (Signal::Sigcld, libc_number(nix::sys::signal::SIGCHLD)),
    (Signal::Sigcont, libc_number(nix::sys::signal::SIGCONT)),
    (Signal::Sigfpe, libc_number(nix::sys::signal::SIGFPE)),
    (Signal::Sighup, libc_number(nix::sys::signal::SIGHUP)),
    (Signal::Sigill, libc_number(nix::sys::signal::SIGILL)),
    (Signal::Sigint, libc_number(nix::sys::signal::SIGINT)),
    (Signal::Sigio, libc_number(nix::sys::signal::SIGIO)),
    (Signal::Sigiot, libc_number(nix::sys::signal::SIGABRT)),
    (Signal::Sigkill, libc_number(nix::sys::signal::SIGKILL)),
    (Signal::Sigpipe, libc_number(nix::sys::signal::SIGPIPE)),
    (Signal::Sigpoll, libc_number(nix::sys::signal::SIGIO)),
    (Signal::Sigprof, libc_number(nix::sys::signal::SIGPROF)),
    (Signal::Sigpwr, libc_number(nix::sys::signal::SIGPWR)),
    (Signal::Sigquit, libc_number(nix::sys::signal::SIGQUIT)),
    (Signal::Sigsegv, libc_number(nix::sys::signal::SIGSEGV)),
    (Signal::Sigstkflt, libc_number(nix::sys::signal::SIGSTKFLT)),
    (Signal::Sigstop, libc_number(nix::sys::signal::SIGSTOP)),
    (Signal::Sigsys, libc_number(nix::sys::signal::SIGSYS)),
    (Signal::Sigterm, libc_number(nix::sys::signal::SIGTERM)),
    (Signal::Sigtrap, libc_number(nix::sys::signal::SIGTRAP)),
    (Signal::Sigtstp, libc_number(nix::sys::signal::SIGTSTP)),
    (Signal::Sigttin, libc_number(nix::sys::signal::SIGTTIN)),
    (Signal::Sigttou, libc_number(nix::sys::signal::SIGTTOU)),
    (Signal::Sigurg, libc_number(nix::sys::signal::SIGURG)),
    (Signal::Sigusr1, libc_number(nix::sys::signal::SIGUSR1)),
    (Signal::Sigusr2, libc_number(nix::sys::signal::SIGUSR2)),
    (Signal::Sigvtalrm, libc_number(nix::sys::signal::SIGVTALRM)),
    (Signal::Sigwinch, libc_number(nix::sys::signal::SIGWINCH)),
    (Signal::Sigxcpu, libc_number(nix::sys::signal::SIGXCPU)),
    (Signal::Sigxfsz, libc_number(nix::sys::signal::SIGXFSZ)),
];

const fn libc_number(signal: nix::sys::signal::Signal) -> i32 {
    signal as i32
}

/// The number of a signal from the wire; `None` for "the runtime's default".
pub fn signal_from_wire(field: &str, value: i32) -> Result<Option<i32>, Invalid> {
    let Ok(signal) = Signal::try_from(value) else {
        return Err(Invalid::choice(field, value, "the values of Signal"));
    };
    if let Some((_, number)) = TABLE.iter().find(|(known, _)| *known == signal) {
        return Ok(Some(*number));
    }
    Ok(match signal {
        Signal::RuntimeDefault => None,
        _ => Some(RTMIN + (value - Signal::Sigrtmin as i32)),
    })
}

/// The wire's value for a number; "the runtime's default" for one that CRI has no name for.
pub fn signal_to_wire(number: i32) -> i32 {
    if (RTMIN..=RTMAX).contains(&number) {
        return Signal::Sigrtmin as i32 + (number - RTMIN);
    }
    TABLE
        .iter()
        .find(|(_, known)| *known == number)
        .map_or(Signal::RuntimeDefault as i32, |(signal, _)| *signal as i32)
}

/// The number of a signal that an image names: `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`, in upper or lower case.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(short) {
        return Some(number);
    }
    let wire = Signal::from_str_name(&format!("SIGNAL_SIG{short}"))?;
    TABLE.iter().find(|(known, _)| *known == wire).map(|(_, number)| *number)
}

fn real_time(short: &str) -> Option<i32> {
    let offset = |text: &str| text.parse::<u8>().ok().map(i32::from).filter(|n| *n <= RTMIN_NAMED);
    match short.split_at_checked(5)? {
        ("RTMIN", "") => Some(RTMIN),
        ("RTMAX", "") => Some(RTMAX),
        ("RTMIN", rest) => Some(RTMIN + offset(rest.strip_prefix('+')?)?),
        ("RTMAX", rest) => Some(RTMAX - offset(rest.strip_prefix('-')?)?),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_cri_has_the_number_of_its_name() {
        let mut seen = 0;
        for value in 1..=65 {
            let name = Signal::try_from(value).unwrap().as_str_name().strip_prefix("SIGNAL_").unwrap();
            let name = name.replace("PLUS", "+").replace("MINUS", "-");
            let number = signal_from_wire("stop_signal", value).unwrap().unwrap();
            assert_eq!(signal_number(&name), Some(number), "{name}");
            assert_eq!(signal_from_wire("", signal_to_wire(number)).unwrap(), Some(number), "{name}");
            seen += 1;
        }
        assert_eq!(seen, 65);
        assert_eq!(signal_from_wire("stop_signal", 0).unwrap(), None);
        assert!(signal_from_wire("stop_signal", 66).is_err());
    }

    #[test]
    fn numbers_are_the_kernels() {
        let cases = [
            (Signal::Sigterm, 15),
            (Signal::Sigcld, 17),
            (Signal::Sigiot, 6),
            (Signal::Sigrtmin, 34),
            (Signal::Sigrtminplus15, 49),
            (Signal::Sigrtmaxminus14, 50),
            (Signal::Sigrtmax, 64),
        ];
        for (signal, number) in cases {
            assert_eq!(signal_from_wire("", signal as i32).unwrap(), Some(number));
        }
        assert_eq!(signal_to_wire(17), Signal::Sigchld as i32);
        assert_eq!(signal_to_wire(32), Signal::RuntimeDefault as i32);
    }

    #[test]
    fn names_of_images() {
        let cases = [
            ("15", Some(15)),
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("rtmin", Some(34)),
            ("SIGRTMIN+16", None),
            ("SIGRTMIN+", None),
            ("SIGRTMINPLUS3", None),
            ("SIGNAL_SIGTERM", None),
            ("RUNTIME_DEFAULT", None),
            ("", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("SIGNOPE", None),
        ];
        for (name, number) in cases {
            assert_eq!(signal_number(name), number, "{name:?}");
        }
    }
}
