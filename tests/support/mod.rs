//! The test kit: a private world for each test, with a real agent in it.
//!
//! [`TestEnv`] is the world (containerd, CNI configuration, bridge, subnet, folders), [`TestAgent`]
//! the real binary in it, [`Census`] what is there, to be compared before and after. Nothing of a
//! test is shared with another test or with the machine's own containerd.

// Each test target uses its own part of the kit.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod agent;
pub mod builders;
pub mod census;
pub mod containerd;
pub mod env;
pub mod firewall;
pub mod gate;
pub mod images;
pub mod logind;
pub mod parts;
pub mod process;
pub mod registry;
pub mod sweep;
pub mod systemd;
pub mod wait;

pub use parts::parts;
pub use wait::{eventually, wait_until};

/// A test for each line of containerd, of functions that take the line: `room::name::v1` and `v2`.
macro_rules! on_both_lines {
    ($($room:ident::$name:ident,)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v1() {
                $room::$name(Line::V1).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v2() {
                $room::$name(Line::V2).await;
            }
        })*
    };
}
pub(crate) use on_both_lines;
