//! The role that each RPC requires. A test fails if an RPC has no row.

use super::Role::{self, Admin, Operate, View};

/// The requirements of an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// `/package.Service/Method`.
    pub(super) path: &'static str,
    /// The lowest sufficient role.
    pub(super) role: Role,
    /// Whether it changes something or accesses a container, and therefore is always audited.
    pub(super) change: bool,
}

const fn read(path: &'static str, role: Role) -> Row {
    Row { path, role, change: false }
}

const fn change(path: &'static str, role: Role) -> Row {
    Row { path, role, change: true }
}

/// All rows. The CRI has none, because it is not served over the network.
const ROWS: &[Row] = &[
    change("/podbay.v1.Pods/Apply", Operate),
    change("/podbay.v1.Pods/Delete", Operate),
    read("/podbay.v1.Pods/Get", View),
    read("/podbay.v1.Pods/List", View),
    read("/podbay.v1.Pods/Watch", View),
    read("/podbay.v1.Pods/Logs", View),
    change("/podbay.v1.Pods/Exec", Admin),
    change("/podbay.v1.Pods/Attach", Admin),
    change("/podbay.v1.Pods/PortForward", Admin),
    read("/podbay.v1.Pods/Stats", View),
    read("/podbay.v1.Pods/WatchStats", View),
    read("/podbay.v1.Pods/Events", View),
    read("/podbay.v1.Pods/Explain", View),
    change("/podbay.v1.Pods/RestartContainer", Operate),
    read("/podbay.v1.Pods/Admit", View),
    read("/podbay.v1.Pods/GetNode", View),
    // Any pod pulls images; but names used by everybody's pods may only be set by an admin.
    change("/podbay.v1.Images/Pull", Operate),
    change("/podbay.v1.Images/Load", Admin),
    change("/podbay.v1.Images/Save", Operate),
    read("/podbay.v1.Images/ListImages", View),
    change("/podbay.v1.Images/RemoveImage", Operate),
    read("/grpc.health.v1.Health/Check", View),
    read("/grpc.health.v1.Health/Watch", View),
    read("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", View),
    read("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", View),
];

/// The row of a path.
pub(super) fn row(path: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.path == path)
}

/// All paths with their required roles.
#[cfg(test)]
pub(in crate::serve) fn rows() -> impl Iterator<Item = (&'static str, Role)> {
    ROWS.iter().map(|row| (row.path, row.role))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// The paths of all RPCs in the compiled protos.
    fn paths() -> BTreeSet<String> {
        let sets = [
            crate::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut paths = BTreeSet::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let (package, service) = (file.package(), service.name());
                        paths.insert(format!("/{package}.{service}/{}", method.name()));
                    }
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_one_row_and_the_cri_has_none() {
        let all = paths();
        let (cri, ours): (BTreeSet<_>, BTreeSet<_>) =
            all.iter().map(String::as_str).partition(|path| path.starts_with("/runtime.v1."));
        assert!(cri.len() > 30 && ours.len() >= 20, "{all:?}");
        let rows: Vec<&str> = ROWS.iter().map(|row| row.path).collect();
        assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), ours);
        assert_eq!(rows.len(), ours.len(), "a path has two rows");
        assert!(cri.iter().all(|path| row(path).is_none()));
    }

    #[test]
    fn nothing_that_changes_is_for_viewers() {
        assert!(ROWS.iter().all(|row| !row.change || row.role > View));
        for path in ["Exec", "Attach", "PortForward"] {
            assert_eq!(row(&format!("/podbay.v1.Pods/{path}")).unwrap().role, Admin);
        }
    }

    #[test]
    fn paths_are_taken_exactly() {
        for path in ["", "/", "/podbay.v1.Pods/get", "/podbay.v1.Pods/Get/", "//podbay.v1.Pods/Get"]
        {
            assert_eq!(row(path), None, "{path}");
        }
    }
}
