//! What plugins print: results (addresses of the pod) and errors (CNI specification, section 5).

use std::net::IpAddr;

use serde_json::Value;

/// The pod's addresses in a result's order: those of the interface `ifname` inside the pod, and those that are of no
/// interface in particular. Without any such, all.
pub(crate) fn addresses(result: &Value, ifname: &str) -> Vec<IpAddr> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let is_ours = |index: u64| {
        let interface = interfaces.and_then(|interfaces| interfaces.get(usize::try_from(index).ok()?));
        interface.is_some_and(|interface| {
            let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
            text("name") == ifname && !text("sandbox").is_empty()
        })
    };
    let entries = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let parsed: Vec<(Option<u64>, IpAddr)> = entries
        .filter_map(|entry| {
            let address = entry.get("address")?.as_str()?.split('/').next()?.parse().ok()?;
            Some((entry.get("interface").and_then(Value::as_u64), address))
        })
        .collect();
    let ours: Vec<IpAddr> = parsed
        .iter()
        .filter(|(interface, _)| interface.is_none_or(is_ours))
        .map(|(_, address)| *address)
        .collect();
    if ours.is_empty() { parsed.into_iter().map(|(_, address)| address).collect() } else { ours }
}

/// The sentence for a plugin that failed: its error object, or else what it printed.
pub(super) fn failure(status: &str, stdout: &[u8], stderr: &[u8]) -> String {
    if let Ok(Value::Object(error)) = serde_json::from_slice::<Value>(stdout)
        && let Some(message) = error.get("msg").and_then(Value::as_str)
    {
        let code = error.get("code").and_then(Value::as_u64);
        let details = error.get("details").and_then(Value::as_str).filter(|details| !details.is_empty());
        let mut text = message.trim().to_owned();
        if let Some(details) = details {
            text.push_str(": ");
            text.push_str(details.trim());
        }
        return match code {
            Some(code) => format!("{text} (code {code})"),
            None => text,
        };
    }
    let printed = [excerpt(stderr), excerpt(stdout)].into_iter().find(|text| !text.is_empty());
    match printed {
        Some(printed) => format!("{status}: {printed}"),
        None => format!("{status} and no message"),
    }
}

/// The end of what was printed, on one line.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const MOST: usize = 512;
    let tail = &bytes[bytes.len().saturating_sub(MOST)..];
    let text = String::from_utf8_lossy(tail);
    text.split_whitespace().map(|word| word.escape_debug().to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_all_versions() {
        let interfaces = json!([{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"},
                                {"name":"net1","sandbox":"/run/netns/x"}]);
        let table = [
            (
                json!({"ips":[{"version":"4","address":"10.0.0.2/24","interface":2}],"interfaces":interfaces}),
                vec!["10.0.0.2"],
            ),
            (
                json!({"ips":[{"address":"fd00::2/64","interface":2},{"address":"10.9.9.9/24","interface":3},
                              {"address":"10.0.0.2/24"}],"interfaces":interfaces}),
                vec!["fd00::2", "10.0.0.2"],
            ),
            (json!({"ips":[{"address":"10.0.0.2/24","interface":9}]}), vec!["10.0.0.2"]),
            (json!({"ips":[{"address":"x/24"},{"address":7},3]}), vec![]),
            (json!({"ips":{}}), vec![]),
            (json!(3), vec![]),
        ];
        for (result, expected) in table {
            let found: Vec<String> = addresses(&result, "eth0").iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{result}");
        }
    }

    #[test]
    fn failures_read_well() {
        let table: [(&[u8], &[u8], &str); 5] = [
            (
                br#"{"code":11,"msg":"no room","details":"in 10.0.0.0/8"}"#,
                b"x",
                "no room: in 10.0.0.0/8 (code 11)",
            ),
            (br#"{"msg":"just so"}"#, b"", "just so"),
            (b"", b"panic: \x1b[31m\n oh", "exit status: 2: panic: \\u{1b}[31m oh"),
            (b"garbage", b"", "exit status: 2: garbage"),
            (b"", b"", "exit status: 2 and no message"),
        ];
        for (stdout, stderr, expected) in table {
            assert_eq!(failure("exit status: 2", stdout, stderr), expected);
        }
    }

    proptest! {
        #[test]
        fn any_output_makes_a_sentence(stdout in prop::collection::vec(any::<u8>(), 0..2000)) {
            let text = failure("exit status: 1", &stdout, &[]);
            prop_assert!(!text.is_empty() && text.len() < 8000 && !text.contains('\n'));
        }

        #[test]
        fn any_text_has_addresses_or_none(text in "\\PC{0,80}") {
            if let Ok(value) = serde_json::from_str(&text) {
                let _ = addresses(&value, "eth0");
            }
        }
    }
}
