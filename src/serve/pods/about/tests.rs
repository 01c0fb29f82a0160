use super::*;
use crate::pod::{Change, ObjectKey, ObjectKind};

fn what(request: &impl Tells) -> String {
    request.about().expect("it is about something").what
}

#[test]
fn requests_name_what_they_are_about() {
    let get = GetRequest { namespace: "a".into(), name: "web".into() };
    assert_eq!(what(&get), "a/web");
    assert_eq!(what(&GetRequest { name: "web".into(), ..Default::default() }), "default/web");
    let (namespace, name, labels) = ("a".into(), String::new(), "app=web".into());
    let selector = Selector { namespace, name, labels, fields: "status.phase=Failed".into() };
    let delete = DeleteRequest { selector: Some(selector), dry_run: true, ..Default::default() };
    let about = delete.about().unwrap();
    assert_eq!(about.what, "a/*, labels app=web, fields status.phase=Failed");
    assert!(about.dry_run);
    assert_eq!(what(&DeleteRequest { all: true, ..Default::default() }), "*/*");
    let object = |name: &str| ObjectName {
        kind: "Secret".into(),
        namespace: String::new(),
        name: name.into(),
    };
    let objects = DeleteRequest { objects: vec![object("a")], ..Default::default() };
    assert_eq!(what(&objects), "secret default/a");
    let name = Selector { name: "web".into(), ..Default::default() };
    let both = DeleteRequest { selector: Some(name), ..objects.clone() };
    assert_eq!(what(&both), "*/web, secret default/a");
    assert_eq!(what(&DeleteRequest { all: true, ..objects }), "*/*, secret default/a");
    let restart = RestartContainerRequest {
        namespace: String::new(),
        name: "web".into(),
        container: "app".into(),
    };
    assert_eq!(what(&restart), "default/web, container app");
}

#[test]
fn a_command_and_what_is_sent_are_not_told() {
    let start = ExecStart {
        name: "web".into(),
        command: ["login", "--password", "hunter2"].map(str::to_owned).into(),
        ..Default::default()
    };
    let request = ExecRequest { input: Some(exec_request::Input::Start(start)) };
    assert_eq!(what(&request), "default/web");
    let stdin = ExecRequest { input: Some(exec_request::Input::Stdin(b"hunter2".to_vec())) };
    assert_eq!(stdin.about(), None);
    let start = PortForwardStart { name: "web".into(), port: 80, ..Default::default() };
    let request = PortForwardRequest { input: Some(port_forward_request::Input::Start(start)) };
    assert_eq!(what(&request), "default/web, port 80");
}

const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: app, image: a, env: [{name: KEY, value: hunter2}]}]}
---
apiVersion: v1
kind: Secret
metadata: {name: token, namespace: b}
stringData: {password: hunter2}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: hunter2}
";

#[test]
fn a_manifest_is_told_of_by_the_names_of_its_objects() {
    let request = ApplyRequest {
        manifest: OBJECTS.into(),
        namespace: "a".into(),
        dry_run: true,
        ..Default::default()
    };
    let about = request.about().unwrap();
    assert_eq!(about.what, "a/web, configmap a/settings, secret b/token");
    assert!(about.dry_run);

    for (manifest, told) in [
        ("kind: [hunter2".to_owned(), "default: a manifest of 14 bytes"),
        (format!("#{}", "x".repeat(SMALL)), "default: a manifest of 65537 bytes"),
    ] {
        assert_eq!(what(&ApplyRequest { manifest, ..Default::default() }), told);
    }
    let names = (0..11).map(|number| format!("default/p{number}"));
    assert!(list(names.collect::<Vec<_>>().into_iter()).ends_with("default/p7 and 3 more"));
}

#[test]
fn an_apply_is_told_of_by_all_that_it_changed() {
    let key = |kind, name| ObjectKey { kind, name: PodKey::new("a", name) };
    let result = Applied {
        objects: vec![
            (key(ObjectKind::ConfigMap, "settings"), Change::Created),
            (key(ObjectKind::Secret, "token"), Change::Unchanged),
        ],
        ..Applied::default()
    };
    assert_eq!(applied(&result, false).what, "configmap a/settings, secret a/token");
}

#[test]
fn a_message_on_its_way_tells_the_same() {
    let request = GetRequest { namespace: "a".into(), name: "web".into() };
    let bytes = request.encode_to_vec();
    assert_eq!(of_message("/podbay.v1.Pods/Get", &bytes), request.about());
    assert_eq!(of_message("/podbay.v1.Pods/GetNode", &bytes), None);
    assert_eq!(of_message("/runtime.v1.RuntimeService/Version", &bytes), None);
    assert_eq!(of_message("/podbay.v1.Pods/Get", &[0xff; 9]), None);
}
