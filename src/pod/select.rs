//! Label and field selectors for pods.
//!
//! The grammar is that of `k8s.io/apimachinery` (`labels.Parse`, `fields.ParseSelector`), so
//! selectors for kubectl work here too.

mod events;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::face::{Error, Selector};
pub use events::EventSelection;

/// A parsed selector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    namespace: String,
    name: String,
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

/// A requirement on labels; a selector matches if all do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTest {
    Exists,
    Missing,
    In(Vec<String>),
    /// Also matches if the label is missing.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

/// A requirement on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    field: Field,
    equal: bool,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    NodeName,
    RestartPolicy,
    Phase,
    PodIp,
}

/// The supported fields, by path.
const FIELDS: [(&str, Field); 6] = [
    ("metadata.name", Field::Name),
    ("metadata.namespace", Field::Namespace),
    ("spec.nodeName", Field::NodeName),
    ("spec.restartPolicy", Field::RestartPolicy),
    ("status.phase", Field::Phase),
    ("status.podIP", Field::PodIp),
];

impl Selection {
    /// Parses a selector.
    ///
    /// # Errors
    /// [`Error::Argument`] with `selector.labels` or `selector.fields` as the field.
    pub fn parse(selector: &Selector) -> Result<Self, Error> {
        let fault = |field| move |message| Error::Argument { field, message };
        Ok(Self {
            namespace: selector.namespace.clone(),
            name: selector.name.clone(),
            labels: labels(&selector.labels).map_err(fault("selector.labels"))?,
            fields: fields(&selector.fields).map_err(fault("selector.fields"))?,
        })
    }

    /// Whether a pod is selected.
    pub fn matches(&self, pod: &Pod) -> bool {
        let is = |wanted: &str, had: &Option<String>| {
            wanted.is_empty() || had.as_deref().unwrap_or_default() == wanted
        };
        is(&self.namespace, &pod.metadata.namespace)
            && is(&self.name, &pod.metadata.name)
            && self.labels.iter().all(|term| term.holds(pod.metadata.labels.as_ref()))
            && self.fields.iter().all(|term| (term.field.of(pod) == term.value) == term.equal)
    }
}

impl LabelTerm {
    fn holds(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key));
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            LabelTest::Exists => value.is_some(),
            LabelTest::Missing => value.is_none(),
            LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelTest::Above(bound) => number().is_some_and(|number| number > *bound),
            LabelTest::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl Field {
    fn of(self, pod: &Pod) -> &str {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let value = match self {
            Self::Name => pod.metadata.name.as_deref(),
            Self::Namespace => pod.metadata.namespace.as_deref(),
            Self::NodeName => spec.and_then(|spec| spec.node_name.as_deref()),
            Self::RestartPolicy => spec.and_then(|spec| spec.restart_policy.as_deref()),
            Self::Phase => status.and_then(|status| status.phase.as_deref()),
            Self::PodIp => status.and_then(|status| status.pod_ip.as_deref()),
        };
        value.unwrap_or_default()
    }
}

/// Parses a label selector; the error is a message.
fn labels(text: &str) -> Result<Vec<LabelTerm>, String> {
    let mut tokens = Tokens::new(text);
    let mut terms = Vec::new();
    if tokens.peek() == Token::End {
        return Ok(terms);
    }
    loop {
        terms.push(label_term(&mut tokens)?);
        match tokens.next() {
            Token::End => return Ok(terms),
            Token::Sign(",") => {}
            other => return Err(format!("found {other}, expected `,` or the end")),
        }
    }
}

fn label_term(tokens: &mut Tokens<'_>) -> Result<LabelTerm, String> {
    let absent = tokens.peek() == Token::Sign("!");
    if absent {
        tokens.next();
    }
    let key = match tokens.next() {
        Token::Word(word) if !matches!(word, "in" | "notin") => word,
        other => return Err(format!("found {other}, expected the name of a label")),
    };
    check_key(key)?;
    let test = if absent { LabelTest::Missing } else { label_test(tokens, key)? };
    Ok(LabelTerm { key: key.to_owned(), test })
}

fn label_test(tokens: &mut Tokens<'_>, key: &str) -> Result<LabelTest, String> {
    if matches!(tokens.peek(), Token::End | Token::Sign(",")) {
        return Ok(LabelTest::Exists);
    }
    Ok(match tokens.next() {
        Token::Sign("=" | "==") => LabelTest::In(vec![one_value(tokens, key)?]),
        Token::Sign("!=") => LabelTest::NotIn(vec![one_value(tokens, key)?]),
        Token::Sign(">") => LabelTest::Above(number(tokens, key)?),
        Token::Sign("<") => LabelTest::Below(number(tokens, key)?),
        Token::Word("in") => LabelTest::In(set(tokens, key)?),
        Token::Word("notin") => LabelTest::NotIn(set(tokens, key)?),
        other => {
            return Err(format!(
                "found {other} after {key:?}, expected one of = == != > < in notin"
            ));
        }
    })
}

/// A value, which may be empty, as in `key=`.
fn one_value(tokens: &mut Tokens<'_>, key: &str) -> Result<String, String> {
    let value = match tokens.peek() {
        Token::Word(word) => {
            tokens.next();
            word
        }
        _ => "",
    };
    check_value(key, value)?;
    Ok(value.to_owned())
}

fn number(tokens: &mut Tokens<'_>, key: &str) -> Result<i64, String> {
    let value = one_value(tokens, key)?;
    value.parse().map_err(|_| format!("label {key:?} is compared with {value:?}, not a number"))
}

fn set(tokens: &mut Tokens<'_>, key: &str) -> Result<Vec<String>, String> {
    match tokens.next() {
        Token::Sign("(") => {}
        other => return Err(format!("found {other}, expected `(`")),
    }
    if tokens.peek() == Token::Sign(")") {
        return Err(format!("label {key:?} is compared with an empty set"));
    }
    let mut values = Vec::new();
    loop {
        values.push(one_value(tokens, key)?);
        match tokens.next() {
            Token::Sign(",") => {}
            Token::Sign(")") => return Ok(values),
            other => return Err(format!("found {other}, expected `,` or `)`")),
        }
    }
}

/// A qualified name: `[prefix/]name`.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let labels_of_dns = |prefix: &str| {
        prefix.len() <= 253
            && prefix.split('.').all(|part| {
                let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
                !part.is_empty()
                    && part.bytes().all(|byte| inner(byte) || byte == b'-')
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    };
    if !name.is_empty() && is_label_text(name) && prefix.is_none_or(labels_of_dns) {
        Ok(())
    } else {
        Err(format!("{key:?} is not the name of a label"))
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    if is_label_text(value) {
        Ok(())
    } else {
        Err(format!("{value:?} cannot be a value of label {key:?}"))
    }
}

/// At most 63 letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit; or
/// empty.
fn is_label_text(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63 && bytes.iter().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

/// A token of a label selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'static str),
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{word:?}"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// The tokenizer of a label selector.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// Longer ones first.
    const SIGNS: [&'static str; 9] = ["==", "!=", "=", "!", ">", "<", "(", ")", ","];

    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn peek(&self) -> Token<'a> {
        Self { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if self.rest.is_empty() {
            return Token::End;
        }
        for sign in Self::SIGNS {
            if let Some(rest) = self.rest.strip_prefix(sign) {
                self.rest = rest;
                return Token::Sign(sign);
            }
        }
        let end = |char| " \t\r\n=!><(),".contains(char);
        let (word, rest) = self.rest.split_at(self.rest.find(end).unwrap_or(self.rest.len()));
        self.rest = rest;
        Token::Word(word)
    }
}

/// Parses a field selector; the error is a message.
fn fields(text: &str) -> Result<Vec<FieldTerm>, String> {
    let mut terms = Vec::new();
    for part in split_unescaped(text) {
        if !part.is_empty() {
            terms.push(field_term(part)?);
        }
    }
    Ok(terms)
}

fn field_term(part: &str) -> Result<FieldTerm, String> {
    let (path, equal, value) = term(part)?;
    let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == path) else {
        let known = FIELDS.map(|(path, _)| path).join(", ");
        return Err(format!("pods cannot be selected by {path:?}; known are {known}"));
    };
    Ok(FieldTerm { field: *field, equal, value })
}

/// Path, whether it must be equal, and value.
fn term(part: &str) -> Result<(&str, bool, String), String> {
    // The first operator counts; at one position, the longer one.
    let found = part.char_indices().find_map(|(at, _)| {
        let operator = ["!=", "==", "="].into_iter().find(|sign| part[at..].starts_with(sign))?;
        Some((at, operator))
    });
    let Some((at, operator)) = found else {
        return Err(format!("{part:?} is none of field=value, field==value, field!=value"));
    };
    let value = unescape(&part[at + operator.len()..])?;
    Ok((&part[..at], operator != "!=", value))
}

/// Splits at commas that are not escaped by `\`.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\\' if !escaped => escaped = true,
            b',' if !escaped => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => escaped = false,
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Decodes the escapes in a value: `\\`, `\,` and `\=`.
fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                _ => return Err(format!("{value:?} has a `\\` that escapes nothing")),
            },
            '=' | ',' => return Err(format!("{value:?} has a {char:?} without a `\\` before it")),
            _ => plain.push(char),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
