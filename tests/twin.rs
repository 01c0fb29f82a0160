//! Compares podbay with its twin: the same calls are made to podbay and to containerd's own CRI
//! plugin, and the answers must be equal except for ids, times and paths. Scenarios are named as in
//! cri-tools' conformance suite, which the plugin passes.
//!
//! Needs root, and fails rather than skips when a part is missing.

#[path = "twin/compare.rs"]
mod compare;
#[path = "twin/containers.rs"]
mod containers;
#[path = "twin/ends.rs"]
mod ends;
#[path = "twin/environment.rs"]
mod environment;
#[path = "twin/exceptions.rs"]
mod exceptions;
#[path = "twin/facts.rs"]
mod facts;
#[path = "twin/images.rs"]
mod images;
#[path = "twin/logs.rs"]
mod logs;
#[path = "twin/networks.rs"]
mod networks;
#[path = "twin/pods.rs"]
mod pods;
#[path = "real_cri/rig.rs"]
#[allow(dead_code)]
mod rig;
#[path = "twin/security.rs"]
mod security;
#[path = "real_cri/sessions.rs"]
#[allow(dead_code)]
mod sessions;
#[path = "twin/stats.rs"]
mod stats;
#[path = "twin/streams.rs"]
mod streams;
mod support;
#[path = "twin/volumes.rs"]
mod volumes;

macro_rules! chapters {
    ($($name:ident,)*) => {
        mod chapter {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::compare::run(stringify!($name), crate::$name::SCENARIOS).await;
            })*
        }
    };
}

chapters! { pods, containers, ends, logs, images, security, environment, networks, volumes, streams, stats, }
