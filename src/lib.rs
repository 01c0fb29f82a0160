//! podbay: a node agent that turns gRPC calls into pods on one host, through containerd.
//!
//! A tour in the order in which a call travels; ARCHITECTURE.md has the overview and the reasons.
//!
//! - [`app`] takes a [`config`], creates everything below and connects it; [`lifecycle`] owns its
//!   tasks and [`clock`] tells the time.
//! - [`serve`] listens: `runtime.v1` (the CRI) and `podbay.v1` on a unix socket, `podbay.v1` also
//!   over mutual TLS. It checks requests into the plain types of [`model`] and turns errors into
//!   gRPC codes. Nothing below it knows the wire types of [`proto`].
//! - [`stream`] serves exec, attach and port-forward to clients that speak SPDY or WebSocket.
//! - [`pod`] runs whole Kubernetes pods: a pure plan decides what to do next, and one task for each
//!   pod does it.
//! - [`sandbox`] makes pods of the CRI: network namespace, pause container, shared files.
//!   [`container`] makes their containers, [`image`] pulls what they run.
//! - [`oci`] builds OCI runtime specs and [`cdi`] changes them for devices, both without I/O.
//!   [`logs`] copies output into CRI log files. [`pause`] is the program in the pause container.
//! - [`store`] keeps intents and results; [`board`] publishes the state of all pods and containers,
//!   so that reads never wait; [`stats`] reads cgroups.
//! - [`backend`] has the traits for the outside world: adapters to containerd, CNI plugins, the
//!   Linux host and NRI plugins, and in-memory fakes for tests.
//! - [`ctl`] is the command line, a client of the same API.

#![deny(unsafe_code)]

pub mod app;
pub mod backend;
pub mod board;
pub mod cdi;
pub mod clock;
pub mod config;
pub mod container;
pub mod ctl;
pub mod ids;
pub mod image;
pub mod lifecycle;
pub mod locks;
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
