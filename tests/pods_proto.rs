//! The rules of podbay's own protos: those of `buf lint` that can be checked on the compiled
//! descriptors and the text, and a list of everything that callers may rely on, so that an
//! incompatible change is noticed.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};
use regex::Regex;

/// The files of the package, and what they say.
const TEXTS: &[(&str, &str)] = &[
    ("podbay/v1/images.proto", include_str!("../proto/podbay/v1/images.proto")),
    ("podbay/v1/pods.proto", include_str!("../proto/podbay/v1/pods.proto")),
];

/// Every RPC, field and value. Rows are only ever added: what is not wanted any more is reserved
/// in the proto, and its row begins with `reserved`.
const PUBLISHED: &str = include_str!("data/podbay-v1.tsv");

/// All files of the interface, each of which has its text above.
fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(podbay::proto::FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.into_iter().filter(|file| file.package().starts_with("podbay."));
    let mut files: Vec<_> = ours.collect();
    files.sort_by(|a, b| a.name().cmp(b.name()));
    let names = files.iter().map(|file| file.name());
    assert!(names.eq(TEXTS.iter().map(|(name, _)| *name)), "give each file its text here");
    files
}

fn is(pattern: &str, name: &str) -> bool {
    Regex::new(pattern).unwrap().is_match(name)
}

fn upper_snake(camel: &str) -> String {
    let words = Regex::new("([a-z0-9])([A-Z])").unwrap();
    words.replace_all(camel, "${1}_$2").to_uppercase()
}

fn plain(name: &str) -> &str {
    name.trim_start_matches(".podbay.v1.").trim_start_matches('.')
}

/// Messages without the entries of maps, which the compiler makes.
fn messages(file: &FileDescriptorProto) -> Vec<DescriptorProto> {
    let mut found = file.message_type.clone();
    for message in &file.message_type {
        for nested in &message.nested_type {
            let entry = nested.options.as_ref().is_some_and(|options| options.map_entry());
            assert!(entry, "a message in a message: {}", nested.name());
        }
        assert!(message.enum_type.is_empty(), "an enum in a message: {}", message.name());
    }
    found.sort_by(|a, b| a.name().cmp(b.name()));
    found
}

#[test]
fn the_package_has_a_version_and_its_folder() {
    for file in files() {
        assert_eq!(file.syntax(), "proto3");
        assert!(is(r"^podbay\.v[0-9]+$", file.package()), "{}", file.package());
        let folder = file.package().replace('.', "/");
        assert!(is(&format!("^{folder}/[a-z_]+\\.proto$"), file.name()), "{}", file.name());
        assert!(file.public_dependency.is_empty() && file.weak_dependency.is_empty());
    }
}

#[test]
fn names_are_as_the_style_wants_them() {
    files().iter().for_each(names_of);
}

fn names_of(file: &FileDescriptorProto) {
    for message in messages(file) {
        assert!(is("^[A-Z][A-Za-z0-9]*$", message.name()), "{}", message.name());
        let names = message.field.iter().map(FieldDescriptorProto::name);
        let oneofs = message.oneof_decl.iter().map(|oneof| oneof.name().trim_start_matches('_'));
        for name in names.chain(oneofs) {
            assert!(is("^[a-z][a-z0-9]*(_[a-z0-9]+)*$", name), "{}.{name}", message.name());
        }
    }
    for values in &file.enum_type {
        let prefix = upper_snake(values.name());
        let zero = &values.value[0];
        assert_eq!((zero.number(), zero.name()), (0, &*format!("{prefix}_UNSPECIFIED")));
        for value in &values.value {
            assert!(is(&format!("^{prefix}_[A-Z0-9_]+$"), value.name()), "{}", value.name());
        }
    }
}

#[test]
fn each_rpc_has_messages_of_its_own() {
    let files = files();
    let mut taken = BTreeSet::new();
    for service in files.iter().flat_map(|file| &file.service) {
        assert!(is("^[A-Z][A-Za-z]*$", service.name()));
        for method in &service.method {
            let name = method.name();
            assert!(is("^[A-Z][A-Za-z]*$", name));
            assert_eq!(plain(method.input_type()), format!("{name}Request"));
            assert_eq!(plain(method.output_type()), format!("{name}Response"));
            assert!(taken.insert(name.to_owned()), "{name} twice");
        }
    }
}

/// What is not indented or indented once names something; the line before it must speak of it.
#[test]
fn every_rpc_is_in_the_user_guide() {
    let guide = include_str!("../docs/api.md");
    let rows: String = guide.lines().filter(|line| line.starts_with("| `")).collect();
    for method in files().iter().flat_map(|file| &file.service).flat_map(|it| &it.method) {
        assert!(rows.contains(&format!("`{}`", method.name())), "{} in docs/api.md", method.name());
    }
}

#[test]
fn everything_has_a_comment() {
    for (file, (_, text)) in files().iter().zip(TEXTS) {
        comments_of(file, text);
    }
}

fn comments_of(file: &FileDescriptorProto, text: &str) {
    let declares = Regex::new(
        r"^\s*(message|enum|service|rpc|oneof|[a-z][A-Za-z0-9_.<>, ]* [a-z0-9_]+ = [0-9]|[A-Z0-9_]+ = [0-9])",
    )
    .unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut found = 0;
    for (at, line) in lines.iter().enumerate() {
        if line.trim_start().starts_with("//") || line.starts_with("syntax") {
            continue;
        }
        if declares.is_match(line) || is(r"^\s+[A-Z]\w* [a-z0-9_]+ = [0-9]", line) {
            found += 1;
            let before = lines[at - 1].trim_start();
            assert!(before.len() > 4 && before.starts_with("// "), "no comment: {line}");
        }
        assert!(line.chars().count() <= 110, "too long: {line}");
    }
    let rpcs: usize = file.service.iter().map(|service| service.method.len()).sum();
    let fields: usize = messages(file)
        .iter()
        .map(|m| {
            let optional = m.field.iter().filter(|field| field.proto3_optional()).count();
            1 + m.field.len() + m.oneof_decl.len() - optional
        })
        .sum();
    let values: usize = file.enum_type.iter().map(|values| 1 + values.value.len()).sum();
    assert_eq!(found, file.service.len() + rpcs + fields + values, "this test misses some");
}

fn rows() -> BTreeSet<String> {
    let files = files();
    let mut rows = BTreeSet::new();
    let mut add = |row: String| assert!(rows.insert(row.clone()), "twice: {row}");
    for service in files.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            let stream = |streams| if streams { "stream " } else { "" };
            add(format!(
                "rpc\t{}\t{}\t{}{}\t{}{}",
                service.name(),
                method.name(),
                stream(method.client_streaming()),
                plain(method.input_type()),
                stream(method.server_streaming()),
                plain(method.output_type()),
            ));
        }
    }
    for message in files.iter().flat_map(messages) {
        add(format!("message\t{}", message.name()));
        for field in &message.field {
            add(field_row(&message, field));
        }
    }
    for EnumDescriptorProto { name, value, .. } in files.iter().flat_map(|file| &file.enum_type) {
        let name = name.as_deref().unwrap();
        for value in value {
            add(format!("enum\t{name}\t{}\t{}", value.number(), value.name()));
        }
    }
    rows
}

fn field_row(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let map = message
        .nested_type
        .iter()
        .find(|entry| plain(field.type_name()) == format!("{}.{}", message.name(), entry.name()));
    let kind = |field: &FieldDescriptorProto| match field.type_name() {
        "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        name => plain(name).to_owned(),
    };
    let shape = match map {
        Some(entry) => format!("map<{},{}>", kind(&entry.field[0]), kind(&entry.field[1])),
        None if field.label() == Label::Repeated => format!("repeated {}", kind(field)),
        None if field.proto3_optional() => format!("optional {}", kind(field)),
        None => kind(field),
    };
    let (number, name) = (field.number(), field.name());
    format!("field\t{}\t{number}\t{name}\t{shape}", message.name())
}

#[test]
fn nothing_that_was_published_is_changed() {
    let published: BTreeSet<_> =
        PUBLISHED.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let rows = rows();
    let broken: Vec<_> = published.difference(&rows).collect();
    assert!(broken.is_empty(), "this breaks callers; it needs a new version: {broken:#?}");
    let new: Vec<_> = rows.difference(&published).collect();
    assert!(new.is_empty(), "add to tests/data/podbay-v1.tsv:\n{new:#?}");
}
