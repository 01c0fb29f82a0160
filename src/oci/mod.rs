//! Pure building of OCI runtime specs.
pub mod user;
