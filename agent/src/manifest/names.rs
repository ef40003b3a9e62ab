//! The forms of names in Kubernetes (apimachinery, pkg/util/validation).

use super::reader::Item;

/// A DNS label: containers, volumes, namespaces, host names.
pub fn label(item: &Item<'_>) -> Option<String> {
    checked(item, |text| is_label(text, 63), "is not a name of lower-case letters, digits and -, at most 63")
}

/// A DNS subdomain: pods.
pub fn subdomain(item: &Item<'_>) -> Option<String> {
    let is_subdomain = |text: &str| text.len() <= 253 && text.split('.').all(|part| is_label(part, 253));
    checked(item, is_subdomain, "is not a name of lower-case letters, digits, - and ., at most 253")
}

/// The name of a port (IANA_SVC_NAME).
pub fn port(item: &Item<'_>) -> Option<String> {
    let is_port = |text: &str| {
        is_label(text, 15) && text.bytes().any(|byte| byte.is_ascii_lowercase()) && !text.contains("--")
    };
    checked(item, is_port, "is not a name of lower-case letters, digits and -, with a letter, at most 15")
}

/// A uid. It is a directory's name as well.
pub fn uid(item: &Item<'_>) -> Option<String> {
    let is_uid = |text: &str| {
        (1..=128).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    checked(item, is_uid, "is not an id of letters, digits, -, _ and .: leave it out, and one is made")
}

/// The name of a variable: printable ASCII without `=`.
pub fn variable(item: &Item<'_>) -> Option<String> {
    let is_variable = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
    };
    checked(item, is_variable, "is not a name of printable ASCII characters without =")
}

fn checked(item: &Item<'_>, is_good: impl FnOnce(&str) -> bool, problem: &str) -> Option<String> {
    let text = item.text()?;
    if is_good(&text) {
        return Some(text);
    }
    item.refuse(format!("{text:?} {problem}"));
    None
}

fn is_label(text: &str, most: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=most).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{reader::Problems, yaml};

    fn good(text: &str, check: fn(&Item<'_>) -> Option<String>) -> bool {
        let node = yaml::parse(&format!("{text:?}")).expect("a quoted text");
        let problems = Problems::default();
        let checked = check(&Item::top(&node, &problems));
        assert_eq!(checked.is_none(), !problems.is_empty());
        checked.is_some()
    }

    #[test]
    fn forms() {
        let long = "a".repeat(64);
        for (text, of_label, of_subdomain, of_port, of_uid, of_variable) in [
            ("a", true, true, true, true, true),
            ("web-0", true, true, true, true, true),
            ("a.b", false, true, false, true, true),
            ("80", true, true, false, true, true),
            ("-a", false, false, false, true, true),
            ("a-", false, false, false, true, true),
            ("a--b", true, true, false, true, true),
            ("A", false, false, false, true, true),
            ("a..b", false, false, false, true, true),
            ("../x", false, false, false, false, true),
            ("..", false, false, false, false, true),
            (".", false, false, false, false, true),
            ("", false, false, false, false, false),
            ("a=b", false, false, false, false, false),
            ("a b", false, false, false, false, true),
            ("é", false, false, false, false, false),
            ("a\n", false, false, false, false, false),
            (long.as_str(), false, true, false, true, true),
        ] {
            assert_eq!(good(text, label), of_label, "label {text:?}");
            assert_eq!(good(text, subdomain), of_subdomain, "subdomain {text:?}");
            assert_eq!(good(text, port), of_port, "port {text:?}");
            assert_eq!(good(text, uid), of_uid, "uid {text:?}");
            assert_eq!(good(text, variable), of_variable, "variable {text:?}");
        }
    }
}
