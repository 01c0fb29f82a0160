//! Streams between clients and the processes and ports of pods.

pub mod spdy;
