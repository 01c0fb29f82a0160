use serde_json::{Value, json};

use super::super::fixture::{app, given, node};
use super::*;

/// A valid file and an invalid one.
fn files() -> EnvFiles {
    let file = |path: &str, text: &str| (("v".to_owned(), path.to_owned()), text.into());
    [file("good", "A='one'\nEMPTY=''\n"), file("bad", "A='one'\nB=two\n")].into()
}

fn run(container: Value) -> Result<Translated<Vec<(String, String)>>, Error> {
    let mut container = container;
    container["name"] = json!("app");
    let given = given(json!({"containers": [container]}));
    environment(&given, app(&given), &["10.1.0.7".parse().unwrap()], &files(), &node())
}

fn pairs(container: Value) -> Vec<(String, String)> {
    run(container).unwrap().config
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn values_refer_to_what_stands_before() {
    let env = pairs(json!({"env": [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$(LATER)-$$(A)"},
        {"name": "LATER", "value": "2"},
        {"name": "A", "value": "new-$(A)"},
        {"name": "EMPTY"},
        {"name": "C", "value": "$(A)$(EMPTY)"},
    ]}));
    let expected = [
        pair("A", "new-1"),
        pair("B", "1-$(LATER)-$(A)"),
        pair("LATER", "2"),
        pair("EMPTY", ""),
        pair("C", "new-1"),
    ];
    assert_eq!(env, expected);
}

#[test]
fn whole_objects_come_first_and_are_not_expanded() {
    let env = pairs(json!({
        "env": [{"name": "X_a", "value": "own $(X_b.c)"}, {"name": "T", "value": "$(token)"}],
        "envFrom": [
            {"prefix": "X_", "configMapRef": {"name": "cm"}},
            {"secretRef": {"name": "sec"}},
            {"configMapRef": {"name": "gone", "optional": true}},
            {"secretRef": {"name": "gone", "optional": true}},
        ],
    }));
    let expected = [
        pair("X_a", "own 2 $(a)"),
        pair("X_b.c", "2 $(a)"),
        pair("token", "s3cret"),
        pair("T", "s3cret"),
    ];
    assert_eq!(env, expected);
}

#[test]
fn values_from_elsewhere() {
    let env = pairs(json!({"env": [
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}},
        {"name": "N1", "valueFrom":
            {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}},
        {"name": "N2", "valueFrom":
            {"secretKeyRef": {"name": "no", "key": "token", "optional": true}}},
        {"name": "URL", "value": "http://$(IP)/$(N1)"},
    ]}));
    let expected = [
        pair("NODE", "node-1"),
        pair("IP", "10.1.0.7"),
        pair("CPU", "4"),
        pair("A", "1"),
        pair("S", "s3cret"),
        pair("URL", "http://10.1.0.7/$(N1)"),
    ];
    assert_eq!(env, expected);
}

#[test]
fn what_is_missing_is_told_in_kubernetes_words() {
    let key = |kind: &str, name: &str, key: &str| json!({"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": key}}}]});
    for (container, message) in [
        (json!({"envFrom": [{"configMapRef": {"name": "gone"}}]}), r#"configmap "gone" not found"#),
        (json!({"envFrom": [{"secretRef": {"name": "gone"}}]}), r#"secret "gone" not found"#),
        (key("configMapKeyRef", "gone", "k"), r#"configmap "gone" not found"#),
        (key("secretKeyRef", "gone", "k"), r#"secret "gone" not found"#),
        (key("configMapKeyRef", "cm", "k"), "couldn't find key k in ConfigMap ns/cm"),
        (key("secretKeyRef", "sec", "k"), "couldn't find key k in Secret ns/sec"),
        (key("secretKeyRef", "raw", "binary"), "key binary in Secret ns/raw is not UTF-8"),
        (key("configMapKeyRef", "torn", "nul"), "key nul in ConfigMap ns/torn contains a NUL"),
        (
            json!({"envFrom": [{"secretRef": {"name": "raw"}}]}),
            "key binary in Secret ns/raw is not UTF-8",
        ),
    ] {
        let error = run(container.clone()).unwrap_err();
        assert_eq!(error.to_string(), message, "{container}");
        assert_eq!(error.reason().as_str(), "CreateContainerConfigError");
    }
}

#[test]
fn keys_that_are_no_names_are_left_out_and_told() {
    let done = run(json!({"envFrom": [{"prefix": "p=", "configMapRef": {"name": "cm"}}]})).unwrap();
    assert_eq!(done.config, []);
    assert_eq!(done.warnings[0].reason, "InvalidEnvironmentVariableNames");
    assert_eq!(
        done.warnings[0].message,
        "Keys [p=a, p=b.c] from the EnvFrom configMap ns/cm were skipped since they are \
         considered invalid environment variable names."
    );
    assert!(is_name("1 printable!") && !is_name("") && !is_name("a\u{e9}") && !is_name("a\tb"));
}

#[test]
fn files_give_their_keys() {
    let from = |path: &str, key: &str, optional: bool| {
        let source = json!({"volumeName": "v", "path": path, "key": key, "optional": optional});
        run(json!({"env": [{"name": "X", "valueFrom": {"fileKeyRef": source}}]}))
    };
    for optional in [true, false] {
        assert_eq!(from("good", "A", optional).unwrap().config, [pair("X", "one")]);
        assert_eq!(from("good", "EMPTY", optional).unwrap().config, [pair("X", "")]);
        let told = from("bad", "A", optional).expect_err("the second line").to_string();
        let wanted = "couldn't parse env file \"bad\" in volume \"v\": line 2: a value must be in single quotes";
        assert_eq!(told, wanted);
    }
    assert_eq!(from("good", "C", true).unwrap().config, []);
    assert_eq!(from("gone", "A", true).unwrap().config, []);
    let no_key = from("good", "C", false).expect_err("no such key");
    let wanted = "environment variable key \"C\" not found in file \"good\" in volume \"v\"";
    assert_eq!(no_key.to_string(), wanted);
    assert_eq!(no_key.reason().as_str(), "CreateContainerConfigError");
    let no_file = from("gone", "A", false).expect_err("no such file").to_string();
    assert_eq!(no_file, "file \"gone\" in volume \"v\" not found");
}
