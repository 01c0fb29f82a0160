use serde_json::{Value, json};

use super::super::fixture::{context, given, node, sandbox};
use super::*;

/// The context of the one container of a pod, with an image of this user.
fn run_as(pod: Value, container: Value, user: &str) -> Result<ContainerSecurity, Error> {
    let mut given = given(json!({
        "securityContext": pod,
        "containers": [{"name": "app", "securityContext": container}],
    }));
    let old = [(format!("{APPARMOR_ANNOTATION}noted"), "localhost/mine".to_owned())];
    std::sync::Arc::make_mut(&mut given.pod).metadata.annotations = Some(old.into());
    let node = node();
    let sandbox = sandbox(&given, &node);
    let container = &given.spec().containers[0];
    of_container(&given, container, &context(&sandbox, &node, user))
}

fn run(pod: Value, container: Value) -> ContainerSecurity {
    run_as(pod, container, "").unwrap()
}

#[test]
fn nothing_said() {
    let security = run(json!({}), json!({}));
    assert_eq!((security.run_as_user, security.run_as_group), (Some(0), None));
    assert_eq!(security.masked_paths, MASKED);
    assert_eq!(security.readonly_paths, READ_ONLY);
    assert_eq!(security.seccomp, Some(SecurityProfile::Unconfined));
    assert_eq!(security.apparmor, None);
    assert!(!security.no_new_privs && !security.privileged && !security.readonly_rootfs);
    assert_eq!(security.namespaces.pid, NamespaceMode::Container);
}

#[test]
fn the_container_wins_over_the_pod() {
    let pod = json!({
        "runAsUser": 1000, "runAsGroup": 1001, "seccompProfile": {"type": "RuntimeDefault"},
        "seLinuxOptions": {"level": "s0:c1,c2", "type": "a_t"},
        "appArmorProfile": {"type": "RuntimeDefault"},
    });
    let inherited = run(pod.clone(), json!({}));
    assert_eq!((inherited.run_as_user, inherited.run_as_group), (Some(1000), Some(1001)));
    assert_eq!(inherited.seccomp, Some(SecurityProfile::RuntimeDefault));
    assert_eq!(inherited.apparmor, Some(SecurityProfile::RuntimeDefault));
    assert_eq!(inherited.selinux.unwrap().kind, "a_t");
    let own = run(
        pod,
        json!({
            "runAsUser": 5, "runAsGroup": 6, "seccompProfile": {"type": "Unconfined"},
            "seLinuxOptions": {"user": "u_u"}, "appArmorProfile": {"type": "Unconfined"},
        }),
    );
    assert_eq!((own.run_as_user, own.run_as_group), (Some(5), Some(6)));
    assert_eq!(own.seccomp, Some(SecurityProfile::Unconfined));
    assert_eq!(own.apparmor, Some(SecurityProfile::Unconfined));
    let selinux = own.selinux.unwrap();
    assert_eq!((&*selinux.user, &*selinux.kind, &*selinux.level), ("u_u", "", ""));
}

#[test]
fn groups_are_those_of_the_volumes_and_further_ones() {
    let pod = json!({
        "fsGroup": 2000, "supplementalGroups": [3000, 4000],
        "supplementalGroupsPolicy": "Strict",
    });
    let security = run(pod, json!({}));
    assert_eq!(security.supplemental_groups, [2000, 3000, 4000]);
    assert_eq!(security.supplemental_groups_policy, SupplementalGroupsPolicy::Strict);
}

#[test]
fn the_user_of_the_image_is_named() {
    for (user, uid, name) in
        [("", Some(0), None), ("1000:2000", Some(1000), None), ("nobody", None, Some("nobody"))]
    {
        let security = run_as(json!({}), json!({}), user).unwrap();
        let got = (security.run_as_user, security.run_as_username.as_deref());
        assert_eq!(got, (uid, name), "{user:?}");
    }
    let chosen = run_as(json!({"runAsUser": 7}), json!({}), "nobody").unwrap();
    assert_eq!((chosen.run_as_user, chosen.run_as_username), (Some(7), None));
}

#[test]
fn whoever_must_not_be_root_is_not() {
    let refused = |pod: Value, own: Value, user: &str| match run_as(pod, own, user) {
        Err(error @ Error::NonRoot(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let at = r#"(pod: "web_ns(u-1)", container: app)"#;
    let non_root = || json!({"runAsNonRoot": true});
    for user in ["", "0", "0:5"] {
        assert_eq!(
            refused(non_root(), json!({}), user),
            format!("container has runAsNonRoot and image will run as root {at}")
        );
    }
    assert_eq!(
        refused(non_root(), json!({}), "nobody"),
        format!(
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify \
             user is non-root {at}"
        )
    );
    assert_eq!(
        refused(json!({}), json!({"runAsNonRoot": true, "runAsUser": 0}), "1000"),
        format!("container's runAsUser breaks non-root policy {at}")
    );
    for (pod, own, user) in [
        (non_root(), json!({}), "1000"),
        (non_root(), json!({"runAsUser": 1}), "nobody"),
        (non_root(), json!({"runAsNonRoot": false}), ""),
    ] {
        assert!(run_as(pod, own, user).is_ok());
    }
}

#[test]
fn privileges() {
    let security = run(
        json!({}),
        json!({
            "capabilities": {"add": ["net_admin", "CAP_SYS_TIME"], "drop": ["ALL"]},
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        }),
    );
    assert_eq!(security.capabilities.add, ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
    assert_eq!(security.capabilities.drop, ["ALL"]);
    assert!(security.no_new_privs && security.readonly_rootfs);
    assert!(!run(json!({}), json!({"allowPrivilegeEscalation": true})).no_new_privs);

    let bare = run(json!({}), json!({"privileged": true, "procMount": "Unmasked"}));
    assert!(bare.privileged && bare.masked_paths.is_empty() && bare.readonly_paths.is_empty());
}

#[test]
fn profiles_of_the_node() {
    let own = json!({
        "seccompProfile": {"type": "Localhost", "localhostProfile": "team/strict.json"},
        "appArmorProfile": {"type": "Localhost", "localhostProfile": "k8s-nginx"},
    });
    let security = run(json!({}), own);
    let file = "/var/lib/kubelet/seccomp/team/strict.json";
    assert_eq!(security.seccomp, Some(SecurityProfile::Localhost(file.to_owned())));
    let name = SecurityProfile::Localhost("k8s-nginx".to_owned());
    assert_eq!(security.apparmor, Some(name));

    let by_default = NodeFacts { seccomp_default: true, ..node() };
    assert_eq!(seccomp(None, &by_default), Ok(Some(SecurityProfile::RuntimeDefault)));
}

#[test]
fn an_old_annotation_names_the_profile_of_one_container() {
    let mut given = given(json!({
        "containers": [{"name": "noted"}],
        "securityContext": {"appArmorProfile": {"type": "Unconfined"}},
    }));
    let mut profile = |text: &str| {
        let note = [(format!("{APPARMOR_ANNOTATION}noted"), text.to_owned())];
        std::sync::Arc::make_mut(&mut given.pod).metadata.annotations = Some(note.into());
        let (container, pod) = (&given.spec().containers[0], &given.spec().security_context);
        apparmor(&given, container, &SecurityContext::default(), pod.as_ref().unwrap())
    };
    let mine = SecurityProfile::Localhost("mine".to_owned());
    assert_eq!(profile("localhost/mine"), Ok(Some(mine)));
    assert_eq!(profile("runtime/default"), Ok(Some(SecurityProfile::RuntimeDefault)));
    assert_eq!(profile("unconfined"), Ok(Some(SecurityProfile::Unconfined)));
    assert!(matches!(profile("localhost/"), Err(Error::Field { .. })));
    assert!(matches!(profile("other"), Err(Error::Field { .. })));
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    for (pod, own, field) in [
        (json!({}), json!({"runAsUser": -1}), "securityContext.runAsUser"),
        (json!({"runAsUser": 4_294_967_296_i64}), json!({}), "securityContext.runAsUser"),
        (json!({}), json!({"runAsGroup": 2_147_483_648_i64}), "securityContext.runAsGroup"),
        (json!({}), json!({"capabilities": {"add": ["FLY"]}}), "securityContext.capabilities"),
        (
            json!({}),
            json!({"seccompProfile": {"type": "Localhost"}}),
            "securityContext.seccompProfile",
        ),
        (
            json!({}),
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/../../x"}}),
            "securityContext.seccompProfile",
        ),
        (
            json!({}),
            json!({"appArmorProfile": {"type": "Localhost"}}),
            "securityContext.appArmorProfile",
        ),
    ] {
        let mut given = given(json!({
            "securityContext": {}, "containers": [{"name": "app", "securityContext": own}],
        }));
        let node = node();
        let sandbox = sandbox(&given, &node);
        let spec = std::sync::Arc::make_mut(&mut given.pod).spec.as_mut().unwrap();
        spec.security_context = serde_json::from_value(pod).unwrap();
        let container = &given.spec().containers[0];
        let error = of_container(&given, container, &context(&sandbox, &node, "")).unwrap_err();
        assert!(matches!(&error, Error::Field { field: f, .. } if f == field), "{error}");
    }
    assert!(matches!(run_as(json!({}), json!({}), "a b"), Err(Error::Field { .. })));
}
