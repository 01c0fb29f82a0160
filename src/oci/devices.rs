//! Device nodes of a container and the rules of its device cgroup.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{ContainerInput, Error, blank, paths};
use crate::backend::DeviceNode;

/// The first rule of every container: deny all. The OCI runtime itself adds the standard nodes
/// (null, zero, full, random, urandom, tty, console, ptmx, pts) and their rules.
pub(super) fn deny_all() -> LinuxDeviceCgroup {
    rule(false, None, "rwm")
}

/// Nodes to create in /dev, and the ordered cgroup rules.
pub(super) fn devices(
    input: &ContainerInput<'_>,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), Error> {
    let mut nodes = Vec::with_capacity(input.devices.len());
    let mut rules = vec![deny_all()];
    for (index, (device, permissions)) in input.devices.iter().enumerate() {
        let field = |name: &str| format!("devices[{index}].{name}");
        check_permissions(permissions).map_err(|p| Error::invalid(field("permissions"), p))?;
        let path = paths::absolute(|| field("container_path"), &device.path)?;
        let kind = match device.kind {
            'c' | 'u' => LinuxDeviceType::C,
            'b' => LinuxDeviceType::B,
            'p' => LinuxDeviceType::P,
            other => {
                return Err(Error::invalid(
                    field("host_path"),
                    format!("device type {other:?} is unknown"),
                ));
            }
        };
        let (uid, gid) = owner(input, device);
        let mut node = LinuxDevice::default();
        node.set_path(path.into())
            .set_typ(kind)
            .set_major(device.major)
            .set_minor(device.minor)
            .set_file_mode(Some(device.mode & 0o7777))
            .set_uid(Some(uid))
            .set_gid(Some(gid));
        nodes.push(node);
        // The device cgroup does not cover FIFOs, and a rule without permissions is meaningless.
        if kind != LinuxDeviceType::P && !permissions.is_empty() {
            rules.push(rule(true, Some((kind, device.major, device.minor)), permissions));
        }
    }
    if input.config.security.privileged && !input.handler.privileged_without_host_devices {
        rules = vec![rule(true, None, "rwm")];
    }
    Ok((nodes, rules))
}

/// The owner of a node: as on the host, or, if the operator enabled that, the user that the caller
/// names. Naming root changes nothing.
fn owner(input: &ContainerInput<'_>, device: &DeviceNode) -> (u32, u32) {
    let security = &input.config.security;
    let asked = |id: Option<u32>| id.filter(|id| input.settings.device_ownership && *id != 0);
    (
        asked(security.run_as_user).unwrap_or(device.uid),
        asked(security.run_as_group).unwrap_or(device.gid),
    )
}

fn check_permissions(permissions: &str) -> Result<(), String> {
    let known = permissions.bytes().all(|byte| b"rwm".contains(&byte));
    let once = permissions.bytes().all(|b| permissions.bytes().filter(|&c| c == b).count() == 1);
    if known && once { Ok(()) } else { Err(format!("{permissions:?} is not a subset of \"rwm\"")) }
}

fn rule(
    allow: bool,
    device: Option<(LinuxDeviceType, i64, i64)>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = blank::<LinuxDeviceCgroup>(r#"{"allow":false}"#);
    rule.set_allow(allow).set_access(Some(access.to_owned()));
    if let Some((kind, major, minor)) = device {
        rule.set_typ(Some(kind)).set_major(Some(major)).set_minor(Some(minor));
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn with_device(kind: char, path: &str, permissions: &str) -> Fixture {
        let mut f = Fixture::new();
        f.devices.push((
            DeviceNode {
                path: path.to_owned(),
                kind,
                major: 10,
                minor: 229,
                mode: 0o020666,
                uid: 0,
                gid: 7,
            },
            permissions.to_owned(),
        ));
        f
    }

    #[test]
    fn the_first_rule_denies_everything() {
        let (nodes, rules) = devices(&Fixture::new().input()).unwrap();
        assert!(nodes.is_empty());
        assert_eq!(
            serde_json::to_value(&rules).unwrap(),
            serde_json::json!([{"allow": false, "access": "rwm"}])
        );
    }

    #[test]
    fn a_device_gets_a_node_and_a_rule() {
        let (nodes, rules) = devices(&with_device('c', "/dev/fuse", "rw").input()).unwrap();
        assert_eq!(
            serde_json::to_value(&nodes).unwrap(),
            serde_json::json!([{
                "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229,
                "fileMode": 0o666, "uid": 0, "gid": 7
            }])
        );
        assert_eq!(
            serde_json::to_value(&rules[1]).unwrap(),
            serde_json::json!({
                "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"
            })
        );
    }

    #[test]
    fn a_device_may_belong_to_the_user() {
        let owner = |ownership, uid, gid| {
            let mut f = with_device('c', "/dev/fuse", "rw");
            f.settings.device_ownership = ownership;
            (f.config.security.run_as_user, f.config.security.run_as_group) = (uid, gid);
            let (nodes, _) = devices(&f.input()).unwrap();
            (nodes[0].uid().unwrap(), nodes[0].gid().unwrap())
        };
        assert_eq!(owner(false, Some(1000), Some(100)), (0, 7));
        assert_eq!(owner(true, Some(1000), Some(100)), (1000, 100));
        assert_eq!(owner(true, Some(1000), None), (1000, 7));
        assert_eq!(owner(true, Some(0), None), (0, 7));
    }

    #[test]
    fn a_fifo_and_a_device_without_permissions_have_no_rule() {
        for (kind, permissions) in [('p', "rw"), ('c', "")] {
            let (nodes, rules) =
                devices(&with_device(kind, "/dev/x", permissions).input()).unwrap();
            assert_eq!((nodes.len(), rules.len()), (1, 1));
        }
    }

    #[test]
    fn privileged_has_the_nodes_and_one_rule_for_all() {
        let (nodes, rules) =
            devices(&with_device('b', "/dev/sda", "rwm").privileged().input()).unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(
            serde_json::to_value(&rules).unwrap(),
            serde_json::json!([{"allow": true, "access": "rwm"}])
        );
    }

    #[test]
    fn bad_devices_are_refused_by_field() {
        for (kind, path, permissions, end) in [
            ('c', "/dev/x", "rwx", "permissions"),
            ('c', "/dev/x", "rr", "permissions"),
            ('c', "dev/x", "r", "container_path"),
            ('d', "/dev/x", "r", "host_path"),
        ] {
            let error = devices(&with_device(kind, path, permissions).input()).unwrap_err();
            assert!(
                matches!(error, Error::Invalid { ref field, .. }
                    if *field == format!("devices[0].{end}")),
                "{error}"
            );
        }
    }
}
