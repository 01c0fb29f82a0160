//! Compares the compiled protos with the table of the published interface, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};

const TABLE: &str = include_str!("data/cri-v1.tsv");

/// The part of a descriptor set that `prost_types` leaves out.
mod redacted {
    #[derive(prost::Message)]
    pub struct Set {
        #[prost(message, repeated, tag = "1")]
        pub file: Vec<File>,
    }
    #[derive(prost::Message)]
    pub struct File {
        #[prost(message, repeated, tag = "4")]
        pub message_type: Vec<Message>,
    }
    #[derive(prost::Message)]
    pub struct Message {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub field: Vec<Field>,
    }
    #[derive(prost::Message)]
    pub struct Field {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "8")]
        pub options: Option<Options>,
    }
    #[derive(prost::Message)]
    pub struct Options {
        #[prost(bool, tag = "16")]
        pub debug_redact: bool,
    }
}

fn rows_of_table() -> BTreeSet<String> {
    let rows: Vec<_> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
    let set: BTreeSet<_> = rows.iter().map(|row| (*row).to_owned()).collect();
    assert_eq!(set.len(), rows.len(), "the table repeats a row");
    set
}

fn redacted_fields() -> BTreeSet<(String, String)> {
    let set = redacted::Set::decode(podbay::proto::FILE_DESCRIPTOR_SET).unwrap();
    let messages = set.file.into_iter().flat_map(|file| file.message_type);
    let fields = messages.flat_map(|m| m.field.into_iter().map(move |f| (m.name.clone(), f)));
    fields
        .filter(|(_, field)| field.options.as_ref().is_some_and(|o| o.debug_redact))
        .map(|(message, field)| (message, field.name))
        .collect()
}

struct Rows {
    redacted: BTreeSet<(String, String)>,
    found: BTreeSet<String>,
}

impl Rows {
    fn add(&mut self, row: &[&str]) {
        let row = row.join("\t").trim_end().to_owned();
        assert!(self.found.insert(row.clone()), "twice in the proto: {row}");
    }

    fn file(&mut self, file: &FileDescriptorProto) {
        file.service.iter().for_each(|service| self.service(service));
        file.message_type.iter().for_each(|message| self.message(message));
        file.enum_type.iter().for_each(|values| self.values("", values));
    }

    fn service(&mut self, service: &ServiceDescriptorProto) {
        for method in &service.method {
            assert!(!method.client_streaming(), "{}", method.name());
            let kind = if method.server_streaming() { "server-stream" } else { "unary" };
            let (input, output) = (plain(method.input_type()), plain(method.output_type()));
            self.add(&["method", service.name(), method.name(), input, output, kind]);
        }
    }

    fn message(&mut self, message: &DescriptorProto) {
        if message.field.is_empty() {
            self.add(&["empty", message.name()]);
        }
        let maps: BTreeMap<_, _> = message
            .nested_type
            .iter()
            .map(|entry| {
                assert!(entry.options.as_ref().is_some_and(|o| o.map_entry()), "a nested message");
                let (key, value) = (type_of(&entry.field[0]), type_of(&entry.field[1]));
                (format!("{}.{}", message.name(), entry.name()), format!("map<{key},{value}>"))
            })
            .collect();
        for field in &message.field {
            let number = field.number().to_string();
            let shape = match maps.get(plain(field.type_name())) {
                Some(map) => map.clone(),
                None if field.label() == Label::Repeated => format!("repeated {}", type_of(field)),
                None => type_of(field),
            };
            let flag = self.flag(message, field, maps.contains_key(plain(field.type_name())));
            self.add(&["field", message.name(), &number, field.name(), &shape, flag]);
        }
        for values in &message.enum_type {
            self.values(&format!("{}.", message.name()), values);
        }
    }

    fn flag(
        &self,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        map: bool,
    ) -> &'static str {
        let name = (message.name().to_owned(), field.name().to_owned());
        if field.options.as_ref().is_some_and(|options| options.deprecated()) {
            "deprecated"
        } else if self.redacted.contains(&name) {
            "redact"
        } else if field.r#type() == Type::Enum {
            "enum"
        } else if field.r#type() == Type::Message && !map {
            "msg"
        } else {
            ""
        }
    }

    fn values(&mut self, scope: &str, values: &EnumDescriptorProto) {
        let name = format!("{scope}{}", values.name());
        for value in &values.value {
            self.add(&["enum", &name, &value.number().to_string(), value.name()]);
        }
    }
}

fn plain(name: &str) -> &str {
    name.strip_prefix(".runtime.v1.").unwrap_or(name)
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => plain(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

#[test]
fn the_proto_is_the_table() {
    let set = FileDescriptorSet::decode(podbay::proto::FILE_DESCRIPTOR_SET).unwrap();
    let cri: Vec<_> = set.file.iter().filter(|file| file.package() == "runtime.v1").collect();
    assert_eq!(cri.len(), 1);
    assert_eq!(cri[0].syntax(), "proto3");
    let mut rows = Rows { redacted: redacted_fields(), found: BTreeSet::new() };
    rows.file(cri[0]);

    let wanted = rows_of_table();
    let missing: Vec<_> = wanted.difference(&rows.found).collect();
    let extra: Vec<_> = rows.found.difference(&wanted).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
}

#[test]
fn the_table_is_whole() {
    let rows = rows_of_table();
    let of = |start: &str| rows.iter().filter(|row| row.starts_with(start)).count();
    assert_eq!(of("method\tRuntimeService\t"), 37);
    assert_eq!(of("method\tImageService\t"), 6);
    assert_eq!(rows.len(), 634);
}
