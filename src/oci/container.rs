//! The whole spec of a container.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxResources, Root, Spec};

use super::{
    Error, OCI_VERSION, PodNamespaces, Settings, annotations, blank, capabilities, cgroup, devices,
    mounts, namespaces, paths, process, resources, seccomp, selinux,
};
use crate::backend::{DeviceNode, HandlerFeatures, HostFacts, RuntimeHandler};
use crate::ids::{ContainerId, PodId};
use crate::model::container::{ContainerConfig, Mount};
use crate::model::image::ImageConfig;
use crate::model::pod::PodConfig;
use crate::oci::user::ResolvedUser;

/// Host paths of the files shared by the containers of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedFiles {
    /// For /etc/hostname.
    pub hostname: PathBuf,
    /// For /etc/hosts.
    pub hosts: PathBuf,
    /// For /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// The pod's tmpfs for /dev/shm; `None` for the host's (host IPC).
    pub shm: Option<PathBuf>,
}

/// The complete input for a container's spec.
#[derive(Debug, Clone, Copy)]
pub struct ContainerInput<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// Its pod.
    pub pod_id: &'a PodId,
    /// Configuration of the pod.
    pub pod: &'a PodConfig,
    /// Configuration of the container.
    pub config: &'a ContainerConfig,
    /// Configuration of the image, as defaults.
    pub image: &'a ImageConfig,
    /// The image's reference, for an annotation.
    pub image_name: &'a str,
    /// Its user and groups, resolved in the image.
    pub user: &'a ResolvedUser,
    /// The running pod's namespaces.
    pub namespaces: &'a PodNamespaces,
    /// The pod's files.
    pub files: &'a SharedFiles,
    /// `config.mounts` with host paths resolved, in the same order.
    pub mounts: &'a [Mount],
    /// Anonymous volumes of the image: path in the container, directory on the host.
    pub volumes: &'a [(String, PathBuf)],
    /// Devices with their permissions: the resolved `config.devices`, or all devices of the host
    /// for a privileged container.
    pub devices: &'a [(DeviceNode, String)],
    /// Content of the file that a `Localhost` seccomp profile names.
    pub seccomp_profile: Option<&'a serde_json::Value>,
    /// The host name that its processes see.
    pub hostname: &'a str,
    /// The pod's SELinux level.
    pub selinux_level: Option<&'a str>,
    /// Facts about the host.
    pub facts: &'a HostFacts,
    /// The runtime handler.
    pub handler: &'a RuntimeHandler,
    /// Features of the handler's OCI runtime.
    pub features: &'a HandlerFeatures,
    /// The operator's settings.
    pub settings: &'a Settings,
}

/// Builds the OCI spec of a container.
///
/// # Errors
/// [`Error::Invalid`] with the CRI field, or [`Error::Image`] with the field of the image's
/// configuration. No requested setting is dropped silently, unless the operator's settings say so.
pub fn container_spec(input: &ContainerInput<'_>) -> Result<Spec, Error> {
    let security = &input.config.security;
    check_container(input.pod, input.config, input.features)?;
    let user = input.user;
    namespaces::check_ids(input.pod, user.uid, user.gid, &user.additional_gids)?;
    let granted = capabilities::granted(input)?;
    let mounts = mounts::mounts(input)?;
    let (nodes, rules) = devices::devices(input)?;
    let mut limits = resources::oci(&input.config.resources, input.facts, input.settings)?;
    limits.set_devices(Some(rules));

    let mut linux = linux(limits);
    linux
        .set_namespaces(Some(namespaces::of_container(input)?))
        .set_cgroups_path(Some(cgroup::path(
            input.handler.cgroup_driver(),
            &input.pod.cgroup_parent,
            input.id.as_str(),
        )?))
        .set_devices((!nodes.is_empty()).then_some(nodes))
        .set_rootfs_propagation(mounts.rootfs_propagation.map(str::to_owned))
        .set_seccomp(seccomp::filter(&seccomp::Request {
            profile: security.seccomp.as_ref(),
            privileged: security.privileged,
            content: input.seccomp_profile,
            capabilities: &granted,
            facts: input.facts,
        })?);
    namespaces::set_ids(&mut linux, input.pod);
    if !security.privileged {
        linux
            .set_masked_paths(path_list("masked_paths", &security.masked_paths)?)
            .set_readonly_paths(path_list("readonly_paths", &security.readonly_paths)?);
    }

    let mut process = process::of_container(input, &granted)?;
    let (pod, level) = (input.pod, input.selinux_level);
    let labels = selinux::container_labels(pod, input.config, level, input.facts, input.settings)?;
    if let Some(labels) = labels {
        process.set_selinux_label(Some(labels.process));
        linux.set_mount_label(Some(labels.files));
    }
    let mut spec = blank_spec(security.readonly_rootfs);
    spec.set_process(Some(process))
        .set_mounts(Some(mounts.list))
        .set_annotations(Some(annotations::of_container(input)))
        .set_linux(Some(linux));
    Ok(spec)
}

/// Checks all that can be checked before anything is looked up or made: whether the pod and the
/// runtime handler support what the container requests.
///
/// # Errors
/// [`Error::Invalid`] with the CRI field, [`Error::Unsupported`] and [`Error::RecursiveReadOnly`].
pub fn check_container(
    pod: &PodConfig,
    config: &ContainerConfig,
    features: &HandlerFeatures,
) -> Result<(), Error> {
    let security = &config.security;
    if security.privileged && !pod.security.privileged {
        return Err(Error::invalid(
            "linux.security_context.privileged",
            "the pod is not privileged, so its containers cannot be",
        ));
    }
    namespaces::check_container_userns(pod, &security.namespaces)?;
    let mut mounts = config.mounts.iter().enumerate();
    mounts.try_for_each(|(index, mount)| mounts::check_features(index, mount, features))
}

/// A spec with only a version and the root directory, `rootfs` in the bundle, where the shim mounts
/// it.
pub(super) fn blank_spec(readonly_root: bool) -> Spec {
    let mut root = Root::default();
    root.set_path(Path::new("rootfs").to_owned()).set_readonly(Some(readonly_root));
    let mut spec = blank::<Spec>("{}");
    spec.set_version(OCI_VERSION.to_owned()).set_root(Some(root));
    spec
}

/// A `linux` section with only limits.
pub(super) fn linux(limits: LinuxResources) -> Linux {
    let mut linux = blank::<Linux>("{}");
    linux.set_resources(Some(limits));
    linux
}

/// The caller's list unchanged: an empty list means that nothing is hidden.
fn path_list(name: &str, list: &[String]) -> Result<Option<Vec<String>>, Error> {
    for (index, path) in list.iter().enumerate() {
        let field = || format!("linux.security_context.{name}[{index}]");
        paths::absolute(field, path)?;
    }
    Ok((!list.is_empty()).then(|| list.to_vec()))
}

#[cfg(test)]
mod tests;
