//! Volumes, security, the pod as a whole, and other objects.

use super::super::super::tests::completed;
use super::{of_container, table};
use crate::pod::Source;

#[test]
fn volumes() {
    let with = |volumes: &str| format!("containers: [{{C}}]\nvolumes: {volumes}");
    let cases: &[(&str, &[&str])] = &[
        ("[{name: a}, {name: a}]", &["[1].name: Duplicate value: \"a\""]),
        (
            "[{name: A, emptyDir: {}, hostPath: {path: a/.., type: Dir}}]",
            &[
                "[0].name: Invalid value: \"A\"",
                "[0].hostPath.path: Invalid value: \"a/..\": must not contain '..'",
                "[0].hostPath.path: Invalid value: \"a/..\": must be an absolute path",
                "[0].hostPath.type: Unsupported value: \"Dir\"",
                "[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        (
            "[{name: a, emptyDir: {medium: Disk, sizeLimit: -1}}]",
            &[
                "[0].emptyDir.medium: Unsupported value: \"Disk\"",
                "[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid",
            ],
        ),
        (
            "[{name: a, configMap: {name: '', defaultMode: 512, items: [{key: '', path: /x}, {key: k, path: ..data}]}}]",
            &[
                "[0].configMap.name: Required value",
                "[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777",
                "[0].configMap.items[0].key: Required value",
                "[0].configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
                "[0].configMap.items[1].path: Invalid value: \"..data\": must not start with '..'",
            ],
        ),
        ("[{name: a, secret: {}}]", &["[0].secret.secretName: Required value"]),
        (
            "[{name: a, downwardAPI: {items: [{path: x}, {path: w, resourceFieldRef: {resource: limits.cpu}}, {path: z, fieldRef: {fieldPath: spec.nodeName}}]}}]",
            &[
                "[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef",
                "[0].downwardAPI.items[1].resourceFieldRef.containerName: Required value",
                "[0].downwardAPI.items[2].fieldRef.fieldPath: Unsupported value: \"spec.nodeName\"",
            ],
        ),
        (
            "[{name: a, projected: {sources: [{secret: {name: s, items: [{key: k, path: p}]}}, {configMap: {name: m, items: [{key: k, path: p}]}}, {}]}}]",
            &[
                "[0].projected.sources[1]: Invalid value: \"p\": conflicting duplicate paths",
                "[0].projected.sources[2]: Required value: must specify a source",
            ],
        ),
        ("[{name: a, image: {}}]", &["[0].image.reference: Required value"]),
    ];
    for (volumes, expected) in cases {
        let expected: Vec<String> =
            expected.iter().map(|fault| format!("spec.volumes{fault}")).collect();
        table(&[(&with(volumes), &expected.iter().map(String::as_str).collect::<Vec<_>>())]);
    }
}

#[test]
fn security() {
    of_container(&[
        (
            "securityContext: {runAsUser: -1, runAsGroup: 2147483648, procMount: Unmasked}",
            &[
                "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647",
                "securityContext.runAsGroup: Invalid value: 2147483648: must be between",
                "securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false",
            ],
        ),
        (
            "securityContext: {privileged: true, allowPrivilegeEscalation: false, seccompProfile: {type: Localhost}, appArmorProfile: {type: Unconfined, localhostProfile: x}}",
            &[
                "securityContext.seccompProfile.localhostProfile: Required value: must be set when",
                "securityContext.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set",
                "securityContext: Invalid value: \"\": cannot set `allowPrivilegeEscalation` to false",
            ],
        ),
        (
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x}}",
            &["securityContext.seccompProfile.localhostProfile: Invalid value: \"../x\": must not"],
        ),
    ]);
    table(&[
        (
            "hostNetwork: true\nhostIPC: true\ncontainers: [{C}]\nsecurityContext: {fsGroup: -1, supplementalGroups: [1, 4294967296], fsGroupChangePolicy: X, sysctls: [{name: net.a, value: '1'}, {name: kernel.shmmax, value: \"1\\n2\"}, {name: A, value: ''}, {name: net/a, value: ''}]}",
            &[
                "spec.securityContext.fsGroup: Invalid value: -1",
                "spec.securityContext.supplementalGroups[1]: Invalid value: 4294967296",
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"X\"",
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.a\": may not be specified when 'hostNetwork'",
                "spec.securityContext.sysctls[1].name: Invalid value: \"kernel.shmmax\": may not be specified when 'hostIPC'",
                "spec.securityContext.sysctls[1].value: Invalid value: \"1\\n2\": must not contain control",
                "spec.securityContext.sysctls[2].name: Invalid value: \"A\": must have at most 253",
                "spec.securityContext.sysctls[3].name: Duplicate value: \"net/a\"",
                "spec.securityContext.sysctls[3].name: Invalid value: \"net/a\"",
            ],
        ),
        (
            "hostPID: true\nhostUsers: false\nshareProcessNamespace: true\ncontainers: [{C}]",
            &[
                "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID",
                "spec.hostPID: Forbidden: when `hostUsers` is false",
            ],
        ),
    ]);
}

#[test]
fn the_pod_as_a_whole() {
    table(&[
        (
            "activeDeadlineSeconds: 0\nterminationGracePeriodSeconds: -1\nos: {name: beos}\nnodeSelector: {a b: c}\ncontainers: [{C}]",
            &[
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647",
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal",
                "spec.nodeSelector: Invalid value: \"a b\"",
                "spec.os.name: Unsupported value: \"beos\"",
            ],
        ),
        (
            "hostname: a.b\nsubdomain: _\nhostAliases: [{ip: x, hostnames: [A]}]\ndnsPolicy: Auto\ncontainers: [{C}]",
            &[
                "spec.hostname: Invalid value: \"a.b\"",
                "spec.subdomain: Invalid value: \"_\"",
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address",
                "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\"",
                "spec.dnsPolicy: Unsupported value: \"Auto\"",
            ],
        ),
        (
            "dnsPolicy: None\ncontainers: [{C}]",
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            "dnsPolicy: None\ndnsConfig: {searches: [., a_b.c., '-']}\ncontainers: [{C}]",
            &[
                "spec.dnsConfig.nameservers: Required value: must provide at least one",
                "spec.dnsConfig.searches[2]: Invalid value: \"-\"",
            ],
        ),
        (
            "dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, x], options: [{value: a}]}\ncontainers: [{C}]",
            &[
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\"",
                "spec.dnsConfig.nameservers[3]: Invalid value: \"x\"",
                "spec.dnsConfig.options[0].name: Required value",
            ],
        ),
        (
            "tolerations: [{operator: Exists, value: x}, {key: a, operator: Is}, {effect: Nope}]\nreadinessGates: [{conditionType: ''}]\ncontainers: [{C}]",
            &[
                "spec.readinessGates[0].conditionType: Required value",
                "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty",
                "spec.tolerations[1].operator: Unsupported value: \"Is\"",
                "spec.tolerations[2].operator: Invalid value: \"\": operator must be Exists",
                "spec.tolerations[2].effect: Unsupported value: \"Nope\"",
            ],
        ),
    ]);
}

#[test]
fn objects() {
    for (object, expected) in [
        (
            "kind: ConfigMap\nmetadata: {name: m}\ndata: {a b: c, k: v}\nbinaryData: {k: YQ==}",
            &[
                "data[a b]: Invalid value: \"a b\": a valid config key",
                "binaryData[k]: Invalid value: \"k\": duplicate of key",
            ][..],
        ),
        ("kind: Secret\nmetadata: {name: s}\nstringData: {..x: c}", &["stringData[..x]: Invalid"]),
        (
            "kind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\nstringData: {tls.crt: c}",
            &["data[tls.key]: Required value"],
        ),
    ] {
        let error = completed(&format!("apiVersion: v1\n{object}\n"), Source::Api);
        let told = error.expect_err("it was taken").to_string();
        for part in expected {
            assert!(told.contains(part), "{part}\nnot in {told}");
        }
    }
    let long = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{a: {}}}\n",
        "x".repeat((1 << 20) + 1)
    );
    let told = completed(&long, Source::Api).expect_err("it was taken").to_string();
    assert!(told.contains("Too long: may not be more than 1048576 bytes"), "{told}");
}
