//! The test kit: a private world for each test, with a real agent in it.
//!
//! [`TestEnv`] is the world (containerd, CNI configuration, bridge, subnet, folders), [`TestAgent`]
//! the real binary in it, [`Census`] what is there, to be compared before and after. Nothing of a
//! test is shared with another test or with the machine's own containerd.

// Each test target uses its own part of the kit.
#![allow(dead_code, unused_imports)]

pub mod agent;
pub mod builders;
pub mod census;
pub mod containerd;
pub mod env;
pub mod firewall;
pub mod images;
pub mod process;
pub mod registry;
pub mod sweep;
pub mod wait;

pub use wait::{eventually, wait_until};
