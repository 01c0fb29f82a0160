//! Restart policies of containers, and rules by exit code, which take precedence.

use proptest::prelude::*;

use super::super::wanted;
use super::*;

fn rule(operator: &str, values: &[i32]) -> Value {
    json!({"action": "Restart", "exitCodes": {"operator": operator, "values": values}})
}

fn ruled(name: &str, policy: &str, rules: &[Value]) -> Value {
    json!({"name": name, "image": "app:1", "restartPolicy": policy, "restartPolicyRules": rules})
}

#[test]
fn a_rule_comes_before_the_policy() {
    // Policy of the container, its rules, and the codes from 0 to 4 after which it is restarted.
    let table: [(&str, &[Value], &[i32]); 9] = [
        ("Never", &[], &[]),
        ("OnFailure", &[], &[1, 2, 3, 4]),
        ("Always", &[], &[0, 1, 2, 3, 4]),
        ("Never", &[rule("In", &[0, 3])], &[0, 3]),
        ("Never", &[rule("NotIn", &[0, 3])], &[1, 2, 4]),
        ("Never", &[rule("In", &[]), rule("In", &[2]), rule("In", &[4])], &[2, 4]),
        ("Never", &[rule("NotIn", &[])], &[0, 1, 2, 3, 4]),
        ("OnFailure", &[rule("In", &[0])], &[0, 1, 2, 3, 4]),
        ("OnFailure", &[rule("NotIn", &[1])], &[0, 1, 2, 3, 4]),
    ];
    for (policy, rules, restarted) in table {
        for code in 0..5 {
            for pod in ["Always", "OnFailure", "Never"] {
                let containers = [ruled("app", policy, rules)];
                let spec = json!({"restartPolicy": pod, "containers": containers});
                let mut stage = running(spec);
                stage.exit("app", code);
                let done = stage.play();
                let text = format!("{pod} {policy} {rules:?} {code}: {done:?}");
                if restarted.contains(&code) {
                    assert_eq!(done, ["start app 1"], "{text}");
                } else {
                    assert_eq!(done, ["stop sandbox 0", "settle"], "{text}");
                    let phase = if code == 0 { "Succeeded" } else { "Failed" };
                    assert_eq!(stage.status().phase.as_deref(), Some(phase), "{text}");
                }
            }
        }
    }
}

#[test]
fn an_init_container_is_tried_again_by_its_rules_and_done_when_it_succeeds() {
    let init = ruled("init", "Never", &[rule("In", &[0, 3])]);
    let mut stage = running(json!({"restartPolicy": "Never", "initContainers": [init]}));
    stage.exit("init", 3);
    assert_eq!(stage.play(), ["start init 1"]);
    stage.exit("init", 3);
    assert_eq!(stage.play(), [""; 0], "its back-off");
    stage.after(11);
    assert_eq!(stage.play(), ["start init 2", "remove init 0"]);
    stage.exit("init", 0);
    assert_eq!(stage.play(), ["start app 0"]);
    let mut stage = running(json!({"initContainers": [
        ruled("init", "Never", &[rule("In", &[3])]),
    ]}));
    stage.exit("init", 4);
    assert_eq!(stage.play(), ["stop sandbox 0", "settle"], "the pod's Always is not asked");
}

#[test]
fn a_pod_goes_on_as_long_as_one_is_started_again() {
    let containers = [ruled("a", "Never", &[rule("In", &[42])]), plain("b")];
    let mut stage = running(json!({"restartPolicy": "Never", "containers": containers}));
    stage.exit("b", 0);
    stage.exit("a", 42);
    assert_eq!(stage.play(), ["start a 1"]);
    assert_eq!(stage.status().phase.as_deref(), Some("Running"));
    stage.exit("a", 42);
    stage.play();
    let status = stage.status();
    let waiting = status.container_statuses.expect("statuses")[0].state.clone();
    let reason = waiting.and_then(|state| state.waiting?.reason);
    assert_eq!(
        (status.phase.as_deref(), reason.as_deref()),
        (Some("Running"), Some("CrashLoopBackOff"))
    );
    stage.after(11);
    assert_eq!(stage.play(), ["start a 2", "remove a 0"]);
    stage.exit("a", 0);
    assert_eq!(stage.play(), ["stop sandbox 0", "settle"]);
    assert_eq!(stage.status().phase.as_deref(), Some("Succeeded"));
}

/// Kubernetes' definition: the first matching rule decides, else the policy.
fn by_the_book(rules: &[(bool, Vec<i32>)], policy: &str, code: i32) -> bool {
    for (is_in, values) in rules {
        let mut matched = false;
        for value in values {
            if *value == code {
                matched = true;
            }
        }
        if matched == *is_in {
            return true;
        }
    }
    policy == "Always" || (policy == "OnFailure" && code != 0)
}

proptest! {
    #[test]
    fn rules_are_read_as_kubernetes_does(
        rules in prop::collection::vec((any::<bool>(), prop::collection::vec(0..6_i32, 0..4)), 0..4),
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        of_pod in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        code in 0..6_i32,
    ) {
        let list: Vec<_> = rules
            .iter()
            .map(|(is_in, values)| rule(if *is_in { "In" } else { "NotIn" }, values))
            .collect();
        let spec = json!({"restartPolicy": of_pod, "containers": [ruled("app", policy, &list)]});
        let spec = serde_json::from_value(spec).expect("a pod spec");
        let found = wanted(&spec)[0].restarts(code);
        prop_assert_eq!(found, by_the_book(&rules, policy, code));
    }
}
