//! Messages with every field set, made from descriptors: the same ones in every run, and no two fields alike.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::level::{ONCE_A_STRING, is_newer};

/// What the fields are filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Nothing at all.
    Absent,
    /// Small numbers, and strings that say whose they are.
    Plain,
    /// The ends of each type's range, bytes of any value, enum values that nobody knows.
    Extreme,
}

/// Fields of which level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Only those that an older client knows.
    Older,
    /// All of ours.
    Ours,
}

/// A message of this type. At either level a field has the same value.
pub fn filled(message: &MessageDescriptor, values: Values, level: Level) -> DynamicMessage {
    if values == Values::Absent {
        return DynamicMessage::new(message.clone());
    }
    Filler { values, level, count: 0 }.message(message)
}

struct Filler {
    values: Values,
    level: Level,
    count: u32,
}

impl Filler {
    fn message(&mut self, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            // Made in any case, so that what is left out does not change what comes after it.
            let value = self.field(&field);
            if self.level == Level::Ours || !is_newer(&field) {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = entry.map_entry_value_field();
                let entries = [(); 2].map(|()| (MapKey::String(self.text(field)), self.one(&value)));
                Value::Map(HashMap::from(entries))
            }
            _ if field.is_list() => Value::List([(); 2].map(|()| self.one(field)).into()),
            _ => self.one(field),
        }
    }

    fn one(&mut self, field: &FieldDescriptor) -> Value {
        self.count += 1;
        let (count, plain) = (self.count, self.values == Values::Plain);
        match field.kind() {
            Kind::Message(message) => Value::Message(self.message(&message)),
            Kind::Bool => Value::Bool(true),
            Kind::Double => Value::F64(if plain { f64::from(count) / 8.0 } else { f64::MIN_POSITIVE }),
            Kind::Int32 => Value::I32(if plain { count as i32 } else { i32::MIN }),
            Kind::Int64 => Value::I64(if plain { count.into() } else { i64::MIN }),
            Kind::Uint32 => Value::U32(if plain { count } else { u32::MAX }),
            Kind::Uint64 => Value::U64(if plain { count.into() } else { u64::MAX }),
            Kind::Enum(one) => {
                let known = one.values().nth(1 + count as usize % (one.values().len() - 1));
                Value::EnumNumber(known.filter(|_| plain).map_or(i32::MAX, |value| value.number()))
            }
            Kind::Bytes if plain || field.full_name() == ONCE_A_STRING => {
                Value::Bytes(self.text(field).into_bytes().into())
            }
            Kind::Bytes => Value::Bytes((u8::MIN..=u8::MAX).collect::<Vec<u8>>().into()),
            Kind::String => Value::String(self.text(field)),
            kind => unreachable!("CRI has no field of kind {kind:?} yet: {}", field.full_name()),
        }
    }

    fn text(&mut self, field: &FieldDescriptor) -> String {
        self.count += 1;
        let odd = if self.values == Values::Extreme { "\0\n\"\\ ü\u{1F419}" } else { "" };
        format!("{} {}{odd}", field.name(), self.count)
    }
}
