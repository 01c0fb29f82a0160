use serde_json::{Value, json};

use super::super::fixture::{context, given, node, node_v2, sandbox};
use super::super::{ContainerKind, PodContext, pod_config};
use super::*;
use crate::model::resources::CgroupDriver;

fn app_of(fields: Value) -> Result<ContainerConfig, Error> {
    let (given, node) = (given(fields), node());
    let sandbox = sandbox(&given, &node);
    let wanted = ContainerRef::new(ContainerKind::App, "app");
    container_config(&given, &wanted, &context(&sandbox, &node, "")).map(|it| it.config)
}

#[test]
fn commands_know_the_variables() {
    let config = app_of(json!({"containers": [{
        "name": "app", "image": "busybox",
        "command": ["sh", "-c", "echo $(A) $(NONE) $$(A)"], "args": ["$(A)$(A)"],
        "env": [{"name": "A", "value": "1"}],
    }]}))
    .unwrap();
    assert_eq!(config.command, ["sh", "-c", "echo 1 $(NONE) $(A)"]);
    assert_eq!(config.args, ["11"]);
}

#[test]
fn identity() {
    let config = app_of(json!({"terminationGracePeriodSeconds": 30, "containers": [{
        "name": "app", "image": "busybox:1", "stdin": true, "stdinOnce": true, "tty": true,
        "workingDir": "/srv", "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 3}}},
        "ports": [{"containerPort": 80, "protocol": "TCP"}],
    }]}))
    .unwrap();
    assert_eq!((&*config.metadata.name, config.metadata.attempt), ("app", 2));
    assert_eq!(config.image.image, "sha256:1234");
    assert_eq!(config.image.user_specified_image, "busybox:1");
    assert_eq!(config.log_path.unwrap().to_str(), Some("app/2.log"));
    assert!(config.stdin && config.stdin_once && config.tty);
    assert_eq!(config.stop_signal.map(Signal::name).as_deref(), Some("SIGUSR1"));
    assert_eq!(config.labels.len(), 4);
    assert_eq!(config.labels[CONTAINER_NAME_LABEL], "app");
    for (name, value) in [
        (RESTART_COUNT_ANNOTATION, "2"),
        (MESSAGE_PATH_ANNOTATION, "/dev/termination-log"),
        (MESSAGE_POLICY_ANNOTATION, "File"),
        (GRACE_ANNOTATION, "30"),
        (PRE_STOP_ANNOTATION, r#"{"sleep":{"seconds":3}}"#),
        (PORTS_ANNOTATION, r#"[{"containerPort":80,"protocol":"TCP"}]"#),
    ] {
        assert_eq!(config.annotations[name], value, "{name}");
    }
}

#[test]
fn the_hash_is_of_name_and_image() {
    let hash_of = |container: Value| hash(&serde_json::from_value(container).unwrap());
    let one = hash_of(json!({"name": "a", "image": "x"}));
    assert_eq!(one, hash_of(json!({"name": "a", "image": "x", "command": ["y"]})));
    assert_ne!(one, hash_of(json!({"name": "a", "image": "y"})));
    assert_ne!(one, hash_of(json!({"name": "b", "image": "x"})));
    // Stored with containers, so it must not change between versions.
    assert_eq!(format!("{one:x}"), "3a5aa9de");
}

#[test]
fn an_ephemeral_container_joins_its_target() {
    let given = given(json!({"ephemeralContainers": [
        {"name": "debug", "image": "busybox", "targetContainerName": "app"},
    ]}));
    let node = node();
    let sandbox = sandbox(&given, &node);
    let mut ctx = context(&sandbox, &node, "");
    ctx.target = Some("c0ffee".to_owned());
    let wanted = ContainerRef::new(ContainerKind::Ephemeral, "debug");
    let config = container_config(&given, &wanted, &ctx).unwrap().config;
    let namespaces = config.security.namespaces;
    use crate::model::security::NamespaceMode;
    assert_eq!((namespaces.pid, &*namespaces.target_id), (NamespaceMode::Target, "c0ffee"));
}

#[test]
fn what_is_not_there_or_cannot_be() {
    let (given, node) = (given(json!({})), node());
    let sandbox = sandbox(&given, &node);
    let ctx = context(&sandbox, &node, "");
    for (kind, name) in [(ContainerKind::App, "none"), (ContainerKind::Init, "app")] {
        let wanted = ContainerRef::new(kind, name);
        let error = container_config(&given, &wanted, &ctx).unwrap_err();
        assert_eq!(error, Error::NoContainer(name.to_owned()));
    }
    let signal = json!({"containers": [{"name": "app", "lifecycle": {"stopSignal": "SIGNONE"}}]});
    assert!(matches!(app_of(signal), Err(Error::Field { field, .. })
            if field == "lifecycle.stopSignal"));
}

/// The complete translation of a pod and its containers, as text.
fn whole(fields: Value, node: &NodeFacts, containers: &[(ContainerKind, &str)]) -> String {
    let given = given(fields);
    let ctx = PodContext { attempt: 1, user_ids: Some(65_536) };
    let sandbox = pod_config(&given, ctx, node).unwrap();
    let mut text = serde_json::to_string_pretty(&sandbox.config).unwrap();
    for (kind, name) in containers {
        let mut ctx = context(&sandbox.config, node, "1000");
        ctx.mounts = vec![Mount {
            container_path: "/data".to_owned(),
            host_path: "/var/lib/podbay/data".to_owned(),
            ..Mount::default()
        }];
        let made = container_config(&given, &ContainerRef::new(*kind, *name), &ctx).unwrap();
        text.push('\n');
        text += &serde_json::to_string_pretty(&made.config).unwrap();
        text += &made.warnings.iter().map(|it| format!("\n{it:?}")).collect::<String>();
    }
    text
}

#[test]
fn a_plain_pod() {
    insta::assert_snapshot!(whole(json!({}), &node(), &[(ContainerKind::App, "app")]));
}

#[test]
fn a_pod_with_everything() {
    let fields = json!({
        "hostname": "front", "subdomain": "team", "terminationGracePeriodSeconds": 30,
        "shareProcessNamespace": true, "hostUsers": false, "runtimeClassName": "crun",
        "overhead": {"cpu": "10m", "memory": "16Mi"},
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "10.9.9.9", "hostnames": ["db"]}],
        "securityContext": {
            "runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000,
            "seccompProfile": {"type": "RuntimeDefault"},
            "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "1024 65000"}],
        },
        "initContainers": [{
            "name": "proxy", "image": "proxy:1", "restartPolicy": "Always",
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
            "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
        }],
        "containers": [{
            "name": "app", "image": "web:2", "command": ["/web"], "args": ["--on=$(POD_IP)"],
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}},
            ],
            "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
            "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080, "protocol": "TCP"}],
            "resources": {
                "requests": {"cpu": "250m", "memory": "128Mi"},
                "limits": {"cpu": "1", "memory": "256Mi"},
            },
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true},
        }],
    });
    let containers = [(ContainerKind::Init, "proxy"), (ContainerKind::App, "app")];
    insta::assert_snapshot!(whole(fields, &node_v2(), &containers));
}

#[test]
fn a_privileged_pod_of_the_node() {
    let fields = json!({
        "hostNetwork": true, "hostPID": true, "hostIPC": true,
        "priorityClassName": "system-node-critical",
        "containers": [{
            "name": "app", "image": "agent:1",
            "securityContext": {"privileged": true, "procMount": "Unmasked", "runAsUser": 0},
            "resources": {
                "requests": {"cpu": "100m", "memory": "64Mi"},
                "limits": {"cpu": "100m", "memory": "64Mi"},
            },
        }],
    });
    let slices = [(String::new(), CgroupDriver::Systemd)];
    let node = NodeFacts { cgroup_drivers: slices.into(), ..node() };
    insta::assert_snapshot!(whole(fields, &node, &[(ContainerKind::App, "app")]));
}
