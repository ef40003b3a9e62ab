//! Comparing of JSON values, by their fields.

use serde_json::{Map, Value};

/// A way in which a written value is not the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A field that is not stored.
    New,
    /// Another value of the same type.
    Changed,
    /// A stored field is not there.
    Lost,
    /// It is of another type.
    Type,
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// All differences, each with its place and in words.
pub fn difference(stored: &Value, written: &Value, at: &str, found: &mut Vec<(Kind, String)>) {
    match (stored, written) {
        (Value::Object(stored), Value::Object(written)) => {
            for (key, value) in stored {
                match written.get(key) {
                    Some(other) => difference(value, other, &format!("{at}/{key}"), found),
                    None => found.push((Kind::Lost, format!("{at}/{key} is stored and no longer written"))),
                }
            }
            let new = written.keys().filter(|key| !stored.contains_key(*key));
            found.extend(new.map(|key| (Kind::New, format!("{at}/{key} is written and not stored"))));
        }
        (Value::Array(stored), Value::Array(written)) if stored.len() == written.len() => {
            for (index, (one, other)) in stored.iter().zip(written).enumerate() {
                difference(one, other, &format!("{at}/{index}"), found);
            }
        }
        _ if type_of(stored) != type_of(written) => {
            let text = format!("{at} was {} and is {}", type_of(stored), type_of(written));
            found.push((Kind::Type, text));
        }
        _ if stored != written => found.push((Kind::Changed, format!("{at} was {stored} and is {written}"))),
        _ => {}
    }
}

/// Places of what is stored and, in what was written again, is not there or not the same.
pub fn lost_of(stored: &Value, written: &Value) -> Vec<String> {
    let mut found = Vec::new();
    difference(stored, written, "", &mut found);
    found.into_iter().filter(|(kind, _)| *kind != Kind::New).map(|(_, text)| text).collect()
}

/// Copies of a value, each with one field more in one of its objects; with that object's place, and whether it has but
/// one field, as the name of a variant with its content.
pub fn with_more(value: &Value) -> Vec<(Value, String, bool)> {
    let mut places = Vec::new();
    objects(value, String::new(), &mut places);
    let with = |pointer: &String| {
        let mut copy = value.clone();
        let object = copy.pointer_mut(pointer).and_then(Value::as_object_mut)?;
        let may_be_tag = object.len() == 1;
        object.insert("of_a_newer_program".to_owned(), new_value(object));
        Some((copy, pointer.clone(), may_be_tag))
    };
    places.iter().filter_map(with).collect()
}

/// In a map of texts every key is known, and so its value has to be a text.
fn new_value(object: &Map<String, Value>) -> Value {
    if object.values().all(Value::is_string) { "new".into() } else { serde_json::json!({"new": [1]}) }
}

fn objects(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.replace('~', "~0").replace('/', "~1");
                objects(value, format!("{at}/{key}"), places);
            }
            places.push(at);
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                objects(value, format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_difference_has_its_kind() {
        let stored = json!({"a": 1, "b": [{"c": "x"}], "d": "t", "e": null});
        let of = |written: &Value| -> Vec<(Kind, String)> {
            let mut found = Vec::new();
            difference(&stored, written, "s", &mut found);
            found
                .into_iter()
                .map(|(kind, text)| (kind, text.split(' ').next().unwrap_or("").to_owned()))
                .collect()
        };
        let one = |kind, at: &str| -> Vec<(Kind, String)> { vec![(kind, at.to_owned())] };
        assert_eq!(of(&stored), one(Kind::New, "")[1..]);
        assert_eq!(
            of(&json!({"a": 1, "b": [{"c": "x", "n": 1}], "d": "t", "e": null})),
            one(Kind::New, "s/b/0/n")
        );
        assert_eq!(of(&json!({"a": 1, "b": [{}], "d": "t", "e": null})), one(Kind::Lost, "s/b/0/c"));
        assert_eq!(of(&json!({"a": "1", "b": [{"c": "x"}], "d": "t", "e": null})), one(Kind::Type, "s/a"));
        assert_eq!(of(&json!({"a": 1, "b": [{"c": "x"}], "d": "u", "e": null})), one(Kind::Changed, "s/d"));
        assert_eq!(
            lost_of(&stored, &json!({"a": 1, "b": [{"c": "x"}], "d": "t", "e": null, "f": 1})),
            [""; 0]
        );
    }

    #[test]
    fn one_field_more_at_each_object() {
        let value = json!({"a/b": {"x": "t"}, "l": [{}, {"y": 1, "z": 2}]});
        let mut places: Vec<_> = with_more(&value)
            .into_iter()
            .map(|(copy, at, tag)| (copy.pointer(&at).cloned(), at, tag))
            .collect();
        places.sort_by(|one, other| one.1.cmp(&other.1));
        let short: Vec<_> = places.iter().map(|(_, at, tag)| (at.as_str(), *tag)).collect();
        assert_eq!(short, [("", false), ("/a~1b", true), ("/l/0", false), ("/l/1", false)]);
        assert_eq!(places[1].0, Some(json!({"x": "t", "of_a_newer_program": "new"})));
    }
}
