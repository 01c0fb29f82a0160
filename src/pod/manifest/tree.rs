//! Parses text to trees: YAML or JSON, every value with its position, within fixed limits.
//!
//! JSON is parsed as YAML, so that both have positions and the same limits. Types are inferred as
//! in Kubernetes tools (YAML 1.1: `yes` is a boolean, `0644` is octal).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::Spanned;
use serde_saphyr::options::AliasLimits;

/// Maximum size of a manifest in bytes.
pub(super) const LONGEST: usize = 10 << 20;
const MOST_VALUES: usize = 100_000;
const MOST_ALIASES: usize = 1_000;
/// Maximum number of parser events that aliases repeat. They cost more than others: a text of a few
/// hundred bytes causes all of them.
const MOST_REPEATED: usize = 20_000;
/// Maximum nesting: 1.5 times the deepest field of a pod in a list of lists. Each level costs
/// stack.
const DEEPEST: usize = 24;

/// Position in the text, from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl From<serde_saphyr::Location> for Place {
    fn from(at: serde_saphyr::Location) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: small(at.line()), column: small(at.column()) }
    }
}

/// A value in the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
}

/// What it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text; keys are unique.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Removes a key from a map and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        let at = entries.iter().position(|(name, _)| name == key)?;
        Some(entries.remove(at).1)
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// All non-empty documents in a text; an error has the problem and its position.
pub(super) fn read(text: &[u8]) -> Result<Vec<Node>, String> {
    if text.len() > LONGEST {
        return Err(format!("it has {} bytes, more than the {LONGEST} allowed", text.len()));
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| format!("it is not UTF-8 from byte {} on", error.valid_up_to()))?;
    if let Some(at) = text.find('\0') {
        return Err(format!("byte {at} is NUL"));
    }
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| tell(&error))
}

fn options() -> serde_saphyr::Options {
    let aliases: AliasLimits = serde_saphyr::alias_limits! {
        max_total_replayed_events: MOST_REPEATED,
        max_replay_stack_depth: 16,
        max_alias_expansions_per_anchor: MOST_ALIASES,
    };
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 4 * MOST_VALUES,
            max_nodes: MOST_VALUES,
            max_aliases: MOST_ALIASES,
            max_anchors: MOST_ALIASES,
            max_merge_keys: MOST_ALIASES,
            max_recorded_anchor_events: MOST_VALUES,
            max_recorded_anchor_bytes: LONGEST,
            max_total_scalar_bytes: LONGEST + LONGEST / 2,
            max_depth: DEEPEST,
        },
        alias_limits: aliases,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn tell(error: &serde_saphyr::Error) -> String {
    let place = error.location().map(|at| format!("{}: ", Place::from(at))).unwrap_or_default();
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            format!("{place}key {:?} is defined twice", key.as_deref().unwrap_or("?"))
        }
        serde_saphyr::Error::Budget { breach, .. } => {
            format!("{place}it is too large or too deep ({breach:?})")
        }
        error => {
            let text = error.to_string();
            // The position is in front already.
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            format!("{place}{text}")
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { place: spanned.referenced.into(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        // No argument, variable, path or name can contain it, so later code need not check.
        if value.contains('\0') {
            return Err(E::custom("a string contains a NUL character"));
        }
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, node)) = map.next_entry::<String, Node>()? {
            // `1` and `"1"` are the same key here, but not for the parser.
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("key {key:?} is defined twice")));
            }
            entries.push((key, node));
        }
        Ok(Value::Map(entries))
    }
}
