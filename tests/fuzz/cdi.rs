//! Spec files of device vendors.

use std::path::Path;

use podbay::cdi::{DeviceName, Error, Library, apply};
use serde_json::{Value, json};

use super::{fuzz, words};

/// A device that is found changes a spec only as far as the format allows; one that is not found is
/// named in the error.
#[test]
fn cdi_files() {
    let name = DeviceName::parse("vendor.com/gpu=0").expect("a name");
    fuzz("cdi", |bytes| {
        let (ending, content) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(0));
        let path = if ending == b"json" { "/etc/cdi/a.json" } else { "/etc/cdi/a.yaml" };
        let mut library = Library::default();
        library.add(0, Path::new(path), content);
        let mut edits = match library.resolve(std::slice::from_ref(&name)) {
            Ok(edits) => edits,
            Err(Error::Unresolvable { devices, faults }) => {
                assert_eq!(devices, [name.to_string()]);
                let problem = faults.first().and_then(|fault| fault.split_once(": "));
                return format!("{path} {}", words(problem.unwrap_or_default().1));
            }
            Err(other) => panic!("{other}"),
        };
        for node in edits.nodes_mut() {
            is_absolute(&json!(node.path));
            is_absolute(&json!(node.on_host()));
        }
        let mut spec = json!({ "process": { "user": { "uid": 1 } }, "linux": {} });
        apply(&mut spec, &edits);
        check(&spec);
        let parts = ["mounts", "hooks"].map(|part| spec[part].is_null());
        let of_linux =
            ["devices", "netDevices", "intelRdt"].map(|part| spec["linux"][part].is_null());
        format!("{path} {parts:?} {of_linux:?} {}", spec["process"]["env"].is_null())
    });
}

fn check(spec: &Value) {
    for entry in list(&spec["process"]["env"]) {
        let entry = entry.as_str().expect("text");
        assert!(entry.find('=').is_some_and(|at| at > 0) && !entry.contains('\0'), "{entry:?}");
    }
    for mount in list(&spec["mounts"]) {
        is_absolute(&mount["destination"]);
    }
    for device in list(&spec["linux"]["devices"]) {
        is_absolute(&device["path"]);
    }
    for (stage, hooks) in spec["hooks"].as_object().into_iter().flatten() {
        assert!(stage.bytes().all(|byte| byte.is_ascii_alphabetic()), "{stage:?}");
        list(hooks).iter().for_each(|hook| is_absolute(&hook["path"]));
    }
    for interface in spec["linux"]["netDevices"].as_object().into_iter().flatten() {
        assert!(interface.0.len() < 16 && !interface.0.contains('/'), "{interface:?}");
    }
    assert!(!list(&spec["process"]["user"]["additionalGids"]).contains(&json!(0)));
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_absolute(path: &Value) {
    let path = path.as_str().expect("a path");
    let climbs = path.split('/').any(|part| part == "..");
    assert!(path.starts_with('/') && !climbs && !path.contains('\0'), "{path:?}");
}
