//! Tests of the real host and the real CNI plugins: they need root, iptables, and the plugins
//! `bridge`, `host-local` and `portmap` in `PODBAY_TEST_CNI_BIN`, `/opt/cni/bin` or `/usr/lib/cni`.
//! Each test has its own directories, bridge and subnet and leaves nothing behind.

#[path = "host_cni/cni.rs"]
mod cni;
#[path = "host_cni/ground.rs"]
mod ground;
#[path = "host_cni/host.rs"]
mod host;
#[path = "host_cni/rootfs.rs"]
mod rootfs;
#[path = "host_cni/volumes.rs"]
mod volumes;
