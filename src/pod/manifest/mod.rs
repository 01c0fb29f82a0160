//! Manifests: converts text to validated, complete and runnable objects. Pure.
//!
//! ```text
//! text --tree--> values with places --unserved--> supported fields --typed--> objects
//!      --given: defaults, validation, referenced objects--> Given
//! ```

mod change;
mod defaults;
mod gates;
mod given;
mod parse;
mod references;
mod tree;
mod typed;
mod unserved;
mod validate;

#[cfg(test)]
mod tests;

pub use change::{Difference, change, keep_ephemeral};
pub use gates::{gates, keep_gates};
pub use given::{given, objects, without_ephemeral};
pub use parse::{ParseOptions, Parsed, parse, parse_source};
pub use references::{Reference, pick, references};
