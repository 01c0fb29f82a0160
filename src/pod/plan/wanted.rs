//! The containers in a spec, with their roles.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, LifecycleHandler, PodSpec, ResourceRequirements,
};

use crate::pod::translate::plain_container;

/// The role of a container in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container that keeps running beside the others (`restartPolicy: Always`).
    Sidecar,
    /// An app container.
    App,
    /// Started once for debugging; nothing depends on it.
    Ephemeral,
}

impl Role {
    /// Whether it is in `initContainers`.
    pub fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }

    /// Whether the pod's readiness depends on it.
    pub fn is_lasting(self) -> bool {
        matches!(self, Self::Sidecar | Self::App)
    }
}

/// When an ended container is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Regardless of its exit code.
    Always,
    /// Only after a failure.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text? {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    /// Whether a container that ended with this code is restarted.
    pub fn applies(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// A container in the spec.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its role.
    pub role: Role,
    /// Its own restart policy, or the pod's.
    pub policy: Restart,
    /// The container whose processes an ephemeral one sees.
    pub target: Option<&'a str>,
    /// The container itself.
    pub container: Cow<'a, Container>,
}

impl Wanted<'_> {
    /// Whether it is restarted after ending with this code: decided by the first matching rule,
    /// else by its policy.
    pub fn restarts(&self, code: i32) -> bool {
        // An init container that succeeded is done, whatever its rules say.
        if self.role == Role::Init && code == 0 {
            return false;
        }
        let mut rules = self.container.restart_policy_rules.iter().flatten();
        rules.any(|rule| is_about(rule, code)) || self.policy.applies(code)
    }

    /// Its image as in the spec.
    pub fn image(&self) -> &str {
        self.container.image.as_deref().unwrap_or_default()
    }

    /// Its resources; those of one that requests none are empty.
    pub fn resources(&self) -> ResourceRequirements {
        self.container.resources.clone().unwrap_or_default()
    }

    /// Its postStart hook.
    pub fn post_start(&self) -> Option<&LifecycleHandler> {
        self.container.lifecycle.as_ref()?.post_start.as_ref()
    }

    /// Its preStop hook.
    pub fn pre_stop(&self) -> Option<&LifecycleHandler> {
        self.container.lifecycle.as_ref()?.pre_stop.as_ref()
    }
}

/// Whether a rule matches this exit code. All rules have the same action: restart.
fn is_about(rule: &ContainerRestartRule, code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let found = codes.values.iter().flatten().any(|value| *value == code);
        match codes.operator.as_str() {
            "In" => found,
            "NotIn" => !found,
            _ => false,
        }
    })
}

/// The containers of a pod: init containers and sidecars in order, then apps, then ephemeral ones.
pub fn wanted(spec: &PodSpec) -> Vec<Wanted<'_>> {
    let of_pod = Restart::parse(spec.restart_policy.as_deref()).unwrap_or(Restart::Always);
    let inits = spec.init_containers.iter().flatten().map(|container| {
        let own = Restart::parse(container.restart_policy.as_deref());
        // An init container has to succeed, so `Always` can only mean "on failure".
        let (role, policy) = match own {
            Some(Restart::Always) => (Role::Sidecar, Restart::Always),
            Some(own) => (Role::Init, own),
            None if of_pod == Restart::Never => (Role::Init, Restart::Never),
            None => (Role::Init, Restart::OnFailure),
        };
        let (name, container) = (container.name.as_str(), Cow::Borrowed(container));
        Wanted { name, role, policy, target: None, container }
    });
    let apps = spec.containers.iter().map(|container| Wanted {
        name: &container.name,
        role: Role::App,
        policy: Restart::parse(container.restart_policy.as_deref()).unwrap_or(of_pod),
        target: None,
        container: Cow::Borrowed(container),
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| Wanted {
        name: &container.name,
        role: Role::Ephemeral,
        policy: Restart::Never,
        target: container.target_container_name.as_deref().filter(|name| !name.is_empty()),
        container: Cow::Owned(plain_container(container)),
    });
    inits.chain(apps).chain(ephemeral).collect()
}
