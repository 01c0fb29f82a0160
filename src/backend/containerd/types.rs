//! containerd messages that the client crate does not compile, and conversions from and to plain
//! types.

use std::collections::HashMap;
use std::path::Path;

use containerd_client::types;
use prost::{Message, Name};
use prost_types::{Any, FieldMask, Timestamp};

use crate::backend::{Error, ErrorKind, Result, RootfsMount, RuntimeHandler};
use crate::model::image::Descriptor;
use crate::model::{StringMap, UnixNanos};

/// Label on podbay's records and snapshots, by which a restarted agent finds them.
pub(super) const OWNER_LABEL: &str = "io.podbay/owner";
/// Value of [`OWNER_LABEL`].
pub(super) const OWNER: &str = "podbay";
/// Filter for [`OWNER_LABEL`].
pub(super) const OWNER_FILTER: &str = "labels.\"io.podbay/owner\"==podbay";

/// JSON in an `Any`: the OCI runtime spec.
pub(super) const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// JSON in an `Any`: the process of an exec.
pub(super) const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// JSON in an `Any`: changed limits.
pub(super) const RESOURCES_URL: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Prefix of the runtimes that take [`RuncOptions`].
pub(super) const RUNC_RUNTIME: &str = "io.containerd.runc.";

/// `containerd.runc.v1.Options`: how the runc shim calls the OCI runtime. Field 8 is omitted, since
/// only 1.x has it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RuncOptions {
    #[prost(bool, tag = "1")]
    pub no_pivot_root: bool,
    #[prost(bool, tag = "2")]
    pub no_new_keyring: bool,
    #[prost(string, tag = "3")]
    pub shim_cgroup: String,
    #[prost(uint32, tag = "4")]
    pub io_uid: u32,
    #[prost(uint32, tag = "5")]
    pub io_gid: u32,
    #[prost(string, tag = "6")]
    pub binary_name: String,
    #[prost(string, tag = "7")]
    pub root: String,
    #[prost(bool, tag = "9")]
    pub systemd_cgroup: bool,
    #[prost(string, tag = "10")]
    pub criu_image_path: String,
    #[prost(string, tag = "11")]
    pub criu_work_path: String,
}

/// `runtimeoptions.v1.Options`: the settings that containerd passes to other shims.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ShimOptions {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(string, tag = "2")]
    pub config_path: String,
}

impl Name for ShimOptions {
    const NAME: &'static str = "Options";
    const PACKAGE: &'static str = "runtimeoptions.v1";
}

/// The options for a handler's shim; `None` when there are none. `streams` is the host user and
/// group that own the pipes of its processes.
pub(super) fn shim_options(handler: &RuntimeHandler, streams: (u32, u32)) -> Option<Any> {
    let runc = RuncOptions::with_streams_of(handler, streams);
    runc.or_else(|| {
        let told = !handler.config_path.is_empty() || !handler.options_type.is_empty();
        told.then(|| {
            containerd_client::to_any(&ShimOptions {
                type_url: handler.options_type.clone(),
                config_path: handler.config_path.clone(),
            })
        })
    })
}

impl Name for RuncOptions {
    const NAME: &'static str = "Options";
    const PACKAGE: &'static str = "containerd.runc.v1";
}

impl RuncOptions {
    /// The options of a handler, for a process whose pipes shall belong to this user and group of
    /// the host; `None` when its shim is another one.
    fn with_streams_of(handler: &RuntimeHandler, (io_uid, io_gid): (u32, u32)) -> Option<Any> {
        handler.runtime_type.starts_with(RUNC_RUNTIME).then(|| {
            containerd_client::to_any(&Self {
                binary_name: handler.binary.clone(),
                root: handler.root.clone(),
                systemd_cgroup: handler.systemd_cgroup,
                io_uid,
                io_gid,
                ..Self::default()
            })
        })
    }

    /// The handler of a record with these options, which do not contain its CRI name.
    pub(super) fn handler(runtime_type: String, options: Option<&Any>) -> RuntimeHandler {
        let shim: ShimOptions = options.and_then(decode).unwrap_or_default();
        let options: Self = options.and_then(decode).unwrap_or_default();
        RuntimeHandler {
            runtime_type,
            config_path: shim.config_path,
            options_type: shim.type_url,
            binary: options.binary_name,
            root: options.root,
            systemd_cgroup: options.systemd_cgroup,
            ..RuntimeHandler::default()
        }
    }
}

/// Decodes an `Any` of exactly this type. containerd's type URLs are bare full names, which prost's
/// own `to_msg` does not accept.
pub(super) fn decode<T: Message + Name + Default>(any: &Any) -> Option<T> {
    if any.type_url != T::full_name() {
        return None;
    }
    T::decode(any.value.as_slice()).ok()
}

/// JSON in an `Any`.
pub(super) fn json_any(type_url: &str, value: &serde_json::Value) -> Any {
    Any { type_url: type_url.to_owned(), value: value.to_string().into_bytes() }
}

/// The JSON in an `Any`; invalid JSON is an error of kind `Other`.
pub(super) fn any_json(tried: impl FnOnce() -> String, any: &Any) -> Result<serde_json::Value> {
    serde_json::from_slice(&any.value)
        .map_err(|error| Error::new(ErrorKind::Other, tried()).because(error))
}

/// A field mask for an update.
pub(super) fn mask(paths: impl IntoIterator<Item = String>) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.into_iter().collect() })
}

/// Nanoseconds of a timestamp; a missing one is 0.
pub(super) fn nanos(at: Option<Timestamp>) -> UnixNanos {
    at.map_or(0, |at| at.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(at.nanos)))
}

/// A count or size that is signed on the wire.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Labels for the wire.
pub(super) fn wire_map(map: &StringMap) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A path for the wire, which only carries UTF-8.
pub(super) fn wire_path(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, format!("path {} is not UTF-8", path.display()))
    })
}

/// Mounts from the wire, untouched.
pub(super) fn mounts(wire: Vec<types::Mount>) -> Vec<RootfsMount> {
    wire.into_iter()
        .map(|mount| RootfsMount {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

/// Mounts for the wire, untouched.
pub(super) fn wire_mounts(mounts: &[RootfsMount]) -> Vec<types::Mount> {
    mounts
        .iter()
        .map(|mount| types::Mount {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect()
}

/// A descriptor for the wire.
pub(super) fn wire_descriptor(descriptor: &Descriptor) -> Result<types::Descriptor> {
    Ok(types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: wire_size(descriptor.size)?,
        annotations: wire_map(&descriptor.annotations),
    })
}

/// A size for the wire.
pub(super) fn wire_size(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(|_| {
        Error::new(ErrorKind::InvalidArgument, format!("size {size} is over 2^63 - 1"))
    })
}

/// A descriptor from the wire; `None` when its digest is not supported.
pub(super) fn descriptor(wire: types::Descriptor) -> Option<Descriptor> {
    Some(Descriptor {
        media_type: wire.media_type,
        digest: wire.digest.try_into().ok()?,
        size: unsigned(wire.size),
        annotations: wire.annotations.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler() -> RuntimeHandler {
        RuntimeHandler {
            runtime_type: "io.containerd.runc.v2".into(),
            binary: "crun".into(),
            root: "/run/x".into(),
            systemd_cgroup: true,
            ..RuntimeHandler::default()
        }
    }

    #[test]
    fn runc_options_have_containerds_name_and_numbers() {
        let any = RuncOptions::with_streams_of(&handler(), (0, 0)).unwrap();
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        let binary = b"\x32\x04crun".as_slice();
        let root = b"\x3a\x06/run/x".as_slice();
        let systemd = b"\x48\x01".as_slice();
        assert_eq!(any.value, [binary, root, systemd].concat());
        assert_eq!(RuncOptions::handler("io.containerd.runc.v2".into(), Some(&any)), handler());
    }

    #[test]
    fn other_shims_get_no_runc_options() {
        let kata = RuntimeHandler { runtime_type: "io.containerd.kata.v2".into(), ..handler() };
        assert_eq!(RuncOptions::with_streams_of(&kata, (0, 0)), None);
        assert_eq!(shim_options(&kata, (0, 0)), None);
    }

    #[test]
    fn other_shims_get_their_settings_as_containerd_hands_them_on() {
        let kata = RuntimeHandler {
            runtime_type: "io.containerd.kata.v2".into(),
            config_path: "/etc/kata.toml".into(),
            options_type: "x.v1".into(),
            ..RuntimeHandler::default()
        };
        let any = shim_options(&kata, (0, 0)).unwrap();
        assert_eq!(any.type_url, "runtimeoptions.v1.Options");
        assert_eq!(any.value, b"\x0a\x04x.v1\x12\x0e/etc/kata.toml");
        assert_eq!(RuncOptions::handler(kata.runtime_type.clone(), Some(&any)), kata);
    }

    #[test]
    fn an_any_of_another_type_is_not_decoded() {
        let mut any = RuncOptions::with_streams_of(&handler(), (0, 0)).unwrap();
        any.type_url = "type.googleapis.com/containerd.runc.v1.Options".into();
        assert_eq!(decode::<RuncOptions>(&any), None);
    }

    #[test]
    fn times_do_not_overflow() {
        assert_eq!(nanos(None), 0);
        assert_eq!(nanos(Some(Timestamp { seconds: 1, nanos: 5 })), 1_000_000_005);
        assert_eq!(nanos(Some(Timestamp { seconds: i64::MAX, nanos: 0 })), i64::MAX);
    }

    #[test]
    fn mounts_pass_through_untouched() {
        let mount = RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["index=off".into(), "lowerdir=/a:/b".into()],
        };
        assert_eq!(mounts(wire_mounts(std::slice::from_ref(&mount))), [mount]);
    }
}
