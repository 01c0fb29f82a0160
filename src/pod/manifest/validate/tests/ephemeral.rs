//! Ephemeral containers, and pods that may have them at creation.

use super::super::super::tests::completed;
use super::table;
use crate::pod::Source;

/// Lines of a spec with these ephemeral containers.
fn with(containers: &str) -> String {
    format!(
        "initContainers: [{{name: i, image: i}}]\ncontainers: [{{C}}]\n\
         volumes: [{{name: v, emptyDir: {{}}}}]\nephemeralContainers: {containers}"
    )
}

#[test]
fn ephemeral_containers() {
    const NOT_HERE: &str = "Forbidden: cannot be set for an Ephemeral Container";
    let right = "[{name: a, image: i, targetContainerName: c, stdin: true, tty: true, env: [{name: A, value: b}], \
                 securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /v}]}, \
                 {name: b, image: i, targetContainerName: i, resources: {}, ports: []}]";
    let cases: &[(&str, &[&str])] = &[
        (right, &[]),
        ("[{name: c, image: i}]", &["[0].name: Duplicate value: \"c\""]),
        ("[{name: i, image: i}]", &["[0].name: Duplicate value: \"i\""]),
        ("[{name: a, image: i}, {name: a, image: i}]", &["[1].name: Duplicate value: \"a\""]),
        (
            "[{name: A, targetContainerName: x}]",
            &[
                "[0].name: Invalid value: \"A\"",
                "[0].image: Required value",
                "[0].targetContainerName: Not found: \"x\"",
            ],
        ),
        (
            "[{name: a, image: i}, {name: b, image: i, targetContainerName: a}]",
            &["[1].targetContainerName: Not found: \"a\""],
        ),
        (
            "[{name: a, image: i, ports: [{containerPort: 1}], resources: {limits: {cpu: 1}}, \
             resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}], \
             livenessProbe: {tcpSocket: {port: 1}}, readinessProbe: {}, startupProbe: {}, \
             lifecycle: {}, restartPolicy: Always, \
             restartPolicyRules: [{action: Restart}]}]",
            &[
                "[0].ports: F",
                "[0].resources: F",
                "[0].resizePolicy: F",
                "[0].livenessProbe: F",
                "[0].readinessProbe: F",
                "[0].startupProbe: F",
                "[0].lifecycle: F",
                "[0].restartPolicy: F",
                "[0].restartPolicyRules: F",
            ],
        ),
        (
            "[{name: a, image: i, volumeMounts: [{name: v, mountPath: /v, subPath: x}, {name: w, mountPath: /w}]}]",
            &[
                "[0].volumeMounts[1].name: Not found: \"w\"",
                &format!("[0].volumeMounts[0].subPath: {NOT_HERE}"),
            ],
        ),
    ];
    for (containers, expected) in cases {
        let expected: Vec<String> =
            expected.iter().map(|fault| format!("spec.ephemeralContainers{fault}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        table(&[(&with(containers), &expected)]);
    }
}

#[test]
fn no_static_pod_begins_with_them() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: c, image: i}]\n  \
                ephemeralContainers: [{name: e, image: i}]\n";
    let told = completed(text, Source::File).expect_err("it was taken").to_string();
    assert!(
        told.contains("spec.ephemeralContainers: Forbidden: cannot be set on create"),
        "{told}"
    );
    completed(text, Source::Api).expect("it may be a change of a pod that runs");
}
