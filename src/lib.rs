//! podbay: a node agent that runs pods on containerd. See ARCHITECTURE.md.

#![deny(unsafe_code)]

pub mod app;
pub mod backend;
pub mod board;
pub mod cdi;
pub mod config;
pub mod container;
pub mod ctl;
pub mod ids;
pub mod image;
pub mod lifecycle;
pub mod logs;
pub mod model;
pub mod oci;
pub mod pause;
pub mod pod;
pub mod proto;
pub mod sandbox;
pub mod serve;
pub mod stats;
pub mod store;
pub mod stream;
pub mod telemetry;
