//! docs/fields.md has a row for every field that it is about, and every test that it names exists.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A section of the page for each.
const MESSAGES: [&str; 4] = [
    "PodSandboxConfig",
    "ContainerConfig",
    "UpdateContainerResourcesRequest",
    "UpdatePodSandboxResourcesRequest",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Field names and types of each message. A map has the type `map`.
type Messages = BTreeMap<String, Vec<(String, String)>>;

/// Reads a .proto as ours is written: one declaration a line, nested ones known by their last name.
fn messages(proto: &str) -> Messages {
    let (mut found, mut open) = (Messages::new(), Vec::<Option<String>>::new());
    for line in proto.lines().map(str::trim) {
        if line.ends_with('{') {
            open.push(line.strip_prefix("message ").map(|rest| rest.trim_end_matches([' ', '{']).to_owned()));
        } else if line.starts_with('}') {
            open.pop();
        } else if let (Some(Some(message)), Some((left, _))) = (open.last(), line.split_once(" = ")) {
            let (kind, name) = left.rsplit_once(' ').unwrap();
            let kind = if kind.starts_with("map<") { "map" } else { kind.trim_start_matches("repeated ") };
            found.entry(message.clone()).or_default().push((name.to_owned(), kind.to_owned()));
        }
    }
    found
}

/// The paths of all fields below a message that hold no message themselves. A number that may be absent is one field.
fn leaves(messages: &Messages, message: &str, prefix: &str, into: &mut BTreeSet<String>) {
    for (name, kind) in &messages[message] {
        let path = format!("{prefix}{name}");
        if kind != "Int64Value" && messages.contains_key(kind) {
            leaves(messages, kind, &format!("{path}."), into);
        } else {
            into.insert(path);
        }
    }
}

/// Rows of the page by section: field and the tests that are named.
fn rows(page: &str) -> BTreeMap<String, Vec<(String, Vec<String>)>> {
    let (mut found, mut section) = (BTreeMap::<String, Vec<_>>::new(), String::new());
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            name.clone_into(&mut section);
        } else if line.starts_with("| `") {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 3, "{line}");
            let quoted = |cell: &str| -> Vec<String> {
                cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
            };
            assert!(!cells[1].is_empty(), "no behaviour: {line}");
            found.entry(section.clone()).or_default().push((quoted(cells[0]).remove(0), quoted(cells[2])));
        }
    }
    found
}

/// All tests in the sources as `file::function`.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in ["agent", "pod", "shim", "e2e"] {
        walk(&repository().join(part), &mut found);
    }
    found
}

fn walk(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            found
                .extend(functions(&fs::read_to_string(&path).unwrap()).map(|name| format!("{stem}::{name}")));
        }
    }
}

/// Functions below a `#[test]`, perhaps with other attributes between.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().map(str::trim).filter_map(move |line| {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && !line.starts_with("#[") && !line.starts_with("//") {
            is_test = false;
            let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
            return rest.split(['(', '<']).next();
        }
        None
    })
}

#[test]
fn every_field_has_a_row_and_every_row_a_test_that_exists() {
    let messages = messages(&fs::read_to_string(repository().join("agent/cri/proto/api.proto")).unwrap());
    let page = rows(&fs::read_to_string(repository().join("docs/fields.md")).unwrap());
    let tests = tests();
    let mut problems = Vec::new();
    for message in MESSAGES {
        let mut fields = BTreeSet::new();
        leaves(&messages, message, "", &mut fields);
        let rows = page.get(message).map(Vec::as_slice).unwrap_or_default();
        let covers = |row: &str, field: &str| match row.strip_suffix('*') {
            Some(prefix) => field.starts_with(prefix),
            None => field == row,
        };
        for field in &fields {
            let count = rows.iter().filter(|(row, _)| covers(row, field)).count();
            if count != 1 {
                problems.push(format!("{message}.{field} has {count} rows"));
            }
        }
        for (row, named) in rows {
            if !fields.iter().any(|field| covers(row, field)) {
                problems.push(format!("{message}.{row} is no field"));
            }
            if named.is_empty() {
                problems.push(format!("{message}.{row} names no test"));
            }
            let absent = named.iter().filter(|name| !tests.contains(*name));
            problems.extend(absent.map(|name| format!("{message}.{row}: there is no test {name}")));
        }
    }
    assert!(problems.is_empty(), "docs/fields.md:\n  {}", problems.join("\n  "));
}

#[test]
fn what_the_check_reads_is_what_is_written() {
    let proto = "message A {\n    enum K {\n        X = 0;\n    }\n    K kind = 1;\n    repeated B b = 2;\n    \
        map<string, string> m = 3;\n    Int64Value n = 4 [deprecated=true];\n}\nmessage B {\n    string s = 1;\n}\n\
        message Int64Value {\n    int64 value = 1;\n}\n";
    let mut fields = BTreeSet::new();
    leaves(&messages(proto), "A", "", &mut fields);
    assert_eq!(fields.into_iter().collect::<Vec<_>>(), ["b.s", "kind", "m", "n"]);
    let page = rows("## A\n| field | behaviour | test |\n|---|---|---|\n| `b.*` | does | `x::y`, `z::w` |\n");
    assert_eq!(page["A"], [("b.*".to_owned(), vec!["x::y".to_owned(), "z::w".to_owned()])]);
    let source = "#[test]\n#[allow(x)]\nfn one() {\n}\nfn two() {}\n#[tokio::test]\nasync fn three() {}\n";
    assert_eq!(functions(source).collect::<Vec<_>>(), ["one", "three"]);
}
