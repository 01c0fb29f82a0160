//! Intended differences between podbay and the plugin, with reasons.

/// A difference that is meant.
pub struct Exception {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Where; all below it is meant too. `*` is any one part.
    pub path: &'static str,
    /// Only what the plugin does not have at all; what it has must be the same.
    pub more: bool,
    /// Why podbay does it.
    #[allow(dead_code)] // for the reader
    pub reason: &'static str,
}

const fn meant(scenario: &'static str, path: &'static str, reason: &'static str) -> Exception {
    Exception { scenario, path, more: false, reason }
}

/// Somewhere in this scenario podbay tells what the plugin does not.
const fn more(scenario: &'static str, reason: &'static str) -> Exception {
    Exception { scenario, path: "", more: true, reason }
}

/// All of them. One that explains no difference any more fails its scenario.
pub const EXCEPTIONS: &[Exception] = &[
    meant(
        "runtime should return runtime conditions",
        "/conditions/ContainerdHasNoDeprecationWarnings",
        "containerd's own condition",
    ),
    meant(
        "runtime should support running PodSandbox",
        "/status/timestamp",
        "told with the statuses of containers always, not only when events are on",
    ),
    meant("runtime should support stopping PodSandbox", "/stopped/status/timestamp", "as above"),
    meant(
        "runtime should support stopping PodSandbox",
        "/stopped/status/containersStatuses",
        "as above",
    ),
    meant(
        "image status should support all kinds of references",
        "/manifest digest alone/listed",
        "the plugin ignores the filter",
    ),
    meant(
        "image status should support all kinds of references",
        "/no tag/listed",
        "the plugin ignores the filter",
    ),
    meant(
        "image status should support all kinds of references",
        "/other tag/listed",
        "the plugin ignores the filter",
    ),
    meant(
        "image status get image fields should not have Uid|Username empty",
        "/huge",
        "no user id is that large",
    ),
    meant(
        "an index of platforms",
        "/foreign/code",
        "the image is there, but not for this platform",
    ),
    meant("image fs info", "/containers", "told for both, as cri-api asks"),
    meant(
        "runtime should support TargetPID",
        "/codes/unknown",
        "a field of the request is wrong; the pod and its container are not what is missing",
    ),
    meant(
        "port mappings that are wrong",
        "/bad-ip",
        "ports that cannot be mapped are refused, not ignored",
    ),
    meant(
        "port mappings that are wrong",
        "/bad-protocol",
        "ports that cannot be mapped are refused, not ignored",
    ),
    meant(
        "runtime should support listing pod stats",
        "/stopped",
        "what it is known to have used stays known",
    ),
    more(
        "runtime should support listing stats for container",
        "pressure, swap and I/O are told on cgroup v1 too",
    ),
    more(
        "runtime should support listing pod stats",
        "pressure, swap and I/O are told on cgroup v1 too",
    ),
    more(
        "runtime should support returning metrics descriptors",
        "all metrics of cAdvisor, with its label `name`",
    ),
    meant(
        "runtime should support returning metrics descriptors",
        "/*",
        "cAdvisor's label `name`, and `cpu` where it has one",
    ),
    more("runtime should support listing pod sandbox metrics", "all metrics of cAdvisor"),
    meant(
        "starting container with volume when host path doesn't exist",
        "/relative",
        "relative to what?",
    ),
    meant("image volumes", "/file", "a file of an image can be mounted as well as a folder"),
    meant(
        "image volumes",
        "/*/mounts/0/hostPath",
        "where the image is mounted is the agent's own affair",
    ),
    meant(
        "image volumes",
        "/*/mounts/0/image/imageRef",
        "a kubelet is told which image the volume shows; the plugin leaves it out",
    ),
    meant(
        "calls in the wrong state",
        "/running/attach with a wrong tty",
        "a client of the wrong kind would garble what it shows",
    ),
    meant(
        "CreateContainer requests that are wrong",
        "/mount without a container path",
        "a field that is missing is told, not ignored",
    ),
    meant(
        "CreateContainer requests that are wrong",
        "/no pod config",
        "podbay has what RunPodSandbox was given",
    ),
    meant(
        "image of a running container",
        "/after/status/status/imageRef",
        "known from the container's creation, also when the image has lost its names",
    ),
    meant("image of a running container", "/before/1/listed/0/image/image", "as in the status"),
    meant(
        "runtime should support RunAsUserName",
        "/both",
        "the CRI allows one of the two; the number needs no look-up",
    ),
    meant(
        "runtime should support RunAsUserName",
        "/digits",
        "must be a name of the image's passwd file",
    ),
    meant(
        "runtime should support RunAsUserName",
        "/group",
        "must be a name of the image's passwd file",
    ),
    meant(
        "groups of users of images",
        "/none/strict",
        "the primary group is among the groups, as for every other user",
    ),
    meant(
        "runtime should support adding and dropping capability",
        "/prefix",
        "the plugin gives and drops nothing for names with `CAP_`, without a word",
    ),
    meant(
        "apparmor and selinux where the host has none",
        "/default",
        "the runtime's default needs no module to be there",
    ),
    meant(
        "runtime should support Privileged is true",
        "/*/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "runtime should support HostPID, HostIPC and HostNetwork",
        "/*/looked/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "environment of a plain container",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "environment of a container of an image with settings",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "environment of a container with settings",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "runtime should support ReadOnlyRootfs",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "runtime should support MaskedPaths and ReadonlyPaths",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "environment of execs",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "runtime should support devices",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "runtime should support resource limits",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "container logs: no path, deep path, existing file",
        "/outside",
        "a log stays in its pod's folder",
    ),
    meant(
        "environment of a privileged container of the host",
        "/mounts//dev/shm",
        "not executable, as Docker has it and runc had it before 1.2",
    ),
    meant(
        "runtime should support listing stats for container",
        "/ended",
        "what it is known to have used stays known",
    ),
];
