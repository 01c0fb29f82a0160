//! Tests of the service on a real socket, with a fake face behind it.

mod basics;
mod commands;
mod forwards;
mod lists;
mod watches;
mod world;
