//! Syntax of names, keys and paths. Each function returns complaints, or none.

/// Maximum length of a DNS label.
const LABEL: usize = 63;
/// Maximum length of a DNS subdomain.
const SUBDOMAIN: usize = 253;
/// Maximum length of a port name.
const PORT: usize = 15;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
    '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
    (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const NAME_PART_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
    '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
    '[-._a-zA-Z0-9]+')";

type Complaints = Vec<String>;

fn longer(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn unless(right: bool, rule: &str) -> Option<String> {
    (!right).then(|| rule.to_owned())
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    framed(text, inner, |b| inner(b) || b == b'-')
}

/// Whether the first and last byte are of one set, and those between of another; not empty.
fn framed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    framed(text, |b| b.is_ascii_alphanumeric(), inner)
}

/// A DNS label, e.g. of a container.
pub(super) fn label(text: &str) -> Complaints {
    longer(text, LABEL).into_iter().chain(unless(is_label(text), LABEL_RULE)).collect()
}

/// A DNS subdomain, e.g. the name of an object.
pub(super) fn subdomain(text: &str) -> Complaints {
    let right = text.split('.').all(is_label);
    longer(text, SUBDOMAIN).into_iter().chain(unless(right, SUBDOMAIN_RULE)).collect()
}

/// `prefix/name`, e.g. the key of a label.
pub(super) fn qualified(text: &str) -> Complaints {
    let mut complaints = Complaints::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {NAME_PART_RULE} with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            complaints.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            let of_prefix = |complaint| format!("prefix part {complaint}");
            complaints.extend(subdomain(prefix).into_iter().map(of_prefix));
            name
        }
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    }
    complaints.extend(longer(name, LABEL).map(|complaint| format!("name part {complaint}")));
    complaints.extend(unless(is_name(name), NAME_PART_RULE));
    complaints
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Complaints {
    let right = text.is_empty() || is_name(text);
    longer(text, LABEL).into_iter().chain(unless(right, LABEL_VALUE_RULE)).collect()
}

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Complaints {
    let right = text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let rule = "a valid environment variable name must consist only of printable ASCII characters \
                other than '='";
    unless(right, rule).into_iter().collect()
}

/// A key of a config map or a secret.
pub(super) fn config_key(text: &str) -> Complaints {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let right = !text.is_empty() && text.bytes().all(is_inner);
    let mut complaints: Complaints =
        longer(text, SUBDOMAIN).into_iter().chain(unless(right, KEY_RULE)).collect();
    match text {
        "." | ".." => complaints.push(format!("must not be '{text}'")),
        text if text.starts_with("..") => complaints.push("must not start with '..'".to_owned()),
        _ => {}
    }
    complaints
}

/// The name of a port.
pub(super) fn port(text: &str) -> Complaints {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let rules = [
        (text.len() <= PORT, "must be no more than 15 characters long"),
        (
            text.bytes().all(is_inner),
            "must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (text.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (!text.contains("--"), "must not contain consecutive hyphens"),
        (!text.starts_with('-') && !text.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    rules.into_iter().filter_map(|(right, rule)| unless(right, rule)).collect()
}

/// The name of an HTTP header.
pub(super) fn header(text: &str) -> Complaints {
    let right = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
    unless(right, rule).into_iter().collect()
}

/// A relative path without `..`.
pub(super) fn descending(text: &str) -> Complaints {
    let relative = unless(!text.starts_with('/'), "must be a relative path");
    relative.into_iter().chain(no_steps_back(text)).collect()
}

/// The same, for a file that the agent writes: names like `..data` are reserved.
pub(super) fn unreserved(text: &str) -> Complaints {
    let mut complaints = descending(text);
    if complaints.is_empty() && text.starts_with("..") {
        complaints.push("must not start with '..'".to_owned());
    }
    complaints
}

/// A path without `..`.
pub(super) fn no_steps_back(text: &str) -> Complaints {
    let right = text.split('/').all(|step| step != "..");
    unless(right, "must not contain '..'").into_iter().collect()
}

/// An absolute path.
pub(super) fn absolute(text: &str) -> Complaints {
    unless(text.starts_with('/'), "must be an absolute path").into_iter().collect()
}

/// A single line without other control characters.
pub(super) fn one_line(text: &str) -> Complaints {
    unless(!text.contains(char::is_control), "must not contain control characters")
        .into_iter()
        .collect()
}
