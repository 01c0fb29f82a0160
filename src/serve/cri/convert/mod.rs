//! Conversion between wire types and domain types: pure, total, strict.
//!
//! Requests are not trusted: a wrong, unknown or unsupported value is an error that names the field
//! by its path in the proto, before anything is done. Messages are destructured without `..`, so
//! that a new field of the interface does not compile until it is handled. Answers are exact.

mod config;
mod container;
mod filter;
mod image;
mod metrics;
mod pod;
mod resources;
mod security;
mod signal;
mod stats;
mod status;
mod streaming;

#[cfg(test)]
mod tests;

pub use config::{container_config_json, network_json, pod_config_json, sums_json};
pub use container::{
    checkpoint, container_config, container_update, exec_command, exec_timeout, stop_grace,
};
pub use filter::{
    container_filter, container_stats_filter, image_filter, pod_stats_filter, sandbox_filter,
};
pub use image::{
    credentials, fs_info, image_info, image_out, named_image, pull_handler, sought_image,
};
pub use metrics::{metric_descriptor, pod_metrics};
pub use pod::{pod_cidr, pod_config};
pub use resources::sums;
pub use stats::{container_stats, pod_stats};
pub use status::{container_item, container_status, event, info, sandbox_item, sandbox_status};
pub use streaming::{attach, exec, port_forward};

use std::fmt;

use tonic::Status;

/// An invalid field of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    field: String,
    problem: String,
}

/// Result of parsing a request.
pub type Result<T> = std::result::Result<T, Invalid>;

impl Invalid {
    /// An error for this field, with this reason.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// Prefixes a field with the path of the enclosing message.
trait Within<T> {
    /// The message is the field `outer`.
    fn within(self, outer: &str) -> Result<T>;
    /// The message is this element of the repeated field `outer`.
    fn item(self, outer: &str, index: usize) -> Result<T>;
}

impl<T> Within<T> for Result<T> {
    fn within(self, outer: &str) -> Self {
        self.map_err(|Invalid { field, problem }| {
            let field = match field.as_str() {
                "" => outer.to_owned(),
                inner => format!("{outer}.{inner}"),
            };
            Invalid { field, problem }
        })
    }

    fn item(self, outer: &str, index: usize) -> Self {
        self.within(&format!("{outer}[{index}]"))
    }
}

/// An id or id prefix that must not be empty.
pub fn required_id(field: &str, id: String) -> Result<String> {
    filled(field, &id)?;
    Ok(id)
}

fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Invalid::new(field, "is required"))
}

fn filled(field: &str, text: &str) -> Result<()> {
    if text.is_empty() { Err(Invalid::new(field, "must not be empty")) } else { Ok(()) }
}

fn refuse(field: &str, refused: bool, problem: &str) -> Result<()> {
    if refused { Err(Invalid::new(field, problem)) } else { Ok(()) }
}

/// Refuses a NUL, which would end a C string.
fn no_nul(field: &str, text: &str) -> Result<()> {
    refuse(field, text.contains('\0'), "must not contain NUL")
}

/// Refuses line breaks, since the text is written into line-based files.
fn one_line(field: &str, text: &str) -> Result<()> {
    refuse(field, text.chars().any(char::is_control), "must not contain control characters")
}

/// Refuses white space as well.
fn word(field: &str, text: &str) -> Result<()> {
    filled(field, text)?;
    let bad = text.chars().any(|c| c.is_control() || c.is_whitespace());
    refuse(field, bad, "must not contain white space or control characters")
}

/// A part of a name, which may become part of a path, a key or a `K=V;K=V` list.
fn name(field: &str, text: &str) -> Result<()> {
    const MAX: usize = 253;
    word(field, text)?;
    refuse(field, text.len() > MAX, "must not be longer than 253 bytes")?;
    refuse(field, text == "." || text == "..", "must not be . or ..")?;
    refuse(field, text.contains(['/', '\\', ';', '=']), "must not contain / \\ ; or =")
}

/// An absolute host path without `..`.
fn absolute_path(field: &str, text: &str) -> Result<()> {
    no_nul(field, text)?;
    refuse(field, !text.starts_with('/'), "must be an absolute path")?;
    no_climbing(field, text)
}

fn no_climbing(field: &str, text: &str) -> Result<()> {
    refuse(field, text.split('/').any(|part| part == ".."), "must not contain ..")
}

/// An enum value known in this version of the interface.
fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E> {
    E::try_from(number).map_err(|_| Invalid::new(field, format_args!("unknown value {number}")))
}

fn all<T, U>(field: &str, list: Vec<T>, one: impl Fn(T) -> Result<U>) -> Result<Vec<U>> {
    list.into_iter().enumerate().map(|(i, value)| one(value).item(field, i)).collect()
}
