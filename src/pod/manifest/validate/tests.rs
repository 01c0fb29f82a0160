//! Each rule: a spec, and all its faults in order.

mod ephemeral;
mod whole;

use super::super::defaults;
use super::super::tests::{EXAMPLE, completed, raw};
use crate::pod::Source;

/// The faults of a spec, in which `C` stands for a valid container.
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
            "containers: [{C, imagePullPolicy: Soon, terminationMessagePolicy: Nope, restartPolicy: X}]",
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Soon\"",
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Nope\"",
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
            "resizePolicy: [{resourceName: cpu, restartPolicy: Nope}, {resourceName: cpu, restartPolicy: NotRequired}]",
            &[
                "resizePolicy[0].restartPolicy: Unsupported value: \"Nope\"",
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
fn restarts() {
    const RULES: &str = "restartPolicyRules";
    let codes = |count: i32| (0..count).map(|code| code.to_string()).collect::<Vec<_>>().join(", ");
    let rule = |values: &str| {
        format!("{{action: Restart, exitCodes: {{operator: In, values: [{values}]}}}}")
    };
    let rules = |rules: &[String]| format!("restartPolicy: Never, {RULES}: [{}]", rules.join(", "));
    of_container(&[
        (&rules(&[rule("1, 42")]), &[]),
        (&rules(&vec![rule(""); 20]), &[]),
        (&rules(&[rule(&codes(255))]), &[]),
        ("restartPolicy: Never, restartPolicyRules: []", &[]),
        ("restartPolicyRules: []", &[]),
        (
            &rules(&vec![rule("1"); 21]),
            &["restartPolicyRules: Too many: 21: must have at most 20 items"],
        ),
        (
            &rules(&[rule(&codes(256))]),
            &["restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items"],
        ),
        (
            &format!("{RULES}: [{}]", rule("1")),
            &[
                "restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ],
        ),
        (
            &rules(&[rule("1, 2, 1")]),
            &["restartPolicyRules[0].exitCodes.values[2]: Duplicate value: 1"],
        ),
        (
            &rules(&[
                "{action: RestartAllContainers}".to_owned(),
                "{exitCodes: {operator: Is}}".to_owned(),
            ]),
            &[
                "restartPolicyRules[0].action: Unsupported value: \"RestartAllContainers\": supported values: \"Restart\"",
                "restartPolicyRules[0].exitCodes: Required value: must be specified",
                "restartPolicyRules[1].action: Unsupported value: \"\"",
                "restartPolicyRules[1].exitCodes.operator: Unsupported value: \"Is\"",
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
