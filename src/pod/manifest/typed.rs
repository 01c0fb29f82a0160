//! Converts trees to Kubernetes objects. Wrong types and unknown fields are reported with path and
//! position.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Node, Place, Value};
use crate::pod::FieldError;

/// Converts an object; returns it and its unknown fields.
pub(super) fn object<T>(node: &Node) -> Result<(T, Vec<FieldError>), FieldError>
where
    T: for<'de> Deserialize<'de>,
{
    let notes = Notes::default();
    let object = T::deserialize(Reader { node, notes: &notes }).map_err(Fault::into_error)?;
    Ok((object, notes.unknown.into_inner()))
}

/// State of the conversion of one object.
#[derive(Default)]
struct Notes {
    path: RefCell<String>,
    unknown: RefCell<Vec<FieldError>>,
}

impl Notes {
    /// Runs `work` with a longer path; a fault without a path gets this one.
    fn within<T>(
        &self,
        segment: &str,
        place: Place,
        read: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let before = self.path.borrow().len();
        self.path.borrow_mut().push_str(segment);
        let answer = read().map_err(|fault| fault.at(&self.path.borrow(), place));
        self.path.borrow_mut().truncate(before);
        answer
    }

    fn unknown(&self, place: Place) {
        let path = self.path.borrow().clone();
        let message = format!("unknown field ({place})");
        self.unknown.borrow_mut().push(FieldError { path, message });
    }
}

/// Why a value does not have its type.
#[derive(Debug)]
struct Fault {
    message: String,
    at: Option<(String, Place)>,
}

impl Fault {
    fn at(mut self, path: &str, place: Place) -> Self {
        self.at.get_or_insert_with(|| (path.to_owned(), place));
        self
    }

    fn into_error(self) -> FieldError {
        match self.at {
            Some((path, place)) => {
                FieldError { path, message: format!("{} ({place})", self.message) }
            }
            None => FieldError { path: String::new(), message: self.message },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), at: None }
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::custom(format!("must be {}, not {}", type_name(&wanted.to_string()), kind_of(found)))
    }

    // The value is not repeated, since it may be a secret.
    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        let wanted = wanted.to_string();
        match found {
            Unexpected::Signed(_) | Unexpected::Unsigned(_) => {
                Self::custom(format!("is out of the range of {}", type_name(&wanted)))
            }
            _ => Self::custom(format!("must be {}", type_name(&wanted))),
        }
    }
}

/// A readable name for a Rust type or object type.
fn type_name(wanted: &str) -> String {
    match wanted {
        "a sequence" => "a list".to_owned(),
        "i32" => "a 32-bit integer".to_owned(),
        "i64" => "a 64-bit integer".to_owned(),
        "IntOrString" => "an integer or a string".to_owned(),
        "Quantity" => "a quantity".to_owned(),
        "Time" | "an RFC 3339 timestamp" => "a time".to_owned(),
        object if object.starts_with(char::is_uppercase) => format!("an object ({object})"),
        other => other.to_owned(),
    }
}

fn kind_of(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean (quote it to have text)",
        Unexpected::Signed(_) | Unexpected::Unsigned(_) | Unexpected::Float(_) => {
            "a number (quote it to have text)"
        }
        Unexpected::Str(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a map",
        Unexpected::Unit | Unexpected::Option => "null",
        _ => "this",
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    notes: &'a Notes,
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_i64(value),
                (_, Some(value), _) => visitor.visit_u64(value),
                (_, _, value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::Text(text) => visitor.visit_str(text),
            Value::List(nodes) => {
                visitor.visit_seq(Items { nodes: nodes.iter(), notes: self.notes, next: 0 })
            }
            Value::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
                notes: self.notes,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// As in Kubernetes, a null is the empty text, e.g. in `annotations: {a: }`.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Null => visitor.visit_str(""),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_string(visitor)
    }

    /// A quantity may be written as a number.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Number(number) if name == "Quantity" => {
                let text = number.as_f64().filter(|_| number.is_f64()).map(|f| f.to_string());
                visitor.visit_string(text.unwrap_or_else(|| number.to_string()))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    /// The object types ignore exactly the fields that they do not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.notes.unknown(self.node.place);
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier
    }
}

struct Items<'a> {
    nodes: std::slice::Iter<'a, Node>,
    notes: &'a Notes,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        let segment = format!("[{}]", self.next);
        self.next += 1;
        let reader = Reader { node, notes: self.notes };
        self.notes.within(&segment, node.place, || seed.deserialize(reader)).map(Some)
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (String, Node)>,
    value: Option<(&'a str, &'a Node)>,
    notes: &'a Notes,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, node));
        let key: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self.value.take().ok_or_else(|| de::Error::custom("a value first"))?;
        let joint = if self.notes.path.borrow().is_empty() { "" } else { "." };
        let segment = segment(joint, key);
        let reader = Reader { node, notes: self.notes };
        self.notes.within(&segment, node.place, || seed.deserialize(reader))
    }
}

/// Formats a path as Kubernetes does: map keys that are not names are put in brackets.
fn segment(joint: &str, key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain && !key.is_empty() { format!("{joint}{key}") } else { format!("[{key}]") }
}
