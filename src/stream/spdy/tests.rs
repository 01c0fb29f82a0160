//! Tests of the SPDY server with a test client.

mod client;
mod commands;
mod connections;
mod forwards;
mod frames;
mod limits;
mod windows;
