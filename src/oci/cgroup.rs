//! The place of a container in the cgroup tree.

use std::path::PathBuf;

use super::{Error, paths};
use crate::model::resources::CgroupDriver;

const FIELD: &str = "linux.cgroup_parent";
/// Parent cgroup if the caller names none (cgroupfs driver).
const OWN_PARENT: &str = "/podbay";
/// Parent slice if the caller names none (systemd driver).
const OWN_SLICE: &str = "system.slice";
/// Scope prefix of containers, by which stats collectors recognise containerd's containers.
const SCOPE_PREFIX: &str = "cri-containerd";

/// `cgroupsPath` of the OCI spec: `<parent>/<id>`, or `<slice>:cri-containerd:<id>` for systemd. A
/// parent in the other driver's form is refused, because a guess could put the container outside
/// the limits of its pod.
pub(super) fn path(driver: CgroupDriver, parent: &str, id: &str) -> Result<PathBuf, Error> {
    let refused = |problem: &str| Err(Error::invalid(FIELD, format!("{parent:?} {problem}")));
    if paths::has_control(parent) {
        return refused("contains a control character");
    }
    if parent.split('/').any(|part| part == "..") {
        return refused("leads upwards");
    }
    let cleaned = paths::clean(parent);
    let base = cleaned.rsplit('/').next().unwrap_or_default();
    let is_slice = base.ends_with(".slice");
    let text = match driver {
        CgroupDriver::Cgroupfs if is_slice => {
            return refused("is a systemd slice, but the cgroup driver is cgroupfs");
        }
        CgroupDriver::Cgroupfs if base.is_empty() => format!("{OWN_PARENT}/{id}"),
        CgroupDriver::Cgroupfs => format!("{cleaned}/{id}"),
        CgroupDriver::Systemd if base.is_empty() => format!("{OWN_SLICE}:{SCOPE_PREFIX}:{id}"),
        CgroupDriver::Systemd if !is_slice => {
            return refused("is not a systemd slice, but the cgroup driver is systemd");
        }
        CgroupDriver::Systemd if base.contains(':') => return refused("contains a colon"),
        CgroupDriver::Systemd => format!("{base}:{SCOPE_PREFIX}:{id}"),
    };
    Ok(PathBuf::from(text))
}

/// The cgroup that the OCI runtime itself creates for a container or pause container; `None` when
/// systemd creates it, or when the parent is invalid.
pub fn plain_cgroup(driver: CgroupDriver, parent: &str, id: &str) -> Option<PathBuf> {
    match driver {
        CgroupDriver::Cgroupfs => path(driver, parent, id).ok(),
        CgroupDriver::Systemd => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_has_its_form() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (driver, parent, expected) in [
            (Cgroupfs, "", "/podbay/ID"),
            (Cgroupfs, "/", "/podbay/ID"),
            (Cgroupfs, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1/ID"),
            (Cgroupfs, "kubepods//pod1/", "/kubepods/pod1/ID"),
            (Systemd, "", "system.slice:cri-containerd:ID"),
            (
                Systemd,
                "/kubepods.slice/kubepods-pod1.slice",
                "kubepods-pod1.slice:cri-containerd:ID",
            ),
            (Systemd, "kubepods-pod1.slice", "kubepods-pod1.slice:cri-containerd:ID"),
        ] {
            assert_eq!(path(driver, parent, "ID").unwrap(), PathBuf::from(expected), "{parent:?}");
        }
    }

    #[test]
    fn a_parent_of_the_other_driver_or_shape_is_refused() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (driver, parent) in [
            (Cgroupfs, "/kubepods.slice/kubepods-pod1.slice"),
            (Systemd, "/kubepods/pod1"),
            (Systemd, "a:b.slice"),
            (Cgroupfs, "/kubepods/../../etc"),
            (Cgroupfs, "/kube\npods"),
            (Systemd, "/a\0.slice"),
        ] {
            let error = path(driver, parent, "ID").unwrap_err();
            assert!(
                matches!(error, Error::Invalid { ref field, .. } if field == FIELD),
                "{parent:?}: {error}"
            );
        }
    }
}
