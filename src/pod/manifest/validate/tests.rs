//! Each rule: a spec, and every fault of it in order.

use super::super::defaults;
use super::super::tests::{EXAMPLE, completed, raw};
use crate::pod::Source;

/// The faults of a spec, in which `C` stands for a container that is right.
fn faults(spec: &str) -> Vec<String> {
    let mut pod =
        raw(&spec.replace("C,", "name: c, image: i,").replace("C}", "name: c, image: i}"));
    defaults::pod(&mut pod);
    super::pod(&pod).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn table(cases: &[(&str, &[&str])]) {
    for (spec, expected) in cases {
        let faults = faults(spec);
        let same = faults.len() == expected.len()
            && faults.iter().zip(*expected).all(|(fault, start)| fault.starts_with(start));
        assert!(same, "{spec}\nsays     {faults:#?}\nand not  {expected:#?}");
    }
}

/// The same for fields of one container.
#[track_caller]
fn of_container(cases: &[(&str, &[&str])]) {
    for (fields, expected) in cases {
        let spec = format!(
            "containers: [{{C, {fields}}}]\nvolumes: [{{name: v}}, {{name: m, configMap: {{name: m}}}}]"
        );
        let expected: Vec<String> =
            expected.iter().map(|fault| format!("spec.containers[0].{fault}")).collect();
        table(&[(&spec, &expected.iter().map(String::as_str).collect::<Vec<_>>())]);
    }
}

#[test]
fn the_example_is_right() {
    completed(EXAMPLE, Source::Api).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b, namespace: x.y, \
                labels: {-a: ok, a: '!'}}\nspec: {restartPolicy: Maybe, containers: []}\n";
    let told = completed(text, Source::Api).expect_err("it was taken").to_string();
    for part in [
        "Pod \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdom",
        "metadata.namespace: Invalid value: \"x.y\": a lowercase RFC 1123 label",
        "metadata.labels: Invalid value: \"-a\": name part must consist of",
        "metadata.labels: Invalid value: \"!\": a valid label must be",
        "spec.containers: Required value",
        "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \
         \"OnFailure\"",
    ] {
        assert!(told.contains(part), "{part}\nnot in {told}");
    }
    let nothing = completed("apiVersion: v1\nkind: Pod\n", Source::Api).expect_err("it was taken");
    let told = nothing.to_string();
    assert!(told.contains("metadata.name: Required value: name or generateName is required"));
    assert!(told.contains("spec: Required value"), "{told}");
}

#[test]
fn names_and_images_of_containers() {
    table(&[
        ("containers: [{C}]", &[]),
        ("containers: [{C}, {C}]", &["spec.containers[1].name: Duplicate value: \"c\""]),
        (
            "initContainers: [{C}]\ncontainers: [{C}]",
            &["spec.containers[0].name: Duplicate value: \"c\""],
        ),
        (
            "containers: [{name: '', image: ''}]",
            &[
                "spec.containers[0].name: Required value",
                "spec.containers[0].image: Required value",
            ],
        ),
        (
            "containers: [{name: A, image: ' i'}]",
            &[
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
                "spec.containers[0].image: Invalid value: \" i\": must not have leading",
            ],
        ),
        (
            "containers: [{C, imagePullPolicy: Soon, terminationMessagePolicy: No, restartPolicy: X}]",
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Soon\"",
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"No\"",
                "spec.containers[0].restartPolicy: Unsupported value: \"X\"",
            ],
        ),
        (
            "initContainers: [{name: i, image: i, livenessProbe: {tcpSocket: {port: 1}}, lifecycle: {}}]\ncontainers: [{C}]",
            &[
                "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers",
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init cont",
            ],
        ),
        (
            "initContainers: [{name: i, image: i, restartPolicy: Always, livenessProbe: {tcpSocket: {port: 1}}}]\ncontainers: [{C}]",
            &[],
        ),
        (
            "containers: [{C}]\nephemeralContainers: [{name: c, image: i, targetContainerName: x, ports: [{containerPort: 1}]}]",
            &[
                "spec.ephemeralContainers[0].name: Duplicate value: \"c\"",
                "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
                "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral",
            ],
        ),
    ]);
}

#[test]
fn ports() {
    of_container(&[
        ("ports: [{containerPort: 80, name: web}, {containerPort: 81, hostPort: 81}]", &[]),
        (
            "ports: [{containerPort: 0}, {containerPort: 65536, hostPort: -1}]",
            &[
                "ports[0].containerPort: Required value",
                "ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535",
                "ports[1].hostPort: Invalid value: -1: must be between",
            ],
        ),
        (
            "ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a, protocol: tcp, hostIP: x}]",
            &[
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"tcp\"",
                "ports[1].hostIP: Invalid value: \"x\": must be a valid IP address",
            ],
        ),
        (
            "ports: [{containerPort: 1, name: '1'}, {containerPort: 1, name: a--b}, {containerPort: 1, name: abcdefghijklmnopq}]",
            &[
                "ports[0].name: Invalid value: \"1\": must contain at least one letter",
                "ports[1].name: Invalid value: \"a--b\": must not contain consecutive",
                "ports[2].name: Invalid value: \"abcdefghijklmnopq\": must be no more than 15",
            ],
        ),
        (
            "ports: [{containerPort: 1, hostPort: 5}, {containerPort: 2, hostPort: 5}, {containerPort: 3, hostPort: 5, protocol: UDP}]",
            &["ports[1].hostPort: Duplicate value: \"TCP//5\""],
        ),
    ]);
    table(&[(
        "hostNetwork: true\ncontainers: [{C, ports: [{containerPort: 1, hostPort: 2}]}]",
        &["spec.containers[0].ports[0].containerPort: Invalid value: 1: must match `hostPort`"],
    )]);
}

#[test]
fn probes_and_hooks() {
    of_container(&[
        ("livenessProbe: {}", &["livenessProbe: Required value: must specify one of"]),
        (
            "livenessProbe: {exec: {command: []}, tcpSocket: {port: 0}, successThreshold: 2, periodSeconds: -1}",
            &[
                "livenessProbe.exec.command: Required value",
                "livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535",
                "livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                "livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            "readinessProbe: {grpc: {port: 1}, successThreshold: 2, terminationGracePeriodSeconds: 3}",
            &["readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set"],
        ),
        (
            "startupProbe: {grpc: {port: 1}, terminationGracePeriodSeconds: 0}",
            &[
                "startupProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ],
        ),
        (
            "livenessProbe: {httpGet: {port: web_, scheme: FTP, httpHeaders: [{name: 'a b', value: \"x\\ny\"}]}}",
            &[
                "livenessProbe.httpGet.port: Invalid value: \"web_\": must contain only",
                "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\"",
                "livenessProbe.httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP",
                "livenessProbe.httpGet.httpHeaders[0].value: Invalid value: must not contain control",
            ],
        ),
        ("lifecycle: {preStop: {sleep: {seconds: 30}}}", &[]),
        (
            "lifecycle: {postStart: {}, preStop: {sleep: {seconds: 31}}}",
            &[
                "lifecycle.postStart: Required value: must specify one of: exec, httpGet, sleep",
                "lifecycle.preStop.sleep.seconds: Invalid value: 31: must be non-negative and less",
            ],
        ),
        (
            "lifecycle: {stopSignal: SIGHOPP}",
            &[
                "lifecycle.stopSignal: Forbidden: may not be set for containers with empty",
                "lifecycle.stopSignal: Invalid value: \"SIGHOPP\"",
            ],
        ),
    ]);
    table(&[("os: {name: linux}\ncontainers: [{C, lifecycle: {stopSignal: SIGRTMIN+15}}]", &[])]);
}

#[test]
fn resources() {
    of_container(&[
        (
            "resources: {limits: {cpu: x, memory: -1, foo: 1, example.com/gpu: 0.5}}",
            &[
                "resources.limits[cpu]: Invalid value: \"x\": quantities must match",
                "resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                "resources.limits[foo]: Invalid value: \"foo\": must be a standard resource",
                "resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                "resources.requests[cpu]: Invalid value: \"x\": quantities",
                "resources.requests[example.com/gpu]: Invalid value",
                "resources.requests[foo]: Invalid value",
                "resources.requests[memory]: Invalid value",
            ],
        ),
        (
            "resources: {limits: {cpu: 1}, requests: {cpu: 1001m, example.com/gpu: 1}}",
            &[
                "resources.requests[cpu]: Invalid value: \"1001m\": must be less than or equal to cpu limit of 1",
                "resources.requests[example.com/gpu]: Required value: Limit must be set",
            ],
        ),
        (
            "resources: {limits: {hugepages-2Mi: 4Mi}}",
            &["resources: Forbidden: HugePages require cpu or memory"],
        ),
        (
            "resizePolicy: [{resourceName: cpu, restartPolicy: No}, {resourceName: cpu, restartPolicy: NotRequired}]",
            &[
                "resizePolicy[0].restartPolicy: Unsupported value: \"No\"",
                "resizePolicy[1]: Duplicate value: \"cpu\"",
            ],
        ),
    ]);
    table(&[
        (
            "resources: {limits: {cpu: 1, example.com/a: 1}}\ncontainers: [{C, resources: {limits: {cpu: 2}}}]",
            &[
                "spec.resources.limits[example.com/a]: Invalid value: \"example.com/a\": must be cpu",
                "spec.resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu",
                "spec.resources.limits[cpu]: Invalid value: \"1\": must be greater than or equal to the",
            ],
        ),
        (
            "resources: {requests: {cpu: 1}}\ncontainers: [{C, resources: {requests: {cpu: 2}}}]",
            &[
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to agg",
            ],
        ),
    ]);
}

#[test]
fn environment() {
    of_container(&[
        ("env: [{name: a.b-c d}, {name: '1'}]", &[]),
        (
            "env: [{name: ''}, {name: 'a=b'}, {name: a, valueFrom: {}}]",
            &[
                "env[0].name: Required value",
                "env[1].name: Invalid value: \"a=b\": a valid environment variable name",
                "env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`",
            ],
        ),
        (
            "env: [{name: a, value: x, valueFrom: {secretKeyRef: {name: s, key: ..}, configMapKeyRef: {name: '', key: ''}}}]",
            &[
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                "env[0].valueFrom.configMapKeyRef.name: Required value",
                "env[0].valueFrom.configMapKeyRef.key: Required value",
                "env[0].valueFrom.secretKeyRef.key: Invalid value: \"..\": must not be '..'",
                "env[0].valueFrom: Invalid value: \"\": may not have more than one field",
            ],
        ),
        (
            "env: [{name: a, valueFrom: {fieldRef: {fieldPath: spec.x}}}, {name: b, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['a b']\"}}}, {name: c, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['x.io/A']\"}}}]",
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.x\"",
                "env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.labels['a b']\"",
            ],
        ),
        (
            "env: [{name: a, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 2}}}, {name: b, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}, {name: c, valueFrom: {resourceFieldRef: {resource: limits.x}}}]",
            &[
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"2\": only divisor's values 1m and 1 are supported with the cpu resource",
                "env[2].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.x\"",
            ],
        ),
        (
            "env: [{name: a, valueFrom: {fileKeyRef: {volumeName: m, path: ../x, key: k}}}]",
            &[
                "env[0].valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'",
                "env[0].valueFrom.fileKeyRef.volumeName: Not found: \"m\"",
            ],
        ),
        (
            "envFrom: [{}, {prefix: 'a=', configMapRef: {name: m}, secretRef: {name: ''}}]",
            &[
                "envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                "envFrom[1].prefix: Invalid value: \"a=\"",
                "envFrom[1].secretRef.name: Required value",
                "envFrom[1]: Invalid value: \"\": may not have more than one field",
            ],
        ),
    ]);
}

#[test]
fn mounts() {
    of_container(&[
        ("volumeMounts: [{name: v, mountPath: /a, subPath: a/b..c}]", &[]),
        (
            "volumeMounts: [{name: x, mountPath: a}, {name: '', mountPath: ''}]",
            &[
                "volumeMounts[0].name: Not found: \"x\"",
                "volumeMounts[0].mountPath: Invalid value: \"a\": must be an absolute path",
                "volumeMounts[1].name: Required value",
                "volumeMounts[1].mountPath: Required value",
            ],
        ),
        (
            "volumeMounts: [{name: v, mountPath: /a, subPath: /x}, {name: v, mountPath: /a, subPath: a/../b, subPathExpr: c}]",
            &[
                "volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
                "volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                "volumeMounts[1].subPath: Invalid value: \"a/../b\": must not contain '..'",
                "volumeMounts[1].subPathExpr: Invalid value: \"c\": subPathExpr and subPath are mutually",
            ],
        ),
        (
            "volumeMounts: [{name: v, mountPath: /a, mountPropagation: Bidirectional, recursiveReadOnly: Enabled}]",
            &[
                "volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is",
                "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly",
                "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when mountProp",
            ],
        ),
    ]);
}

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
            "[{name: a, downwardAPI: {items: [{path: x}, {path: y, resourceFieldRef: {resource: limits.cpu}}, {path: z, fieldRef: {fieldPath: spec.nodeName}}]}}]",
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
            "tolerations: [{operator: Exists, value: x}, {key: a, operator: Is}, {effect: No}]\nreadinessGates: [{conditionType: ''}]\ncontainers: [{C}]",
            &[
                "spec.readinessGates[0].conditionType: Required value",
                "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty",
                "spec.tolerations[1].operator: Unsupported value: \"Is\"",
                "spec.tolerations[2].operator: Invalid value: \"\": operator must be Exists",
                "spec.tolerations[2].effect: Unsupported value: \"No\"",
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
