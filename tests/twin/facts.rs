//! The observations on one side, with random differences removed.

use std::sync::LazyLock;

use podbay::proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use regex::Regex;
use serde_json::{Map, Value, json};
use tonic::{Response, Status};

use crate::rig::Rig;

/// A message of `runtime.v1` as JSON: fields that are set, and no others.
pub fn told(name: &str, message: &impl Message) -> Value {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("our descriptors"));
    let kind = POOL.get_message_by_name(&format!("runtime.v1.{name}"));
    let kind = kind.unwrap_or_else(|| panic!("no message {name}"));
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(kind, bytes.as_slice()).expect("our message");
    serde_json::to_value(message).expect("JSON")
}

/// `OK` or the name of the code that a call was answered with.
pub fn code<T>(answer: &Result<T, Status>) -> Value {
    Value::from(answer.as_ref().map_or_else(|e| format!("{:?}", e.code()), |_| "Ok".into()))
}

/// The answer as JSON, or the code.
pub fn answer<T: Message>(name: &str, answer: &Result<Response<T>, Status>) -> Value {
    match answer {
        Ok(answer) => told(name, answer.get_ref()),
        Err(e) => json!({"code": format!("{:?}", e.code())}),
    }
}

/// Which fields there are, without what their numbers are.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), shape(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Number(_) => Value::from("(number)"),
        Value::String(text) if text.parse::<f64>().is_ok() => Value::from("(number)"),
        other => other.clone(),
    }
}

/// Replaces ids, times, addresses and the places of a world.
pub struct Normaliser {
    places: Vec<(String, &'static str)>,
}

static ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(sha256:)?\b[0-9a-f]{64}\b").expect("a pattern"));
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)").expect("a pattern")
});
/// Nanoseconds since 1970, of this century.
static NANOS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^1[5-9]\d{17}$").expect("a pattern"));

impl Normaliser {
    pub fn new(rig: &Rig) -> Self {
        let env = rig.env();
        let places = vec![
            (env.path().display().to_string(), "<world>"),
            (env.containerd.root().display().to_string(), "<containerd>"),
            (rig.registry.host(), "<registry>"),
            (env.cgroup_parent(), "<cgroup>"),
            (env.subnet_prefix() + ".", "<subnet>."),
            (env.bridge(), "<bridge>"),
        ];
        Self { places }
    }

    pub fn apply(&self, value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let field = |(key, value): (String, Value)| (self.text(&key), self.apply(value));
                fields.into_iter().map(field).collect::<Map<_, _>>().into()
            }
            Value::Array(items) => items.into_iter().map(|item| self.apply(item)).collect(),
            Value::String(text) => Value::String(self.text(&text)),
            other => other,
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (place, name) in &self.places {
            text = text.replace(place, name);
        }
        let text = ID.replace_all(&text, |found: &regex::Captures| match found.get(1) {
            // A digest is the same on both sides.
            Some(_) => found[0].to_owned(),
            None => "<id>".to_owned(),
        });
        let text = TIME.replace_all(&text, "<time>");
        NANOS.replace(&text, "<time>").into_owned()
    }
}

/// Keeps only the address's place in the subnet out of a text: the last number differs by order.
pub fn without_host_part(text: &str) -> String {
    static ADDRESS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b10\.24\d\.\d+\.\d+\b").expect("a pattern"));
    ADDRESS.replace_all(text, "<address>").into_owned()
}

/// Entries of a log as stream, tag and text. The plugin cuts zeros off the end of its times, so
/// the rig's stricter reader is not for it.
pub fn entries(log: &str) -> Vec<(String, String, String)> {
    let entry = |line: &str| {
        let mut words = line.splitn(4, ' ').skip(1).map(str::to_owned);
        (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        )
    };
    log.lines().map(entry).collect()
}
