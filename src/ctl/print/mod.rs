//! Output formats: tables as in kubectl, JSON, YAML, names, paths and columns.
//!
//! All of it is pure except `jsonpath-file`: objects and the time go in, text comes out.

pub mod age;
pub mod amount;
mod columns;
pub mod labels;
pub mod path;
pub mod pods;
pub mod sort;
pub mod table;

use std::str::FromStr;

use serde::Serialize as _;
use serde_json::{Value, json};

use self::columns::Columns;
use self::path::Template;

/// The formats of `-o`, for messages and help.
const FORMATS: &str = "wide, json, yaml, name, jsonpath=TEMPLATE, jsonpath-file=FILE, \
                       custom-columns=NAME:PATH,...";

/// Output format of objects.
#[derive(Debug, Clone, Default)]
pub enum Output {
    /// A table.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// The object, or a `List` of objects.
    Json,
    /// The same as YAML.
    Yaml,
    /// `pod/NAME` lines.
    Name,
    /// The result of a template.
    Path(Template),
    /// User-defined columns.
    Columns(Columns),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, argument) = match text.split_once('=') {
            Some((format, argument)) => (format, Some(argument)),
            None => (text, None),
        };
        match (format, argument) {
            ("wide", None) => Ok(Self::Wide),
            ("json", None) => Ok(Self::Json),
            ("yaml", None) => Ok(Self::Yaml),
            ("name", None) => Ok(Self::Name),
            ("jsonpath", Some(template)) => template.parse().map(Self::Path),
            ("jsonpath-file", Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| format!("read {file}: {error}"))?
                .trim_end_matches('\n')
                .parse()
                .map(Self::Path),
            ("custom-columns", Some(columns)) => columns.parse().map(Self::Columns),
            ("jsonpath" | "custom-columns", None) => Err(format!("{format} needs =...")),
            _ => Err(format!("one of {FORMATS}")),
        }
    }
}

impl Output {
    /// Sets whether custom columns have a header row.
    #[must_use]
    pub fn headers(self, wanted: bool) -> Self {
        match self {
            Self::Columns(columns) => Self::Columns(columns.headers(wanted)),
            other => other,
        }
    }

    /// Whether it is a table, which a watch prints row by row.
    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// Formats objects, except as a table. Several objects, and those requested as a list, become a
    /// `List`.
    pub fn objects(&self, objects: &[Value], as_list: bool) -> Result<String, String> {
        let whole = || match objects {
            [one] if !as_list => one.clone(),
            _ => list(objects),
        };
        match self {
            Self::Table | Self::Wide => Ok(String::new()),
            Self::Json => Ok(json(&whole())),
            Self::Yaml => Ok(yaml(&whole())),
            Self::Name => Ok(objects.iter().map(|object| name(object) + "\n").collect()),
            Self::Path(template) => template.render(&whole()),
            Self::Columns(columns) => Ok(columns.render(objects)),
        }
    }
}

/// A Kubernetes list of objects.
pub fn list(objects: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects, "metadata": {"resourceVersion": ""}})
}

/// Indented by four as in kubectl, with a final line feed.
pub fn json(value: &Value) -> String {
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, indent);
    // Writing a value with text keys to memory cannot fail.
    let _ = value.serialize(&mut writer);
    String::from_utf8_lossy(&text).into_owned() + "\n"
}

/// As YAML, with a final line feed.
pub fn yaml(value: &Value) -> String {
    let text = serde_saphyr::to_string(value).unwrap_or_default();
    text.trim_end_matches('\n').to_owned() + "\n"
}

/// `pod/NAME`, `node/NAME`.
fn name(object: &Value) -> String {
    let kind = text(object, "/kind");
    let kind = if kind.is_empty() { "pod".to_owned() } else { kind.to_lowercase() };
    format!("{kind}/{}", text(object, "/metadata/name"))
}

/// The text at a JSON pointer; empty if missing.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer; empty if missing.
pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The integer at a JSON pointer; 0 if missing.
pub fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether a JSON pointer has a value other than null.
pub fn has(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|found| !found.is_null())
}

/// `key=value` pairs of a text map, sorted by key; empty if missing.
pub fn pairs(value: &Value, pointer: &str, separator: &str) -> Vec<String> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    let pair = |(key, value): (&String, &Value)| format!("{key}{separator}{}", plain(value));
    map.map(|map| map.iter().map(pair).collect()).unwrap_or_default()
}

/// A value in readable form: text without quotes, everything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Makes text from a pod or the network safe for a terminal: control characters other than line
/// feeds and tabs are shown as `^[` etc., so that no container can write escape sequences.
pub fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\0'..='\u{1f}' => shown.extend(['^', char::from(c as u8 + b'@')]),
            '\u{7f}'..='\u{9f}' => shown.push_str(&format!("\\x{:02x}", c as u32)),
            _ => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_and_refused_by_name() {
        for good in ["wide", "json", "yaml", "name", "jsonpath={.a}", "custom-columns=A:.a"] {
            assert!(good.parse::<Output>().is_ok(), "{good}");
        }
        let fault = |text: &str| text.parse::<Output>().expect_err(text);
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("template");
        std::fs::write(&file, "{.a}{'\\n'}\n").expect("write");
        let filed: Output = format!("jsonpath-file={}", file.display()).parse().expect("file");
        assert_eq!(filed.objects(&[json!({"a": 1})], false).expect("path"), "1\n");
        assert!(fault("jsonpath-file=/no/such").contains("read /no/such"));
        assert!(fault("xml").contains("json, yaml"));
        assert!(fault("").contains("json, yaml"));
        assert!(fault("jsonpath").contains("needs ="));
        assert!(fault("wide=1").contains("one of"));
    }

    #[test]
    fn one_object_stands_alone_and_several_are_a_list() {
        let pod = |name: &str| json!({"kind": "Pod", "metadata": {"name": name}});
        let one = Output::Json.objects(&[pod("a")], false).expect("json");
        assert_eq!(
            one,
            "{\n    \"kind\": \"Pod\",\n    \"metadata\": {\n        \"name\": \"a\"\n    }\n}\n"
        );
        let many = Output::Json.objects(&[pod("a"), pod("b")], false).expect("json");
        assert!(many.contains("\"kind\": \"List\""));
        let listed = Output::Json.objects(&[pod("a")], true).expect("json");
        assert!(listed.contains("\"kind\": \"List\""));
        let names = Output::Name.objects(&[pod("a"), pod("b")], true).expect("names");
        assert_eq!(names, "pod/a\npod/b\n");
        let template: Output = "jsonpath={.items[*].metadata.name}".parse().expect("template");
        assert_eq!(template.objects(&[pod("a"), pod("b")], true).expect("path"), "a b");
    }

    #[test]
    fn yaml_can_be_read_back() {
        let value = json!({"a": {"b": ["x", 1, true, null, "true", "1", "", "a: b", "two\nlines\n"]},
            "odd": ["n", "yes", "off", "null", "~", "-", "0x1f", "012", "1e3", ".5", "-1", "2026-01-01", "a #b",
                " lead", "@x", "%x", "*a", "&a", "!t", "? x", "1:30", ".inf", "{a}", "[", "'", "\"", "\t", "a\u{1b}b"],
            "empty": {}, "none": [], "metadata": {"name": "web", "when": "2026-11-23T07:00:00Z"}});
        let text = yaml(&value);
        let back: Value = serde_saphyr::from_str(&text).expect(&text);
        assert_eq!(back, value, "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_terminal_gets_no_escapes_of_others() {
        assert_eq!(safe("a\u{1b}[31mb\r\nc\t\u{9b}\u{7f}é"), "a^[[31mb^M\nc\t\\x9b\\x7fé");
    }
}
