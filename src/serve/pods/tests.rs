//! The service on a real socket, with a made-up face behind it.

mod basics;
mod commands;
mod forwards;
mod lists;
mod watches;
mod world;
