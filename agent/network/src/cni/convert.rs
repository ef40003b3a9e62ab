//! Results of one version of the CNI specification to those of another, as libcni does between the plugins of a list.
//!
//! There are three forms: 0.1.0 and 0.2.0 have an address of each family in `ip4` and `ip6`; from 0.3.0 on addresses are
//! a list, up to 0.4.0 with their family. What later versions have added beside that is passed on: older plugins do
//! not look at it.

use serde_json::{Map, Value, json};

use super::conf::VERSIONS;

/// Versions that no list may have here, but a plugin's result.
const OLDEST: [&str; 2] = ["0.1.0", "0.2.0"];

/// A result in a list's version, or what is wrong with it.
pub(super) fn to(version: &str, mut result: Map<String, Value>) -> Result<Value, String> {
    // A result that does not say is of the list's version; old plugins do not say, whatever they speak.
    if let Some(Value::String(own)) = result.get("cniVersion")
        && !own.is_empty()
        && !OLDEST.iter().chain(&VERSIONS).any(|known| known == own)
    {
        return Err(format!("printed a result of CNI {own}: those of 0.1.0 to 1.1.0 are understood"));
    }
    let old = [result.remove("ip4"), result.remove("ip6")];
    if result.get("ips").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        add_addresses(&mut result, old.iter().flatten());
    }
    let has_family = ["0.3.0", "0.3.1", "0.4.0"].contains(&version);
    for address in result.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(address) = address {
            set_family(address, has_family);
        }
    }
    result.insert("cniVersion".to_owned(), json!(version));
    Ok(Value::Object(result))
}

/// Adds `ip4` and `ip6` as entries of `ips` and `routes`. A route without a gateway had its family's.
fn add_addresses<'a>(result: &mut Map<String, Value>, old: impl Iterator<Item = &'a Value>) {
    let (mut addresses, mut routes) = (Vec::new(), Vec::new());
    for config in old {
        let gateway = config.get("gateway").filter(|gateway| !gateway.is_null());
        if let Some(address) = config.get("ip") {
            addresses.push(with_gateway(json!({"address": address}), "gateway", gateway));
        }
        for route in config.get("routes").and_then(Value::as_array).into_iter().flatten() {
            routes.push(with_gateway(route.clone(), "gw", gateway));
        }
    }
    if addresses.is_empty() {
        return;
    }
    result.insert("ips".to_owned(), addresses.into());
    if !routes.is_empty() {
        result.insert("routes".to_owned(), routes.into());
    }
}

fn with_gateway(mut value: Value, key: &str, gateway: Option<&Value>) -> Value {
    if let (Value::Object(map), Some(gateway)) = (&mut value, gateway) {
        map.entry(key).or_insert_with(|| gateway.clone());
    }
    value
}

/// Gives an address its family, or takes that away.
fn set_family(address: &mut Map<String, Value>, has_family: bool) {
    if !has_family {
        address.remove("version");
        return;
    }
    let is_v6 = address.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
    address.insert("version".to_owned(), json!(if is_v6 { "6" } else { "4" }));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn converted(version: &str, result: Value) -> Result<Value, String> {
        let Value::Object(result) = result else { panic!("no object") };
        to(version, result)
    }

    /// One result, in the form of each version.
    fn of(version: &str) -> Value {
        let dns = json!({"nameservers": ["10.1.0.1"]});
        let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "10.0.0.0/8", "gw": "10.1.2.9"},
                            {"dst": "::/0", "gw": "fd00::1"}]);
        match version {
            "0.1.0" | "0.2.0" => json!({
                "cniVersion": version, "dns": dns,
                "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1",
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.1.2.9"}]},
                "ip6": {"ip": "fd00::3/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
            }),
            "0.3.0" | "0.3.1" | "0.4.0" => json!({
                "cniVersion": version, "dns": dns, "routes": routes,
                "ips": [{"version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
                        {"version": "6", "address": "fd00::3/64", "gateway": "fd00::1"}],
            }),
            _ => json!({
                "cniVersion": version, "dns": dns, "routes": routes,
                "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"},
                        {"address": "fd00::3/64", "gateway": "fd00::1"}],
            }),
        }
    }

    #[test]
    fn every_version_becomes_every_other() {
        for from in OLDEST.iter().chain(&VERSIONS) {
            for to in VERSIONS {
                assert_eq!(converted(to, of(from)).unwrap(), of(to), "{from} to {to}");
            }
        }
    }

    #[test]
    fn a_result_without_a_version() {
        for missing in [json!(null), json!(""), json!(3)] {
            for from in ["0.2.0", "0.3.1", "1.0.0"] {
                let mut result = of(from);
                result["cniVersion"] = missing.clone();
                assert_eq!(converted("0.3.1", result).unwrap(), of("0.3.1"), "{from}");
            }
        }
    }

    #[test]
    fn what_one_family_has_and_what_none_has() {
        let one = converted("1.0.0", json!({"cniVersion": "0.2.0", "ip6": {"ip": "fd00::3/64"}})).unwrap();
        assert_eq!(one, json!({"cniVersion": "1.0.0", "ips": [{"address": "fd00::3/64"}]}));
        let none = converted("1.0.0", json!({"cniVersion": "0.2.0", "ip4": null})).unwrap();
        assert_eq!(none, json!({"cniVersion": "1.0.0"}));
        let newer = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 1400}], "ips": []});
        assert_eq!(converted("1.0.0", newer).unwrap()["interfaces"][0]["mtu"], 1400);
    }

    #[test]
    fn a_version_that_nobody_knows_is_named() {
        let error = converted("1.0.0", json!({"cniVersion": "2.0.0", "ips": []})).unwrap_err();
        assert!(error.contains("2.0.0") && error.contains("0.1.0 to 1.1.0"), "{error}");
    }

    proptest! {
        #[test]
        fn twice_is_as_good_as_once(text in r#"\{("ip4|"ips|"ip6|"routes)":(null|3|\{\}|\[\{\}\]|\[1\]|\{"ip":7\})\}"#) {
            if let Ok(Value::Object(result)) = serde_json::from_str(&text) {
                let once = to("0.4.0", result).unwrap();
                prop_assert_eq!(converted("0.4.0", once.clone()).unwrap(), once);
            }
        }
    }
}
