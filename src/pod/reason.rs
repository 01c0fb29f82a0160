//! Reasons in Kubernetes' terms that are both set and looked at.

use serde::{Deserialize, Serialize};

/// Status reasons of pods that the node ends.
pub mod verdict {
    /// Its active deadline has passed.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// The node is short of a resource.
    pub const EVICTED: &str = "Evicted";
    /// A critical pod needs its resources.
    pub const PREEMPTED: &str = "Preempting";
    /// The host shuts down.
    pub const TERMINATED: &str = "Terminated";
}

/// Why an operation on a pod or a container failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Failure {
    /// The sandbox cannot be made.
    Sandbox,
    /// The pod's cgroup cannot be made or changed.
    Cgroup,
    /// Volumes cannot be set up.
    Mount,
    /// The resources of running containers cannot be changed.
    Resize,
    /// The image cannot be pulled.
    Pull,
    /// The image is not there and must not be pulled.
    NeverPull,
    /// The name of the image is wrong.
    ImageName,
    /// The image cannot be looked up.
    ImageInspect,
    /// The container's configuration cannot be made, for instance because an object is missing.
    Config,
    /// The container cannot be created.
    Create,
    /// The container was created and could not be started.
    Run,
    /// A hook after the start failed.
    PostStart,
    /// A step of a teardown failed.
    Teardown,
    /// A bug.
    Internal,
}

impl Failure {
    const ALL: [Self; 14] = [
        Self::Sandbox,
        Self::Cgroup,
        Self::Mount,
        Self::Resize,
        Self::Pull,
        Self::NeverPull,
        Self::ImageName,
        Self::ImageInspect,
        Self::Config,
        Self::Create,
        Self::Run,
        Self::PostStart,
        Self::Teardown,
        Self::Internal,
    ];

    /// The name in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "FailedCreatePodSandBox",
            Self::Cgroup => "FailedCreatePodContainer",
            Self::Mount => "FailedMount",
            Self::Resize => "ResizeError",
            Self::Pull => "ErrImagePull",
            Self::NeverPull => "ErrImageNeverPull",
            Self::ImageName => "InvalidImageName",
            Self::ImageInspect => "ImageInspectError",
            Self::Config => "CreateContainerConfigError",
            Self::Create => "CreateContainerError",
            Self::Run => "RunContainerError",
            Self::PostStart => "PostStartHookError",
            Self::Teardown => "FailedKillPod",
            Self::Internal => "InternalError",
        }
    }

    /// Whether it concerns an image rather than objects that the pod refers to.
    pub fn is_of_image(self) -> bool {
        matches!(self, Self::Pull | Self::NeverPull | Self::ImageName | Self::ImageInspect)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.as_str().to_owned()
    }
}

/// A name that only another version of the agent knows is read as [`Failure::Internal`].
impl From<String> for Failure {
    fn from(name: String) -> Self {
        let found = Self::ALL.into_iter().find(|failure| failure.as_str() == name);
        found.unwrap_or(Self::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_stored_under_their_names() {
        for failure in Failure::ALL {
            let stored = serde_json::to_value(failure).unwrap();
            assert_eq!(stored, failure.as_str());
            assert_eq!(serde_json::from_value::<Failure>(stored).unwrap(), failure);
        }
        let other = serde_json::from_value::<Failure>("RegistryUnavailable".into()).unwrap();
        assert_eq!(other, Failure::Internal);
    }
}
