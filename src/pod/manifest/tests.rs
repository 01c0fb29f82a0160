//! Parsing of texts to objects, and conversion to pods.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::pod::{Error, Given, Objects, Source};

pub(super) fn now() -> Time {
    Time(Timestamp::new(1_700_000_000, 123_000_000).expect("a time"))
}

fn strict(text: &str) -> Result<Parsed, Error> {
    parse(text.as_bytes(), &ParseOptions::default())
}

fn lenient(text: &str) -> Parsed {
    let options = ParseOptions { lenient: true, ..ParseOptions::default() };
    parse(text.as_bytes(), &options).unwrap_or_else(|error| panic!("{error}"))
}

/// The text of a pod `p` of this spec.
pub(super) fn text(spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  {spec}\n")
}

/// A pod without defaults.
pub(super) fn raw(spec: &str) -> Pod {
    let mut parsed = strict(&text(spec)).unwrap_or_else(|error| panic!("{spec}: {error}"));
    parsed.pods.remove(0)
}

/// Its pods, each with its name as uid.
pub(super) fn completed(text: &str, source: Source) -> Result<Vec<Given>, Error> {
    let mut uid = |pod: &Pod| {
        let meta = &pod.metadata;
        format!("uid-{}", meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or("none"))
    };
    given(strict(text)?, source, &now(), &mut uid, |_, _| Objects::default())
}

fn refusal(text: &str) -> String {
    strict(text).expect_err("it was taken").to_string()
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n";

#[test]
fn documents_lists_and_json_are_read() {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: b}\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: own}\n";
    let parsed =
        strict(&format!("---\n# nothing\n---\n{POD}---\n{map}...\n---\n{secret}")).unwrap();
    assert_eq!((parsed.pods.len(), parsed.config_maps.len(), parsed.secrets.len()), (1, 1, 1));
    assert_eq!(parsed.pods[0].metadata.namespace.as_deref(), Some("default"));
    assert_eq!(parsed.secrets[0].metadata.namespace.as_deref(), Some("own"));

    let list = r#"{"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [
	{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "\ud83d\ude00"}, "status": {"x": 1}},
	{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "b"}}]}]}"#;
    let options = ParseOptions { namespace: "team".to_owned(), ..ParseOptions::default() };
    let pods = parse(list.as_bytes(), &options).unwrap().pods;
    let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.as_deref()).collect();
    assert_eq!(names, [Some("😀"), Some("b")]);
    assert_eq!(pods[1].metadata.namespace.as_deref(), Some("team"));
    assert_eq!(pods[0].status, None, "what a pod is like is not the giver's to say");
}

#[test]
fn values_are_taken_as_the_tools_of_kubernetes_do() {
    let pod =
        raw("containers:\n- name: c\n  image: i\n  resources: {limits: {cpu: 2, memory: 1e9}}\n  \
         livenessProbe: {tcpSocket: {port: 80}}\n  readinessProbe: {tcpSocket: {port: web}}\n\
         volumes: [{name: v, secret: {secretName: s, defaultMode: 0400}}]\n\
         nodeSelector: {zone: , 1: \"2\"}\nhostNetwork: yes");
    let spec = pod.spec.unwrap();
    let limits = spec.containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("2", "1000000000"));
    let secret = spec.volumes.unwrap().remove(0).secret.unwrap();
    assert_eq!(secret.default_mode, Some(0o400));
    let selector = spec.node_selector.unwrap();
    assert_eq!((selector["zone"].as_str(), selector["1"].as_str()), ("", "2"));
    assert_eq!(spec.host_network, Some(true));
}

#[test]
fn broken_texts_are_refused_with_their_place() {
    let stands_twice = format!("{POD}---\n{POD}");
    for (text, expected) in [
        ("", "it contains no object"),
        ("a: [1\n", "line 1, column 4: unclosed bracket '['"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: key \"a\" is defined twice"),
        ("{\"a\": 1, \"a\": 2}", "key \"a\" is defined twice"),
        ("a: \"x\\0y\"", "a string contains a NUL character"),
        ("a\0b", "byte 1 is NUL"),
        ("- 1\n- 2\n", "line 1, column 1: an object must be a map with apiVersion and kind"),
        ("kind: Pod\n", "apiVersion is not set"),
        ("apiVersion: v1\n", "kind is not set"),
        ("apiVersion: 1\nkind: Pod\n", "line 1, column 13: apiVersion must be a string"),
        (
            "apiVersion: apps/v1\nkind: Deployment\n",
            "no Deployment of apiVersion \"apps/v1\" can be run here",
        ),
        ("apiVersion: v1\nkind: Service\n", "no object of kind \"Service\" can be run here"),
        ("apiVersion: v1\nkind: List\nitems: 3\n", "items must be a list"),
        (&stands_twice, "line 6, column 1: Pod default/a is defined twice"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.starts_with("manifest: ") && refusal.contains(expected), "{refusal}");
    }
    let bytes = parse(&[b'a', 0xff], &ParseOptions::default()).expect_err("no UTF-8");
    assert_eq!(bytes.to_string(), "manifest: it is not UTF-8 from byte 1 on");
}

#[test]
fn wrong_types_are_refused_with_path_and_place() {
    for (spec, expected) in [
        ("containers: a", "spec.containers: must be a list, not a string (line 5, column 15)"),
        (
            "containers:\n- name: c\n  args: [1]",
            "spec.containers[0].args[0]: must be a string, not a number (quote it to have text) \
             (line 7, column 12)",
        ),
        (
            "containers: [{name: c, ports: [{containerPort: \"80\"}]}]",
            "spec.containers[0].ports[0].containerPort: must be a 32-bit integer, not a string",
        ),
        (
            "containers: [{name: c, ports: [{containerPort: 99999999999}]}]",
            "spec.containers[0].ports[0].containerPort: is out of the range of a 32-bit integer",
        ),
        ("containers: [null]", "spec.containers[0]: must be an object (Container), not null"),
        (
            "nodeSelector: {example.com/a: true}",
            "spec.nodeSelector[example.com/a]: must be a string",
        ),
    ] {
        let refusal = refusal(&text(spec));
        assert!(refusal.starts_with("Pod \"p\" is invalid: "), "{refusal}");
        assert!(refusal.contains(expected), "{refusal}");
    }
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: geheim!}\n";
    let told = refusal(secret);
    assert!(told.contains("data.a: ") && !told.contains("geheim"), "{told}");
}

#[test]
fn unknown_fields_are_refused_by_path() {
    let text =
        text("containers:\n- name: c\n  image: i\n  comand: [x]\n  ports:\n  - port: 80\nfoo:");
    let Err(Error::Invalid { kind: "Pod", name, faults }) = strict(&text) else {
        panic!("it was taken")
    };
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(name, "p");
    assert_eq!(
        told,
        [
            "spec.containers[0].comand: unknown field (line 8, column 13)",
            "spec.containers[0].ports[0].port: unknown field (line 10, column 13)",
            "spec.foo: unknown field (line 11, column 6)",
        ]
    );
    let parsed = lenient(&text);
    assert_eq!(parsed.warnings.len(), 3);
    assert_eq!(parsed.warnings[2], "Pod \"p\": spec.foo: unknown field (line 11, column 6)");
}

#[test]
fn unserved_fields_are_refused_by_name_or_left_out() {
    let text = text(
        "schedulingGates: [{name: g}]\nresourceClaims: []\ncontainers:\n- name: c\n  image: i\n  \
         resources: {claims: [{name: x}]}\n  securityContext: {windowsOptions: {}}\n\
         volumes:\n- name: v\n  projected:\n    sources:\n    - serviceAccountToken: {path: t}\n    \
         - secret: {name: s}",
    );
    let told = refusal(&text);
    for expected in [
        "spec.schedulingGates: no scheduler opens gates here",
        "spec.containers[0].resources.claims: dynamic resource allocation is not served",
        "spec.containers[0].securityContext.windowsOptions: Windows is not served",
        "spec.volumes[0].projected.sources[0].serviceAccountToken: no one issues tokens here",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(!told.contains("resourceClaims"), "an empty list asks for nothing: {told}");
    let parsed = lenient(&text);
    assert_eq!(parsed.warnings.len(), 4, "{:?}", parsed.warnings);
    let spec = parsed.pods[0].spec.as_ref().unwrap();
    assert_eq!(spec.scheduling_gates, None);
    let sources = spec.volumes.as_ref().unwrap()[0].projected.as_ref().unwrap().sources.as_ref();
    assert_eq!(sources.unwrap().len(), 1, "the token's source is gone as a whole");
}

#[test]
fn volumes_that_are_not_served_are_refused_even_leniently() {
    for source in [
        "persistentVolumeClaim: {claimName: x}",
        "csi: {driver: d}",
        "ephemeral: {}",
        "gitRepo: {repository: r}",
        "flexVolume: {driver: d}",
        "nfs: {server: s, path: /}",
    ] {
        let text = text(&format!("containers: []\nvolumes: [{{name: v, {source}}}]"));
        let options = ParseOptions { lenient: true, ..ParseOptions::default() };
        let told = parse(text.as_bytes(), &options).expect_err(source).to_string();
        let name = source.split(':').next().unwrap();
        assert!(told.contains(&format!("spec.volumes[0].{name}: volumes of this kind")), "{told}");
    }
}

#[test]
fn bombs_do_not_go_off() {
    let mut aliases = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, last) in ('b'..='j').zip('a'..) {
        aliases += &format!("{this}: &{this} [{}*{last}]\n", format!("*{last}, ").repeat(8));
    }
    let texts = [
        ("aliases", aliases),
        ("long aliases", format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a,".repeat(900))),
        ("values", format!("[{}]", "1,".repeat(200_000))),
        ("keys", (0..120_000).map(|n| format!("k{n}: 1\n")).collect()),
        ("brackets", "[".repeat(1 << 20)),
        ("dashes", "- ".repeat(1 << 20)),
        ("questions", "? ".repeat(1 << 20)),
        ("documents", "---\na\n".repeat(100_000)),
        ("anchors", (0..10_000).map(|n| format!("- &a{n} x\n")).collect()),
        ("length", "#".repeat((10 << 20) + 1)),
    ];
    for (name, text) in texts {
        assert!(matches!(strict(&text), Err(Error::Manifest { .. })), "{name}");
    }
}

#[test]
fn objects_go_to_the_pods_that_refer_to_them() {
    let text = text(
        "imagePullSecrets: [{name: pull}]\ncontainers:\n- name: c\n  image: i\n  \
         envFrom: [{configMapRef: {name: env}}]\n  \
         env: [{name: A, valueFrom: {secretKeyRef: {name: key, key: k}}}]\n\
         volumes: [{name: v, configMap: {name: late}}]",
    );
    let object = |kind: &str, name: &str, rest: &str| {
        format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}\n")
    };
    let text = text
        + &object("ConfigMap", "env", "data: {A: b}")
        + &object("ConfigMap", "other", "")
        + &object("Secret", "key", "data: {k: YQ==, j: YQ==}\nstringData: {k: new}")
        + &object("Secret", "pull", "");
    let given = completed(&text, Source::Api).unwrap();
    let objects = &given[0].objects;
    assert_eq!(objects.config_maps.keys().collect::<Vec<_>>(), ["env"]);
    assert_eq!(objects.secrets.keys().collect::<Vec<_>>(), ["key", "pull"]);
    let key = &objects.secrets["key"];
    let data = key.data.as_ref().unwrap();
    assert_eq!((data["k"].0.as_slice(), data["j"].0.as_slice()), (&b"new"[..], &b"a"[..]));
    assert_eq!((key.string_data.as_ref(), key.type_.as_deref()), (None, Some("Opaque")));

    let told = completed(&text, Source::File).expect_err("a static pod does not wait").to_string();
    assert_eq!(
        told,
        "Pod \"p\" is invalid: spec.volumes[0].configMap.name: Not found: ConfigMap \"late\""
    );
}

#[test]
fn objects_that_are_known_come_after_those_of_the_manifest() {
    let spec = "containers: [{name: c, image: i}]\nvolumes:\n- {name: a, configMap: {name: a}}\n\
                - {name: b, configMap: {name: b}}";
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {from: text}\n";
    let known = |namespace: &str, name: &str| {
        assert_eq!((namespace, name), ("default", "p"));
        let mut objects = Objects::default();
        for name in ["a", "b"] {
            objects.config_maps.insert(name.to_owned(), ConfigMap::default().into());
        }
        objects
    };
    let parsed = strict(&(text(spec) + map)).unwrap();
    let given = given(parsed, Source::Api, &now(), &mut |_| "u".to_owned(), known).unwrap();
    let maps = &given[0].objects.config_maps;
    assert!(maps["a"].data.is_some() && maps["b"].data.is_none());
}

#[test]
fn a_static_pod_says_where_it_is_from() {
    let given = completed(&text("containers: [{name: c, image: i}]"), Source::Http).unwrap();
    let meta = &given[0].pod.metadata;
    let notes = meta.annotations.as_ref().unwrap();
    assert_eq!(notes["kubernetes.io/config.source"], "http");
    assert_eq!(notes["kubernetes.io/config.hash"], "uid-p");
    assert_eq!(notes["kubernetes.io/config.seen"], "2023-11-14T22:13:20.123Z");
    assert_eq!(meta.creation_timestamp.as_ref().unwrap().0.to_string(), "2023-11-14T22:13:20Z");
}

#[test]
fn a_name_is_made_from_the_uid() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {generateName: web-}\n\
                spec: {containers: [{name: c, image: i}]}\n";
    let one = completed(text, Source::Api).unwrap().remove(0);
    let name = one.key().name;
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_eq!(completed(text, Source::Api).unwrap()[0].key().name, name, "of the same uid");
}

#[test]
fn uids_that_are_no_plain_names_are_refused() {
    for uid in ["../../x", "", "a/b", "..", "a b"] {
        let parsed = strict(&text("containers: [{name: c, image: i}]")).unwrap();
        let mut uid = |_: &Pod| uid.to_owned();
        let given = given(parsed, Source::Api, &now(), &mut uid, |_, _| Objects::default());
        assert!(given.is_err_and(|error| error.to_string().contains("metadata.uid")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, &ParseOptions::default());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-a-z0-9:{}\\[\\],&*!|>'\"# \n\t\\\\%@`?<~.]{0,80}") {
        let _ = strict(&text);
    }

    #[test]
    fn any_cut_of_a_manifest_is_read_or_refused(at in 0..EXAMPLE.len(), junk in "\\PC{0,3}") {
        let at = (0..=at).rev().find(|at| EXAMPLE.is_char_boundary(*at)).unwrap_or(0);
        let _ = completed(&format!("{}{junk}", &EXAMPLE[..at]), Source::File);
        let _ = completed(&format!("{}{junk}{}", &EXAMPLE[..at], &EXAMPLE[at..]), Source::Api);
    }
}

/// Contains one of everything that defaults and validation handle.
pub(super) const EXAMPLE: &str = include_str!("tests/example.yaml");
