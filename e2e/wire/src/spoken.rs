//! What k8s-cri has understood.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, ReflectMessage, Value};
use serde_json::{Map, json};

use crate::level::{ONCE_A_STRING, is_newer};

/// The message as serde shows a struct of k8s-cri that means the same.
pub fn as_struct(message: &DynamicMessage) -> serde_json::Value {
    let fields = message.descriptor();
    let members = fields.fields().filter(|field| !is_newer(field)).map(|field| {
        // A struct has all its members; only a message that is not there shows.
        let absent = field.supports_presence() && !message.has_field(&field);
        let value = if absent { json!(null) } else { value(&field, &message.get_field(&field)) };
        (rust_name(field.name()), value)
    });
    serde_json::Value::Object(members.collect())
}

fn value(field: &FieldDescriptor, value: &Value) -> serde_json::Value {
    match value {
        Value::Message(message) => as_struct(message),
        Value::Bool(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::I32(value) | Value::EnumNumber(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::Bytes(value) if field.full_name() == ONCE_A_STRING => json!(String::from_utf8_lossy(value)),
        Value::Bytes(value) => json!(value.to_vec()),
        Value::String(value) => json!(value),
        Value::List(values) => values.iter().map(|one| self::value(field, one)).collect(),
        Value::Map(values) => {
            let members = values.iter().map(|(key, one)| (key_name(key), self::value(field, one)));
            serde_json::Value::Object(members.collect::<Map<_, _>>())
        }
        Value::F32(_) => unreachable!("CRI has no float yet: {}", field.full_name()),
    }
}

fn key_name(key: &MapKey) -> String {
    key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned)
}

/// A field's name in Rust, as prost makes it: uidMappings is uid_mappings, CDI_devices is cdi_devices.
fn rust_name(name: &str) -> String {
    let mut snake = String::new();
    let mut last = '_';
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && last.is_ascii_lowercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
        last = letter;
    }
    snake
}

/// The bytes of a struct of k8s-cri, read with our descriptor.
pub fn reread(message: &impl prost::Message, descriptor: &MessageDescriptor) -> DynamicMessage {
    let read = DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice());
    read.unwrap_or_else(|error| {
        panic!("{}: what k8s-cri wrote is no message of ours: {error}", descriptor.name())
    })
}

/// The fields that `whole` has and `part` has not, at any depth.
pub fn lost(whole: &DynamicMessage, part: &DynamicMessage) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (field, value) in whole.fields() {
        if !part.has_field(&field) {
            names.insert(field.full_name().to_owned());
            continue;
        }
        let messages = |value: &Value| -> Vec<DynamicMessage> {
            let messages = value.as_list().map_or_else(|| vec![value.clone()], <[Value]>::to_vec);
            messages.iter().filter_map(Value::as_message).cloned().collect()
        };
        let (whole, part) = (messages(value), messages(&part.get_field(&field)));
        assert_eq!(whole.len(), part.len(), "{}", field.full_name());
        names.extend(whole.iter().zip(&part).flat_map(|(whole, part)| lost(whole, part)));
    }
    names
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_those_of_prost() {
        for (proto, rust) in [
            ("uidMappings", "uid_mappings"),
            ("CDI_devices", "cdi_devices"),
            ("pod_sandbox_id", "pod_sandbox_id"),
        ] {
            assert_eq!(super::rust_name(proto), rust);
        }
    }
}
