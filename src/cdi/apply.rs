//! Applies edits to an OCI spec in JSON form.

use serde_json::{Map, Value, json};

use super::edits::{DeviceNode, Edits, Hook, Mount};

/// Applies edits: a variable, node or mount replaces one with the same name or path. The type and
/// numbers of device nodes must be filled in.
pub fn apply(spec: &mut Value, edits: &Edits) {
    for entry in &edits.env {
        set_variable(list(spec, &["process", "env"]), entry);
    }
    for node in &edits.device_nodes {
        add_node(spec, node);
    }
    for device in &edits.net_devices {
        let devices = object(spec, &["linux", "netDevices"]);
        devices.insert(device.host_interface_name.clone(), json!({ "name": device.name }));
    }
    for mount in &edits.mounts {
        add_mount(list(spec, &["mounts"]), mount);
    }
    for hook in &edits.hooks {
        list(spec, &["hooks", &hook.hook_name]).push(oci_hook(hook));
    }
    if let Some(rdt) = &edits.intel_rdt {
        object(spec, &["linux"]).insert("intelRdt".to_owned(), json!(rdt));
    }
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        let groups = list(spec, &["process", "user", "additionalGids"]);
        if !groups.contains(&json!(gid)) {
            groups.push(json!(gid));
        }
    }
}

/// The object at a path, created if missing.
fn object<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let value = path.iter().fold(spec, |value, step| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[*step]
    });
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one")
}

/// The list at a path, created if missing.
fn list<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Vec<Value> {
    let (last, above) = path.split_last().expect("a path");
    let value = object(spec, above).entry(*last).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("it was made one")
}

fn set_variable(env: &mut Vec<Value>, entry: &str) {
    let key = entry.split_inclusive('=').next().unwrap_or(entry);
    let same = |known: &&mut Value| known.as_str().is_some_and(|text| text.starts_with(key));
    match env.iter_mut().find(same) {
        Some(known) => *known = json!(entry),
        None => env.push(json!(entry)),
    }
}

fn add_node(spec: &mut Value, node: &DeviceNode) {
    let user = &spec["process"]["user"];
    // Root's ids are the default for nodes anyway.
    let of_user = |key: &str| user[key].as_u64().filter(|id| *id != 0);
    let uid = node.uid.map(u64::from).or_else(|| of_user("uid"));
    let gid = node.gid.map(u64::from).or_else(|| of_user("gid"));
    let mut device = json!({ "path": node.path, "type": node.kind });
    let numbers = if node.kind == "p" { [None, None] } else { [node.major, node.minor] };
    for (key, value) in [
        ("major", numbers[0].map(Value::from)),
        ("minor", numbers[1].map(Value::from)),
        ("fileMode", node.file_mode.map(Value::from)),
        ("uid", uid.map(Value::from)),
        ("gid", gid.map(Value::from)),
    ] {
        if let Some(value) = value {
            device[key] = value;
        }
    }
    let devices = list(spec, &["linux", "devices"]);
    devices.retain(|known| known["path"] != node.path.as_str());
    devices.push(device);
    // The device cgroup does not cover FIFOs.
    if node.kind == "p" {
        return;
    }
    let access = match node.permissions.as_str() {
        "" => "rwm",
        "none" => return,
        given => given,
    };
    // The device cgroup has a single type for character devices.
    let kind = if node.kind == "u" { "c" } else { &node.kind };
    list(spec, &["linux", "resources", "devices"]).push(json!({
        "allow": true, "type": kind, "major": node.major, "minor": node.minor, "access": access,
    }));
}

/// Inserts a mount before those below its path, which it would otherwise hide.
fn add_mount(mounts: &mut Vec<Value>, mount: &Mount) {
    let place = mount.container_path.trim_end_matches('/');
    let destination = |known: &Value| known["destination"].as_str().unwrap_or_default().to_owned();
    mounts.retain(|known| destination(known).trim_end_matches('/') != place);
    let below = |known: &Value| {
        destination(known).strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
    };
    let at = mounts.iter().position(below).unwrap_or(mounts.len());
    let mut new = json!({ "destination": mount.container_path, "source": mount.host_path });
    if !mount.kind.is_empty() {
        new["type"] = json!(mount.kind);
    }
    if !mount.options.is_empty() {
        new["options"] = json!(mount.options);
    }
    mounts.insert(at, new);
}

fn oci_hook(hook: &Hook) -> Value {
    let mut new = json!({ "path": hook.path });
    for (key, list) in [("args", &hook.args), ("env", &hook.env)] {
        if !list.is_empty() {
            new[key] = json!(list);
        }
    }
    if let Some(seconds) = hook.timeout {
        new["timeout"] = json!(seconds);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::super::edits::SpecFile;
    use super::*;

    fn edits(json: Value) -> Edits {
        let file = json!({
            "cdiVersion": "1.1.0", "kind": "v.com/c", "devices": [], "containerEdits": json,
        });
        SpecFile::parse(file.to_string().as_bytes(), true).unwrap().container_edits
    }

    fn applied(mut spec: Value, changes: Value) -> Value {
        apply(&mut spec, &edits(changes));
        spec
    }

    #[test]
    fn everything_lands_in_its_place() {
        let before = json!({
            "process": {"env": ["PATH=/bin", "A=old"], "user": {"uid": 7, "gid": 8, "additionalGids": [5]}},
            "mounts": [
                {"destination": "/proc"}, {"destination": "/lib/deep/x"}, {"destination": "/data"},
            ],
            "linux": {
                "devices": [{"path": "/dev/gpu"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        });
        let after = applied(
            before,
            json!({
                "env": ["A=new", "B=1"],
                "deviceNodes": [
                    {"path": "/dev/gpu", "type": "c", "major": 195, "minor": 0, "permissions": "rw"},
                    {"path": "/dev/ctl", "type": "c", "major": 195, "minor": 255, "uid": 0,
                     "gid": 3, "fileMode": 384, "permissions": "none"},
                    {"path": "/dev/pipe", "type": "p"},
                ],
                "netDevices": [{"hostInterfaceName": "ib0", "name": "net1"}],
                "mounts": [
                    {"hostPath": "/host/lib", "containerPath": "/lib", "options": ["ro", "bind"]},
                    {"hostPath": "tmpfs", "containerPath": "/data/", "type": "tmpfs"},
                ],
                "hooks": [{"hookName": "createContainer", "path": "/bin/h", "args": ["h"],
                           "env": ["X=1"], "timeout": 5}],
                "intelRdt": {"closID": "c1", "enableMonitoring": true},
                "additionalGids": [0, 5, 44],
            }),
        );
        assert_eq!(
            after,
            json!({
                "process": {
                    "env": ["PATH=/bin", "A=new", "B=1"],
                    "user": {"uid": 7, "gid": 8, "additionalGids": [5, 44]},
                },
                "mounts": [
                    {"destination": "/proc"},
                    {"destination": "/lib", "source": "/host/lib", "options": ["ro", "bind"]},
                    {"destination": "/lib/deep/x"},
                    {"destination": "/data/", "source": "tmpfs", "type": "tmpfs"},
                ],
                "hooks": {"createContainer": [
                    {"path": "/bin/h", "args": ["h"], "env": ["X=1"], "timeout": 5},
                ]},
                "linux": {
                    "devices": [
                        {"path": "/dev/gpu", "type": "c", "major": 195, "minor": 0, "uid": 7, "gid": 8},
                        {"path": "/dev/ctl", "type": "c", "major": 195, "minor": 255, "uid": 0,
                         "gid": 3, "fileMode": 384},
                        {"path": "/dev/pipe", "type": "p", "uid": 7, "gid": 8},
                    ],
                    "netDevices": {"ib0": {"name": "net1"}},
                    "resources": {"devices": [
                        {"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 195, "minor": 0, "access": "rw"},
                    ]},
                    "intelRdt": {"closID": "c1", "enableMonitoring": true},
                },
            })
        );
    }

    #[test]
    fn nothing_asked_changes_nothing_and_an_empty_spec_is_fine() {
        let spec = json!({"process": {"args": ["x"]}, "root": {"path": "rootfs"}});
        assert_eq!(applied(spec.clone(), json!({})), spec);
        let made = applied(json!({}), json!({"env": ["A=1"], "additionalGids": [9]}));
        assert_eq!(made, json!({"process": {"env": ["A=1"], "user": {"additionalGids": [9]}}}));
    }
}
