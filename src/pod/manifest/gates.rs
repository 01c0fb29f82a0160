//! Readiness gates: conditions of a pod that clients set by applying the pod with them in its
//! status.
//!
//! They are the only part of a manifest's status that is used; the node determines the rest.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use super::tree::{Node, Value};
use super::typed;
use crate::pod::{Error, FieldError};

/// The conditions of a pod's readiness gates in a manifest; `None` when it has none.
pub(super) fn given(pod: &Pod, conditions: Option<&Node>) -> Result<Option<PodStatus>, Error> {
    let gates = types(pod);
    let Some(Node { value: Value::List(items), .. }) = conditions else { return Ok(None) };
    let mut found: Vec<PodCondition> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let kind = item.get("type").and_then(Node::text).unwrap_or_default();
        let again = found.iter().any(|condition| condition.type_ == kind);
        if !gates.contains(kind) || again {
            continue;
        }
        let fault = |path: &str, message: String| {
            let path = format!("status.conditions[{index}]{path}");
            let name = pod.metadata.name.clone().unwrap_or_default();
            Error::Invalid { kind: "Pod", name, faults: vec![FieldError { path, message }] }
        };
        let (condition, _): (PodCondition, _) =
            typed::object(item).map_err(|it| fault(&format!(".{}", it.path), it.message))?;
        if !matches!(condition.status.as_str(), "True" | "False" | "Unknown") {
            let message = format!(
                "Unsupported value: {:?}: supported values: \"True\", \"False\", \"Unknown\"",
                condition.status
            );
            return Err(fault(".status", message));
        }
        found.push(PodCondition {
            type_: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            last_transition_time: condition.last_transition_time,
            ..PodCondition::default()
        });
    }
    Ok(status(found))
}

/// The conditions set for a pod's readiness gates.
pub fn gates(pod: &Pod) -> &[PodCondition] {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default()
}

/// Copies the old pod's conditions to a new one that has none: whoever applies a manifest again
/// does not intend to reset conditions set since.
pub fn keep_gates(old: &Pod, new: &mut Pod) {
    let wanted = types(new);
    let own: BTreeSet<&str> = gates(new).iter().map(|it| it.type_.as_str()).collect();
    let kept = gates(old).iter();
    let kept = kept.filter(|it| wanted.contains(&*it.type_) && !own.contains(&*it.type_));
    let mut all: Vec<_> = kept.chain(gates(new)).cloned().collect();
    all.sort_by(|one, other| one.type_.cmp(&other.type_));
    new.status = status(all);
}

fn types(pod: &Pod) -> BTreeSet<String> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    gates.map(|gate| gate.condition_type.clone()).collect()
}

fn status(conditions: Vec<PodCondition>) -> Option<PodStatus> {
    let conditions = Some(conditions).filter(|all| !all.is_empty())?;
    Some(PodStatus { conditions: Some(conditions), ..PodStatus::default() })
}

#[cfg(test)]
mod tests {
    use super::super::{Difference, ParseOptions, change, parse};
    use super::*;

    fn read(conditions: &str) -> Result<Pod, Error> {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [], \
             readinessGates: [{{conditionType: a/up}}, {{conditionType: b}}]}}, \
             status: {{phase: Odd, conditions: {conditions}}}}}"
        );
        parse(text.as_bytes(), &ParseOptions::default()).map(|mut parsed| parsed.pods.remove(0))
    }

    fn told(pod: &Pod) -> Vec<String> {
        gates(pod).iter().map(|it| format!("{} {}", it.type_, it.status)).collect()
    }

    #[test]
    fn only_conditions_of_gates_are_taken_from_a_status() {
        let pod = read("[{type: Ready, status: 7}, {type: a/up, status: \"True\", reason: r}]");
        let pod = pod.expect("read");
        assert_eq!(told(&pod), ["a/up True"]);
        let status = pod.status.expect("a status");
        assert_eq!(
            (status.phase, status.conditions.expect("one")[0].reason.as_deref()),
            (None, Some("r"))
        );
        assert_eq!(read("[]").expect("read").status, None);
        let refused = read("[{type: b, status: yes please}]").expect_err("no such status");
        assert!(
            refused.to_string().contains("status.conditions[0].status: Unsupported"),
            "{refused}"
        );
    }

    #[test]
    fn a_manifest_that_says_nothing_of_a_gate_leaves_it() {
        let old = read("[{type: a/up, status: \"True\"}]").expect("read");
        let mut new = read("[{type: b, status: \"False\"}]").expect("read");
        keep_gates(&old, &mut new);
        assert_eq!(told(&new), ["a/up True", "b False"]);
        assert_eq!(change(&old, &new), Difference::InPlace);
        let mut same = read("null").expect("read");
        keep_gates(&old, &mut same);
        assert_eq!(change(&old, &same), Difference::None);
    }
}
