//! The server in this process, with sessions that are made up and clients that are written by
//! hand.

mod commands;
mod ports;
mod requests;
mod world;
