//! Tests of the server in this process, with fake sessions and hand-written clients.

mod commands;
mod ports;
mod requests;
mod world;
