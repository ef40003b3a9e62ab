//! Links, addresses, routes, peers and rules of the test's network namespace.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Facts, add_counted};
use crate::process;

pub fn look(facts: &mut Facts) -> Result<()> {
    for link in list("ip", &["-j", "address", "show"])? {
        let name = text(&link["ifname"]);
        facts.insert(format!("link {name}"));
        for address in link["addr_info"].as_array().into_iter().flatten() {
            // Link-local ones follow from the link, and come late.
            if address["scope"] != "link" {
                facts.insert(format!(
                    "address {}/{} on {name}",
                    text(&address["local"]),
                    address["prefixlen"]
                ));
            }
        }
    }
    for family in ["-4", "-6"] {
        for route in list("ip", &[family, "-j", "route", "show", "table", "all"])? {
            if !text(&route["dst"]).starts_with("fe80") && !text(&route["dst"]).starts_with("ff00") {
                let words = [&route["type"], &route["dst"], &route["dev"], &route["table"]].map(text);
                facts.insert(format!("route {family} {}", words.join(" ")));
            }
        }
    }
    let peers = process::stdout("ip", ["netns", "list-id"])?;
    // A peer's number is given anew: how many there are counts.
    add_counted(facts, peers.lines().map(|_| "peer namespace".to_owned()));
    rules(facts)
}

/// Chains, rules, sets and elements of nftables, without handles and counters.
fn rules(facts: &mut Facts) -> Result<()> {
    let listed = process::stdout("nft", ["-j", "list", "ruleset"])?;
    let listed: Value = serde_json::from_str(&listed).context("parse the output of nft")?;
    let mut lines = Vec::new();
    for object in listed["nftables"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        let (kind, body) = object;
        if kind == "metainfo" {
            continue;
        }
        let mut body = body.clone();
        let elements = body.as_object_mut().and_then(|body| {
            body.remove("handle");
            body.remove("elem")
        });
        forget_counters(&mut body);
        lines.push(format!("nftables {kind} {body}"));
        for element in elements.iter().filter_map(Value::as_array).flatten() {
            lines.push(format!("nftables element of {}: {element}", body["name"]));
        }
    }
    add_counted(facts, lines);
    Ok(())
}

fn forget_counters(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(counter) = map.get_mut("counter") {
                *counter = Value::Null;
            }
            map.values_mut().for_each(forget_counters);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_counters),
        _ => {}
    }
}

fn list(program: &str, args: &[&str]) -> Result<Vec<Value>> {
    let text = process::stdout(program, args)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| format!("parse the output of {program} {}", args.join(" ")))
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}
