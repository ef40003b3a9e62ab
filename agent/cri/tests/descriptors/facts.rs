//! Descriptors as lines of text: what two sides of a wire must agree on, and nothing else. Comments, the order of
//! declarations, JSON names and options of one language are left out.

use std::collections::BTreeSet;

use protox::prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
    Syntax,
};

/// All facts of one package.
#[derive(Debug, Default)]
pub struct Facts {
    /// One line for each message, field, enum, value, service and method.
    pub lines: BTreeSet<String>,
    /// Fields of messages. A map is one field: its entries are no messages of their own.
    pub fields: usize,
    /// Values of enums.
    pub values: usize,
    /// Methods of services.
    pub methods: usize,
}

impl Facts {
    /// Collects the facts about `package`.
    pub fn of(pool: &DescriptorPool, package: &str) -> Self {
        let mut facts = Self::default();
        for file in pool.files().filter(|file| file.package_name() == package) {
            let syntax = if file.syntax() == Syntax::Proto3 { "proto3" } else { "not proto3" };
            facts.lines.insert(format!("package {package}: {syntax}"));
            // Nested messages and enums come below the ones that declare them.
            file.messages().for_each(|message| facts.message(&message));
            file.enums().for_each(|one| facts.enumeration(&one));
            file.services().for_each(|service| facts.service(&service));
        }
        facts
    }

    /// The lines that `other` does not have.
    pub fn without(&self, other: &Self) -> Vec<String> {
        self.lines.difference(&other.lines).cloned().collect()
    }

    fn message(&mut self, message: &MessageDescriptor) {
        if message.is_map_entry() {
            return;
        }
        self.lines.insert(format!("message {}", message.full_name()));
        for field in message.fields() {
            self.lines.insert(format!("{} = {}: {}", field.full_name(), field.number(), shape(&field)));
            self.fields += 1;
        }
        message.child_messages().for_each(|child| self.message(&child));
        message.child_enums().for_each(|child| self.enumeration(&child));
    }

    fn enumeration(&mut self, one: &EnumDescriptor) {
        self.lines.insert(format!("enum {}", one.full_name()));
        for value in one.values() {
            self.lines.insert(format!("{}/{} = {}", one.full_name(), value.name(), value.number()));
            self.values += 1;
        }
    }

    fn service(&mut self, service: &ServiceDescriptor) {
        self.lines.insert(format!("service {}", service.full_name()));
        let stream = |streaming| if streaming { "stream " } else { "" };
        for method in service.methods() {
            self.lines.insert(format!(
                "rpc {}: {}{} -> {}{}",
                method.full_name(),
                stream(method.is_client_streaming()),
                method.input().full_name(),
                stream(method.is_server_streaming()),
                method.output().full_name(),
            ));
            self.methods += 1;
        }
    }
}

/// Label, type, presence and oneof of a field, and whether it must never be printed.
fn shape(field: &FieldDescriptor) -> String {
    let label = match field.cardinality() {
        Cardinality::Required => "required ",
        Cardinality::Repeated if !field.is_map() => "repeated ",
        _ => "",
    };
    // Packed and unpacked numbers are different bytes, and so is a zero with presence.
    let packed = option(field, "packed").unwrap_or_else(|| field.is_packed());
    let marks = [
        (packed, " packed"),
        (field.supports_presence(), " with presence"),
        (option(field, "debug_redact") == Some(true), " secret"),
    ];
    let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    let oneof =
        field.containing_oneof().map(|oneof| format!(" in oneof {}", oneof.name())).unwrap_or_default();
    format!("{label}{}{marks}{oneof}", kind(field))
}

/// A field's option that is yes or no, if it is there.
fn option(field: &FieldDescriptor, name: &str) -> Option<bool> {
    let options = field.options();
    options.has_field_by_name(name).then(|| options.get_field_by_name(name)?.as_bool()).flatten()
}

fn kind(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            format!("map<{}, {}>", kind(&entry.map_entry_key_field()), kind(&entry.map_entry_value_field()))
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(one) => one.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}
