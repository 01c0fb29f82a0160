//! Parses `ContainerConfig`, and the durations in calls about containers.

use std::path::PathBuf;
use std::time::Duration;

use super::security::{container_security, id_mapping};
use super::{
    Result, Within, absolute_path, all, filled, known, name, no_climbing, no_nul, refuse, required,
    word,
};
use crate::model::container::{ContainerConfig, ContainerMetadata, Device, Mount, Propagation};
use crate::model::resources::Resources;
use crate::model::security::IdMapping;
use crate::proto::runtime::v1;

/// Maximum duration: longer than any process lives, and safe from clock overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The container configuration in a request.
pub fn container_config(config: Option<v1::ContainerConfig>) -> Result<ContainerConfig> {
    checked(required("config", config)?).within("config")
}

fn checked(config: v1::ContainerConfig) -> Result<ContainerConfig> {
    let v1::ContainerConfig {
        metadata,
        image,
        command,
        args,
        working_dir,
        envs,
        mounts,
        devices,
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        linux,
        windows,
        cdi_devices,
        stop_signal,
    } = config;
    refuse("windows", windows.is_some(), "is not supported on Linux")?;
    if !working_dir.is_empty() {
        no_nul("working_dir", &working_dir)?;
        refuse("working_dir", !working_dir.starts_with('/'), "must be an absolute path")?;
    }
    let v1::LinuxContainerConfig { resources, security_context } = linux.unwrap_or_default();
    let resources = super::resources::resources_in(resources.unwrap_or_default());
    let security = container_security(security_context.unwrap_or_default());
    Ok(ContainerConfig {
        metadata: container_metadata(required("metadata", metadata)?).within("metadata")?,
        image: super::image::image_spec_in(required("image", image)?).within("image")?,
        command: all("command", command, argument)?,
        args: all("args", args, argument)?,
        working_dir,
        envs: all("envs", envs, env)?,
        mounts: all("mounts", mounts, mount)?,
        devices: all("devices", devices, device)?,
        labels,
        annotations,
        log_path: check_log_path(log_path)?,
        stdin,
        stdin_once,
        tty,
        resources: resources.within("linux.resources")?,
        security: security.within("linux.security_context")?,
        cdi_devices: all("CDI_devices", cdi_devices, cdi_device)?,
        stop_signal: super::signal::signal_in("stop_signal", stop_signal)?,
        rlimits: Vec::new(),
    })
}

fn container_metadata(metadata: v1::ContainerMetadata) -> Result<ContainerMetadata> {
    let v1::ContainerMetadata { name: container, attempt } = metadata;
    name("name", &container)?;
    Ok(ContainerMetadata { name: container, attempt })
}

fn argument(text: String) -> Result<String> {
    no_nul("", &text)?;
    Ok(text)
}

fn env(variable: v1::KeyValue) -> Result<(String, String)> {
    let v1::KeyValue { key, value } = variable;
    filled("key", &key)?;
    no_nul("key", &key)?;
    refuse("key", key.contains('='), "must not contain =")?;
    // As in containerd: text that is not UTF-8 cannot be represented in the JSON of a spec.
    let value = String::from_utf8_lossy(&value).into_owned();
    no_nul("value", &value)?;
    // A runtime may copy the home directory into a line of /etc/passwd.
    let torn = key == "HOME" && value.contains(['\n', '\r']);
    refuse("value", torn, "of \"HOME\" must be one line")?;
    Ok((key, value))
}

fn check_log_path(path: String) -> Result<Option<PathBuf>> {
    const FIELD: &str = "log_path";
    if path.is_empty() {
        return Ok(None);
    }
    no_nul(FIELD, &path)?;
    refuse(FIELD, path.starts_with('/'), "must be relative to the pod's log_directory")?;
    no_climbing(FIELD, &path)?;
    refuse(FIELD, path.ends_with('/') || path == ".", "must name a file")?;
    Ok(Some(path.into()))
}

fn mount(mount: v1::Mount) -> Result<Mount> {
    let v1::Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        image,
        image_sub_path,
        mount_options,
    } = mount;
    filled("container_path", &container_path)?;
    no_nul("container_path", &container_path)?;
    // Some clients send a message without a name for no image.
    let image = image.filter(|spec| !spec.image.is_empty());
    let image = image.map(super::image::image_spec_in).transpose().within("image")?;
    no_nul("image_sub_path", &image_sub_path)?;
    let half = uid_mappings.is_empty() != gid_mappings.is_empty();
    refuse("uidMappings", half, "must be set if and only if gidMappings are")?;
    refuse("mount_options", !mount_options.is_empty(), "mount options are not supported yet")?;
    if image.is_some() {
        refuse("host_path", !host_path.is_empty(), "must be empty beside an image")?;
        refuse("readonly", !readonly, "an image can only be mounted read-only")?;
    } else {
        check_host_path(&host_path)?;
        refuse("image_sub_path", !image_sub_path.is_empty(), "needs an image")?;
    }
    let propagation = match known("propagation", propagation)? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let travels = image.is_some() && propagation != Propagation::Private;
    refuse("propagation", travels, "must be PROPAGATION_PRIVATE for an image")?;
    const RRO: &str = "recursive_read_only";
    refuse(RRO, recursive_read_only && !readonly, "needs readonly")?;
    let travels = recursive_read_only && propagation != Propagation::Private;
    refuse(RRO, travels, "needs the propagation PROPAGATION_PRIVATE")?;
    Ok(Mount {
        container_path: anchored(container_path),
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings: all("uidMappings", uid_mappings, volume_ids)?,
        gid_mappings: all("gidMappings", gid_mappings, volume_ids)?,
        recursive_read_only,
        image,
        image_sub_path,
    })
}

fn check_host_path(path: &str) -> Result<()> {
    filled("host_path", path)?;
    no_nul("host_path", path)?;
    refuse("host_path", !path.starts_with('/'), "must be an absolute path")
}

/// A line of the id mapping of a volume: its own ids, and who they are on the host.
fn volume_ids(mapping: v1::IdMapping) -> Result<IdMapping> {
    let mapping = id_mapping(&mapping);
    refuse("length", mapping.length == 0, "must not be 0")?;
    let ends = |first: u32| first.checked_add(mapping.length).is_some();
    let fits = ends(mapping.host_id) && ends(mapping.container_id);
    refuse("length", !fits, "goes beyond the highest id")?;
    Ok(mapping)
}

/// Makes a path absolute: callers may omit the leading slash.
fn anchored(path: String) -> String {
    if path.starts_with('/') { path } else { format!("/{path}") }
}

fn cdi_device(device: v1::CdiDevice) -> Result<String> {
    let v1::CdiDevice { name } = device;
    word("name", &name)?;
    Ok(name)
}

fn device(device: v1::Device) -> Result<Device> {
    let v1::Device { container_path, host_path, permissions } = device;
    filled("host_path", &host_path)?;
    absolute_path("host_path", &host_path)?;
    let container_path = if container_path.is_empty() { host_path.clone() } else { container_path };
    absolute_path("container_path", &container_path)?;
    // No permissions means a device node that may not be used.
    let fits = permissions.chars().all(|c| "rwm".contains(c));
    refuse("permissions", !fits, "must be made of r, w and m")?;
    Ok(Device { container_path, host_path, permissions })
}

/// Container and new limits of an `UpdateContainerResources`. Its annotations are not used.
pub fn container_update(
    request: v1::UpdateContainerResourcesRequest,
) -> Result<(String, Resources)> {
    let v1::UpdateContainerResourcesRequest { container_id, linux, windows, annotations: _ } =
        request;
    refuse("windows", windows.is_some(), "is not supported on Linux")?;
    let limits = super::resources::resources_in(linux.unwrap_or_default()).within("linux")?;
    Ok((super::required_id("container_id", container_id)?, limits))
}

/// Container, file and time limit of a `CheckpointContainer`; a time-out of 0 is none.
pub fn checkpoint(
    request: v1::CheckpointContainerRequest,
) -> Result<(String, PathBuf, Option<Duration>)> {
    let v1::CheckpointContainerRequest { container_id, location, timeout } = request;
    let id = super::required_id("container_id", container_id)?;
    filled("location", &location)?;
    absolute_path("location", &location)?;
    refuse("timeout", timeout < 0, "must not be negative")?;
    Ok((id, location.into(), exec_timeout(timeout)))
}

/// The command of an `ExecSync`.
pub fn exec_command(command: Vec<String>) -> Result<Vec<String>> {
    refuse("cmd", command.is_empty(), "must not be empty")?;
    all("cmd", command, argument)
}

/// Grace period of `StopContainer`, in seconds on the wire; 0 or less kills at once.
pub fn stop_grace(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).min(LONGEST)
}

/// Time limit of `ExecSync`, in seconds on the wire; 0 or less is none.
pub fn exec_timeout(seconds: i64) -> Option<Duration> {
    Some(stop_grace(seconds)).filter(|limit| !limit.is_zero())
}
