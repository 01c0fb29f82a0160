use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn pod(labels: &[(&str, &str)]) -> Pod {
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Pod {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("shop".into()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some("n1".into()),
            restart_policy: Some("Always".into()),
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some("10.0.0.7".into()),
            ..PodStatus::default()
        }),
    }
}

fn by_labels(text: &str) -> Selector {
    Selector { labels: text.into(), ..Selector::default() }
}

fn by_fields(text: &str) -> Selector {
    Selector { fields: text.into(), ..Selector::default() }
}

fn selects(selector: &Selector) -> bool {
    let subject = pod(&[("app", "web"), ("tier", "a"), ("x.io/n", "7"), ("empty", "")]);
    Selection::parse(selector).unwrap().matches(&subject)
}

#[test]
fn label_selectors() {
    let cases = [
        ("", true),
        ("  ", true),
        ("app", true),
        ("other", false),
        ("!app", false),
        ("! other", true),
        ("app=web", true),
        ("app == web", true),
        ("app=db", false),
        ("app!=web", false),
        ("app!=db", true),
        ("other!=db", true),
        ("empty=", true),
        ("app=", false),
        ("other=", false),
        ("app=,tier", false),
        ("tier in (a,b)", true),
        ("tier in(b , a)", true),
        ("tier in (b,c)", false),
        ("other in (a)", false),
        ("empty in (,a)", true),
        ("tier notin (b,c)", true),
        ("tier notin (a)", false),
        ("other notin (a)", true),
        ("x.io/n>6", true),
        ("x.io/n > 7", false),
        ("x.io/n<8", true),
        ("app>1", false),
        ("other<1", false),
        ("app=web,tier in (a,b),!old", true),
        ("app=web,tier in (b),!old", false),
    ];
    for (text, expected) in cases {
        assert_eq!(selects(&by_labels(text)), expected, "{text:?}");
    }
}

#[test]
fn wrong_label_selectors_are_refused_by_name() {
    let long = format!("app={}", "a".repeat(64));
    let cases = [
        ("app=web,", "found the end, expected the name of a label"),
        (",app", "found `,`, expected the name of a label"),
        ("app web", "found \"web\" after \"app\""),
        ("app=web tier", "found \"tier\", expected `,` or the end"),
        ("tier in a", "found \"a\", expected `(`"),
        ("tier in (a", "found the end, expected `,` or `)`"),
        ("tier in ()", "empty set"),
        ("in=a", "found \"in\""),
        ("!app=web", "found `=`, expected `,` or the end"),
        ("-app=web", "\"-app\" is not the name of a label"),
        ("a/b/c=web", "\"a/b/c\" is not the name of a label"),
        ("UP/a=web", "\"UP/a\" is not the name of a label"),
        ("app/=web", "\"app/\" is not the name of a label"),
        ("app=-web", "\"-web\" cannot be a value of label \"app\""),
        ("app=ü", "\"ü\" cannot be a value of label \"app\""),
        ("n>many", "\"many\", not a number"),
        (long.as_str(), "cannot be a value"),
    ];
    for (text, expected) in cases {
        let error = Selection::parse(&by_labels(text)).unwrap_err();
        let Error::Argument { field: "selector.labels", message } = error else {
            panic!("{text:?}: {error}");
        };
        assert!(message.contains(expected), "{text:?}: {message}");
    }
}

#[test]
fn field_selectors() {
    let cases = [
        ("", true),
        ("metadata.name=web", true),
        ("metadata.name!=web", false),
        ("metadata.namespace==shop", true),
        ("spec.nodeName=n1,", true),
        ("spec.nodeName=n2", false),
        ("spec.restartPolicy!=Never", true),
        ("status.phase=Running,status.podIP=10.0.0.7", true),
        ("status.phase=Running,status.podIP=10.0.0.8", false),
        ("status.podIP=", false),
        ("metadata.name=web\\,x", false),
    ];
    for (text, expected) in cases {
        assert_eq!(selects(&by_fields(text)), expected, "{text:?}");
    }
}

#[test]
fn wrong_field_selectors_are_refused_by_name() {
    let cases = [
        ("status.phase", "none of field=value"),
        ("spec.color=red", "pods cannot be selected by \"spec.color\"; known are metadata.name,"),
        (" status.phase=x", "cannot be selected by \" status.phase\""),
        ("metadata.name=a=b", "without a `\\` before it"),
        ("metadata.name=a\\b", "escapes nothing"),
        ("metadata.name=a\\", "escapes nothing"),
    ];
    for (text, expected) in cases {
        let error = Selection::parse(&by_fields(text)).unwrap_err();
        let Error::Argument { field: "selector.fields", message } = error else {
            panic!("{text:?}: {error}");
        };
        assert!(message.contains(expected), "{text:?}: {message}");
    }
}

#[test]
fn namespace_and_name_select_too() {
    let of = |namespace: &str, name: &str| Selector {
        namespace: namespace.into(),
        name: name.into(),
        ..Selector::default()
    };
    assert!(selects(&of("shop", "")));
    assert!(selects(&of("shop", "web")));
    assert!(!selects(&of("shop", "we")));
    assert!(!selects(&of("sho", "web")));
    assert!(selects(&by_labels(" ")));
}
