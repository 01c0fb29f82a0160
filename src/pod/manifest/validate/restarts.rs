//! Restarts of containers: their own policy, and rules by exit code, which take precedence.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

use super::at::At;

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

pub(super) fn of_container(at: &At<'_>, container: &Container) {
    let policy = at.field("restartPolicy");
    policy.one_of_if_set(&container.restart_policy, &["Always", "Never", "OnFailure"]);
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if !rules.is_empty() && container.restart_policy.as_deref().unwrap_or_default().is_empty() {
        policy.required("must specify restartPolicy when restart rules are used");
    }
    let at = at.field("restartPolicyRules");
    if rules.len() > MOST_RULES {
        at.too_many(rules.len(), MOST_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        self::rule(&at.item(index), rule);
    }
}

fn rule(at: &At<'_>, rule: &ContainerRestartRule) {
    // `RestartAllContainers` is not supported.
    at.field("action").one_of(&rule.action, &["Restart"]);
    let at = at.field("exitCodes");
    let Some(codes) = &rule.exit_codes else { return at.required("must be specified") };
    at.field("operator").one_of(&codes.operator, &["In", "NotIn"]);
    let values = codes.values.as_deref().unwrap_or_default();
    let at = at.field("values");
    if values.len() > MOST_CODES {
        at.too_many(values.len(), MOST_CODES);
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        if !seen.insert(value) {
            at.item(index).duplicate(value);
        }
    }
}
