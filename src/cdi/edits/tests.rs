use serde_json::{Value, json};

use super::*;

/// A file with one device and these edits.
fn file(version: &str, edits: Value) -> Value {
    json!({
        "cdiVersion": version, "kind": "v.com/gpu",
        "devices": [{"name": "gpu0", "containerEdits": edits}],
    })
}

fn parse(file: &Value) -> Result<SpecFile, String> {
    SpecFile::parse(file.to_string().as_bytes(), true)
}

#[track_caller]
fn refused(file: &Value, words: &str) {
    let error = parse(file).expect_err(words);
    assert!(error.contains(words), "{words:?} is not in {error:?}");
}

#[test]
fn yaml_and_json_say_the_same() {
    let yaml = "
cdiVersion: 0.6.0
kind: v.com/gpu
annotations: {a: b}
devices:
- name: \"0\"
  containerEdits:
    deviceNodes:
    - {path: /dev/gpu0, hostPath: /dev/nvidia0, permissions: rw}
    hooks:
    - hookName: createContainer
      path: /usr/bin/hook
      args: [hook, --ldcache]
containerEdits:
  env: [\"A=b\"]
  mounts:
  - {hostPath: /a, containerPath: /b, options: [ro, bind]}
";
    let json = json!({
        "cdiVersion": "0.6.0", "kind": "v.com/gpu", "annotations": {"a": "b"},
        "devices": [{"name": "0", "containerEdits": {
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/nvidia0", "permissions": "rw"}],
            "hooks": [{"hookName": "createContainer", "path": "/usr/bin/hook",
                       "args": ["hook", "--ldcache"]}],
        }}],
        "containerEdits": {
            "env": ["A=b"],
            "mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["ro", "bind"]}],
        },
    });
    let spec = SpecFile::parse(yaml.as_bytes(), false).unwrap();
    assert_eq!(spec, parse(&json).unwrap());
    assert_eq!(spec, SpecFile::parse(json.to_string().as_bytes(), false).unwrap());
    assert_eq!(spec.devices[0].container_edits.device_nodes[0].on_host(), "/dev/nvidia0");
}

#[test]
fn hostile_files_are_refused() {
    for edits in [
        json!({"env": ["NOEQUALS"]}),
        json!({"env": ["=x"]}),
        json!({"env": ["A=\u{0}"]}),
        json!({"deviceNodes": [{"path": ""}]}),
        json!({"deviceNodes": [{"path": "dev/x"}]}),
        json!({"deviceNodes": [{"path": "/dev/../x"}]}),
        json!({"deviceNodes": [{"path": "/dev/x", "hostPath": "x"}]}),
        json!({"deviceNodes": [{"path": "/dev/x", "type": "z"}]}),
        json!({"deviceNodes": [{"path": "/dev/x", "permissions": "rwx"}]}),
        json!({"mounts": [{"hostPath": "", "containerPath": "/x"}]}),
        json!({"mounts": [{"hostPath": "/x", "containerPath": "x"}]}),
        json!({"mounts": [{"hostPath": "/x", "containerPath": "/../x"}]}),
        json!({"hooks": [{"hookName": "atNight", "path": "/x"}]}),
        json!({"hooks": [{"hookName": "poststop", "path": "x"}]}),
        json!({"hooks": [{"hookName": "poststop", "path": "/x", "env": ["X"]}]}),
        json!({"hooks": [{"hookName": "poststop", "path": "/x", "timeout": 0}]}),
        json!({"intelRdt": {"closID": "../x"}}),
        json!({"intelRdt": {"closID": ".."}}),
        json!({"netDevices": [{"hostInterfaceName": "", "name": "x"}]}),
        json!({"netDevices": [{"hostInterfaceName": "a/b", "name": "x"}]}),
        json!({"netDevices": [
            {"hostInterfaceName": "a", "name": "x"}, {"hostInterfaceName": "b", "name": "x"}]}),
        json!({"additionalGids": [-1]}),
        json!({"surprise": 1}),
    ] {
        assert!(parse(&file("1.1.0", edits.clone())).is_err(), "{edits}");
    }
    let mut twice = file("1.0.0", json!({}));
    twice["devices"] = json!([{"name": "a"}, {"name": "a"}]);
    refused(&twice, "listed twice");
    let mut kind = file("1.0.0", json!({}));
    kind["kind"] = json!("../gpu");
    refused(&kind, "vendor is malformed");
    kind["kind"] = json!("v.com/gpu");
    kind["more"] = json!({});
    refused(&kind, "unknown field");
    assert!(SpecFile::parse(b"\xff", true).is_err());
    assert!(SpecFile::parse(b"", false).is_err());
    // A document whose aliases expand to more than the whole memory.
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(SpecFile::parse(bomb.as_bytes(), false).is_err());
}

#[test]
fn fields_need_the_version_they_came_with() {
    for (before, since, edits) in [
        (
            "0.3.0",
            "0.4.0",
            json!({"mounts": [{"hostPath": "t", "containerPath": "/x", "type": "tmpfs"}]}),
        ),
        ("0.4.0", "0.5.0", json!({"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y"}]})),
        ("0.6.0", "0.7.0", json!({"additionalGids": [1]})),
        ("0.6.0", "0.7.0", json!({"intelRdt": {"enableCMT": true}})),
        ("1.0.0", "1.1.0", json!({"intelRdt": {"schemata": ["L3:0=f"]}})),
        ("1.0.0", "1.1.0", json!({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]})),
    ] {
        refused(&file(before, edits.clone()), &format!("needs cdiVersion {since}"));
        parse(&file(since, edits)).unwrap();
    }
    refused(&file("1.1.0", json!({"intelRdt": {"enableMBM": true}})), "ended with");
    for bad in ["", "0.9.0", "2.0.0", "1.0", "latest"] {
        refused(&file(bad, json!({})), "is unknown");
    }
    parse(&file("v0.3.0", json!({}))).unwrap();
    let mut digit = file("0.4.0", json!({}));
    digit["devices"][0]["name"] = json!("0");
    refused(&digit, "needs cdiVersion 0.5.0");
    let mut dotted = file("0.5.0", json!({}));
    dotted["kind"] = json!("v.com/gpu.x");
    refused(&dotted, "needs cdiVersion 0.6.0");
}
