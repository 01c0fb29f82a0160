use serde_json::{Value, json};

use super::*;

fn env() -> BTreeMap<String, String> {
    [("POD", "web-0"), ("UP", ".."), ("ROOT", "/etc"), ("EMPTY", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn with_mount<T>(mount: Value, check: impl FnOnce(Asked<'_>) -> T) -> T {
    let container = Container { name: "c".into(), ..Container::default() };
    let mount: VolumeMount = serde_json::from_value(mount).unwrap();
    check(Asked { container: &container, index: 0, mount: &mount })
}

fn sub(field: &str, text: &str) -> Result<Option<String>, String> {
    let mount = json!({ "name": "v", "mountPath": "/m", field: text });
    with_mount(mount, |asked| sub_path(asked, &env()).map_err(|error| error.to_string()))
}

#[test]
fn expressions_take_their_values_from_the_environment() {
    let table = [
        ("$(POD)/logs", "web-0/logs"),
        ("a/$(POD)-$(POD)", "a/web-0-web-0"),
        ("$$(POD)", "$(POD)"),
        ("$$$(POD)", "$web-0"),
        ("$POD", "$POD"),
        ("a$", "a$"),
        ("$(POD", "$(POD"),
    ];
    for (text, wanted) in table {
        assert_eq!(sub("subPathExpr", text).unwrap().as_deref(), Some(wanted), "{text}");
    }
    assert_eq!(sub("subPathExpr", "$(EMPTY)").unwrap(), None);
    assert_eq!(sub("subPath", "").unwrap(), None);
    assert_eq!(sub("subPath", "$(POD)").unwrap().as_deref(), Some("$(POD)"));
    assert!(sub("subPathExpr", "$(GONE)").unwrap_err().ends_with("missing value for \"GONE\""));
}

#[test]
fn sub_paths_that_lead_out_are_refused() {
    for (field, text) in [
        ("subPath", "/etc"),
        ("subPath", "a/../../b"),
        ("subPath", ".."),
        ("subPath", "a\0b"),
        ("subPathExpr", "$(UP)/x"),
        ("subPathExpr", "$(ROOT)"),
    ] {
        assert!(sub(field, text).unwrap_err().contains("volumeMount \"v\""), "{text}");
    }
    assert_eq!(sub("subPath", "a..b/..c").unwrap().as_deref(), Some("a..b/..c"));
}

#[test]
fn recursive_read_only_follows_the_runtime() {
    let decide = |mode: Value, read_only: bool, can: bool| {
        let mount = json!({ "name": "v", "mountPath": "/m", "readOnly": read_only,
            "recursiveReadOnly": mode });
        let env = env();
        let context = MountContext { env: &env, restart_count: 0, recursive_read_only: can };
        with_mount(mount, |asked| recursive_read_only(asked, &context).ok())
    };
    let table = [
        (json!(null), false, true, Some(false)),
        (json!("Disabled"), true, true, Some(false)),
        (json!("IfPossible"), true, true, Some(true)),
        (json!("IfPossible"), true, false, Some(false)),
        (json!("IfPossible"), false, true, None),
        (json!("Enabled"), true, true, Some(true)),
        (json!("Enabled"), true, false, None),
        (json!("Whatever"), true, true, None),
    ];
    for (mode, read_only, can, wanted) in table {
        assert_eq!(decide(mode.clone(), read_only, can), wanted, "{mode} {read_only} {can}");
    }
    let both = json!({ "name": "v", "mountPath": "/m", "readOnly": true,
        "recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer" });
    let env = env();
    let context = MountContext { env: &env, restart_count: 0, recursive_read_only: true };
    assert!(with_mount(both, |asked| recursive_read_only(asked, &context)).is_err());
}

#[test]
fn propagation_has_three_words() {
    let told = |mode: Value| {
        let mount = json!({ "name": "v", "mountPath": "/m", "mountPropagation": mode });
        with_mount(mount, |asked| propagation(asked).ok())
    };
    assert_eq!(told(json!(null)), Some(Propagation::Private));
    assert_eq!(told(json!("None")), Some(Propagation::Private));
    assert_eq!(told(json!("HostToContainer")), Some(Propagation::HostToContainer));
    assert_eq!(told(json!("Bidirectional")), Some(Propagation::Bidirectional));
    assert_eq!(told(json!("Both")), None);
}
