//! Reading a tree field by field. What nobody takes is refused by its path when the reader of its mapping goes, so
//! that no field can be forgotten and none is ignored.

use std::{cell::RefCell, rc::Rc};

use holdfast_model::Map;

use super::{
    error::Problem,
    scalar,
    yaml::{Node, Value},
};

/// What has been found wrong so far.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// All of them, in the order of their lines.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }

    /// Whether nothing was wrong.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A value and the path that leads to it.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    path: String,
    node: &'a Node,
    problems: &'a Problems,
}

impl<'a> Item<'a> {
    /// The whole document.
    pub fn top(node: &'a Node, problems: &'a Problems) -> Self {
        Self { path: String::new(), node, problems }
    }

    /// `spec.containers[0].image`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Says what is wrong with the value.
    pub fn refuse(&self, text: impl Into<String>) {
        let path = if self.path.is_empty() { "the manifest".to_owned() } else { self.path.clone() };
        self.problems.0.borrow_mut().push(Problem { line: self.node.line, path, text: text.into() });
    }

    /// Whether the value says nothing: an empty mapping or sequence.
    pub fn is_empty(&self) -> bool {
        match &self.node.value {
            Value::Null => true,
            Value::List(list) => list.is_empty(),
            Value::Map(map) => map.is_empty(),
            Value::Scalar { .. } => false,
        }
    }

    /// A value that is not taken in its own form is refused with what it is instead.
    fn read<T>(&self, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = read(&self.node.value);
        if value.is_none() {
            self.refuse(format!("{} is not {wanted}", scalar::describe(&self.node.value)));
        }
        value
    }

    /// A text. What Kubernetes takes for a number or a truth value is none.
    pub fn text(&self) -> Option<String> {
        let text = scalar::text(&self.node.value);
        if text.is_none() {
            self.refuse(scalar::no_text(&self.node.value));
        }
        text.map(str::to_owned)
    }

    /// A text that must not be empty.
    pub fn word(&self) -> Option<String> {
        let text = self.text()?;
        if text.is_empty() {
            self.refuse("it is empty");
            return None;
        }
        Some(text)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.refuse(format!("{text:?} is not possible here: use {}", words.join(" or ")));
        }
        found.map(|(_, value)| *value)
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Option<bool> {
        self.read("true or false, without quotes", scalar::flag)
    }

    /// A flag that can be one thing only; `why` says what to do.
    pub fn only(&self, possible: bool, why: &str) {
        if self.flag() == Some(!possible) {
            self.refuse(format!("{} is not possible: {why}", !possible));
        }
    }

    /// A whole number within limits.
    pub fn number(&self, least: i64, most: i64) -> Option<i64> {
        let number = self.read("a whole number in decimal digits, without quotes", scalar::number)?;
        if (least..=most).contains(&number) {
            return Some(number);
        }
        self.refuse(format!("{number} is not from {least} to {most}"));
        None
    }

    /// The text of a number or of a text: quantities are written either way.
    pub fn loose(&self) -> Option<&'a str> {
        self.read("a number or a text", scalar::loose)
    }

    /// The fields of a mapping.
    pub fn fields(&self) -> Option<Fields<'a>> {
        let entries = self.read("a mapping of fields", |value| match value {
            Value::Map(map) => Some(map.as_slice()),
            _ => None,
        })?;
        Some(Fields { item: self.clone(), entries, taken: RefCell::new(vec![false; entries.len()]) })
    }

    /// The parts of a sequence.
    pub fn items(&self) -> Vec<Item<'a>> {
        let list = self.read("a list", |value| match value {
            Value::List(list) => Some(list.as_slice()),
            _ => None,
        });
        let item = |(index, node): (usize, &'a Rc<Node>)| Item {
            path: format!("{}[{index}]", self.path),
            node,
            problems: self.problems,
        };
        list.unwrap_or_default().iter().enumerate().map(item).collect()
    }

    /// A list of texts.
    pub fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Item::text).collect()
    }

    /// A mapping whose names are free, such as labels.
    pub fn entries(&self) -> Vec<(String, Item<'a>)> {
        let map = self.read("a mapping", |value| match value {
            Value::Map(map) => Some(map.as_slice()),
            _ => None,
        });
        let entry = |(name, node): &'a (String, Rc<Node>)| {
            let path = format!("{}[{name}]", self.path);
            (name.clone(), Item { path, node, problems: self.problems })
        };
        map.unwrap_or_default().iter().map(entry).collect()
    }

    /// Names and texts.
    pub fn map(&self) -> Map {
        self.entries().into_iter().filter_map(|(name, item)| Some((name, item.text()?))).collect()
    }
}

/// The fields of a mapping. When it goes, it refuses what has not been taken.
#[derive(Debug)]
pub struct Fields<'a> {
    item: Item<'a>,
    entries: &'a [(String, Rc<Node>)],
    taken: RefCell<Vec<bool>>,
}

impl<'a> Fields<'a> {
    /// A field, if it is there and says something.
    pub fn take(&self, name: &str) -> Option<Item<'a>> {
        self.named(name).filter(|item| item.node.value != Value::Null)
    }

    /// A field, if it is there, be it null.
    pub fn named(&self, name: &str) -> Option<Item<'a>> {
        let at = self.entries.iter().position(|(key, _)| key == name)?;
        self.taken.borrow_mut()[at] = true;
        Some(self.child(name, &self.entries[at].1))
    }

    /// A field that must be there.
    pub fn need(&self, name: &str) -> Option<Item<'a>> {
        let item = self.take(name);
        if item.is_none() {
            Item { path: self.path_of(name), ..self.item.clone() }.refuse("it is missing: write it");
        }
        item
    }

    /// Leaves the rest unread and unrefused: for a mapping that is something else altogether.
    pub fn give_up(self) {
        self.taken.borrow_mut().fill(true);
    }

    /// Whether nothing is left that would be refused.
    pub fn is_all_taken(&self) -> bool {
        self.taken.borrow().iter().all(|taken| *taken)
    }

    /// The mapping itself.
    pub fn item(&self) -> &Item<'a> {
        &self.item
    }

    fn child(&self, name: &str, node: &'a Node) -> Item<'a> {
        Item { path: self.path_of(name), node, problems: self.item.problems }
    }

    fn path_of(&self, name: &str) -> String {
        if self.item.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.item.path) }
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        let taken = self.taken.take();
        for ((name, node), _) in self.entries.iter().zip(taken).filter(|(_, taken)| !taken) {
            self.child(name, node).refuse(refusal(name));
        }
    }
}

/// Why some well-known fields are not acted upon.
fn refusal(name: &str) -> &'static str {
    match name {
        "affinity"
        | "nodeName"
        | "nodeSelector"
        | "tolerations"
        | "topologySpreadConstraints"
        | "schedulerName"
        | "schedulingGates"
        | "priority"
        | "priorityClassName"
        | "preemptionPolicy" => "nothing is scheduled here, the pod runs on this machine: take it out",
        "livenessProbe" | "readinessProbe" | "startupProbe" => {
            "holdfast run has no probes, a kubelet has: take it out"
        }
        "lifecycle" => "holdfast run has no hooks, a kubelet has: take it out",
        "imagePullSecrets" => {
            "there are no secrets without a cluster: pull the image with holdfast image pull --creds"
        }
        "envFrom"
        | "configMap"
        | "configMapKeyRef"
        | "secret"
        | "secretKeyRef"
        | "projected"
        | "serviceAccountName"
        | "serviceAccount"
        | "persistentVolumeClaim"
        | "claims"
        | "resourceClaims" => "that takes a cluster: take it out",
        _ => "holdfast run does not act on this field: take it out",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::manifest::yaml;

    fn problems(text: &str, read: impl FnOnce(&Fields<'_>)) -> Vec<String> {
        let node = yaml::parse(text).unwrap();
        let problems = Problems::default();
        read(&Item::top(&node, &problems).fields().unwrap());
        problems.into_sorted().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_left_is_refused_even_null_and_empty() {
        let found = problems("a: 1\nb: {c: 2, d: }\ne: []\n", |top| {
            let b = top.take("b").unwrap().fields().unwrap();
            assert_eq!(b.take("c").unwrap().number(0, 9), Some(2));
        });
        assert_eq!(found.len(), 3);
        assert!(found[0].starts_with("a: holdfast run does not act on this field"), "{found:?}");
        assert!(found[1].starts_with("b.d: ") && found[2].starts_with("e: "), "{found:?}");
    }

    #[test]
    fn forms_are_checked() {
        let found = problems("text: 5\nflag: 'true'\nnumber: '5'\nlist: {}\nmap: []\nrange: 9\n", |top| {
            assert_eq!(top.take("text").unwrap().text(), None);
            assert_eq!(top.take("flag").unwrap().flag(), None);
            assert_eq!(top.take("number").unwrap().number(0, 9), None);
            assert!(top.take("list").unwrap().items().is_empty());
            assert!(top.take("map").unwrap().fields().is_none());
            assert_eq!(top.take("range").unwrap().number(0, 8), None);
        });
        assert_eq!(
            found,
            [
                "text: 5 without quotes is a number in YAML 1.1, as Kubernetes reads it: write \"5\" (line 1)",
                "flag: \"true\" is not true or false, without quotes (line 2)",
                "number: \"5\" is not a whole number in decimal digits, without quotes (line 3)",
                "list: a mapping is not a list (line 4)",
                "map: a list is not a mapping of fields (line 5)",
                "range: 9 is not from 0 to 8 (line 6)",
            ]
        );
    }

    #[test]
    fn paths_of_lists_and_free_names() {
        let found = problems("l: [{a: x}, {b: 1}]\nm: {app.io/x: 1}\n", |top| {
            for item in top.take("l").unwrap().items() {
                item.fields().unwrap().take("a");
            }
            top.take("m").unwrap().map();
            top.need("n");
        });
        assert!(found[0].starts_with("l[1].b: "), "{found:?}");
        assert!(found[1].starts_with("n: it is missing"), "{found:?}");
        assert!(found[2].starts_with("m[app.io/x]: 1 without quotes is a number"), "{found:?}");
    }
}
