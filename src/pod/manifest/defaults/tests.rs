//! An example with all defaults, and the rules that it does not cover.

use super::super::tests::{EXAMPLE, completed, raw};
use super::*;
use crate::pod::Source;

fn defaulted(spec: &str) -> PodSpec {
    let mut pod = raw(spec);
    super::pod(&mut pod);
    pod.spec.expect("a spec")
}

#[test]
fn one_of_everything() {
    let given = completed(EXAMPLE, Source::Api).unwrap_or_else(|error| panic!("{error}"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&*given[0].pod).expect("JSON"));
}

#[test]
fn the_plainest_pod() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n\
                spec: {containers: [{name: c, image: busybox}]}\n";
    let given = completed(text, Source::Api).unwrap_or_else(|error| panic!("{error}"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&*given[0].pod).expect("JSON"));
}

#[test]
fn the_pull_policy_follows_the_tag() {
    let digest = format!("@sha256:{}", "a".repeat(64));
    for (image, policy) in [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("host:5000/busybox", "Always"),
        ("host:5000/a/busybox:latest", "Always"),
        ("busybox:1", "IfNotPresent"),
        ("host:5000/busybox:latest-1", "IfNotPresent"),
        (&format!("busybox{digest}"), "IfNotPresent"),
        (&format!("busybox:latest{digest}"), "Always"),
        (&format!("busybox:1{digest}"), "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(pull_policy(Some(image)), policy, "{image}");
    }
}

#[test]
fn requests_come_from_limits_one_by_one() {
    let spec = defaulted(
        "containers:\n- name: c\n  image: i\n  resources: {limits: {cpu: 1, memory: 1Gi}, \
         requests: {cpu: 500m}}\n- name: d\n  image: i\n  resources: {requests: {cpu: 1u}}",
    );
    let requests = |at: usize| {
        let resources: &Option<ResourceRequirements> = &spec.containers[at].resources;
        let requests = resources.clone().expect("resources").requests.expect("requests");
        requests
            .into_iter()
            .map(|(name, amount)| format!("{name}={}", amount.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(requests(0), ["cpu=500m", "memory=1Gi"]);
    assert_eq!(requests(1), ["cpu=1m"], "a limit is not made from a request");
}

#[test]
fn a_pod_asks_for_what_its_containers_do_at_the_worst_moment() {
    let asks = |spec: &str| {
        let resources = defaulted(spec).resources.expect("resources");
        resources.requests.map(|requests| requests["cpu"].0.clone())
    };
    let with = |init: &str| {
        format!(
            "resources: {{limits: {{cpu: 9}}}}\ninitContainers: {init}\n\
             containers: [{{name: c, resources: {{requests: {{cpu: 1}}}}}}]"
        )
    };
    let init = |cpu: &str, more: &str| {
        format!("{{name: i{cpu}, resources: {{requests: {{cpu: {cpu}}}}}{more}}}")
    };
    let sidecar = ", restartPolicy: Always";
    assert_eq!(asks(&with("[]")).as_deref(), Some("1"));
    assert_eq!(asks(&with(&format!("[{}]", init("3", "")))).as_deref(), Some("3"));
    assert_eq!(asks(&with(&format!("[{}]", init("3", sidecar)))).as_deref(), Some("4"));
    let both = format!("[{}, {}]", init("2", sidecar), init("3", ""));
    assert_eq!(asks(&with(&both)).as_deref(), Some("5"));
    let none = "resources: {limits: {cpu: 9}}\ncontainers: [{name: c}]";
    assert_eq!(asks(none).as_deref(), Some("9"));
    assert_eq!(asks("resources: {}\ncontainers: [{name: c}]"), None);
}

#[test]
fn what_is_set_stays() {
    let spec = defaulted(
        "restartPolicy: Never\ndnsPolicy: Default\nterminationGracePeriodSeconds: 0\n\
         enableServiceLinks: false\nschedulerName: mine\nhostNetwork: true\ncontainers:\n\
         - name: c\n  image: i:1\n  imagePullPolicy: Always\n  ports: [{containerPort: 1, \
         hostPort: 2, protocol: SCTP}]\n  livenessProbe: {tcpSocket: {port: 1}, timeoutSeconds: 7}",
    );
    let again = {
        let mut spec = spec.clone();
        let pod = &mut Pod { spec: Some(spec.clone()), ..Pod::default() };
        super::pod(pod);
        spec.clone_from(pod.spec.as_ref().expect("a spec"));
        spec
    };
    assert_eq!(again, spec, "defaults change nothing the second time");
    let container = &spec.containers[0];
    let port = &container.ports.as_ref().expect("ports")[0];
    assert_eq!((port.host_port, port.protocol.as_deref()), (Some(2), Some("SCTP")));
    assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(0));
    assert_eq!(spec.enable_service_links, Some(false));
    let probe = container.liveness_probe.as_ref().expect("a probe");
    assert_eq!((probe.timeout_seconds, probe.period_seconds), (Some(7), Some(10)));
}
