//! The server's side of SPDY against a client's side made for these tests.

mod client;
mod commands;
mod connections;
mod forwards;
mod frames;
mod limits;
mod windows;
