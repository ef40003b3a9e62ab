//! What a scalar means. Kubernetes reads manifests as YAML 1.1 does, where `yes` is a truth value; a plain scalar that
//! any version takes for something else is no text here, for the same file must not mean two things.

use super::yaml::Value;

const TRUE: [&str; 9] = ["true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"];
const FALSE: [&str; 9] = ["false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"];
/// YAML 1.1 alone takes these for truth values.
const DOUBTFUL: [&str; 4] = ["y", "Y", "n", "N"];

/// A text: in quotes, or one that can be nothing else.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Scalar { text, plain: true } if means_something(text) => None,
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// A truth value.
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Scalar { text, plain: true } if TRUE.contains(&text.as_str()) => Some(true),
        Value::Scalar { text, plain: true } if FALSE.contains(&text.as_str()) => Some(false),
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

fn means_something(plain: &str) -> bool {
    TRUE.contains(&plain) || FALSE.contains(&plain) || DOUBTFUL.contains(&plain) || is_numeric(plain)
}

/// Whether some version of YAML reads a number: decimal, octal, hexadecimal, binary, with underscores, or a float.
fn is_numeric(plain: &str) -> bool {
    let plain = plain.replace('_', "");
    let digits = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    if matches!(digits.to_ascii_lowercase().as_str(), ".inf" | ".nan") {
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
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
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
            "yes", "y", "Off", "true",
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
            (flag(&plain("true")), flag(&plain("off")), flag(&plain("y"))),
            (Some(true), Some(false), None)
        );
    }
}
