//! Meaning of a scalar. Kubernetes reads truth values and numbers as YAML 1.1 does, where `yes`, `n` and
//! `017` are some. A plain scalar that any version takes for something else is no text here, for the same
//! file must not mean two things. The exceptions are YAML 1.1's numbers to the base of 60 (`22:80`) and
//! dates: for Kubernetes they are texts.

use super::yaml::Value;

const TRUE: [&str; 11] = ["true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y", "on", "On", "ON"];
const FALSE: [&str; 11] = ["false", "False", "FALSE", "no", "No", "NO", "n", "N", "off", "Off", "OFF"];

/// A text: in quotes, or one that can be nothing else.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Scalar { text, plain: true } if meaning(text).is_some() => None,
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// A truth value.
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Scalar { text, plain: true } => truth(text),
        _ => None,
    }
}

/// A whole number. A leading zero makes it octal for some and decimal for others.
pub fn number(value: &Value) -> Option<i64> {
    let Value::Scalar { text, plain: true } = value else { return None };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    let decimal = !leading_zero && digits.bytes().all(|byte| byte.is_ascii_digit());
    decimal.then(|| text.parse().ok()).flatten()
}

/// The text of any scalar but a truth value.
pub fn loose(value: &Value) -> Option<&str> {
    match value {
        Value::Scalar { text, .. } if flag(value).is_none() => Some(text),
        _ => None,
    }
}

/// A value as an error says it, cut to a line.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
        Value::Scalar { text, plain } => {
            let short: String = text.chars().take(60).collect();
            if *plain { short } else { format!("{short:?}") }
        }
    }
}

/// Meaning of a text without quotes, if it is not taken for a text: `true`, `false` or `a number`.
pub fn meaning(plain: &str) -> Option<&'static str> {
    match truth(plain) {
        Some(true) => Some("true"),
        Some(false) => Some("false"),
        None => is_numeric(plain).then_some("a number"),
    }
}

/// Error message for a value that is no text: the reason, and how to write one.
pub fn no_text(value: &Value) -> String {
    match value {
        Value::Scalar { text, plain: true } if let Some(meaning) = meaning(text) => {
            format!("{text} without quotes is {meaning} in YAML 1.1, as Kubernetes reads it: write {text:?}")
        }
        value => format!("{} is not a text", describe(value)),
    }
}

/// Whether Kubernetes would have another name for a field of this name: it reads names as it does values.
pub fn is_changed_name(plain: &str) -> bool {
    let is_itself = plain.parse::<i64>().is_ok_and(|number| number.to_string() == plain);
    meaning(plain).is_some_and(|meaning| meaning != plain) && !is_itself
}

fn truth(plain: &str) -> Option<bool> {
    if TRUE.contains(&plain) {
        return Some(true);
    }
    FALSE.contains(&plain).then_some(false)
}

/// Whether some version of YAML reads a number: decimal, octal, hexadecimal, binary, with underscores, or a float.
fn is_numeric(plain: &str) -> bool {
    let plain = plain.replace('_', "").to_ascii_lowercase();
    let digits = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    if matches!(digits, ".inf" | ".nan") {
        return true;
    }
    let of_base = |prefix: &str, base: u32| {
        let rest = digits.strip_prefix(prefix).unwrap_or_default();
        !rest.is_empty() && rest.chars().all(|c| c.is_digit(base))
    };
    of_base("0x", 16) || of_base("0o", 8) || of_base("0b", 2) || is_float(digits)
}

/// `1`, `1.`, `.5`, `1.5e-3`.
fn is_float(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let good_exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && all_digits(exponent)
    });
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    good_exponent && all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Value {
        Value::Scalar { text: text.into(), plain: true }
    }

    #[test]
    fn texts_and_what_is_none() {
        for good in
            ["a", "1.2.3.4", "8080:80", "2001-12-14", "1Gi", "-", "e3", "nope", "0xg", "1e", "--", ".", "1-2"]
        {
            assert_eq!(text(&plain(good)), Some(good));
        }
        for bad in [
            "1", "-1", "0x1f", "0o7", "0b1", "017", "1_000", "1.5", ".5", "1.", "1e3", ".inf", "-.INF",
            "yes", "y", "Off", "true", "N", "n", "Y", "on", "0X1F", "0O7", "0B1", "089", "1E3", "-017", "1.",
            ".NaN",
        ] {
            assert_eq!(text(&plain(bad)), None, "{bad}");
            assert_eq!(text(&Value::Scalar { text: bad.into(), plain: false }), Some(bad));
        }
    }

    #[test]
    fn numbers_and_flags() {
        for (text, expected) in
            [("0", Some(0)), ("-5", Some(-5)), ("+5", Some(5)), ("9223372036854775807", Some(i64::MAX))]
        {
            assert_eq!(number(&plain(text)), expected);
        }
        for bad in ["", "-", "010", "1e3", "1.0", "0x10", "9223372036854775808", "1_0", "５"] {
            assert_eq!(number(&plain(bad)), None, "{bad}");
        }
        assert_eq!(
            (flag(&plain("true")), flag(&plain("off")), flag(&plain("y")), flag(&plain("tRue"))),
            (Some(true), Some(false), Some(true), None)
        );
    }

    #[test]
    fn a_refusal_says_what_it_is_and_how_to_write_it() {
        for (text, expected) in [
            ("N", "N without quotes is false in YAML 1.1, as Kubernetes reads it: write \"N\""),
            ("on", "on without quotes is true in YAML 1.1, as Kubernetes reads it: write \"on\""),
            ("017", "017 without quotes is a number in YAML 1.1, as Kubernetes reads it: write \"017\""),
        ] {
            assert_eq!(no_text(&plain(text)), expected);
        }
        assert_eq!(no_text(&Value::List(Vec::new())), "a list is not a text");
    }

    #[test]
    fn names_that_kubernetes_would_change() {
        for name in ["y", "No", "True", "on", "017", "0x1f", "1.10", "+1", "1_0", "1e3"] {
            assert!(is_changed_name(name), "{name}");
        }
        for name in ["a", "true", "false", "0", "80", "-5", "22:80", "2001-12-14", ""] {
            assert!(!is_changed_name(name), "{name}");
        }
    }
}
